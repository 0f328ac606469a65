//! Test beds of network namespaces, traffic with numbers in it, and the tests that need both.
//!
//! A test takes its turn with [`alone`], builds a [`Bed`] (inside host, router, outside host), starts
//! the [`Daemon`] in the router, sends traffic, and asserts on what arrived and on what the daemon says
//! about it:
//!
//! ```no_run
//! use flowhop_tests::{Bed, Daemon, Family, Load, Policy, alone, numbered};
//!
//! let _turn = alone();
//! let bed = Bed::new("example");
//! let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path("skb"));
//! let report = numbered::run(&bed.inside, &bed.outside, &Load::new(Family::V4.outside_host(), 5000));
//! report.assert_clean("example");
//! println!("{}", daemon.json("show paths"));
//! ```
//!
//! # Rules
//!
//! - Everything lives in namespaces of a unique name (`fht-<pid>-<n>-<label>`). A `Drop` guard removes
//!   each of them and every process started in them, after a panic too. Nothing outside is touched.
//! - Every wait has a deadline; what can be awaited is awaited, not slept for.
//! - Frames, checksums and sequence arithmetic are written here a second time on purpose: they are the
//!   independent opinion about what the daemon did.
//! - Helpers panic with what they ran and what came back: they are test support, and a panic is the
//!   report of a failed test.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a helper that cannot do its work fails the test on the spot"
)]

pub mod bed;
pub mod carried;
pub mod daemon;
pub mod fleet;
pub mod flood;
pub mod namespace;
pub mod numbered;
pub mod offloads;
pub mod policy;
pub mod probe;
pub mod programs;
pub mod raw;
pub mod tcp;
pub mod tools;
mod tuntap;
pub mod wait;

pub use bed::{Bed, Family, Link};
pub use carried::{assert_carried, ways};
pub use daemon::{Daemon, Launch};
pub use fleet::Fleet;
pub use flood::{Flood, Segment};
pub use namespace::{Namespace, Output, Process};
pub use numbered::{Load, Report};
pub use offloads::{Offload, Offloads, switch_offload};
pub use policy::Policy;
pub use probe::Probe;
pub use raw::{Flags, Frame, Packet, RawPort, Transport};
pub use tcp::Connection;
pub use wait::{alone, until};
