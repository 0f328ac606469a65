//! What the kernel programs and the daemon tell each other about a packet, in the link-layer address that the
//! receiving side does not need.
//!
//! Towards the daemon the punt device carries packets whose *destination* address (the port's own, hence
//! known) is replaced by [`Punt`]; the source survives for logs and answers. From the daemon come packets
//! whose *source* address is replaced by [`Order`]. Both start with [`PREFIX`], a locally administered
//! unicast address.
//!
//! This file is compiled into the kernel programs and, by path, into the `io` crate.

/// First bytes of an address that carries metadata: locally administered, then `F`.
pub const PREFIX: [u8; 2] = [0x02, 0x46];

/// [`Order::action`]: send the packet out of the port, as it is but for its source address.
pub const TRANSMIT: u8 = 1;
/// [`Order::action`]: give the packet to the kernel's stack as if it had just come in through the port.
pub const TO_STACK: u8 = 2;

/// What the kernel program says of a packet that it hands down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punt {
    /// Port that the packet came in through.
    pub port: u8,
    /// Number of the reason.
    pub reason: u8,
    /// The gate that it was counted at, plus one; 0 = none.
    pub gate: u16,
}

impl Punt {
    /// The address that says so.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> [u8; 6] {
        let [high, low] = self.gate.to_be_bytes();
        [PREFIX[0], PREFIX[1], self.port, self.reason, high, low]
    }

    /// What an address says; `None` when it carries no metadata.
    #[inline(always)]
    #[must_use]
    pub const fn parse(address: [u8; 6]) -> Option<Self> {
        let [a, b, port, reason, high, low] = address;
        if a != PREFIX[0] || b != PREFIX[1] {
            return None;
        }
        Some(Self { port, reason, gate: u16::from_be_bytes([high, low]) })
    }
}

/// What the daemon wants done with a packet that it writes to the punt device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// [`TRANSMIT`] or [`TO_STACK`].
    pub action: u8,
    /// The port that it is about.
    pub port: u8,
}

impl Order {
    /// The address that says so.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> [u8; 6] {
        [PREFIX[0], PREFIX[1], self.action, self.port, 0, 0]
    }

    /// What an address says; `None` when it carries no order.
    #[inline(always)]
    #[must_use]
    pub const fn parse(address: [u8; 6]) -> Option<Self> {
        let [a, b, action, port, c, d] = address;
        if a != PREFIX[0] || b != PREFIX[1] || c != 0 || d != 0 {
            return None;
        }
        Some(Self { action, port })
    }
}
