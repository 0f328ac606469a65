//! Forwarding table, adjacencies and what depends on them.
//!
//! # What
//!
//! [`Routing`] is a mirror of what the kernel knows about links, addresses, routes and neighbours, fed by
//! [`Event`]s, and answers two questions: where does a packet to this destination go ([`Routing::lookup`]),
//! and what does its link-layer header look like ([`Routing::adjacency`]). It does no input or output and has no
//! clock; `flowhop-io`'s netlink monitor makes the events.
//!
//! # Why a mirror
//!
//! `bpf_fib_lookup` can not tell a local destination from an unroutable one and needs `forwarding=1` on the input
//! device, which would let the kernel forward what we hand up. The slow path therefore looks up here, once per
//! connection, and flows name the result by [`AdjacencyIndex`] and generation instead of copying a MAC address.
//!
//! # Rules
//!
//! - Only the tables *local* (255) and *main* (254) are looked up, in this order, as the kernel's default rules do.
//!   Routes of other tables, and routes that apply only to some packets (type of service, source prefix), are counted
//!   by [`Routing::ignored_routes`] and otherwise ignored: policy routing is not mirrored.
//! - A next hop through a link that is not up is skipped; lookup goes on with the next metric and then the next
//!   shorter prefix, as the kernel does once it has flushed the routes of a dead link. [`UnreachableReason::LinkDown`]
//!   is the answer only when nothing else matches.
//! - The number of adjacencies is bounded at construction. When the table is full, lookups that need a new one are
//!   answered with [`UnreachableReason::AdjacencyTableFull`] until [`Routing::retain_adjacencies`] frees some.
//! - An adjacency's generation changes exactly when flows that name it must be resolved again: its link went down or
//!   away, or its slot was reused. A changed MAC address, MTU or neighbour state is written in place and is announced as
//!   [`Change::Adjacency`].
//! - The kernel leaves out some announcements (IPv4 routes of a link that went down, routes that lost their preferred
//!   source address). Where that may have happened the mirror says [`Change::NeedResync`], and the caller has it
//!   dumped again, at a rate it chooses.

mod address;
mod adjacency;
mod event;
mod fib;
mod links;
mod overlaps;
mod prefix;
mod resolution;
mod routing;

pub use address::{AddressScope, InterfaceAddress};
pub use adjacency::{Adjacency, AdjacencyIndex, AdjacencyState, Family, Inherited, LinkLayer, Origin};
pub use event::{Change, Event, Link, NeighbourState, NextHop, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
pub use prefix::{IpPrefix, PrefixError};
pub use resolution::{Resolution, UnreachableReason};
pub use routing::Routing;
