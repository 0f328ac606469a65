//! Answers to the first packets of very many TCP connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowhop_wire::{protocol, tcp_flags};

use super::frame::{FIRST_SEQUENCE, Frame};
use super::load::{Form, Shape};
use crate::lab::Family;
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
fn answer_of(frame: &[u8]) -> Option<Frame> {
    let form = first_of(frame)?;
    let mut answer = Frame::copied(frame, form)?;
    let bytes = answer.as_mut();
    let (transport, address) = (form.transport(), form.target() - form.source());
    for (a, b, length) in [(0, 6, 6), (form.source(), form.target(), address), (transport, transport + 2, 2)] {
        for place in 0..length {
            bytes.swap(a + place, b + place);
        }
    }
    let [_, theirs] = FIRST_SEQUENCE;
    let sequence = u32::from_be_bytes(*bytes[transport + 4..].first_chunk()?);
    bytes[transport + 4..transport + 8].copy_from_slice(&theirs.to_be_bytes());
    bytes[transport + 8..transport + 12].copy_from_slice(&(sequence + 1).to_be_bytes());
    bytes[transport + 13] = tcp_flags::SYN_ACK;
    // The other side counted the hops down.
    bytes[form.hops()] = 64;
    answer.complete(form);
    Some(answer)
}

/// The form of the first packet of a handshake; `None` of anything else.
fn first_of(frame: &[u8]) -> Option<Form> {
    let forms = [Form::plain(Shape::Syn), Form::v6(Shape::Syn)];
    let form = forms.into_iter().find(|form| frame.get(12..14) == Some(&form.ethertype().to_be_bytes()))?;
    let version = if form.family == Family::V4 { 0x45 } else { 0x60 };
    let is = |place: usize, byte: u8| frame.get(place) == Some(&byte);
    let first = is(form.network(), version) && is(form.protocol_place(), protocol::TCP);
    (first && is(form.transport() + 13, tcp_flags::SYN)).then_some(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::frame::sums;
    use crate::bench::frame::tests::HOP;
    use flowhop_wire::checksum;

    #[test]
    fn answers_go_back_with_right_checksums() {
        for form in [Form::plain(Shape::Syn), Form::v6(Shape::Syn)] {
            let first = Frame::of(HOP, form, 70);
            let answer = answer_of(first.as_ref()).unwrap_or_else(|| panic!("{form}: no answer"));
            let (first, answer) = (first.as_ref(), answer.as_ref());
            assert_eq!((&answer[..6], &answer[6..12]), (&first[6..12], &first[..6]));
            let length = form.target() - form.source();
            assert_eq!(answer[form.target()..][..length], first[form.source()..][..length], "{form}");
            assert_eq!(answer[form.transport()..][..2], first[form.transport() + 2..][..2], "{form}");
            assert_eq!(answer[form.transport() + 8..][..4], (FIRST_SEQUENCE[0] + 1).to_be_bytes(), "{form}");
            let [ip, transport] = sums(answer, form).map(checksum::finish);
            assert_eq!(transport, 0, "{form}");
            assert!(form.family == Family::V6 || ip == 0, "{form}");
        }
    }

    #[test]
    fn only_first_packets_of_tcp_are_answered() {
        for form in [Form::plain(Shape::Udp), Form::v6(Shape::Ack), Form::tagged(Shape::Syn)] {
            assert_eq!(answer_of(Frame::of(HOP, form, 0).as_ref()), None, "{form}");
        }
    }
}
