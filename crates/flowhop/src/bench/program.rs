//! The time of the kernel program alone.

use std::io;

use flowhop_flow::record::index_kind;
use flowhop_table::Geometry;

use super::bpf::{Kind, Program};
use super::contestants::many_flows;
use super::field::{Field, PATIENCE, connections};
use super::floor;
use super::generator::{self, Maker, Timer};
use super::load::{Form, Load, Order, Shape, Size};
use super::report::{Row, Section};
use super::{Bench, pin};
use crate::lab::daemon::Policy;
use crate::lab::{Daemon, Family, LabError, Mode, Tried};

/// Packets of one measurement, and of the one before it that does not count.
const PACKETS: [u32; 2] = [150_000, 600_000];
/// Flows from which on not everybody takes part.
const MANY: u32 = 1 << 20;
/// Fewer hits than this are worth a note.
const ENOUGH: f64 = 0.99;

pub(super) const DRIVER: &str = "flowhop's index, driver";
const SHADOW: &str = "flowhop's index, driver, shadow mode";
pub(super) const LINES: &str = "flowhop's index, skb";
const MEMORY: &str = "two dependent lines of memory";
pub(super) const HASH: &str = "kernel hash map, skb";

const METHOD: &str = "\
The program on `lan0`, in the driver (`driver`) or on its ingress (`skb`), with the daemon's own tables, runs on packets \
of flows at random, or in order (`BPF_PROG_TEST_RUN`): a few instructions make the packet and go on with the program by a tail call. \
What the same costs with a program that does nothing is subtracted. All flows are known and translated; those of TCP \
have had their handshake and are checked against their windows. `kernel hash map` is the same program with the kernel's \
own hash map in the place of flowhop's index (`[table] index = \"kernel-hash\"`). In shadow mode (`[paths] \
shadow = 1024`) the daemon judges one packet in so many once more, beside the program. `two dependent lines of memory` \
is a program on the driver's hook that reads one line anywhere in memory of the size that flowhop's index has with so many flows, then, at a place \
that depends on what it read, one line of a connection's block, waits for it and does nothing else: what the memory of this \
machine costs with so many flows before anything is computed. With one number of flows there are IPv6, whose addresses take \
another line of a connection's block and which is not translated, by a daemon that knows no flows of IPv4, and frames with a \
priority tag, which the program takes off. What the check of windows costs is the difference between TCP and UDP.";

/// A daemon with a program to be timed.
struct Timed {
    who: &'static str,
    field: Field,
    daemon: Daemon,
    /// Of the flows that it knows.
    family: Family,
}

/// Runs it.
pub(super) fn programs(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "program",
        title: "The kernel programs alone",
        unit: "ns/packet",
        method: METHOD,
        digits: 0,
        references: vec![HASH],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for shape in [Shape::Udp, Shape::Ack] {
        // Each protocol has daemons of its own: no table has room for the most flows of both.
        let mut all = daemons(bench, &mut section, shape)?;
        for flows in bench.sizes() {
            let mut loads = vec![Load::random(shape, flows)];
            if flows == bench.middle() {
                loads.extend(features(shape).map(|form| Load::of(form, Size::Shortest, flows)));
            }
            compare(bench, &mut section, &mut all, &loads)?;
            compare(bench, &mut section, &mut all, &[Load::in_turn(shape, flows)])?;
        }
        all.into_iter().try_for_each(|timed| timed.daemon.stop())?;
    }
    section.rows.sort_by_key(|row| row.load.map(|load| load.flows));
    Ok(section)
}

/// All that are timed with such packets.
fn daemons(bench: &Bench<'_>, section: &mut Section, shape: Shape) -> Result<Vec<Timed>, LabError> {
    let mut all = Vec::new();
    for (who, mode, index, shadow, family) in [
        (DRIVER, Mode::Driver, "lines", None, Family::V4),
        (SHADOW, Mode::Driver, "lines", Some(1024), Family::V4),
        (LINES, Mode::Chosen, "lines", None, Family::V4),
        (HASH, Mode::Chosen, "kernel-hash", None, Family::V4),
        (DRIVER, Mode::Driver, "lines", None, Family::V6),
    ] {
        if shadow.is_some() && bench.most() > MANY {
            section.note(format!("{who} left out: with more than {MANY} flows, four daemons take much memory"));
            continue;
        }
        if family == Family::V6 && !bench.sizes().contains(&bench.middle()) {
            continue;
        }
        let flows = if family == Family::V4 { bench.most() } else { bench.middle() };
        let policy = Policy { mode, shadow, ..many_flows(index, flows) };
        all.push(Timed::start(bench, who, Form { family, ..Form::plain(shape) }, &policy)?);
    }
    Ok(all)
}

/// What packets may be beside the usual ones.
fn features(shape: Shape) -> impl Iterator<Item = Form> {
    let tagged = (shape == Shape::Udp).then(|| Form::tagged(shape));
    [Form::v6(shape)].into_iter().chain(tagged)
}

impl Timed {
    fn start(bench: &Bench<'_>, who: &'static str, form: Form, policy: &Policy) -> Result<Self, LabError> {
        let field = Field::new()?;
        field.bed.take_frames()?;
        let path = if policy.mode == Mode::Driver { "-driver" } else { "" };
        let shadow = if policy.shadow.is_some() { "-shadow" } else { "" };
        let (protocol, family) = (form.shape.name(), form.family.name());
        let folder = bench.folder(&format!("program-{}{path}{shadow}-{protocol}-{family}", policy.index));
        let daemon = Daemon::start(&field.bed, &folder, policy)?;
        Ok(Self { who, field, daemon, family: form.family })
    }

    /// Whether it is timed with such packets.
    fn takes(&self, load: Load) -> bool {
        // One is enough to show what order makes, and a tag.
        let all = load.order == Order::Random && load.is_plain();
        load.form.family == self.family && (all || self.who == DRIVER)
    }
}

/// What is timed.
struct Runner<'a> {
    load: Load,
    who: &'static str,
    field: &'a Field,
    timer: Timer,
    /// The same around a program that does nothing.
    nothing: Timer,
    /// Whose hits are to rise.
    daemon: Option<&'a Daemon>,
    /// By how much they have.
    hits: u64,
    values: Vec<f64>,
}

/// Times all of them with such packets, in the same rounds.
fn compare(bench: &Bench<'_>, section: &mut Section, all: &mut [Timed], loads: &[Load]) -> Result<(), LabError> {
    for &load in loads {
        for Timed { who, field, daemon, .. } in all.iter_mut().filter(|timed| timed.takes(load)) {
            field.open(load.form, load.flows, PATIENCE, &|bed| connections(bed, daemon))?;
            bench.progress(format!("{load}: {who} ready"))?;
        }
    }
    let mut runners = Vec::new();
    for &load in loads {
        for timed in all.iter().filter(|timed| timed.takes(load)) {
            runners.push(Runner::of(timed, load)?);
            if timed.who == DRIVER && load.form == Form::plain(Shape::Udp) {
                runners.push(Runner::memory(bench, &timed.field, load)?);
            }
        }
    }
    for _ in 0..bench.rounds() {
        for runner in &mut runners {
            runner.measure()?;
        }
    }
    let wanted = f64::from(PACKETS.iter().sum::<u32>()) * bench.rounds() as f64;
    for Runner { load, who, daemon, hits, values, .. } in runners {
        let share = hits as f64 / wanted;
        if daemon.is_some() && share < ENOUGH {
            let percent = share * 100.0;
            section.notes.push(format!("{load}, {who}: only {percent:.1} % of the packets were hits"));
        }
        section.rows.push(Row::under(load, who, values));
    }
    Ok(())
}

impl<'a> Runner<'a> {
    fn of(timed: &'a Timed, load: Load) -> Result<Self, LabError> {
        let Timed { who, field, daemon, .. } = timed;
        let lan = field.lan;
        let program = match *who {
            DRIVER | SHADOW => field.driver_program()?,
            _ => field.bed.router.enter(|| Program::attached(lan))?.tried("the program on lan0")?,
        };
        Self::new(who, field, load, program.kind(), Some(daemon), || {
            Timer::new(Maker::new(field.hop, load), lan, &program)
        })
    }

    /// The reads that no table can do without.
    fn memory(bench: &Bench<'_>, field: &'a Field, load: Load) -> Result<Self, LabError> {
        let geometry = Geometry::for_connections(many_flows("lines", bench.most()).connections, index_kind::LINES);
        Self::new(MEMORY, field, load, Kind::Xdp, None, || {
            floor::two_lines(field.hop, load, field.lan, geometry.lines_of(load.flows))
        })
    }

    fn new(
        who: &'static str,
        field: &'a Field,
        load: Load,
        kind: Kind,
        daemon: Option<&'a Daemon>,
        timer: impl FnOnce() -> io::Result<Timer> + Send,
    ) -> Result<Self, LabError> {
        let timers = field.bed.router.enter(|| {
            let nothing = Timer::new(Maker::new(field.hop, load), field.lan, &generator::nothing(kind)?)?;
            Ok::<_, io::Error>((timer()?, nothing))
        })?;
        let (timer, nothing) = timers.tried("a timed program")?;
        Ok(Self { load, who, field, timer, nothing, daemon, hits: 0, values: Vec::new() })
    }

    fn measure(&mut self) -> Result<(), LabError> {
        let before = self.hits()?;
        let (timer, nothing) = (&self.timer, &self.nothing);
        let timed = self.field.bed.router.enter(|| {
            pin()?;
            let [warm, count] = PACKETS;
            timer.run(warm)?;
            Ok::<_, io::Error>(timer.run(count)? - nothing.run(count)?)
        })?;
        self.values.push(timed.tried("time a program")?);
        self.hits += self.hits()? - before;
        Ok(())
    }

    fn hits(&self) -> Result<u64, LabError> {
        self.daemon.map_or(Ok(0), |daemon| hits(self.field, daemon))
    }
}

/// Packets that the kernel programs have forwarded by an entry.
pub(super) fn hits(field: &Field, daemon: &Daemon) -> Result<u64, LabError> {
    let paths = daemon.show(&field.bed, "paths")?;
    let paths = paths["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kernel = paths.iter().filter(|path| path["name"] == "driver" || path["name"] == "skb");
    Ok(kernel.filter_map(|path| path["hits"].as_u64()).sum())
}
