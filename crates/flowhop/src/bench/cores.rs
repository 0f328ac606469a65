//! The kernel program on several processors at the same time, and what follows from that for more of them.

use std::fs;
use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::bpf::{Kind, Program};
use super::contestants::many_flows;
use super::field::{Field, PATIENCE, connections};
use super::generator::{self, Maker, Share, Timer};
use super::load::{Form, Load, Shape};
use super::program::hits;
use super::report::{Row, Section};
use super::{Bench, last_processor, pin_to};
use crate::lab::daemon::Policy;
use crate::lab::{Daemon, LabError, Mode, Tried};

/// Packets from which it is known how many to make in the time that there is.
const FIRST: u32 = 100_000;
/// All flows together.
const MOST: u32 = 1 << 22;
/// Processors that the model is asked about.
const MODELLED: [usize; 4] = [4, 8, 16, 32];
/// Fewer hits than this are worth a note.
const ENOUGH: f64 = 0.99;
/// So is a processor that had less than this part of the time for the program.
const BUSY: f64 = 0.7;

const OWN: &str = "flows of their own";
const SHARED: &str = "the same flows";
const MODEL_OWN: &str = "model: flows of their own";
const MODEL_SHARED: &str = "model: the same flows";

const METHOD: &str = "\
The program in the driver of `lan0` as above, on several processors at once, each on a thread that stays there, with flows at \
random; what all of them do together. What the same costs with a program that does nothing, on as many processors, is subtracted. \
Either each processor has flows of its own, as where a network card spreads flows over its queues, or all have the same ones, as where \
it spreads packets. The number of flows is that of each processor, so that its caches have as much to hold in either case: with few \
flows all of it, and then it matters most whether another processor was there before. Lines of memory that the program writes to for a \
packet are that of the connection's direction, with its counters and age, and, if a packet of TCP moves an edge of its window, the one \
with the windows; packets here are the same ones again and move none. Counters of interfaces and reasons are each processor's own; \
index, adjacencies and settings are only read.\n\n\
`model` is not measured. Flows of their own: no processor writes what another one reads, so each goes on at the pace that it had with \
two at work. The same flows: the last one to write a flow's line was another processor in n - 1 of n cases, so that a packet takes \
t + c (1 - 1/n) nanoseconds, where t is its time with flows of their own and c, the cost of having that line from another processor, \
twice the difference that two processors show; nothing, where the same flows are faster, because they take less room in a cache that \
processors share. It leaves out that the bandwidth of memory ends, that the caches of another socket are \
farther away than a neighbour's, that data of TCP writes a second line, for up to c once more, that processors wait for each other where \
few flows have most of the packets, and that identifications for packets that may be cut come from counters of all processors.";

/// Runs it.
pub(super) fn cores(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "cores",
        title: "The program on several processors",
        unit: "Mpacket/s",
        method: METHOD,
        digits: 2,
        references: vec![OWN],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let processors = last_processor() + 1;
    let most = flows(bench.middle(), shares());
    let all = most * shares();
    // Few, which caches hold, and many.
    let few = bench.sizes().first().copied().filter(|few| *few < most && !bench.quick);
    let sizes: Vec<u32> = few.into_iter().chain([most]).collect();
    let mut field = Field::new()?;
    field.bed.take_frames()?;
    let policy = Policy { mode: Mode::Driver, ..many_flows("lines", all) };
    let daemon = Daemon::start(&field.bed, &bench.folder("cores"), &policy)?;
    for shape in [Shape::Udp, Shape::Ack] {
        field.open(Form::plain(shape), all, PATIENCE, &|bed| connections(bed, &daemon))?;
        bench.progress(format!("{all} flows of {} on {processors} processors: ready", shape.name()))?;
        for &flows in &sizes {
            measure(bench, &mut section, &field, &daemon, Load::random(shape, flows))?;
        }
    }
    daemon.stop()?;
    section.notes.push(siblings());
    Ok(section)
}

/// Shares that the flows are in, at least one for each processor.
fn shares() -> u32 {
    (last_processor() as u32 + 1).next_power_of_two()
}

/// Flows of each processor, if there are so many shares.
const fn flows(wanted: u32, shares: u32) -> u32 {
    if wanted > MOST / shares { MOST / shares } else { wanted }
}

/// Measures with every number of processors, and adds what follows.
fn measure(
    bench: &Bench<'_>,
    section: &mut Section,
    field: &Field,
    daemon: &Daemon,
    load: Load,
) -> Result<(), LabError> {
    let processors = last_processor() + 1;
    let program = field.driver_program()?;
    let mut teams = Vec::new();
    for count in counts(processors) {
        teams.push(Team::new(field, load, &program, OWN, count)?);
        if count > 1 {
            teams.push(Team::new(field, load, &program, SHARED, count)?);
        }
    }
    let before = hits(field, daemon)?;
    let mut packets = 0;
    for _ in 0..bench.rounds() {
        for team in &mut teams {
            packets += team.measure(bench.time())?;
        }
    }
    let share = (hits(field, daemon)? - before) as f64 / packets as f64;
    if share < ENOUGH {
        section.notes.push(format!("{load}: only {:.1} % of the packets were hits", share * 100.0));
    }
    for team in teams.iter().filter(|team| team.processors > 1 && team.busy < BUSY) {
        section.notes.push(format!(
            "{}, {}: of a round a processor had only {:.0} % for the program, so they were not all at work at the same time",
            condition(load, team.processors),
            team.who,
            team.busy * 100.0
        ));
    }
    let mut rows: Vec<Row> = teams.into_iter().map(|team| team.row(load)).collect();
    note_speed(section, &rows);
    rows.extend(modelled(&rows, load, processors));
    section.rows.extend(rows);
    Ok(())
}

/// One processor, two, four and so on, and all.
fn counts(processors: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|count| *count < processors).collect();
    counts.push(processors);
    counts
}

/// What rows about so many processors are called.
fn condition(load: Load, processors: usize) -> String {
    let plural = if processors == 1 { "" } else { "s" };
    format!("{}, {processors} processor{plural}, {} flows each", load.form, load.flows)
}

/// A program that runs on several processors at the same time.
struct Team<'a> {
    field: &'a Field,
    who: &'static str,
    processors: usize,
    timer: Timer,
    /// The same around a program that does nothing.
    nothing: Timer,
    values: Vec<f64>,
    /// The smallest part of the time that a processor had.
    busy: f64,
}

impl<'a> Team<'a> {
    fn new(
        field: &'a Field,
        load: Load,
        program: &Program,
        who: &'static str,
        processors: usize,
    ) -> Result<Self, LabError> {
        let share = if who == OWN { Share::Modulo(shares()) } else { Share::All };
        let maker = Maker::new(field.hop, load).of(share);
        let timers = || -> io::Result<[Timer; 2]> {
            Ok([Timer::new(maker, field.lan, program)?, Timer::new(maker, field.lan, &generator::nothing(Kind::Xdp)?)?])
        };
        let [timer, nothing] = field.bed.router.enter(timers)?.tried("a timed program")?;
        Ok(Self { field, who, processors, timer, nothing, values: Vec::new(), busy: 1.0 })
    }

    /// One round; the packets that the program has had.
    fn measure(&mut self, time: Duration) -> Result<u64, LabError> {
        let Self { timer, nothing, processors, .. } = self;
        let both = || -> io::Result<[Vec<Run>; 2]> {
            Ok([together(timer, *processors, time)?, together(nothing, *processors, time / 4)?])
        };
        let [runs, empty] = self.field.bed.router.enter(both)?.tried("time a program on several processors")?;
        let rates = runs.iter().zip(&empty).map(|(run, empty)| 1e3 / (run.nanoseconds - empty.nanoseconds));
        self.values.push(rates.sum());
        self.busy = runs.iter().map(|run| run.busy).fold(self.busy, f64::min);
        Ok(runs.iter().map(|run| run.packets).sum())
    }

    fn row(self, load: Load) -> Row {
        let Self { who, processors, values, .. } = self;
        Row { condition: condition(load, processors), load: Some(load), who, values }
    }
}

/// What a processor has done.
struct Run {
    /// Mean of a packet.
    nanoseconds: f64,
    /// With those that do not count.
    packets: u64,
    /// The part of the time that was not others'.
    busy: f64,
}

/// Runs it on so many processors at once for about this time, on a thread for each; on a thread in the device's namespace,
/// which those that it starts are in as well.
///
/// It is one program and one run of each: the kernel makes the first to run a program wait for a while, and holds up those who
/// come meanwhile, but with programs of their own each would wait for the others to pause.
fn together(timer: &Timer, processors: usize, time: Duration) -> io::Result<Vec<Run>> {
    let barrier = Barrier::new(processors);
    let one = |place: usize| -> io::Result<Run> {
        // Nobody goes before everybody has come, with an error too.
        let first = pin_to(last_processor() - place).and_then(|()| timer.run(FIRST));
        barrier.wait();
        let count = ((time.as_nanos() as f64 / first?.max(1.0)) as u32).max(FIRST);
        let start = Instant::now();
        let nanoseconds = timer.run(count)?;
        let busy = nanoseconds * f64::from(count) / start.elapsed().as_nanos() as f64;
        Ok(Run { nanoseconds, packets: u64::from(count + FIRST), busy })
    };
    let one = &one;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|place| scope.spawn(move || one(place))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a thread ended")));
        ended.map(|run| run.and_then(|run| run)).collect()
    })
}

/// How much more all processors do than one.
fn note_speed(section: &mut Section, rows: &[Row]) {
    let Some((one, rest)) = rows.split_first() else { return };
    for row in rest {
        let ratio = row.median() / one.median();
        section.notes.push(format!("{}, {}: {ratio:.2} times what one does", row.condition, row.who));
    }
}

/// What is to be expected of more processors than there are.
fn modelled(rows: &[Row], load: Load, processors: usize) -> Vec<Row> {
    let pair = condition(load, 2);
    let of = |who: &str| rows.iter().find(|row| row.condition == pair && row.who == who).map(Row::median);
    let (Some(own), Some(shared)) = (of(OWN), of(SHARED)) else { return Vec::new() };
    let more = MODELLED.into_iter().filter(|count| *count > processors);
    more.flat_map(|count| {
        [(MODEL_OWN, own, own), (MODEL_SHARED, own, shared)].map(|(who, own, other)| Row {
            condition: condition(load, count),
            load: Some(load),
            who,
            values: vec![model(own, other, count)],
        })
    })
    .collect()
}

/// Millions of packets in a second on so many processors, from what two do with flows of their own and with these flows.
fn model(own: f64, other: f64, count: usize) -> f64 {
    let count = count as f64;
    let time = |rate: f64| 2e3 / rate;
    // What comes from another processor does not come faster for that: anything else is chance.
    let fetched = (2.0 * (time(other) - time(own))).max(0.0);
    count * 1e3 / (time(own) + fetched * (1.0 - 1.0 / count))
}

/// Whether processors are cores.
fn siblings() -> String {
    let last = last_processor();
    let path = format!("/sys/devices/system/cpu/cpu{last}/topology/thread_siblings_list");
    let list = fs::read_to_string(path).unwrap_or_default();
    match list.trim() {
        "" => "this machine does not say which processors share a core".to_owned(),
        list if list.contains([',', '-']) => format!("processors {list} are threads of one core"),
        _ => "each processor is a core of its own, as far as this machine says".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_has_as_many_flows() {
        assert_eq!(flows(1 << 16, 2), 1 << 16);
        assert_eq!(flows(1 << 16, 256), 1 << 14);
    }

    #[test]
    fn all_processors_are_measured_and_powers_of_two_before() {
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(2), [1, 2]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
    }

    #[test]
    fn the_model_repeats_what_it_was_made_from() {
        // 100 ns with flows of their own, 120 with the same ones.
        let (own, shared) = (20.0, 2e3 / 120.0);
        assert!((model(own, own, 2) - own).abs() < 1e-9 && (model(own, shared, 2) - shared).abs() < 1e-9);
        assert!((model(own, own, 8) - 80.0).abs() < 1e-9);
        // c is 40 ns, of which there are 7 of 8.
        assert!((model(own, shared, 8) - 8e3 / 135.0).abs() < 1e-9);
        // By chance faster.
        assert!((model(own, 21.0, 8) - 80.0).abs() < 1e-9);
    }

    #[test]
    fn only_what_was_not_measured_is_modelled() {
        let load = Load::random(Shape::Udp, 1024);
        let row = |count, who, rate| Row { condition: condition(load, count), load: None, who, values: vec![rate] };
        let rows = [row(1, OWN, 10.0), row(2, OWN, 20.0), row(2, SHARED, 18.0)];
        let model = modelled(&rows, load, 4);
        assert_eq!(model.len(), 6);
        assert_eq!((model[0].condition.as_str(), model[0].who), ("UDP, 8 processors, 1024 flows each", MODEL_OWN));
        assert!(modelled(&rows[..1], load, 1).is_empty());
    }
}
