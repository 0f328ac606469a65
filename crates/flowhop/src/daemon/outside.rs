//! What the engine asks of the outside, done.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flowhop_engine::{Io, LogEvent, Offload};
use flowhop_flow::key;
use flowhop_io::netlink::Monitor;
use flowhop_modules::Bindings;

use super::plane::Plane;
use super::state::Numbers;
use crate::lease;

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

/// Everything around the engine.
pub(super) struct Outside {
    pub(super) plane: Plane,
    pub(super) monitor: Monitor,
    pub(super) numbers: Numbers,
    pub(super) bindings: Bindings,
    /// A port whose frames had partial checksums in the driver.
    pub(super) partial: Option<u8>,
    lines: Lines,
}

impl Outside {
    pub(super) fn new(plane: Plane, monitor: Monitor, numbers: Numbers, bindings: Bindings) -> Self {
        Self { plane, monitor, numbers, bindings, partial: None, lines: Lines::new() }
    }

    /// Tells the kernel side the ports of own addresses that came into use by translations, or out of it.
    pub(super) fn note_ports(&mut self) {
        let changes = self.bindings.take_changes();
        if let Plane::Kernel(kernel) = &mut self.plane
            && !changes.is_empty()
            && let Err(error) = kernel.note_ports(&changes)
        {
            say!("flowhop: {error}");
        }
        // As often as there is one: what operators have to keep may have no gaps.
        for lease in self.bindings.take_leases() {
            say!("{}", lease::line(&lease, &self.numbers.nats));
        }
    }
}

impl Io for Outside {
    fn transmit(&mut self, port: u8, ifindex: u32, frame: &mut [u8], offload: &Offload) -> bool {
        match &mut self.plane {
            Plane::Kernel(kernel) => kernel.transmit(port, ifindex, frame, offload),
            Plane::Packet(packet) => packet.send(ifindex, frame, offload),
        }
    }

    fn flush(&mut self) -> bool {
        self.plane.flush()
    }

    fn stack(&mut self, port: u8, frame: &mut [u8], offload: &Offload) -> bool {
        match &mut self.plane {
            Plane::Kernel(kernel) => kernel.stack(port, frame, offload),
            // The kernel has its own copy of what is for the box; the filter on the interface let it pass.
            Plane::Packet(_) => true,
        }
    }

    fn partial_checksum(&mut self, port: u8) {
        self.partial = Some(port);
    }

    fn resolve(&mut self, ifindex: u32, next_hop: IpAddr) {
        if let Err(error) = self.monitor.resolve(ifindex, next_hop) {
            say!("flowhop: cannot have {next_hop} resolved: {error}");
        }
    }

    fn opened(&mut self) {
        self.note_ports();
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
