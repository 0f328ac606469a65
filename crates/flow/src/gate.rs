//! What keeps packets of a flow in order where they change between paths.

use crate::cell::Cell64;
use crate::halves::{pair, split};

/// Order between the kernel paths and user space, for the flows whose key hash selects this gate.
///
/// One word: `packets handed to user space | epoch << 32`. A kernel path that misses, or meets a pending
/// entry, first adds 1 (a full barrier) and then looks again; user space raises the epoch by one
/// compare-and-exchange only while the count equals the packets it has finished with. So the raise happens
/// only when no packet of these flows is on its way through user space, and every entry that was published
/// under the old epoch is active from that instant on.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Gate(pub Cell64);

impl Gate {
    /// Counts a packet on its way to user space; returns the epoch (low four bits).
    #[inline(always)]
    #[must_use]
    pub fn enter(&self) -> u8 {
        (self.0.add(1) >> 32) as u8 & 15
    }

    /// Takes back an [`enter`](Self::enter): the packet did not go to user space after all.
    #[inline(always)]
    pub fn leave(&self) {
        self.0.add(u64::MAX);
    }

    /// Packets handed to user space so far (wrapping) and the epoch.
    #[must_use]
    pub fn read(&self) -> (u32, u32) {
        split(self.0.load())
    }

    /// Raises the epoch if exactly `handed` packets have been handed over; tells whether it did.
    #[must_use]
    pub fn raise(&self, handed: u32, epoch: u32) -> bool {
        self.0.replace(pair(handed, epoch), pair(handed, epoch.wrapping_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A5: the epoch moves only when nothing of the gate's flows is on its way.
    #[test]
    fn a_gate_is_raised_only_when_nothing_is_on_its_way() {
        let gate = Gate::default();
        assert_eq!(gate.enter(), 0);
        assert!(!gate.raise(0, 0));
        assert!(gate.raise(1, 0));
        assert_eq!(gate.read(), (1, 1));
        assert_eq!(gate.enter(), 1);
        gate.leave();
        assert_eq!(gate.read(), (1, 1));
    }
}
