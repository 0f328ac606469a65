//! The time of the kernel program alone.

use std::io;

use super::bpf::Program;
use super::field::{Field, PATIENCE, connections};
use super::generator::{self, Timer};
use super::load::{Load, Order, Shape};
use super::report::{Row, Section};
use super::{Bench, pin};
use crate::lab::daemon::Policy;
use crate::lab::{Daemon, LabError, Mode, Tried};

/// Packets of one measurement, and of the one before it that does not count.
const PACKETS: [u32; 2] = [150_000, 600_000];
/// Fewer hits than this are worth a note.
const ENOUGH: f64 = 0.99;

const DRIVER: &str = "flowhop's index, driver";
const SHADOW: &str = "flowhop's index, driver, shadow mode";
const LINES: &str = "flowhop's index, skb";
const HASH: &str = "kernel hash map, skb";

const METHOD: &str = "\
The program on `lan0`, in the driver (`driver`) or on its ingress (`skb`), with the daemon's own tables, runs on packets \
of flows at random, or in order (`BPF_PROG_TEST_RUN`): a few instructions make the packet and go on with the program by a tail call. \
What the same costs with a program that does nothing is subtracted. All flows are known and translated; those of TCP \
have had their handshake and are checked against their windows. `kernel hash map` is the same program with the kernel's \
own hash map in the place of flowhop's index (`[table] index = \"kernel-hash\"`). In shadow mode (`[paths] \
shadow = 1024`) the daemon judges one packet in so many once more, beside the program.";

/// A daemon with a program to be timed.
struct Timed {
    who: &'static str,
    field: Field,
    daemon: Daemon,
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
    let mut all = Vec::new();
    for (who, mode, index, shadow) in [
        (DRIVER, Mode::Driver, "lines", None),
        (SHADOW, Mode::Driver, "lines", Some(1024)),
        (LINES, Mode::Chosen, "lines", None),
        (HASH, Mode::Chosen, "kernel-hash", None),
    ] {
        let field = Field::new()?;
        field.bed.take_frames()?;
        let path = if mode == Mode::Driver { "-driver" } else { "" };
        let folder = format!("program-{index}{path}{}", if shadow.is_some() { "-shadow" } else { "" });
        let policy = Policy { mode, shadow, ..bench.many_flows(index) };
        let daemon = Daemon::start(&field.bed, &bench.folder(&folder), &policy)?;
        all.push(Timed { who, field, daemon });
    }
    for flows in bench.sizes() {
        for shape in [Shape::Udp, Shape::Ack] {
            for load in [Load::random(shape, flows), Load::in_turn(shape, flows)] {
                compare(bench, &mut section, &mut all, load)?;
            }
        }
    }
    all.into_iter().try_for_each(|timed| timed.daemon.stop())?;
    Ok(section)
}

/// Times all of them with so many flows.
fn compare(bench: &Bench<'_>, section: &mut Section, all: &mut [Timed], load: Load) -> Result<(), LabError> {
    let condition = load.to_string();
    let mut runners = Vec::new();
    // The others have nothing to show by that.
    for Timed { who, field, daemon } in
        all.iter_mut().filter(|timed| load.order == Order::Random || timed.who == DRIVER)
    {
        let daemon = &*daemon;
        field.open(load.shape, load.flows, PATIENCE, &|bed| connections(bed, daemon))?;
        bench.progress(format!("{condition}: {who} ready"))?;
        let lan = field.lan;
        let program = match *who {
            DRIVER | SHADOW => field.driver_program()?,
            _ => field.bed.router.enter(|| Program::attached(lan))?.tried("the program on lan0")?,
        };
        let timers = field.bed.router.enter(|| {
            let timer = |program: &Program| Timer::new(field.hop, load, lan, program);
            Ok::<_, io::Error>([timer(&program)?, timer(&generator::nothing(program.kind())?)?])
        })?;
        let hits = hits(field, daemon)?;
        runners.push((*who, &*field, daemon, timers.tried("a timed program")?, hits, Vec::new()));
    }
    for _ in 0..bench.rounds() {
        for (_, field, _, [timer, nothing], _, values) in &mut runners {
            let timed = field.bed.router.enter(|| {
                pin()?;
                let [warm, count] = PACKETS;
                timer.run(warm)?;
                Ok::<_, io::Error>(timer.run(count)? - nothing.run(count)?)
            })?;
            values.push(timed.tried("time a program")?);
        }
    }
    let wanted = f64::from(PACKETS.iter().sum::<u32>()) * bench.rounds() as f64;
    for (who, field, daemon, _, before, values) in runners {
        let share = (hits(field, daemon)? - before) as f64 / wanted;
        if share < ENOUGH {
            let percent = share * 100.0;
            section.notes.push(format!("{condition}, {who}: only {percent:.1} % of the packets were hits"));
        }
        section.rows.push(Row::under(load, who, values));
    }
    Ok(())
}

/// Packets that the kernel programs have forwarded by an entry.
fn hits(field: &Field, daemon: &Daemon) -> Result<u64, LabError> {
    let paths = daemon.show(&field.bed, "paths")?;
    let paths = paths["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kernel = paths.iter().filter(|path| path["name"] == "driver" || path["name"] == "skb");
    Ok(kernel.filter_map(|path| path["hits"].as_u64()).sum())
}
