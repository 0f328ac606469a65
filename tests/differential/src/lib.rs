//! The forwarding function against a reference model, packet by packet.
//!
//! One history runs through the real function and through [`reference`]; after every packet the verdict, the reason,
//! the bytes, both directions' records, the TCP context and the gate must agree. The real function is whatever implements
//! [`judged::Judged`]: [`native`] runs it in this process over a private table, and the package `flowhop-tests` runs the
//! programs in the kernel.
//!
//! * [`history`]: what happens, from a seed;
//! * [`replay`]: one history through both;
//! * [`run`]: many of them; shortens the one that differs;
//! * [`faults`]: faults that are planted to see that they are found.
//!
//! It knows of the project nothing but `wire`, `flow` and `table`, so that mutation tests of those build little.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is their report"
)]

pub mod faults;
pub mod history;
pub mod judged;
pub mod native;
pub mod reference;
pub mod replay;
pub mod run;
