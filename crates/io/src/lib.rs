//! All input and output: kernel programs, TAP, AF_PACKET, AF_XDP, netlink, devices, captures, clock.

pub mod bpf;
pub mod cbpf;
pub mod clock;
pub mod device;
pub mod features;
pub mod map;
pub mod netlink;
pub mod packet;
pub mod poll;
pub mod tap;
pub mod xsk;
