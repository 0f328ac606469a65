//! Small packets of many flows, at the speed of the kernel.
//!
//! Flow `i` comes from `10.64.0.0 + i / 64`, port `2048 + i % 64`, and goes to one place behind the outside host. Random
//! order, which no cache likes, is the worst case; traffic in real networks is kinder.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use flowhop_wire::{checksum, protocol};

use super::bpf::{self, Assembler, Helper, Kind, Operation, Program, R0, R1, R2, R3, R4, R5, R6, R7, R8, Register};
use super::load::{Load, Order, Shape};

/// The first source.
const SOURCES: [u8; 4] = [10, 64, 0, 0];
/// Where everything goes: behind the outside host, which has no such address and so answers nothing.
pub(super) const TARGET: [u8; 4] = [192, 0, 2, 1];
const TARGET_PORT: u16 = 9;
const FIRST_PORT: u16 = 2048;
/// Flows of one source address.
const PER_ADDRESS: u32 = 64;
/// Sequence numbers of both ends' handshakes.
pub(super) const FIRST_SEQUENCE: [u32; 2] = [1000, 5000];

/// The shortest frame there is.
const LENGTH: usize = 60;
/// Places in a frame.
const IP_CHECKSUM: usize = 24;
const SOURCE: usize = 26;
pub(super) const TARGET_AT: usize = 30;
const TRANSPORT: usize = 34;

/// Where a packet of this shape has its checksum.
const fn checksum_of(shape: Shape) -> usize {
    match shape {
        Shape::Udp => TRANSPORT + 6,
        Shape::Syn | Shape::Ack => TRANSPORT + 16,
    }
}

/// End of its headers.
const fn headers_of(shape: Shape) -> usize {
    match shape {
        Shape::Udp => TRANSPORT + 8,
        Shape::Syn | Shape::Ack => TRANSPORT + 20,
    }
}

/// Link-layer destination and source of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
}

/// A packet of a flow, whole.
pub(super) fn frame(hop: Hop, shape: Shape, flow: u32) -> [u8; LENGTH] {
    let mut frame = blank(hop, shape);
    let low = (flow / PER_ADDRESS) as u16;
    let port = FIRST_PORT + (flow % PER_ADDRESS) as u16;
    let [ip, transport] = sums(&frame, shape);
    let sum = |constant: u32, variable: u32| checksum::finish(constant + variable).to_be_bytes();
    frame[IP_CHECKSUM..][..2].copy_from_slice(&sum(ip, low.into()));
    frame[checksum_of(shape)..][..2].copy_from_slice(&sum(transport, u32::from(low) + u32::from(port)));
    frame[SOURCE + 2..][..2].copy_from_slice(&low.to_be_bytes());
    frame[TRANSPORT..][..2].copy_from_slice(&port.to_be_bytes());
    frame
}

/// A packet without what differs between flows: low half of the source address, source port, checksums.
fn blank(hop: Hop, shape: Shape) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&hop.to);
    put(&hop.from);
    put(&[8, 0, 0x45, 0]);
    put(&((LENGTH - 14) as u16).to_be_bytes());
    // Identification, "do not fragment", time to live.
    put(&[0, 0, 0x40, 0, 64, if shape == Shape::Udp { protocol::UDP } else { protocol::TCP }, 0, 0]);
    put(&SOURCES);
    put(&TARGET);
    put(&[0, 0]);
    put(&TARGET_PORT.to_be_bytes());
    let [ours, theirs] = FIRST_SEQUENCE;
    match shape {
        Shape::Udp => put(&((LENGTH - TRANSPORT) as u16).to_be_bytes()),
        Shape::Syn | Shape::Ack => {
            let first = shape == Shape::Syn;
            put(&if first { ours } else { ours + 1 }.to_be_bytes());
            put(&if first { 0 } else { theirs + 1 }.to_be_bytes());
            put(&[5 << 4, if first { 2 } else { 0x10 }, 0xff, 0xff]);
        }
    }
    frame
}

/// The sums over a blank packet's IP header, and over the transport's pseudo-header and segment.
fn sums(blank: &[u8; LENGTH], shape: Shape) -> [u32; 2] {
    let kind = if shape == Shape::Udp { protocol::UDP } else { protocol::TCP };
    let ip = checksum::sum(&blank[14..TRANSPORT]);
    let pseudo = checksum::pseudo_v4(SOURCES, TARGET, kind, (LENGTH - TRANSPORT) as u16);
    [ip, pseudo + checksum::sum(&blank[TRANSPORT..])].map(|sum| u32::from(checksum::fold(sum)))
}

/// A program that makes each packet one of a flow of the load, whose number is in `R7` in the end.
pub(super) fn maker(hop: Hop, load: Load, kind: Kind) -> io::Result<Assembler> {
    let shape = load.shape;
    let blank = blank(hop, shape);
    let [ip, transport] = sums(&blank, shape).map(|sum| sum as i32);
    // Where the context has the packet's start and end.
    let (start, end) = match kind {
        Kind::Xdp => (0, 4),
        Kind::Classifier => (76, 80),
    };
    let mut code = Assembler::default();
    code.op(Operation::Move, R6, R1);
    match load.order {
        Order::Random => code.call(Helper::Random).op(Operation::Move, R7, R0),
        Order::InTurn => {
            // Only one processor runs it at a time.
            let number = bpf::array(size_of::<u64>() as u32, 1)?;
            code.map_value(R2, &number).load64(R7, R2, 0);
            code.op(Operation::Move, R3, R7).with(Operation::Add, R3, 1).store64(R2, 0, R3).keep(number)
        }
    };
    code.with(Operation::And, R7, load.flows as i32 - 1);
    code.load(R8, R6, start).load(R2, R6, end).op(Operation::Move, R3, R8).with(Operation::Add, R3, LENGTH as i32);
    code.unless_at_most(R3, R2, 0);
    // The memory is used again and again, and the packet before may have been translated in it.
    code.bytes(R8, &blank[..headers_of(shape)]);
    code.op(Operation::Move, R2, R7).with(Operation::Shift, R2, PER_ADDRESS.ilog2() as i32);
    code.op(Operation::Move, R5, R7).with(Operation::And, R5, PER_ADDRESS as i32 - 1);
    code.with(Operation::Add, R5, FIRST_PORT.into());
    code.op(Operation::Move, R3, R2).with(Operation::Add, R3, ip);
    finish(&mut code, R3, R4).store16(R8, IP_CHECKSUM as i16, R3);
    code.op(Operation::Move, R3, R2).op(Operation::Add, R3, R5).with(Operation::Add, R3, transport);
    finish(&mut code, R3, R4).store16(R8, checksum_of(shape) as i16, R3);
    // Whole words, for the same reason as in `bytes`.
    let [a, b, ..] = SOURCES;
    code.with(Operation::Add, R2, i32::from_be_bytes([a, b, 0, 0]));
    code.big_endian(R2, 32).store32(R8, SOURCE as i16, R2);
    code.with(Operation::ShiftLeft, R5, 16).with(Operation::Add, R5, TARGET_PORT.into());
    code.big_endian(R5, 32).store32(R8, TRANSPORT as i16, R5);
    Ok(code)
}

/// Makes a sum a checksum.
fn finish(code: &mut Assembler, sum: Register, spare: Register) -> &mut Assembler {
    for _ in 0..2 {
        code.op(Operation::Move, spare, sum).with(Operation::Shift, spare, 16);
        code.with(Operation::And, sum, 0xffff).op(Operation::Add, sum, spare);
    }
    code.with(Operation::Xor, sum, 0xffff).big_endian(sum, 16)
}

/// Sends packets out of a device.
#[derive(Debug)]
pub(super) struct Generator {
    program: Program,
    frame: [u8; LENGTH],
    ifindex: u32,
}

impl Generator {
    pub(super) fn new(hop: Hop, load: Load, ifindex: u32) -> io::Result<Self> {
        let mut code = maker(hop, load, Kind::Xdp)?;
        code.with(Operation::Move, R1, ifindex as i32).with(Operation::Move, R2, 0).call(Helper::Redirect).exit();
        Ok(Self { program: code.program(Kind::Xdp)?, frame: blank(hop, load.shape), ifindex })
    }

    /// Sends some; on a thread in the device's namespace. About how long each took.
    pub(super) fn emit(&self, count: u32) -> io::Result<Duration> {
        self.program.emit(&self.frame, self.ifindex, count)
    }
}

/// Runs a program on packets of a load, as on the ingress or in the driver of a device.
#[derive(Debug)]
pub(super) struct Timer {
    program: Program,
    frame: [u8; LENGTH],
    ifindex: u32,
    _next: OwnedFd,
}

impl Timer {
    pub(super) fn new(hop: Hop, load: Load, ifindex: u32, of: &Program) -> io::Result<Self> {
        Self::with(maker(hop, load, of.kind())?, hop, load, ifindex, of)
    }

    /// The same with more to be done between the making of a packet and the program.
    pub(super) fn with(mut code: Assembler, hop: Hop, load: Load, ifindex: u32, of: &Program) -> io::Result<Self> {
        let next = bpf::next_program(of)?;
        code.op(Operation::Move, R1, R6).map(R2, &next).with(Operation::Move, R3, 0).call(Helper::TailCall);
        code.with(Operation::Move, R0, 0).exit();
        Ok(Self { program: code.program(of.kind())?, frame: blank(hop, load.shape), ifindex, _next: next })
    }

    /// Mean nanoseconds of one run, with the making of the packet; on a thread in the device's namespace.
    pub(super) fn run(&self, count: u32) -> io::Result<f64> {
        Ok(self.program.time(&self.frame, self.ifindex, count)?.as_nanos() as f64)
    }
}

/// A program that answers a number.
fn constant(kind: Kind, answer: i32) -> io::Result<Program> {
    Assembler::default().with(Operation::Move, R0, answer).exit().program(kind)
}

/// A program that drops everything.
pub(super) fn drop_all(kind: Kind) -> io::Result<Program> {
    // `TC_ACT_SHOT` and `XDP_DROP`.
    constant(kind, if kind == Kind::Classifier { 2 } else { 1 })
}

/// A program for drivers that drops everything and counts generated packets, in an array of one.
pub(super) fn count_and_drop(count: &OwnedFd) -> io::Result<Program> {
    let mut code = Assembler::default();
    // `XDP_DROP`.
    const DROP: i32 = 1;
    code.load(R8, R1, 0).load(R2, R1, 4).op(Operation::Move, R3, R8).with(Operation::Add, R3, LENGTH as i32);
    code.unless_at_most(R3, R2, DROP);
    // What hosts say of their own accord goes elsewhere.
    code.load(R2, R8, TARGET_AT as i16).unless_equal(R2, i32::from_le_bytes(TARGET), DROP);
    code.map_value(R1, count).load64(R2, R1, 0).with(Operation::Add, R2, 1).store64(R1, 0, R2);
    code.with(Operation::Move, R0, DROP).exit().program(Kind::Xdp)
}

/// A program that does nothing and answers like one that redirects: to be run where only the cost of what is around it
/// counts.
pub(super) fn nothing(kind: Kind) -> io::Result<Program> {
    // `TC_ACT_REDIRECT` and `XDP_REDIRECT`.
    constant(kind, if kind == Kind::Classifier { 7 } else { 4 })
}

/// A program that sends everything to a device, and does nothing else.
pub(super) fn redirect(kind: Kind, ifindex: u32) -> io::Result<Program> {
    let mut code = Assembler::default();
    code.with(Operation::Move, R1, ifindex as i32).with(Operation::Move, R2, 0).call(Helper::Redirect).exit();
    code.program(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_right_checksums() {
        let hop = Hop { to: [2; 6], from: [4; 6] };
        for shape in [Shape::Udp, Shape::Syn, Shape::Ack] {
            for flow in [0, 17, 65_535, 1 << 20] {
                let frame = frame(hop, shape, flow % (1 << 20));
                assert_eq!(checksum::finish(checksum::sum(&frame[14..TRANSPORT])), 0);
                let source = [frame[26], frame[27], frame[28], frame[29]];
                let pseudo = checksum::pseudo_v4(source, TARGET, frame[23], (LENGTH - TRANSPORT) as u16);
                assert_eq!(checksum::finish(pseudo + checksum::sum(&frame[TRANSPORT..])), 0);
            }
        }
    }
}
