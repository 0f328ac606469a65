//! Small packets of many flows through the box.

use std::fs;
use std::time::{Duration, Instant};

use super::bpf::Link;
use super::field::{Field, POOL, conntrack_room};
use super::generator::{self, Generator};
use super::report::{Row, Section};
use super::{Bench, pin};
use crate::lab::daemon::Policy;
use crate::lab::{Daemon, LabError, Tried};

/// Packets of one call of the generator. A call costs some 20 ms beside, as it waits for the kernel to clean up.
const CALL: u32 = 1 << 18;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// A larger part than this of the packets in user space is worth a note.
const NOTABLE: f64 = 0.01;

const REDIRECT: &str = "bare redirect";
const FLOWHOP: &str = "flowhop skb, NAT";
const PLAIN: &str = "kernel, plain";
const NFTABLES: &str = "kernel, nftables NAT";

const METHOD: &str = "\
One thread makes 60-byte UDP packets of random flows inside the kernel (`BPF_PROG_TEST_RUN`, live frames of an XDP \
program) and sends them into the router's `lan0`; what comes out of the router is counted at the outside host's veth \
and dropped there. Making, forwarding, counting and dropping run on one processor. `bare redirect` is a program on \
`lan0` that sends everything to `wan0` and does nothing else: what is left if the firewall costs nothing. All flows are \
known before the measurement. flowhop's flows and nftables' are translated to a range of 64 addresses.";

struct Contestant {
    who: &'static str,
    field: Field,
    daemon: Option<Daemon>,
    /// Whether a flow must be known before it is measured.
    stateful: bool,
    /// What is attached for the measurement: the sink, and the redirect.
    _links: Vec<Link>,
}

/// Runs it.
pub(super) fn rate(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "rate",
        title: "Small packets of many flows in random order",
        unit: "Mpacket/s",
        method: METHOD,
        digits: 2,
        references: vec![REDIRECT, NFTABLES],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut contestants = contestants(bench, &mut section)?;
    for flows in bench.sizes() {
        let first = section.rows.len();
        let mut taking_part = Vec::new();
        for contestant in &mut contestants {
            if contestant.who == NFTABLES && conntrack_room() < u64::from(flows) + 1024 {
                section.notes.push(format!(
                    "{NFTABLES} left out with {flows} flows: this machine allows {} entries; raise it with \
                     `sysctl -w net.netfilter.nf_conntrack_max={}` (for all namespaces, so not done here)",
                    conntrack_room(),
                    2 * flows
                ));
                continue;
            }
            if contestant.stateful {
                let took = contestant.field.open_udp(flows, contestant.daemon.as_ref())?;
                if contestant.daemon.is_some() {
                    bench.progress(format!("{flows} flows opened in {:.1} s", took.as_secs_f64()))?;
                }
            }
            let (field, ifindex) = (&contestant.field, contestant.field.inside);
            let made = field.bed.inside.enter(|| Generator::new(field.hop, flows, ifindex))?;
            taking_part.push((&*contestant, made.tried("the packet generator")?));
            let condition = format!("{flows} flows");
            section.rows.push(Row { condition, who: contestant.who, values: Vec::new() });
        }
        let mut in_user_space = 0.0f64;
        for _ in 0..bench.rounds() {
            for (place, (contestant, generator)) in taking_part.iter().enumerate() {
                let before = slow(contestant)?;
                let (packets, time) = measure(&contestant.field, generator, bench.time())?;
                let slow = slow(contestant)? - before;
                in_user_space = in_user_space.max(slow as f64 / packets.max(1) as f64);
                if let Some(row) = section.rows.get_mut(first + place) {
                    row.values.push(packets as f64 / time.as_secs_f64() / 1e6);
                }
            }
        }
        if in_user_space > NOTABLE {
            let percent = in_user_space * 100.0;
            section.notes.push(format!("{flows} flows: up to {percent:.1} % of flowhop's packets went by user space"));
        }
    }
    let buckets = fs::read_to_string("/sys/module/nf_conntrack/parameters/hashsize").unwrap_or_default();
    section.notes.push(format!(
        "the kernel's connection tracking has {} hash buckets and room for {} entries here",
        buckets.trim(),
        conntrack_room()
    ));
    for contestant in contestants {
        contestant.daemon.map_or(Ok(()), Daemon::stop)?;
    }
    Ok(section)
}

fn contestants(bench: &mut Bench<'_>, section: &mut Section) -> Result<Vec<Contestant>, LabError> {
    let mut contestants = Vec::new();
    for who in [REDIRECT, FLOWHOP, PLAIN, NFTABLES] {
        let field = Field::new()?;
        field.receive_by_polling()?;
        let outside = field.outside;
        let sink = field.bed.outside.enter(|| generator::constant(DROP)?.attach(outside))?;
        let mut links = vec![sink.tried("the packet sink")?];
        let mut daemon = None;
        match who {
            REDIRECT => {
                let (lan, wan) = (field.lan, field.wan);
                let link = field.bed.router.enter(|| generator::redirect(wan)?.attach(lan))?;
                links.push(link.tried("the bare redirect")?);
            }
            FLOWHOP => daemon = Some(Daemon::start(&field.bed, &bench.folder("rate"), &bench.many_flows("lines"))?),
            PLAIN => field.bed.kernel_forwards(true)?,
            _ => {
                if !field.bed.kernel_translates(&format!("snat ip to {POOL}"))? {
                    section.notes.push("nft is not installed, so the kernel's own firewall is left out".to_owned());
                    continue;
                }
                for key in ["udp_timeout", "udp_timeout_stream"] {
                    field.bed.router.sysctl(&format!("net/netfilter/nf_conntrack_{key}"), "3600")?;
                }
            }
        }
        let stateful = matches!(who, FLOWHOP | NFTABLES);
        contestants.push(Contestant { who, field, daemon, stateful, _links: links });
    }
    Ok(contestants)
}

/// How many packets came through, in which time.
fn measure(field: &Field, generator: &Generator, time: Duration) -> Result<(u64, Duration), LabError> {
    let (before, _) = field.bed.outside.device_packets("eth0")?;
    let took = field.bed.inside.enter(|| {
        pin()?;
        let start = Instant::now();
        while start.elapsed() < time {
            generator.emit(CALL)?;
        }
        Ok::<_, std::io::Error>(start.elapsed())
    })?;
    let took = took.tried("generate packets")?;
    let (after, _) = field.bed.outside.device_packets("eth0")?;
    Ok((after - before, took))
}

/// Packets that the daemon has handled in user space up to now.
fn slow(contestant: &Contestant) -> Result<u64, LabError> {
    let Some(daemon) = &contestant.daemon else { return Ok(0) };
    let paths = daemon.show(&contestant.field.bed, "paths")?;
    let paths = paths["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
    let user = paths.iter().find(|path| path["name"] == "user");
    Ok(user.and_then(|path| path["packets"].as_u64()).unwrap_or(0))
}

impl Bench<'_> {
    /// A policy for the generated flows.
    pub(super) fn many_flows(&self, index: &'static str) -> Policy {
        let most = self.sizes().last().copied().unwrap_or(1);
        Policy {
            inside: vec!["10.64.0.0/16".to_owned()],
            translate: Some(format!("\"{POOL}\"")),
            // The benchmark of the program has UDP and TCP in it.
            connections: most * 2 + 65536,
            index,
            ..Policy::default()
        }
    }
}
