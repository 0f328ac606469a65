//! The forwarding function: what happens to a packet of a known flow.
//!
//! # What
//! [`forward`] parses a packet, finds its flow in the decision table, checks everything that the packet's
//! fate depends on (ingress interface, generations, TTL, MTU, TCP context), rewrites, counts and names the
//! output. It answers with one [`Verdict`]: forward, hand down, drop, or leave to the kernel's stack.
//!
//! # Why here
//! The very same code is compiled into the kernel programs, the user-level path and the offline replay, so
//! that the fast path cannot inspect less than the slow path does. Hence: `no_std`, no allocation, no clock
//! and no randomness of its own; the packet buffer and the tables stand behind [`Packet`] and [`Host`].
//!
//! # Rules
//! * What this crate cannot judge it hands down with a [`Reason`]; it drops only what is known to be unwanted.
//! * Shared memory is touched through [`cell`] alone, because other cores and the user-level process write it.
//! * Layouts in [`record`] are a contract between builds: a change raises [`record::LAYOUT_VERSION`].
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "atomics on BPF exist only as intrinsics"))]

mod adjacency;
pub mod cell;
pub mod cookie;
pub mod forward;
mod gate;
mod halves;
mod identifications;
pub mod key;
pub mod parse;
mod port;
pub mod reason;
pub mod record;
pub mod rewrite;
pub mod shadow;
mod steer;
pub mod tcp;
pub mod traffic;

pub use forward::{Arrival, Hit, Host, Level, Packet, Verdict, forward, judge};
pub use key::Key;
pub use parse::{Parsed, Transport};
pub use reason::{Kind, Reason};
