//! What the memory of the machine costs a program that computes nothing.

use std::io;

use flowhop_flow::record::{Block, Bucket};

use super::bpf::{self, Assembler, Helper, Kind, Operation, R0, R1, R2, R7, R9, R10, Register};
use super::frame::Hop;
use super::generator::{self, Maker, Timer};
use super::load::Load;

/// Spreads numbers over 32 bits, none twice: 2^32 by the golden ratio, made odd.
const SPREAD: i32 = 0x9e37_79b1_u32.cast_signed();
/// Where keys are passed.
const KEY: i16 = -4;

/// Times two reads for each packet: a line of an index of so many lines, anywhere in it, and at a place that depends on
/// what is read there a line of a connection's block. A packet's first read waits for the second of the packet before:
/// without anything to compute, processors would read for several packets at a time.
pub(super) fn two_lines(hop: Hop, load: Load, ifindex: u32, lines: u32) -> io::Result<Timer> {
    let index = bpf::array(size_of::<Bucket>() as u32, lines)?;
    let blocks = bpf::array(size_of::<Block>() as u32, load.flows)?;
    let last = bpf::array(size_of::<u64>() as u32, 1)?;
    let maker = Maker::new(hop, load);
    let mut code = maker.code(Kind::Xdp)?;
    // All that is read is zero, which the processor does not know.
    code.map_value(R1, &last).load64(R9, R1, 0).op(Operation::Xor, R7, R9);
    code.op(Operation::Move, R2, R7).with(Operation::Multiply, R2, SPREAD);
    code.with(Operation::ShiftLeft, R2, 32).with(Operation::Shift, R2, 32);
    code.with(Operation::Multiply, R2, lines as i32).with(Operation::Shift, R2, 32);
    read(&mut code, &index, R2);
    code.op(Operation::Move, R2, R7).op(Operation::Xor, R2, R9);
    read(&mut code, &blocks, R2);
    code.map_value(R1, &last).store64(R1, 0, R9);
    code.keep(index).keep(blocks).keep(last);
    Timer::with(code, maker, ifindex, &generator::nothing(Kind::Xdp)?)
}

/// Reads the beginning of a value of an array into `R9`, as the firewall's programs find theirs.
fn read(code: &mut Assembler, array: &std::os::fd::OwnedFd, number: Register) {
    code.store32(R10, KEY, number).map(R1, array).op(Operation::Move, R2, R10).with(Operation::Add, R2, KEY.into());
    code.call(Helper::Lookup).unless_found(0).load64(R9, R0, 0);
}
