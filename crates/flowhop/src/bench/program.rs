//! The time of the kernel program alone.

use std::io;

use super::bpf::Program;
use super::field::Field;
use super::generator::{self, Shape, Timer};
use super::report::{Row, Section};
use super::{Bench, pin};
use crate::lab::{Daemon, LabError, Tried};

/// Packets of one measurement, and of the one before it that does not count.
const PACKETS: [u32; 2] = [200_000, 1_000_000];
/// A program that does nothing answers like one that redirects.
const REDIRECT: i32 = 7;
/// Fewer hits than this are worth a note.
const ENOUGH: f64 = 0.99;

const LINES: &str = "flowhop's index";
const HASH: &str = "kernel hash map";

const METHOD: &str = "\
The program on the ingress of `lan0`, with the daemon's own tables, runs on packets of random flows \
(`BPF_PROG_TEST_RUN`): a few instructions make the packet and go on with the program by a tail call. What the same costs \
with a program that does nothing is subtracted. All flows are known and translated; those of TCP have had their \
handshake and are checked against their windows. `kernel hash map` is the same program with the kernel's own hash map in \
the place of flowhop's index (`[table] index = \"kernel-hash\"`).";

/// Runs it.
pub(super) fn programs(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "program",
        title: "The kernel program alone",
        unit: "ns/packet",
        method: METHOD,
        digits: 0,
        references: vec![HASH],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut fields = Vec::new();
    for (who, index) in [(LINES, "lines"), (HASH, "kernel-hash")] {
        let field = Field::new()?;
        let daemon = Daemon::start(&field.bed, &bench.folder(index), &bench.many_flows(index))?;
        fields.push((who, field, daemon));
    }
    let mut known = 0;
    for flows in bench.sizes() {
        for (shape, name) in [(Shape::Udp, "UDP"), (Shape::Ack, "TCP")] {
            let condition = format!("{name}, {flows} flows");
            known += match (shape, bench.sizes().iter().rev().find(|smaller| **smaller < flows)) {
                (_, Some(smaller)) => flows - smaller,
                (_, None) => flows,
            };
            let mut timers = Vec::new();
            for (who, field, daemon) in &fields {
                match shape {
                    Shape::Udp => field.open_udp_among(flows, known, daemon)?,
                    _ => field.open_tcp(flows, known, daemon)?,
                }
                bench.progress(format!("{condition} opened, {who}"))?;
                let timer = |program: &Program| Timer::new(field.hop, shape, flows, field.lan, program);
                let made = field.bed.router.enter(|| {
                    let program = Program::attached(field.lan)?;
                    Ok::<_, io::Error>([timer(&program)?, timer(&generator::constant(REDIRECT)?)?])
                })?;
                timers.push((field, made.tried("a timed program")?));
                section.rows.push(Row { condition: condition.clone(), who, values: Vec::new() });
            }
            let first = section.rows.len() - timers.len();
            let before = hits(&fields)?;
            for _ in 0..bench.rounds() {
                for (place, (field, [timer, nothing])) in timers.iter().enumerate() {
                    let timed = field.bed.router.enter(|| {
                        pin()?;
                        let [warm, count] = PACKETS;
                        timer.run(warm)?;
                        Ok::<_, io::Error>(timer.run(count)? - nothing.run(count)?)
                    })?;
                    section.rows[first + place].values.push(timed.tried("time a program")?);
                }
            }
            let wanted = f64::from(PACKETS.iter().sum::<u32>()) * bench.rounds() as f64;
            for (((who, _, _), before), after) in fields.iter().zip(before).zip(hits(&fields)?) {
                let share = (after - before) as f64 / wanted;
                if share < ENOUGH {
                    let percent = share * 100.0;
                    section.notes.push(format!("{condition}, {who}: only {percent:.1} % of the packets were hits"));
                }
            }
        }
    }
    for (_, _, daemon) in fields {
        daemon.stop()?;
    }
    Ok(section)
}

/// Packets that the kernel programs have forwarded by an entry, by field.
fn hits(fields: &[(&'static str, Field, Daemon)]) -> Result<Vec<u64>, LabError> {
    let each = fields.iter().map(|(_, field, daemon)| {
        let paths = daemon.show(&field.bed, "paths")?;
        let paths = paths["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
        let skb = paths.iter().find(|path| path["name"] == "skb");
        Ok(skb.and_then(|path| path["hits"].as_u64()).unwrap_or(0))
    });
    each.collect()
}
