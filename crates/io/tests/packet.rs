//! Packet sockets and the kernel filter: the program by itself, and both against the kernel of this machine.
#![cfg(test)]

#[path = "packet/filter.rs"]
mod filter;
#[path = "packet/generated.rs"]
mod generated;
#[path = "packet/interpreter.rs"]
mod interpreter;
#[path = "packet/port.rs"]
mod port;
#[path = "packet/support.rs"]
mod support;
