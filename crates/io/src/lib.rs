//! All input and output: kernel programs, TAP, AF_PACKET, netlink, captures, clock.

pub mod bpf;
pub mod map;
pub mod netlink;
pub mod tap;
