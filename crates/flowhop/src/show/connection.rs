//! Reading a live connection from the shared table, and how its parts are written.

use std::net::IpAddr;

use flowhop_engine::ageing::{idle, state_of};
use flowhop_engine::refusals::is_refusal;
use flowhop_engine::view_of;
use flowhop_engine::{Path, SessionView};
use flowhop_flow::Key;
use flowhop_flow::key::{Address, ip};
use flowhop_flow::record::{Action, Block, Steer};
use flowhop_table::{Regions, is_live};
use flowhop_wire::protocol;
use serde_json::{Value, json};

use crate::convert::seconds;
use crate::show::View;

/// A connection as it was found: what does not change while it lives.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// The record.
    pub block: &'a Block,
    /// Keys of Forward and Reverse.
    pub keys: [Key; 2],
    /// Its identifier.
    pub serial: u32,
    /// Identity of its rule; 0 = none.
    pub rule: u16,
    /// Identity of the translation of its source; 0 = none.
    pub nat: u16,
    /// Identity of the translation that changed its destination; 0 = none.
    pub destination_nat: u16,
    /// Identifier of the connection that announced it; 0 = none.
    pub parent: u32,
}

impl std::fmt::Debug for Connection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("serial", &self.serial).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// All live connections. One that ends or begins while it is read is left out.
pub fn live(regions: &Regions) -> impl Iterator<Item = Connection<'_>> {
    regions.blocks.iter().filter_map(|block| {
        let serial = block.owner.serial.load();
        if !is_live(block) || is_refusal(block) {
            return None;
        }
        let view = view_of(block);
        let same = is_live(block) && block.owner.serial.load() == serial;
        let SessionView { keys, rule, nat, destination_nat, parent, .. } = view;
        same.then_some(Connection { block, keys, serial, rule, nat, destination_nat, parent })
    })
}

impl Connection<'_> {
    /// Its protocol as people write it: a name, else the number.
    #[must_use]
    pub fn protocol(&self) -> String {
        protocol_name(self.keys[0].protocol())
    }

    /// The word that steers a direction.
    #[must_use]
    pub fn steer(&self, direction: usize) -> Steer {
        Steer::unpack(self.block.hot[direction & 1].steer.load())
    }

    /// The path of a direction's packets.
    #[must_use]
    pub fn path(&self, direction: usize) -> &'static str {
        let steer = self.steer(direction);
        if steer.action == Action::Stack { "stack" } else { Path::of(steer).name() }
    }

    /// Source and destination of a direction as received.
    #[must_use]
    pub fn received(&self, direction: usize) -> [String; 2] {
        let key = &self.keys[direction & 1];
        let second = if is_echo(key.protocol()) { key.source_port() } else { key.destination_port() };
        [endpoint(key.protocol(), &key.source, key.source_port()), endpoint(key.protocol(), &key.destination, second)]
    }

    /// Source and destination of a direction as sent: what the other direction is received with, swapped.
    #[must_use]
    pub fn sent(&self, direction: usize) -> [String; 2] {
        let [source, destination] = self.received(direction ^ 1);
        [destination, source]
    }

    /// State, idle time and timeout.
    #[must_use]
    pub fn age(&self, view: &View) -> Age {
        let (state, timeout) = state_of(self.block, self.keys[0].protocol(), &view.timeouts);
        let age = view.now.wrapping_sub(self.block.owner.created.load());
        Age {
            state,
            // The view may be a moment older than the connection.
            age_s: seconds(if age as i32 > 0 { age } else { 0 }),
            idle_s: seconds(idle(self.block, view.now)),
            timeout_s: seconds(timeout),
        }
    }

    /// One half of the TCP context; `None` for other protocols.
    #[must_use]
    pub fn tcp(&self, direction: usize) -> Option<Value> {
        if self.keys[0].protocol() != protocol::TCP {
            return None;
        }
        let half = &self.block.tcp[direction & 1];
        let (sent, allowed, state) = (half.sent.load(), half.allowed.load(), half.state.load());
        Some(json!({
            "end": sent as u32,
            "window": (sent >> 32) as u32,
            "acknowledged": allowed as u32,
            "allowed": (allowed >> 32) as u32,
            "scale": (state >> 8) as u8,
            "flags": state as u8,
        }))
    }
}

/// What of a connection depends on the time.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// State as people call it.
    pub state: &'static str,
    /// Seconds since it was made.
    pub age_s: f64,
    /// Seconds since its last packet.
    pub idle_s: f64,
    /// Seconds that it may be idle.
    pub timeout_s: f64,
}

const fn is_echo(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// A protocol's name, or its number as text.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// An address with a port, `"10.1.0.2:40000"` or `"[fd00::2]:40000"`; without one where the protocol has none.
#[must_use]
pub fn endpoint(number: u8, address: &Address, port: u16) -> String {
    let address = ip(address);
    match number {
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => match address {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        },
        _ => address.to_string(),
    }
}

/// A link-layer address as people write it.
#[must_use]
pub fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
