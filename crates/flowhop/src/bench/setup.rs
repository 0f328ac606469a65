//! New connections in a second.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::contestants::{Contestant, DRIVER, DRIVER_REDIRECT, NFTABLES, SKB};
use super::field::Field;
use super::frame::Frame;
use super::generator;
use super::load::{Form, Shape};
use super::report::Section;
use super::{Bench, bpf, last_processor, pin};
use crate::lab::wire::{BATCH, Wire};
use crate::lab::{LabError, Tried};

/// At most so many are on their way, so that none is made only to be lost: enough for a daemon to be busy while the sender
/// sleeps.
const WINDOW: u64 = 1024;
/// How long the sender sleeps when there are.
const PAUSE: Duration = Duration::from_micros(200);
/// What has not come out after so long is lost.
const LOST: Duration = Duration::from_millis(100);
/// A larger part than this of packets that were lost is worth a note.
const NOTABLE: f64 = 0.01;

const METHOD: &str = "\
First packets of UDP, each of another flow, from a packet socket of the inside host, 64 in one system call, as fast as the \
router forwards them: at most 1024 are on their way. They are counted and dropped by a program in the driver of the outside \
host. Every round has a router that knows no connection yet. flowhop's daemon, which decides about each, makes its entry in \
the kernel's table and sends it on, is kept on the one processor on which the packets are sent, counted and dropped, as is \
what the kernel does. What is counted is packets that came out, and at the end the router has to know as many connections. \
All are translated to a range of 128 addresses. `bare XDP redirect` makes no connections: it is what sending and counting \
cost.";

/// Runs it.
pub(super) fn setup(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "setup",
        title: "New connections",
        unit: "1000/s",
        method: METHOD,
        digits: 0,
        references: vec![NFTABLES],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    // All of one round; half of what the kernel's connection tracking has room for where nobody has changed it.
    let flows = if bench.quick { 1 << 14 } else { 1 << 17 };
    let condition = format!("UDP, {flows} new flows");
    for round in 0..bench.rounds() {
        for who in [DRIVER_REDIRECT, DRIVER, SKB, NFTABLES] {
            let folder = format!("setup-{round}");
            let Some(contestant) = Contestant::new(who, bench, &folder, flows, &mut section)? else { continue };
            if !contestant.has_room(u64::from(flows), flows, &mut section) {
                continue;
            }
            contestant.keep_on(last_processor())?;
            let opened = open(&contestant, flows)?;
            bench.progress(format!("{condition}: {who}: {:.0}", opened.rate))?;
            let lost = opened.lost * 100.0;
            if opened.lost > NOTABLE {
                section.notes.push(format!("{who}: {lost:.1} % of the packets of a round were lost"));
            }
            section.measured(&condition, who, opened.rate);
            contestant.end()?;
        }
    }
    Ok(section)
}

struct Opened {
    /// Thousands in a second.
    rate: f64,
    /// Part of the packets.
    lost: f64,
}

/// Sends the first packet of every flow.
fn open(contestant: &Contestant, flows: u32) -> Result<Opened, LabError> {
    let field = &contestant.field;
    let count = bpf::array(size_of::<u64>() as u32, 1).tried("a counter")?;
    let sink = field.bed.outside.enter(|| generator::count_and_drop(&count)?.attach(field.outside))?;
    let _sink = sink.tried("the packet sink")?;
    let (came, took) = field.bed.inside.enter(|| send(field, &count, flows))?.tried("send first packets")?;
    let known = contestant.connections()?;
    if came == 0 || known.is_some_and(|known| known < came) {
        let message = format!("it knows {} connections, and the first packets of {came} came out", known.unwrap_or(0));
        return Err(LabError::Command { command: contestant.who.to_owned(), message });
    }
    Ok(Opened { rate: came as f64 / took.as_secs_f64() / 1e3, lost: 1.0 - came as f64 / f64::from(flows) })
}

/// Sends the first packets of so many flows; how many came out, and in which time.
fn send(field: &Field, count: &OwnedFd, flows: u32) -> io::Result<(u64, Duration)> {
    pin()?;
    let wire = Wire::open(field.inside, None)?;
    let mut batch = Vec::with_capacity(BATCH);
    let mut frames = (0..flows).map(|flow| Frame::of(field.hop, Form::plain(Shape::Udp), flow));
    let start = Instant::now();
    let (mut sent, mut came, mut lost) = (0, 0, 0);
    // When the last one came, and when there was something new last.
    let (mut last, mut progress) = (start, start);
    while came + lost < u64::from(flows) {
        let now = bpf::number(count)?;
        if now > came {
            came = now;
            last = Instant::now();
            progress = last;
        }
        if sent < u64::from(flows) && sent + BATCH as u64 <= came + lost + WINDOW {
            batch.extend(frames.by_ref().take(BATCH));
            wire.send_all(&mut batch)?;
            sent += batch.len() as u64;
            batch.clear();
        } else if progress.elapsed() > LOST {
            lost = sent - came;
            progress = Instant::now();
        } else if came + lost < u64::from(flows) {
            thread::sleep(PAUSE);
        }
    }
    Ok((came, last.duration_since(start)))
}
