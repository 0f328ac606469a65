//! Samples of packets that are forwarded, for the slow path to compare; see [`flowhop_flow::shadow`].

use core::ptr::read_volatile;

use flowhop_flow::record::{NextHop, Steer};
use flowhop_flow::shadow::{HEAD, Sample, output, sample_flags};
use flowhop_flow::{Hit, Packet, Parsed};

use crate::maps::{SAMPLE, SAMPLES};

/// The sample of this processor. Programs on it do not interrupt each other.
#[inline(always)]
fn sample() -> Option<&'static mut Sample> {
    // SAFETY: the value is this processor's own, and nothing else refers to it while this program runs.
    SAMPLE.get_ptr_mut(0).map(|sample| unsafe { &mut *sample })
}

/// Reads a number again that was just written, so that the verifier follows neither where it comes from nor what it is.
#[inline(always)]
fn again(number: &u16) -> u32 {
    // SAFETY: a reference is a place to read from.
    u32::from(unsafe { read_volatile(number) })
}

/// Notes a packet as it came.
#[inline(always)]
pub fn before<P: Packet>(packet: &P, parsed: &Parsed, hit: &Hit<'_>, steer: Steer, port: u8, segment: u32) {
    if let Some(sample) = sample() {
        let length = parsed.network as u32 + parsed.length;
        sample.note(hit, steer, port, parsed.network, [length, segment]);
        let kept = if length < HEAD as u32 { length } else { HEAD as u32 };
        sample.kept = kept as u16;
        let done = packet.head(&mut sample.before, again(&sample.kept));
        if !done {
            sample.kept = 0;
        }
    }
}

/// Notes that this packet is none to be looked at. One before it that was may not have been forwarded in the end; whether
/// one is cannot be asked again, because other processors count packets of the flow as well.
#[inline(always)]
pub fn forget() {
    if let Some(sample) = sample() {
        sample.kept = 0;
    }
}

/// Notes what became of it, if it is to be looked at, and lets it be.
#[inline(always)]
pub fn after<P: Packet>(packet: &P, hop: &NextHop, driver: bool) {
    if let Some(sample) = sample()
        && sample.kept != 0
    {
        sample.flags = if driver { sample_flags::DRIVER } else { 0 };
        sample.ifindex = output(hop, driver);
        if packet.head(&mut sample.after, again(&sample.kept)) {
            // Where there is no room it is one of many.
            let _ = SAMPLES.output::<Sample>(&*sample, 0);
        }
        sample.kept = 0;
    }
}
