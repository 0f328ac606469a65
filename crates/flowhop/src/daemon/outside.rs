//! What the engine asks of the outside, done.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flowhop_engine::{Io, LogEvent, Offload};
use flowhop_flow::key;
use flowhop_flow::parse::ETHERNET;
use flowhop_io::netlink::Monitor;
use flowhop_io::tap::metadata::{Order, TO_STACK, TRANSMIT};
use flowhop_io::tap::{Tap, VirtioHeader};
use flowhop_modules::Bindings;

use super::plane::Plane;
use super::state::Numbers;

/// Lines that rules may write to the log in a second; a scan must not fill the disk, nor hold up packets.
const LINES_PER_SECOND: u32 = 200;

/// How many lines rules have written to the log in the present second.
#[derive(Debug)]
pub(super) struct Lines {
    second: Instant,
    written: u32,
    suppressed: u64,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), written: 0, suppressed: 0 }
    }

    /// Whether one more may be written; says now and then how many were not.
    fn take(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.suppressed > 0 {
                say!("flowhop: {} lines about connections were not written", self.suppressed);
            }
            *self = Self::new();
        }
        self.written += 1;
        let allowed = self.written <= LINES_PER_SECOND;
        self.suppressed += u64::from(!allowed);
        allowed
    }
}

/// The outside of one moment: everything borrowed.
pub(super) struct Outside<'a> {
    pub(super) plane: &'a mut Plane,
    pub(super) monitor: &'a mut Monitor,
    pub(super) numbers: &'a Numbers,
    pub(super) bindings: &'a Bindings,
    pub(super) lines: &'a mut Lines,
}

impl Io for Outside<'_> {
    fn transmit(&mut self, port: u8, ifindex: u32, frame: &mut [u8], offload: &Offload) -> bool {
        match self.plane {
            Plane::Kernel(kernel) => write(&kernel.tap, Order { action: TRANSMIT, port }, frame, offload),
            Plane::Packet(packet) => packet.send(ifindex, frame, offload),
        }
    }

    fn stack(&mut self, port: u8, frame: &mut [u8], offload: &Offload) -> bool {
        match self.plane {
            Plane::Kernel(kernel) => write(&kernel.tap, Order { action: TO_STACK, port }, frame, offload),
            // The kernel has its own copy of what is for the box; the filter on the interface let it pass.
            Plane::Packet(_) => true,
        }
    }

    fn resolve(&mut self, ifindex: u32, next_hop: IpAddr) {
        if let Err(error) = self.monitor.resolve(ifindex, next_hop) {
            say!("flowhop: cannot have {next_hop} resolved: {error}");
        }
    }

    fn opened(&mut self) {
        note_ports(self.plane, self.bindings);
    }

    fn log(&mut self, event: &LogEvent) {
        if !self.lines.take() {
            return;
        }
        let name = |names: &flowhop_modules::Names, number| names.name(number).unwrap_or("?").to_owned();
        say!(
            "flowhop: rule={:?} verdict={} protocol={} source={} source_port={} destination={} destination_port={} in={}",
            name(&self.numbers.rules, event.rule),
            event.reason.name(),
            event.key.protocol(),
            key::ip(&event.key.source),
            event.key.source_port(),
            key::ip(&event.key.destination),
            event.key.destination_port(),
            name(&self.numbers.ports, u16::from(event.port)),
        );
    }
}

/// Tells the kernel side the ports of own addresses that came into use by translations, or out of it.
pub(super) fn note_ports(plane: &mut Plane, bindings: &Bindings) {
    let changes = bindings.take_changes();
    if let Plane::Kernel(kernel) = plane
        && !changes.is_empty()
        && let Err(error) = kernel.note_ports(&changes)
    {
        say!("flowhop: {error}");
    }
}

/// Hands a frame to the kernel side with an order in place of its source address.
fn write(tap: &Tap, order: Order, frame: &mut [u8], offload: &Offload) -> bool {
    let Some(link) = frame.first_chunk_mut::<ETHERNET>() else { return false };
    link[6..12].copy_from_slice(&order.address());
    let header = VirtioHeader {
        flags: if offload.partial { VirtioHeader::NEEDS_CHECKSUM } else { 0 },
        gso_type: offload.segmentation,
        header_length: offload.headers,
        gso_size: offload.segment,
        checksum_start: offload.checksum_start,
        checksum_offset: offload.checksum_offset,
    };
    tap.write(header, &[IoSlice::new(frame)]).is_ok()
}

/// The offload state of a frame that the punt device delivered.
pub(super) const fn offload_of(header: &VirtioHeader) -> Offload {
    Offload {
        partial: header.flags & VirtioHeader::NEEDS_CHECKSUM != 0,
        verified: header.flags & VirtioHeader::CHECKSUM_VALID != 0,
        checksum_start: header.checksum_start,
        checksum_offset: header.checksum_offset,
        segmentation: header.gso_type,
        segment: header.gso_size,
        headers: header.header_length,
    }
}
