//! The keys of a `[[nat]]` that say how its external ports are shared out.

use super::node::{Choice, Node, Section};
use super::problem::Problem;
use super::report::Report;
use super::{services, values};
use crate::{
    AddressSet, Allocation, Deterministic, Family, NatLimits, Pooling, PortPool, SourceTranslation, key_address,
};

/// Keys of the entry itself; `translate.ports` is read here as well.
pub(super) const KEYS: [&str; 8] = ["parity", "keep_port", "overlap", "pooling", "limit", "allocation", "block", "log"];
const LIMIT_KEYS: [&str; 2] = ["ports", "connections"];
const A_LIMIT: &str = "limit.ports = 1000, limit.connections = 2000, or both";
const ONE_RANGE: &str = "one range of ports, such as \"1024-65535\"";
const POOLINGS: [Choice<Pooling>; 2] = [("paired", Some(Pooling::Paired)), ("arbitrary", Some(Pooling::Arbitrary))];

const A_BLOCK_OR_MORE: &str = "at least 16 ports in translate.ports, since no block has fewer";

/// Fewest ports in a block.
const SMALLEST_BLOCK: u16 = 16;
const BLOCK: u16 = 512;

/// The words of `allocation`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Ports,
    Blocks,
    Deterministic,
}

const ALLOCATIONS: [Choice<Word>; 3] =
    [("ports", Some(Word::Ports)), ("blocks", Some(Word::Blocks)), ("deterministic", Some(Word::Deterministic))];

/// Reads them; what follows from addresses is left to [`deterministic`]. `None` after a fault.
pub(super) fn read(table: &Section<'_>, translate: &Section<'_>, report: &mut Report<'_>) -> Option<PortPool> {
    let ports = translate.get("ports").map_or(Some(None), |node| port_range(node, report).map(Some));
    let flag = |key, report: &mut Report<'_>| table.get(key).map_or(Some(false), |node| node.boolean(report));
    let parity = flag("parity", report);
    let keep_port = flag("keep_port", report);
    let overlap = flag("overlap", report);
    let pooling = table.get("pooling").map_or(Some(Pooling::Paired), |node| node.choice("pooling", &POOLINGS, report));
    let limits = table.get("limit").map_or(Some(NatLimits::default()), |node| limits(node, report));
    let allocation = allocation(table, ports, report);
    Some(PortPool {
        ports: ports?,
        parity: parity?,
        keep_port: keep_port?,
        overlap: overlap?,
        pooling: pooling?,
        allocation: allocation?,
        limits: limits?,
    })
}

/// Whether `overlap` has a meaning, if it is there: only addresses of interfaces follow from networks that may have some in
/// common with others.
pub(super) fn overlap_fits(table: &Section<'_>, source: Option<&SourceTranslation>, report: &mut Report<'_>) -> bool {
    let Some(node) = table.get("overlap").filter(|_| !matches!(source, Some(SourceTranslation::Interface))) else {
        return true;
    };
    let what = "\"overlap\" beside addresses that the entry says itself".to_owned();
    report.error(node.at, &Problem::Contradiction { what, expected: "translate.source = \"interface\"" });
    false
}

fn allocation(table: &Section<'_>, ports: Option<Option<(u16, u16)>>, report: &mut Report<'_>) -> Option<Allocation> {
    let word =
        table.get("allocation").map_or(Some(Word::Ports), |node| node.choice("allocation", &ALLOCATIONS, report))?;
    let mut fits = true;
    let mut refuse = |key, beside: &str, expected| {
        if let Some(node) = table.get(key) {
            let what = format!("{key:?} beside {beside}");
            report.error(node.at, &Problem::Contradiction { what, expected });
            fits = false;
        }
    };
    if word != Word::Blocks {
        refuse("block", "another allocation", "allocation = \"blocks\", or no \"block\"");
    }
    if word == Word::Deterministic {
        refuse("pooling", "allocation = \"deterministic\"", "none: the external address follows from the inside one");
        refuse("log", "allocation = \"deterministic\"", "none: nothing has to be logged");
    }
    if word != Word::Blocks {
        return fits.then_some(Allocation::Ports);
    }
    let whole = PortPool { ports: ports?, ..PortPool::default() }.whole_range();
    let number = u32::from(whole.1 - whole.0) + 1;
    if number < u32::from(SMALLEST_BLOCK) {
        let what = format!("allocation = \"blocks\" of {number} ports");
        let at = table.get("allocation").map_or(table.at, |node| node.at);
        report.error(at, &Problem::Contradiction { what, expected: A_BLOCK_OR_MORE });
        return None;
    }
    match table.get("block") {
        Some(node) => block_size(node, number, report).map(Allocation::Blocks),
        None => Some(Allocation::Blocks(BLOCK.min(u16::try_from(number).unwrap_or(u16::MAX)))),
    }
}

fn block_size(node: Node<'_>, number: u32, report: &mut Report<'_>) -> Option<u16> {
    let most = number.min(u32::from(u16::MAX));
    let size = values::number("block", u32::from(SMALLEST_BLOCK)..=most, node, report)?;
    u16::try_from(size).ok()
}

/// Works out `allocation = "deterministic"`, if that is asked for. `None` after a fault.
pub(super) fn deterministic(
    table: &Section<'_>,
    mut pool: PortPool,
    source: &AddressSet,
    family: Family,
    external: Option<&SourceTranslation>,
    report: &mut Report<'_>,
) -> Option<PortPool> {
    const NAMED: &str = "translate.source = \"198.51.100.0/28\", addresses that are named";
    let Some(node) = table.get("allocation") else { return Some(pool) };
    if node.string(report)? != "deterministic" {
        return Some(pool);
    }
    if table.get("source").is_none() {
        let (place, expected) = ("a deterministic translation", "\"100.64.0.0/22\"");
        report.error(table.at, &Problem::MissingKey { key: "source", place, expected });
        return None;
    }
    let Some(SourceTranslation::Ranges(ranges)) = external else {
        let what = "allocation = \"deterministic\" at the address of an interface".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: NAMED });
        return None;
    };
    let of_family = source.of_family(family);
    let inside: Vec<_> =
        of_family.ranges().iter().map(|(first, last)| (key_address(*first), key_address(*last))).collect();
    let lots = Deterministic::new(&inside, ranges, pool.whole_range());
    let Some(lots) = lots.filter(|lots| lots.block() >= SMALLEST_BLOCK) else {
        let what = format!("less than {SMALLEST_BLOCK} external ports for each address of \"source\"");
        report.error(node.at, &Problem::Contradiction { what, expected: "more external addresses, or fewer sources" });
        return None;
    };
    pool.allocation = Allocation::Deterministic(lots);
    Some(pool)
}

fn port_range(node: Node<'_>, report: &mut Report<'_>) -> Option<(u16, u16)> {
    let ports = services::port_list(node, report)?;
    match ports.ranges() {
        [range] => Some(*range),
        _ => {
            let what = "several ranges in \"ports\"".to_owned();
            report.error(node.at, &Problem::Contradiction { what, expected: ONE_RANGE });
            None
        }
    }
}

fn limits(node: Node<'_>, report: &mut Report<'_>) -> Option<NatLimits> {
    let section = node.section("\"limit\"", A_LIMIT, report)?;
    section.check_keys(&LIMIT_KEYS, report);
    let read = |key, report: &mut Report<'_>| match section.get(key) {
        Some(node) => values::number(key, 1..=u32::MAX, node, report).map(Some),
        None => Some(None),
    };
    let (ports, connections) = (read("ports", report), read("connections", report));
    let limits = NatLimits { ports: ports?, connections: connections? };
    if limits == NatLimits::default() {
        report.error(node.at, &Problem::MissingKey { key: "ports", place: "\"limit\"", expected: "1000" });
        return None;
    }
    Some(limits)
}
