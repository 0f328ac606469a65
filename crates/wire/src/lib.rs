//! Packet formats: typed views over untrusted bytes, builders, checksums.
//!
//! Everything here is `no_std`, allocates nothing and is free of panics for whatever bytes a peer sends, because the
//! same code is compiled into the programs in the kernel. Bytes are taken through a [`Frame`] or a slice; header
//! structs have alignment 1, so they can be laid over any position of a packet.
//!
//! # House rules
//!
//! * Fields have the names of the RFC that defines them, written out; a field of more than one byte is big-endian in
//!   memory and read with `.get()`.
//! * Lengths and offsets are bytes, also where the wire counts in words of 4 or 8.
//! * A header struct is the fixed part only. What follows it (options, extension headers) is walked by an iterator
//!   that reports what is malformed instead of hiding it.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod build;
pub mod checksum;
pub mod frame;
pub mod ipv6;
pub mod link;
pub mod network;
pub mod numbers;
pub mod options;
pub mod pcp;
pub mod record;
pub mod siit;
pub mod transport;
pub mod verify;

pub use frame::{Frame, SliceFrame};
pub use link::{Arp, Ethernet, VlanTag};
pub use network::{Ipv4, Ipv6, Ipv6Extension, Ipv6Fragment};
pub use numbers::{arp, ethertype, icmp4, icmp6, protocol};
pub use transport::{Icmp, Tcp, Udp, tcp_flags};
