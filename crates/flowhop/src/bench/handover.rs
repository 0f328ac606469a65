//! When the kernel forwards a flow after its first packet.

use std::hint::spin_loop;
use std::io;
use std::time::{Duration, Instant};

use super::contestants::Contestant;
use super::frame::Frame;
use super::latency::Ends;
use super::load::{Form, Shape};
use crate::lab::{LabError, Tried};

/// Microseconds between the first and the second packet of a flow.
const GAPS: [u32; 9] = [0, 12, 25, 50, 100, 200, 400, 800, 1600];
/// Flows with each.
const FLOWS: u32 = 100;
/// Flows that one measurement takes.
pub(super) const ALL: u32 = GAPS.len() as u32 * FLOWS;
/// Which parts of the flows, in packets of [`FLOWS`], are asked about.
const PARTS: [u64; 2] = [50, 99];

/// After how many microseconds the second packets of half of the flows, and of 99 in a hundred, are forwarded by the
/// kernel's side: the shortest of a few gaps. `None` where that is not so after any of them, or nobody can tell.
pub(super) fn handover(contestant: &Contestant, first: u32) -> Result<[Option<f64>; 2], LabError> {
    let ends = Ends::open(&contestant.field)?;
    let mut found = [None; 2];
    for (flows, gap) in (first..).step_by(FLOWS as usize).zip(GAPS) {
        let Some(before) = contestant.share()? else { break };
        let pause = Duration::from_micros(gap.into());
        (flows..flows + FLOWS).try_for_each(|flow| pair(contestant, &ends, flow, pause)).tried("send two packets")?;
        let hits = contestant.share()?.map_or(0, |after| after.hits - before.hits);
        for (found, part) in found.iter_mut().zip(PARTS) {
            if found.is_none() && hits >= part {
                *found = Some(f64::from(gap));
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found)
}

/// Sends two packets of a flow and waits for them.
fn pair(contestant: &Contestant, ends: &Ends, flow: u32, pause: Duration) -> io::Result<()> {
    let mut frame = [Frame::of(contestant.field.hop, Form::plain(Shape::Udp), flow)];
    ends.inside.send_all(&mut frame)?;
    // Sleeping would take longer than most of the gaps.
    let sent = Instant::now();
    while sent.elapsed() < pause {
        spin_loop();
    }
    ends.inside.send_all(&mut frame)?;
    ends.receive()?;
    ends.receive()?;
    Ok(())
}
