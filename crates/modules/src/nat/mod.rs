//! Network address translation: [`Destination`] says where connections to published services go, [`Inbound`] looks at
//! packets that arrive at a mapping, [`Source`] rewrites the source of new connections.
//!
//! Mapping is endpoint-independent unless the translation says otherwise (RFC 4787 REQ-1): under one translation an
//! inside address and port keep one external address and port for all their connections; no external port serves two of
//! them (REQ-3); an inside address keeps its external address (REQ-2, paired pooling); ports are random (RFC 6056).
//!
//! A connection may have both ends translated, each by the first translation that is about it.
//!
//! Hosts may ask for mappings themselves ([`explicit`]); under which translation is said in [`granting`].

mod bindings;
mod blocks;
pub mod cookies;
mod destination;
pub(crate) mod explicit;
pub(crate) mod granting;
mod inbound;
mod nat64;
mod openings;
mod permits;
mod pool;
pub(crate) mod port_set;
mod published;
mod remotes;
mod resting;
mod source;
mod subscribers;

use flowhop_engine::module::SessionView;
use flowhop_flow::Key;
use flowhop_flow::key::{port, ports};
use flowhop_policy::{Allocation, NatRule, PortPool, SourceTranslation};
use flowhop_wire::{icmp4, icmp6, protocol};

use blocks::Cut;

pub(crate) use bindings::Refused;
pub use bindings::{Asked, Bindings, Endpoint, Lease, PortChange};
pub use destination::Destination;
pub use explicit::Peers;
pub use inbound::Inbound;
pub(crate) use openings::{Listener, Opening, Openings};
pub use published::Published;
pub use source::Source;

use crate::shared::Current;

/// Whether a translation takes external addresses from the box's interfaces, not from a list that says which they are.
fn is_of_interface(current: &Current, identity: u16) -> bool {
    let source = nat_of(current, identity).and_then(|nat| nat.translate_source.as_ref());
    matches!(source, None | Some(SourceTranslation::Interface))
}

/// The translation with an identity.
fn nat_of(current: &Current, identity: u16) -> Option<&NatRule> {
    current.nats.iter().position(|number| *number == identity).and_then(|index| current.policy.nats.get(index))
}

/// The blocks that a translation gives its ports out in.
fn cut(pool: &PortPool) -> Option<Cut> {
    let Allocation::Blocks(size) = pool.allocation else { return None };
    let (first, last) = pool.whole_range();
    Some(Cut { first, last, size })
}

/// Whom a connection's first packet is sent to, as its sender addresses it; of echo the port is 0.
const fn remote(key: &Key) -> Endpoint {
    let port = if is_echo(key.protocol()) { 0 } else { key.destination_port() };
    Endpoint { protocol: key.protocol(), address: key.destination, port }
}

const fn is_echo(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}

/// An echo request is never for a mapping: mappings of echo are waited at by replies.
const fn is_echo_request(key: &Key) -> bool {
    is_echo_message(key, icmp4::ECHO_REQUEST, icmp6::ECHO_REQUEST)
}

const fn is_echo_reply(key: &Key) -> bool {
    is_echo_message(key, icmp4::ECHO_REPLY, icmp6::ECHO_REPLY)
}

const fn is_echo_message(key: &Key, v4: u8, v6: u8) -> bool {
    let kind = (key.destination_port() >> 8) as u8;
    match key.protocol() {
        protocol::ICMP => kind == v4,
        protocol::ICMPV6 => kind == v6,
        _ => false,
    }
}

/// The external port that an inbound packet is for; of an echo message its identifier.
const fn inbound_port(key: &Key) -> u16 {
    if is_echo(key.protocol()) { key.source_port() } else { key.destination_port() }
}

/// Protocols whose checksum covers the addresses but whose header is not rewritten.
const fn has_uncovered_checksum(protocol: u8) -> bool {
    matches!(protocol, protocol::UDP_LITE | protocol::DCCP)
}

fn with_source_port(key: &Key, word: u32, new: u16) -> u32 {
    if is_echo(key.protocol()) {
        let [_, _, kind, code] = word.to_ne_bytes();
        let [a, b] = new.to_be_bytes();
        u32::from_ne_bytes([a, b, kind, code])
    } else {
        ports(new, port(word, 2))
    }
}

fn with_destination_port(key: &Key, word: u32, new: u16) -> u32 {
    if is_echo(key.protocol()) { with_source_port(key, word, new) } else { ports(port(word, 0), new) }
}

/// The ports word that a connection's Forward packets leave with.
pub(crate) fn translated_ports(session: &SessionView) -> u32 {
    let [forward, reverse] = &session.keys;
    if is_echo(forward.protocol()) {
        with_source_port(forward, forward.ports, reverse.source_port())
    } else {
        ports(reverse.destination_port(), reverse.source_port())
    }
}
