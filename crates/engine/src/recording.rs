//! This router in the options that record routes and times (RFC 1812 sections 5.3.13.5 and 5.3.13.6).

use std::net::{IpAddr, Ipv4Addr};

use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{NextHop, TICK_SHIFT, Tick};
use flowhop_flow::{Parsed, key};
use flowhop_wire::record::{self, Recorder};
use flowhop_wire::{Ipv4, checksum};

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::validate::Recording;

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// This router as a packet leaves it.
struct Here<'a> {
    engine: &'a Engine,
    address: Ipv4Addr,
    now: Tick,
}

impl Recorder for Here<'_> {
    fn address(&self) -> [u8; 4] {
        self.address.octets()
    }

    fn is_own(&self, address: [u8; 4]) -> bool {
        self.engine.routing.is_own(IpAddr::V4(address.into()))
    }

    /// The clock here does not know midnight, which the highest bit says (RFC 791 section 3.1).
    fn time(&self) -> u32 {
        ((u64::from(self.now) << TICK_SHIFT) / NANOSECONDS_PER_MILLISECOND) as u32 | 1 << 31
    }
}

impl Engine {
    /// Records the address of the link that a packet leaves by (RFC 1812 section 5.2.5), and the time, where policy and the
    /// packet have it so.
    pub(crate) fn record_hop(&self, hop: &NextHop, parsed: &Parsed, packet: &mut Buffer<'_>, now: Tick) {
        let options = parsed.network + Ipv4::LEN..parsed.transport_offset;
        if parsed.key.family() != 4 || options.is_empty() {
            return;
        }
        let towards = key::ip(&parsed.key.destination);
        let Some(IpAddr::V4(address)) = self.routing.source_towards(hop.ifindex, towards) else { return };
        let wanted = |kind| self.passing.recording(kind) == Recording::Record;
        let Some(header) = packet.bytes_mut().get_mut(ETHERNET..parsed.transport_offset) else { return };
        let Some((fixed, options)) = header.split_at_mut_checked(Ipv4::LEN) else { return };
        if record::record(options, wanted, &Here { engine: self, address, now }) {
            fixed[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}
