//! The slow path with its modules, without any device: packets in, packets out.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod answers;
mod bed;
mod carrier;
mod connections;
mod cookies;
mod errors;
mod fragments;
mod helpers;
mod identification;
mod live;
mod mapping;
mod mss;
mod nat64;
mod pcp;
mod pieces;
mod pools;
mod prefix;
mod pressure;
mod refusals;
mod shadow;
mod take_up;
mod timers;
mod translation;
mod unsolicited;
mod validation;
