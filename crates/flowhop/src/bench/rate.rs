//! Small packets of many flows through the box.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::bpf::Link;
use super::contestants::{Contestant, DRIVER, DRIVER_REDIRECT, NFTABLES, OPEN_VSWITCH, PLAIN, REDIRECT, SKB, Share};
use super::field::conntrack_room;
use super::generator::{self, Generator};
use super::load::{Load, Shape};
use super::report::{Row, Section};
use super::{Bench, pin};
use crate::lab::{LabError, Tried};

/// Packets from which it is known how many to make in the time that there is.
const FIRST: u32 = 1 << 16;
/// A smaller part than this of flowhop's packets by the path that is measured makes the figure one of something else.
const ENOUGH: f64 = 0.9;
/// A larger part than this of packets that went wrong is worth a note.
const NOTABLE: f64 = 0.01;

const METHOD: &str = "\
One thread makes 60-byte packets inside the kernel (`BPF_PROG_TEST_RUN`, live frames of an XDP program) \
and sends them into the router's `lan0`; what comes out of the router is counted at the outside host's veth and dropped \
there. Flows have their packets at random, with repetition, or, where it says so, in order: one packet of each, and then \
again. Making, forwarding, counting and dropping run on one processor. All flows are known before the measurement; \
packets of TCP are data of connections that have had their handshake, and are checked against their windows by whoever \
does that. flowhop's flows, nftables' and Open vSwitch's are translated to a range of 128 addresses. `bare XDP redirect` \
and `bare redirect` are programs on `lan0` that send everything to `wan0` and do nothing else, one in the driver and one \
on the socket buffer: what is left if the firewall costs nothing. Packets are dropped by a program in the driver of the \
outside host, which costs least for socket buffers too; those from Open vSwitch's sockets would have to be copied for \
it and are dropped on the socket buffer.";

/// Runs it.
pub(super) fn rate(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "rate",
        title: "Small packets of many flows",
        unit: "Mpacket/s",
        method: METHOD,
        digits: 2,
        references: vec![DRIVER_REDIRECT, REDIRECT, NFTABLES],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let wanted = [DRIVER_REDIRECT, DRIVER, REDIRECT, SKB, PLAIN, NFTABLES, OPEN_VSWITCH];
    let mut contestants = Contestant::all(&wanted, bench, "rate", bench.most(), &mut section)?;
    for contestant in &contestants {
        contestant.runs(false)?;
    }
    for flows in bench.sizes() {
        for load in [Load::random(Shape::Udp, flows), Load::in_turn(Shape::Udp, flows), Load::random(Shape::Ack, flows)]
        {
            race(bench, &mut section, &mut contestants, load)?;
        }
    }
    let buckets = fs::read_to_string("/sys/module/nf_conntrack/parameters/hashsize").unwrap_or_default();
    section.notes.push(format!(
        "the kernel's connection tracking has {} hash buckets and room for {} entries here",
        buckets.trim(),
        conntrack_room()
    ));
    contestants.into_iter().try_for_each(Contestant::end)?;
    Ok(section)
}

/// Who takes part, with what is attached for the measurement.
struct Runner<'a> {
    contestant: &'a Contestant,
    generator: Generator,
    _sink: Link,
    values: Vec<f64>,
    /// The worst of all rounds.
    lost: f64,
    slow: f64,
}

/// Measures everybody with such packets.
pub(super) fn race(
    bench: &Bench<'_>,
    section: &mut Section,
    contestants: &mut [Contestant],
    load: Load,
) -> Result<(), LabError> {
    let condition = load.to_string();
    let mut runners = Vec::new();
    for contestant in contestants {
        if !contestant.sees(load) {
            continue;
        }
        let start = Instant::now();
        contestant.runs(true)?;
        let opened = contestant.open(load, section)?;
        contestant.runs(false)?;
        if opened {
            let who = contestant.who;
            bench.progress(format!("{condition}: {who} ready after {:.1} s", start.elapsed().as_secs_f64()))?;
            runners.push(Runner::new(contestant, load)?);
        }
    }
    for _ in 0..bench.rounds() {
        for runner in &mut runners {
            runner.contestant.runs(true)?;
            runner.measure(&condition, bench.time())?;
            runner.contestant.runs(false)?;
        }
    }
    for runner in runners {
        let Runner { contestant, values, lost, slow, .. } = runner;
        let who = contestant.who;
        // On a processor of its own it does not slow the sender down, so that it loses packets is no news.
        let lost = if who == OPEN_VSWITCH { 0.0 } else { lost };
        for (share, what) in [(lost, "were lost for want of room"), (slow, "went by user space")] {
            if share > NOTABLE {
                section.notes.push(format!("{condition}, {who}: up to {:.1} % of the packets {what}", share * 100.0));
            }
        }
        section.rows.push(Row::under(load, who, values));
    }
    Ok(())
}

impl<'a> Runner<'a> {
    fn new(contestant: &'a Contestant, load: Load) -> Result<Self, LabError> {
        let (field, kind) = (&contestant.field, contestant.sink());
        let sink = field.bed.outside.enter(|| generator::drop_all(kind)?.attach(field.outside))?;
        let generator = field.bed.inside.enter(|| Generator::new(field.hop, load, field.inside))?;
        Ok(Self {
            contestant,
            generator: generator.tried("the packet generator")?,
            _sink: sink.tried("the packet sink")?,
            values: Vec::new(),
            lost: 0.0,
            slow: 0.0,
        })
    }

    /// Sends for some time and counts what came through.
    fn measure(&mut self, condition: &str, time: Duration) -> Result<(), LabError> {
        let bed = &self.contestant.field.bed;
        let generator = &self.generator;
        let count = bed.inside.enter(|| {
            pin()?;
            let each = generator.emit(FIRST)?;
            Ok::<_, io::Error>(time.as_nanos() / each.as_nanos().max(1))
        })?;
        let count = count.tried("generate packets")?.min(u128::from(u32::MAX)) as u32;
        let share = self.contestant.share()?;
        let (before, _) = bed.outside.device_packets("eth0")?;
        let took = bed.inside.enter(|| {
            pin()?;
            let start = Instant::now();
            generator.emit(count)?;
            Ok::<_, io::Error>(start.elapsed())
        })?;
        let took = took.tried("generate packets")?;
        let (after, _) = bed.outside.device_packets("eth0")?;
        let arrived = after - before;
        if let (Some(before), Some(after)) = (share, self.contestant.share()?) {
            self.check(condition, before, after, arrived)?;
        }
        self.lost = self.lost.max(1.0 - arrived as f64 / f64::from(count));
        self.values.push(arrived as f64 / took.as_secs_f64() / 1e6);
        Ok(())
    }

    /// Makes sure that what was measured is what it is called.
    fn check(&mut self, condition: &str, before: Share, after: Share, arrived: u64) -> Result<(), LabError> {
        let packets = arrived.max(1) as f64;
        let hits = (after.hits - before.hits) as f64 / packets;
        if hits < ENOUGH {
            let percent = hits * 100.0;
            let who = self.contestant.who;
            let message = format!("only {percent:.1} % of the packets took the path that is to be measured");
            return Err(LabError::Command { command: format!("{condition}, {who}"), message });
        }
        self.slow = self.slow.max((after.slow - before.slow) as f64 / packets);
        Ok(())
    }
}
