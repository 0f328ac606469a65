//! What the user-level path did with packets, by port and reason.

use flowhop_flow::Reason;
use flowhop_flow::record::{PORTS, PortCounters};
use flowhop_table::Region;

/// Counters of one path in memory that outlives the process where the caller maps it so.
#[derive(Clone, Debug)]
pub struct Counters(Region<PortCounters>);

impl Counters {
    /// Counters in memory of this process.
    #[must_use]
    pub fn private() -> Self {
        Self(Region::from_vec(std::iter::repeat_with(PortCounters::default).take(PORTS).collect()))
    }

    /// Counters in mapped memory, one record for each port.
    #[must_use]
    pub const fn shared(region: Region<PortCounters>) -> Self {
        Self(region)
    }

    /// Counts one packet.
    pub fn add(&self, port: u8, reason: Reason, bytes: usize) {
        if let Some(counters) = self.0.get(usize::from(port)) {
            let count = &counters.0[usize::from(reason.number())];
            count.packets.add(1);
            count.bytes.add(bytes as u64);
        }
    }

    /// Takes back a packet that was counted under a reason that did not last (held, then forwarded).
    pub fn take_back(&self, port: u8, reason: Reason, bytes: usize) {
        if let Some(counters) = self.0.get(usize::from(port)) {
            let count = &counters.0[usize::from(reason.number())];
            count.packets.add(1u64.wrapping_neg());
            count.bytes.add((bytes as u64).wrapping_neg());
        }
    }

    /// Packets and bytes of a reason on a port.
    #[must_use]
    pub fn get(&self, port: u8, reason: Reason) -> (u64, u64) {
        self.0.get(usize::from(port)).map_or((0, 0), |counters| {
            let count = &counters.0[usize::from(reason.number())];
            (count.packets.load(), count.bytes.load())
        })
    }
}
