//! All input and output: kernel programs, TAP, AF_PACKET, netlink, captures, clock.

pub mod netlink;
