//! What packets are sent: of which protocol, of how many flows, in which order.

use std::fmt;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// UDP.
    Udp,
    /// The first packet of a TCP connection.
    Syn,
    /// The third of its handshake, and any after that: the answer is acknowledged.
    Ack,
}

impl Shape {
    /// What flows of such packets are called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Syn | Self::Ack => "TCP",
        }
    }
}

/// In which order flows have their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// At random, with repetition, which no cache likes.
    Random,
    /// One after the other and then from the beginning, in the order in which they were opened.
    InTurn,
}

impl Order {
    /// In JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::InTurn => "in order",
        }
    }
}

/// Packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) shape: Shape,
    /// A power of two.
    pub(super) flows: u32,
    pub(super) order: Order,
}

impl Load {
    pub(super) const fn random(shape: Shape, flows: u32) -> Self {
        Self { shape, flows, order: Order::Random }
    }

    pub(super) const fn in_turn(shape: Shape, flows: u32) -> Self {
        Self { shape, flows, order: Order::InTurn }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::Random => "",
            Order::InTurn => " in order",
        };
        write!(f, "{}, {} flows{order}", self.shape.name(), self.flows)
    }
}
