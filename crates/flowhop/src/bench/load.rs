//! What packets are sent: of which kind, how long, of how many flows, in which order.

use std::fmt;

use serde_json::{Value, json};

use crate::lab::Family;

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

/// Which headers a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) shape: Shape,
    pub(super) family: Family,
    /// It has an 802.1Q tag that names no VLAN, only a priority: that needs no VLAN devices, which not every kernel has.
    pub(super) tagged: bool,
}

impl Form {
    /// The usual one: IPv4 without a tag.
    pub(super) const fn plain(shape: Shape) -> Self {
        Self { shape, family: Family::V4, tagged: false }
    }

    /// IPv6 without a tag.
    pub(super) const fn v6(shape: Shape) -> Self {
        Self { shape, family: Family::V6, tagged: false }
    }

    /// IPv4 with a tag.
    pub(super) const fn tagged(shape: Shape) -> Self {
        Self { shape, family: Family::V4, tagged: true }
    }

    /// The same headers in another packet.
    pub(super) const fn with(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "" } else { " over IPv6" };
        let tag = if self.tagged { ", priority tag" } else { "" };
        write!(f, "{}{family}{tag}", self.shape.name())
    }
}

/// How long frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// As short as they can be.
    Shortest,
    /// So many bytes.
    Bytes(u16),
    /// At random, in the proportion that is called IMIX.
    Mix,
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
    const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::InTurn => "in order",
        }
    }
}

/// Packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) form: Form,
    pub(super) size: Size,
    /// A power of two.
    pub(super) flows: u32,
    pub(super) order: Order,
}

impl Load {
    pub(super) const fn random(shape: Shape, flows: u32) -> Self {
        Self::of(Form::plain(shape), Size::Shortest, flows)
    }

    pub(super) const fn in_turn(shape: Shape, flows: u32) -> Self {
        Self { order: Order::InTurn, ..Self::random(shape, flows) }
    }

    /// Any packets, at random.
    pub(super) const fn of(form: Form, size: Size, flows: u32) -> Self {
        Self { form, size, flows, order: Order::Random }
    }

    /// Whether they are the usual ones: short, IPv4, without a tag.
    pub(super) fn is_plain(self) -> bool {
        self.form == Form::plain(self.form.shape) && self.size == Size::Shortest
    }

    pub(super) fn json(self) -> Value {
        let frame = match self.size {
            Size::Shortest => json!(self.form.shortest()),
            Size::Bytes(bytes) => json!(bytes),
            Size::Mix => json!("IMIX"),
        };
        json!({
            "protocol": self.form.shape.name(), "family": self.form.family.name(), "priority_tag": self.form.tagged,
            "frame_bytes": frame, "flows": self.flows, "order": self.order.name(),
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.form)?;
        match self.size {
            Size::Shortest => {}
            Size::Bytes(bytes) => write!(f, ", {bytes} bytes")?,
            Size::Mix => write!(f, ", IMIX")?,
        }
        let order = match self.order {
            Order::Random => "",
            Order::InTurn => " in order",
        };
        write!(f, ", {} flows{order}", self.flows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_only_what_is_unusual() {
        let say = |form, size| Load::of(form, size, 1024).to_string();
        assert_eq!(Load::in_turn(Shape::Ack, 1024).to_string(), "TCP, 1024 flows in order");
        assert_eq!(say(Form::plain(Shape::Udp), Size::Shortest), "UDP, 1024 flows");
        assert_eq!(say(Form::plain(Shape::Udp), Size::Bytes(590)), "UDP, 590 bytes, 1024 flows");
        assert_eq!(say(Form::plain(Shape::Udp), Size::Mix), "UDP, IMIX, 1024 flows");
        assert_eq!(say(Form::v6(Shape::Ack), Size::Shortest), "TCP over IPv6, 1024 flows");
        assert_eq!(say(Form::tagged(Shape::Udp), Size::Shortest), "UDP, priority tag, 1024 flows");
    }

    #[test]
    fn json_has_what_packets_are() {
        let load = Load::of(Form::v6(Shape::Udp), Size::Shortest, 1024);
        assert_eq!((&load.json()["family"], &load.json()["frame_bytes"]), (&json!("IPv6"), &json!(80)));
        assert_eq!(Load::random(Shape::Udp, 1024).json()["frame_bytes"], 60);
    }
}
