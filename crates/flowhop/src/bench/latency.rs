//! How long a packet takes through the box: the first one of a flow, and later ones.

use std::io;
use std::time::{Duration, Instant};

use flowhop_wire::ethertype;

use super::contestants::{Contestant, DRIVER, NFTABLES, SKB, Share};
use super::field::Field;
use super::frame::{Frame, TARGET, TARGET_AT};
use super::load::{Form, Shape};
use super::report::{Row, Section};
use super::{Bench, handover, last_processor};
use crate::lab::wire::Wire;
use crate::lab::{LabError, Tried};

/// Flows of one round.
const FLOWS: u32 = 1000;
/// How long a packet may take.
const WAIT: Duration = Duration::from_millis(500);
/// Until what is to be done about flows besides forwarding has been done.
const SETTLE: Duration = Duration::from_millis(100);
/// A smaller part than this of later packets by the path that is measured makes the figure one of something else.
const ENOUGH: f64 = 0.9;

const METHOD: &str = "\
One packet of UDP at a time from a packet socket of the inside host to one of the outside host, from before the call that \
sends it until the call that receives it has returned: with the way through both hosts, the waking of the receiver and, for \
first packets, that of flowhop's daemon. 1000 new flows in a round. First packets are decided about; later packets are the \
third of their flows, when the kernel's side forwards them. A round gives its median and its 99th percentile, and the table \
what is in the middle of those. `hand-over` is the time after the first packet of a flow from which on the kernel's side \
forwards it: 100 flows each have a second packet 0, 12, 25, 50, 100, 200, 400, 800 or 1600 µs after the first, and the \
shortest of these gaps is given with which the kernel's side forwards so many second packets, by flowhop's own counters.";

/// Runs it.
pub(super) fn latency(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "latency",
        title: "First packets and later ones, one at a time",
        unit: "µs",
        method: METHOD,
        digits: 1,
        references: vec![NFTABLES],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let all = (FLOWS + handover::ALL) * bench.rounds() as u32;
    let mut contestants = Vec::new();
    for who in [DRIVER, SKB, NFTABLES] {
        contestants.extend(Contestant::new(who, bench, "latency", all, &mut section)?);
    }
    contestants.retain(|contestant| contestant.has_room(all.into(), all, &mut section));
    for condition in CONDITIONS {
        for Contestant { who, .. } in &contestants {
            section.rows.push(Row { condition: condition.to_owned(), load: None, who, values: Vec::new() });
        }
    }
    for round in 0..bench.rounds() as u32 {
        let first = round * (FLOWS + handover::ALL);
        for contestant in &contestants {
            for (condition, time) in CONDITIONS.iter().zip(times(contestant, first..first + FLOWS)?) {
                section.measured(condition, contestant.who, time);
            }
            if contestant.who != NFTABLES && last_processor() > 0 {
                for (condition, time) in HANDOVERS.iter().zip(handover::handover(contestant, first + FLOWS)?) {
                    match time {
                        Some(time) => section.measured(condition, contestant.who, time),
                        None => section.note(format!("{condition}, {}: never in a round", contestant.who)),
                    }
                }
            }
        }
        bench.progress(format!("latency: round {} done", round + 1))?;
    }
    contestants.into_iter().try_for_each(Contestant::end)?;
    Ok(section)
}

const CONDITIONS: [&str; 4] =
    ["first packet, median", "first packet, 99th percentile", "later packet, median", "later packet, 99th percentile"];

const HANDOVERS: [&str; 2] = ["hand-over, half of the flows", "hand-over, 99 % of the flows"];

/// Microseconds, as [`CONDITIONS`] has them.
fn times(contestant: &Contestant, flows: std::ops::Range<u32>) -> Result<[f64; 4], LabError> {
    let field = &contestant.field;
    let ends = Ends::open(field)?;
    let pass = || -> Result<Vec<Duration>, LabError> {
        let frames = flows.clone().map(|flow| Frame::of(field.hop, Form::plain(Shape::Udp), flow));
        let times: io::Result<Vec<_>> = frames.map(|frame| ends.time(frame)).collect();
        let times: Vec<Duration> = times.tried("send packets one at a time")?.into_iter().flatten().collect();
        if times.len() < flows.len() * 99 / 100 {
            let message = format!("only {} of {} packets came through", times.len(), flows.len());
            return Err(LabError::Command { command: format!("latency, {}", contestant.who), message });
        }
        Ok(times)
    };
    let first = pass()?;
    pass()?;
    std::thread::sleep(SETTLE);
    let before = contestant.share()?;
    let later = pass()?;
    if let (Some(before), Some(after)) = (before, contestant.share()?) {
        check(contestant, before, after, later.len())?;
    }
    let [a, b] = middle_and_tail(first);
    let [c, d] = middle_and_tail(later);
    Ok([a, b, c, d])
}

/// Makes sure that later packets took the path that they are said to take.
fn check(contestant: &Contestant, before: Share, after: Share, packets: usize) -> Result<(), LabError> {
    let hits = (after.hits - before.hits) as f64 / packets as f64;
    if hits >= ENOUGH {
        return Ok(());
    }
    let message = format!("only {:.1} % of the later packets took the path that is to be measured", hits * 100.0);
    Err(LabError::Command { command: format!("latency, {}", contestant.who), message })
}

/// Median and 99th percentile in microseconds.
fn middle_and_tail(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    let at =
        |part: usize| times.get(times.len().saturating_sub(1) * part / 100).map_or(f64::NAN, Duration::as_secs_f64);
    [at(50) * 1e6, at(99) * 1e6]
}

/// Both ends of the way.
pub(super) struct Ends {
    pub(super) inside: Wire,
    outside: Wire,
}

impl Ends {
    pub(super) fn open(field: &Field) -> Result<Self, LabError> {
        let inside = field.bed.inside.enter(|| Wire::open(field.inside, None))?;
        let outside = field.bed.outside.enter(|| Wire::open(field.outside, Some(ethertype::IPV4)))?;
        Ok(Self { inside: inside.tried("a packet socket")?, outside: outside.tried("a packet socket")? })
    }

    /// How long a packet takes; `None` if it is lost.
    fn time(&self, frame: Frame) -> io::Result<Option<Duration>> {
        let start = Instant::now();
        self.inside.send_all(&mut [frame])?;
        Ok(self.receive()?.map(|came| came.duration_since(start)))
    }

    /// Waits for a packet; when it came, or `None` if it is lost.
    pub(super) fn receive(&self) -> io::Result<Option<Instant>> {
        let mut buffer = [0; 2048];
        loop {
            let frame = self.outside.receive(&mut buffer, WAIT)?;
            let now = Instant::now();
            match frame {
                None => return Ok(None),
                Some(frame) if frame.get(TARGET_AT..TARGET_AT + 4) == Some(&TARGET) => return Ok(Some(now)),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_99th_of_a_hundred() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        let [middle, tail] = middle_and_tail(times);
        assert!((middle - 50.0).abs() < 1e-6 && (tail - 99.0).abs() < 1e-6, "{middle} {tail}");
    }
}
