//! The slow path: what happens to packets that no kernel path could judge.
//!
//! # What
//! One state machine, owned by one thread. Packets, routing events and the time come in; packets, table writes
//! and requests go out through [`Io`]. It owns every session: it validates, finds or makes the connection
//! (asking the [modules](module)), compiles it to a pair of flow next hops, publishes them in the decision
//! table, and forwards the packet by the entry just made, with the same forwarding function that the kernel
//! programs run.
//!
//! # The way of a packet
//! [`Engine::receive`] → [`validate`] → fragments are collected ([`fragments`], `datagrams`) → the connection is known: `known`
//! judges it by its entry and mends what the entry lacks (neighbour, route, policy); or it is new: `open` asks the modules,
//! installs the pair and goes on as for a known one. [`hold`] keeps packets whose neighbour is being resolved, [`answers`]
//! builds the router's own ICMP errors and resets, `services` has modules answer what is asked of the box, `errors` forwards
//! ICMP errors of others about a connection. [`ageing`] says when connections are idle, `endings` ends them, `adopt` takes over
//! those of an earlier daemon.
//!
//! # Rules
//! No clock, randomness, file or socket: `now` is an argument, the random generator is seeded by the caller.
//! Memory is bounded by [`Limits`]; work per packet is bounded. Walks over all connections, when a route, an interface
//! (`sweep`) or the policy (`reload`) changes, are made in slices by [`Engine::maintain`]. Who makes room when the table
//! fills is in `pressure`.

mod adjacencies;
mod adopt;
pub mod ageing;
pub mod answers;
pub mod buffer;
pub mod counters;
mod datagrams;
mod endings;
pub mod engine;
mod errors;
pub mod fragments;
pub mod gates;
pub mod half_open;
mod helper;
pub mod hold;
mod identification;
pub mod interfaces;
mod io;
mod known;
mod leaving;
pub mod module;
mod mss;
mod nat64;
mod open;
mod paths;
mod pressure;
mod proxied;
mod recording;
pub mod refusals;
mod related;
mod reload;
mod services;
pub mod shadow;
pub mod shift;
pub mod sources;
mod spoofing;
mod sweep;
mod syn_cookies;
mod unsolicited;
pub mod validate;
mod views;

pub use answers::Answering;
pub use buffer::{Buffer, Offload};
pub use counters::Counters;
pub use engine::{Engine, Limits, Timeouts};
pub use interfaces::{FastPath, Interface, Interfaces, PathReason};
pub use io::{Arrived, Io, LogEvent, Outcome};
pub use module::{
    Announcement, Context, Kept, MAX_NAT, Module, NewSession, Payload, Query, Related, Replacement, Reply, SessionView,
    Step, Via,
};
pub use mss::MssClamp;
pub use paths::{MoveError, Path};
pub use pressure::Pressure;
pub use reload::Revalidated;
pub use shadow::{Difference, Differing, ShadowStatus};
pub use spoofing::ReversePath;
pub use syn_cookies::{CookieStatus, PublishedService, Told, ToldService};
pub use validate::{Martians, Passing, Recording};
pub use views::view_of;
