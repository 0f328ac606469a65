//! Answers to the first packets of very many TCP connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowhop_wire::checksum;

use super::generator::FIRST_SEQUENCE;
use crate::lab::wire::{BATCH, Wire};

/// How long a batch waits to become full.
const WAIT: Duration = Duration::from_millis(20);

/// Answers the first packet of every TCP connection, until told to stop; how many there were.
pub(super) fn answer(wire: &Wire, stop: &Arc<AtomicBool>) -> io::Result<u32> {
    let mut buffer = [0u8; 2048];
    let mut answered = 0;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let frame = wire.receive(&mut buffer, WAIT)?;
        if frame.is_none() && stop.load(Ordering::Acquire) && batch.is_empty() {
            return Ok(answered);
        }
        if let Some(answer) = frame.and_then(answer_of) {
            batch.push(answer);
            answered += 1;
        }
        if batch.len() == BATCH || frame.is_none() {
            wire.send_all(&mut batch)?;
            batch.clear();
        }
    }
}

/// The second packet of a TCP handshake, in answer to the first.
fn answer_of(frame: &[u8]) -> Option<[u8; 60]> {
    let frame = frame.first_chunk::<60>()?;
    let [_, theirs] = FIRST_SEQUENCE;
    if frame[12..14] != [8, 0] || frame[14] != 0x45 || frame[23] != 6 || frame[47] != 2 {
        return None;
    }
    let mut answer = *frame;
    for (to, from, length) in [(0, 6, 6), (6, 0, 6), (26, 30, 4), (30, 26, 4), (34, 36, 2), (36, 34, 2)] {
        answer[to..to + length].copy_from_slice(&frame[from..from + length]);
    }
    let sequence = u32::from_be_bytes(*frame[38..].first_chunk()?);
    answer[38..42].copy_from_slice(&theirs.to_be_bytes());
    answer[42..46].copy_from_slice(&(sequence + 1).to_be_bytes());
    answer[47] = 0x12;
    // Swapping changes no sum, but the other side counted the hops down.
    answer[22] = 64;
    answer[24..26].fill(0);
    let ip = checksum::finish(checksum::sum(&answer[14..34]));
    answer[24..26].copy_from_slice(&ip.to_be_bytes());
    answer[50..52].fill(0);
    let (source, target) = (*answer[26..].first_chunk()?, *answer[30..].first_chunk()?);
    let length = u16::from_be_bytes([answer[16], answer[17]]).checked_sub(20)?;
    let segment = answer.get(34..34 + usize::from(length))?;
    let sum = checksum::finish(checksum::pseudo_v4(source, target, 6, length) + checksum::sum(segment));
    answer[50..52].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}
