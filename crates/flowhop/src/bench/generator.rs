//! Packets of many flows, made at the speed of the kernel.
//!
//! Random order, which no cache likes, is the worst case; traffic in real networks is kinder.

use std::io;
use std::iter::repeat_n;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::bpf::{self, Assembler, Helper, Kind, Operation, Program, R0, R1, R2, R3, R4, R5, R6, R7, R8, Register};
use super::frame::{FIRST_PORT, Hop, PER_ADDRESS, TARGET, TARGET_AT, TARGET_PORT, blank, sums};
use super::load::{Form, Load, Order, Shape, Size};

/// Lengths of frames and how many of each there are in twelve: what is called a simple IMIX.
const MIX: [(u16, usize); 3] = [(60, 7), (590, 4), (LONGEST, 1)];
/// The longest frame on Ethernet.
const LONGEST: u16 = 1514;

/// Which flows of a load a processor sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// All that it has, and so do others.
    All,
    /// Those whose number modulo this power of two is that of the processor. Then there are so many times as many in all.
    Modulo(u32),
}

/// What is to be done about the length of a frame before it becomes a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// It has the right one.
    Is,
    /// The program before may have moved its start.
    Start,
    /// It is one of the longest and loses its end.
    End,
}

/// Writes a program that makes packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker {
    hop: Hop,
    load: Load,
    length: usize,
    fit: Fit,
    share: Share,
}

impl Maker {
    /// One for all flows of a load; with frames of several lengths, for the longest.
    pub(super) fn new(hop: Hop, load: Load) -> Self {
        let length = match load.size {
            Size::Shortest => load.form.shortest(),
            Size::Bytes(bytes) => bytes.into(),
            Size::Mix => LONGEST.into(),
        };
        Self { hop, load, length, fit: Fit::Is, share: Share::All }
    }

    /// The same for a share of the flows.
    pub(super) const fn of(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// One that shortens the longest frames to so many bytes.
    const fn shortened(self, length: u16) -> Self {
        let length = length as usize;
        let fit = if length < self.length { Fit::End } else { Fit::Is };
        Self { length, fit, ..self }
    }

    /// One for frames that are used again by programs that take a tag off.
    const fn again(self) -> Self {
        if self.load.form.tagged { Self { fit: Fit::Start, ..self } } else { self }
    }

    /// What the frame begins as.
    fn blank(&self) -> Vec<u8> {
        let mut frame = vec![0; self.length];
        blank(self.hop, self.load.form, &mut frame);
        frame
    }

    /// A program that makes each packet one of a flow of the load, whose number is in `R7` in the end.
    pub(super) fn code(&self, kind: Kind) -> io::Result<Assembler> {
        let form = self.load.form;
        // Where the context has the packet's start and end.
        let (start, end) = match kind {
            Kind::Xdp => (0, 4),
            Kind::Classifier => (76, 80),
        };
        let mut code = Assembler::default();
        code.op(Operation::Move, R6, R1);
        match self.fit {
            Fit::Is => {}
            Fit::Start => {
                code.load(R3, R6, start).load(R2, R6, end).op(Operation::Subtract, R2, R3);
                code.with(Operation::Subtract, R2, self.length as i32).call(Helper::AdjustHead);
            }
            Fit::End => {
                let less = self.length as i32 - i32::from(LONGEST);
                code.with(Operation::Move, R2, less).call(Helper::AdjustTail);
            }
        }
        self.choose(&mut code)?;
        code.load(R8, R6, start).load(R2, R6, end);
        code.op(Operation::Move, R3, R8).with(Operation::Add, R3, form.shortest() as i32);
        code.unless_at_most(R3, R2, 0);
        self.write(&mut code);
        Ok(code)
    }

    /// Leaves the number of a flow in `R7`.
    fn choose(&self, code: &mut Assembler) -> io::Result<()> {
        match self.load.order {
            Order::Random => code.call(Helper::Random).op(Operation::Move, R7, R0),
            Order::InTurn => {
                // Only one processor runs it at a time.
                let number = bpf::array(size_of::<u64>() as u32, 1)?;
                code.map_value(R2, &number).load64(R7, R2, 0);
                code.op(Operation::Move, R3, R7).with(Operation::Add, R3, 1).store64(R2, 0, R3).keep(number)
            }
        };
        code.with(Operation::And, R7, self.load.flows as i32 - 1);
        if let Share::Modulo(every) = self.share {
            code.call(Helper::Processor).with(Operation::And, R0, every as i32 - 1);
            code.with(Operation::Multiply, R7, every as i32).op(Operation::Add, R7, R0);
        }
        Ok(())
    }

    /// Writes the packet of flow `R7` to `R8`.
    fn write(&self, code: &mut Assembler) {
        let form = self.load.form;
        let blank = self.blank();
        let [ip, transport] = sums(&blank, form).map(|sum| sum as i32);
        // The memory is used again and again, and the packet before may have been translated in it.
        code.bytes(R8, &blank[..form.headers()]);
        code.op(Operation::Move, R2, R7).with(Operation::Shift, R2, PER_ADDRESS.ilog2() as i32);
        code.op(Operation::Move, R5, R7).with(Operation::And, R5, PER_ADDRESS as i32 - 1);
        code.with(Operation::Add, R5, FIRST_PORT.into());
        if let Some(at) = form.header_checksum() {
            code.op(Operation::Move, R3, R2).with(Operation::Add, R3, ip);
            finish(code, R3, R4).store16(R8, at as i16, R3);
        }
        code.op(Operation::Move, R3, R2).op(Operation::Add, R3, R5).with(Operation::Add, R3, transport);
        finish(code, R3, R4).store16(R8, form.checksum() as i16, R3);
        // Whole words, for the same reason as in `bytes`.
        code.with(Operation::Add, R2, form.source_base() as i32);
        code.big_endian(R2, 32).store32(R8, form.source_end() as i16, R2);
        code.with(Operation::ShiftLeft, R5, 16).with(Operation::Add, R5, TARGET_PORT.into());
        code.big_endian(R5, 32).store32(R8, form.transport() as i16, R5);
    }
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
    frame: Vec<u8>,
    ifindex: u32,
    /// Programs that make frames of several lengths.
    _mix: Option<OwnedFd>,
}

impl Generator {
    pub(super) fn new(hop: Hop, load: Load, ifindex: u32) -> io::Result<Self> {
        let maker = Maker::new(hop, load);
        let (program, mix) = match load.size {
            Size::Mix => {
                let (program, makers) = mixed(maker, ifindex)?;
                (program, Some(makers))
            }
            Size::Shortest | Size::Bytes(_) => (sender(maker, ifindex)?, None),
        };
        Ok(Self { program, frame: maker.blank(), ifindex, _mix: mix })
    }

    /// Sends some; on a thread in the device's namespace. About how long each took.
    pub(super) fn emit(&self, count: u32) -> io::Result<Duration> {
        self.program.emit(&self.frame, self.ifindex, count)
    }
}

/// A program that makes packets and sends them out of a device.
fn sender(maker: Maker, ifindex: u32) -> io::Result<Program> {
    let mut code = maker.code(Kind::Xdp)?;
    send(&mut code, ifindex).program(Kind::Xdp)
}

/// A program that goes on with one of several, each of which makes frames of another length; and what holds those.
fn mixed(maker: Maker, ifindex: u32) -> io::Result<(Program, OwnedFd)> {
    let senders = MIX.map(|(length, _)| sender(maker.shortened(length), ifindex));
    let senders = senders.into_iter().collect::<io::Result<Vec<_>>>()?;
    let slots: Vec<&Program> = slots(&senders).collect();
    let next = bpf::next_programs(&slots)?;
    let mut code = Assembler::default();
    code.op(Operation::Move, R6, R1).call(Helper::Random);
    code.op(Operation::Move, R3, R0).with(Operation::Modulo, R3, slots.len() as i32);
    code.op(Operation::Move, R1, R6).map(R2, &next).call(Helper::TailCall);
    code.with(Operation::Move, R0, 0).exit();
    Ok((code.program(Kind::Xdp)?, next))
}

/// What there is for each length of [`MIX`], as often as that is in it.
fn slots<T>(of: &[T]) -> impl Iterator<Item = &T> {
    of.iter().zip(MIX).flat_map(|(of, (_, times))| repeat_n(of, times))
}

/// Ends a program by sending the packet out of a device.
fn send(code: &mut Assembler, ifindex: u32) -> &mut Assembler {
    code.with(Operation::Move, R1, ifindex as i32).with(Operation::Move, R2, 0).call(Helper::Redirect).exit()
}

/// Runs a program on packets of a load, as on the ingress or in the driver of a device.
#[derive(Debug)]
pub(super) struct Timer {
    program: Program,
    frame: Vec<u8>,
    ifindex: u32,
    _next: OwnedFd,
}

impl Timer {
    pub(super) fn new(maker: Maker, ifindex: u32, of: &Program) -> io::Result<Self> {
        let maker = maker.again();
        Self::with(maker.code(of.kind())?, maker, ifindex, of)
    }

    /// The same with more to be done between the making of a packet and the program: `code` begins as the maker's.
    pub(super) fn with(mut code: Assembler, maker: Maker, ifindex: u32, of: &Program) -> io::Result<Self> {
        let next = bpf::next_programs(&[of])?;
        code.op(Operation::Move, R1, R6).map(R2, &next).with(Operation::Move, R3, 0).call(Helper::TailCall);
        code.with(Operation::Move, R0, 0).exit();
        Ok(Self { program: code.program(of.kind())?, frame: maker.blank(), ifindex, _next: next })
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
    let least = Form::plain(Shape::Udp).shortest() as i32;
    code.load(R8, R1, 0).load(R2, R1, 4).op(Operation::Move, R3, R8).with(Operation::Add, R3, least);
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
    send(&mut Assembler::default(), ifindex).program(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::frame::tests::HOP;

    #[test]
    fn of_twelve_frames_seven_are_short_four_middle_and_one_long() {
        let lengths = MIX.map(|(length, _)| length);
        let slots: Vec<u16> = slots(&lengths).copied().collect();
        assert_eq!(slots, [60, 60, 60, 60, 60, 60, 60, 590, 590, 590, 590, 1514]);
        let mix = Maker::new(HOP, Load::of(Form::plain(Shape::Udp), Size::Mix, 1024));
        let makers = lengths.map(|length| mix.shortened(length));
        assert_eq!(makers.map(|maker| maker.blank().len()), [60, 590, 1514]);
        assert_eq!(makers.map(|maker| maker.fit), [Fit::End, Fit::End, Fit::Is]);
    }

    #[test]
    fn frames_are_as_long_as_their_packets_say() {
        for (size, length) in [(Size::Shortest, 46u16), (Size::Bytes(590), 576), (Size::Bytes(1514), 1500)] {
            let blank = Maker::new(HOP, Load::of(Form::plain(Shape::Udp), size, 1024)).blank();
            assert_eq!((blank.len(), &blank[16..18]), (usize::from(length) + 14, &length.to_be_bytes()[..]));
        }
    }
}
