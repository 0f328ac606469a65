//! The few system calls for programs that only measure: a generator of packets, a bare redirect, a sink.
//!
//! They are a dozen instructions each and written down as such ([`Assembler`]), so the object with the firewall's
//! programs holds nothing but these.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Commands of `bpf(2)`.
mod command {
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_LOOKUP: libc::c_int = 1;
    pub(super) const MAP_UPDATE: libc::c_int = 2;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const PROG_TEST_RUN: libc::c_int = 10;
    pub(super) const PROG_GET_FD_BY_ID: libc::c_int = 13;
    pub(super) const PROG_QUERY: libc::c_int = 16;
    pub(super) const LINK_CREATE: libc::c_int = 28;
}

/// Where programs are attached, and what those in drivers are loaded for.
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
/// In the driver or not at all.
const NATIVE: u32 = 1 << 2;
/// A program of the driver goes on by a tail call only with one that takes frames of several buffers as it does itself;
/// the firewall's programs do.
const FRAGMENTS: u32 = 1 << 5;
/// Kinds and flags of maps.
const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
const MAPPABLE: u32 = 1 << 10;
const LIVE_FRAMES: u32 = 2;
/// `sizeof(struct __sk_buff)`.
const SK_BUFF: usize = 192;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tc program.
    Classifier = 3,
    /// An XDP program.
    Xdp = 6,
}

/// Registers; `r10` is the stack's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register(u8);

pub(super) const R0: Register = Register(0);
pub(super) const R1: Register = Register(1);
pub(super) const R2: Register = Register(2);
pub(super) const R3: Register = Register(3);
pub(super) const R4: Register = Register(4);
pub(super) const R5: Register = Register(5);
pub(super) const R6: Register = Register(6);
pub(super) const R7: Register = Register(7);
pub(super) const R8: Register = Register(8);
pub(super) const R9: Register = Register(9);
pub(super) const R10: Register = Register(10);

/// Operations of two operands, the first of which is the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add = 0x07,
    Subtract = 0x17,
    Multiply = 0x27,
    And = 0x57,
    ShiftLeft = 0x67,
    Shift = 0x77,
    Modulo = 0x97,
    Xor = 0xa7,
    Move = 0xb7,
}

/// Helpers of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    Lookup = 1,
    Random = 7,
    Processor = 8,
    TailCall = 12,
    Redirect = 23,
    AdjustHead = 44,
    AdjustTail = 65,
}

/// Writes programs.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    /// Maps that nobody else holds until the program does.
    kept: Vec<OwnedFd>,
}

impl Assembler {
    fn put(&mut self, code: u8, to: Register, from: u8, offset: i16, value: i32) -> &mut Self {
        let [o0, o1] = offset.to_le_bytes();
        let [v0, v1, v2, v3] = value.to_le_bytes();
        self.code.push(u64::from_le_bytes([code, from << 4 | to.0, o0, o1, v0, v1, v2, v3]));
        self
    }

    /// An operation with a number.
    pub(super) fn with(&mut self, operation: Operation, to: Register, value: i32) -> &mut Self {
        self.put(operation as u8, to, 0, 0, value)
    }

    /// An operation with a register.
    pub(super) fn op(&mut self, operation: Operation, to: Register, from: Register) -> &mut Self {
        self.put(operation as u8 | 8, to, from.0, 0, 0)
    }

    /// Makes a number of so many bits big endian.
    pub(super) fn big_endian(&mut self, register: Register, bits: i32) -> &mut Self {
        self.put(0xdc, register, 0, 0, bits)
    }

    /// Loads 32 bits.
    pub(super) fn load(&mut self, to: Register, from: Register, offset: i16) -> &mut Self {
        self.put(0x61, to, from.0, offset, 0)
    }

    /// Loads 64 bits.
    pub(super) fn load64(&mut self, to: Register, from: Register, offset: i16) -> &mut Self {
        self.put(0x79, to, from.0, offset, 0)
    }

    /// Stores the low 16 bits of a register.
    pub(super) fn store16(&mut self, to: Register, offset: i16, from: Register) -> &mut Self {
        self.put(0x6b, to, from.0, offset, 0)
    }

    /// Stores the low 32 bits of a register.
    pub(super) fn store32(&mut self, to: Register, offset: i16, from: Register) -> &mut Self {
        self.put(0x63, to, from.0, offset, 0)
    }

    /// Stores a register.
    pub(super) fn store64(&mut self, to: Register, offset: i16, from: Register) -> &mut Self {
        self.put(0x7b, to, from.0, offset, 0)
    }

    /// Stores bytes that are known: two, and then four at a time, as the headers behind an Ethernet header are read.
    /// A processor stalls when something is read that was stored in smaller parts just before.
    pub(super) fn bytes(&mut self, to: Register, bytes: &[u8]) -> &mut Self {
        let pair = |bytes: [u8; 2]| i32::from(u16::from_le_bytes(bytes));
        if let Some((first, rest)) = bytes.split_first_chunk::<2>() {
            self.put(0x6a, to, 0, 0, pair(*first));
            let (words, last) = rest.as_chunks::<4>();
            for (place, word) in words.iter().enumerate() {
                self.put(0x62, to, 0, 2 + 4 * place as i16, i32::from_le_bytes(*word));
            }
            if let Some(last) = last.first_chunk() {
                self.put(0x6a, to, 0, (bytes.len() - 2) as i16, pair(*last));
            }
        }
        self
    }

    /// Ends with `answer` unless `a <= b`.
    pub(super) fn unless_at_most(&mut self, a: Register, b: Register, answer: i32) -> &mut Self {
        self.put(0xbd, a, b.0, 2, 0).with(Operation::Move, R0, answer).exit()
    }

    /// Ends with `answer` unless the low 32 bits of a register are these.
    pub(super) fn unless_equal(&mut self, a: Register, value: i32, answer: i32) -> &mut Self {
        self.put(0x16, a, 0, 2, value).with(Operation::Move, R0, answer).exit()
    }

    /// Ends with `answer` unless `R0` is an address.
    pub(super) fn unless_found(&mut self, answer: i32) -> &mut Self {
        self.put(0x55, R0, 0, 2, 0).with(Operation::Move, R0, answer).exit()
    }

    /// Calls a helper.
    pub(super) fn call(&mut self, helper: Helper) -> &mut Self {
        self.put(0x85, R0, 0, 0, helper as i32)
    }

    /// Loads the address of a map.
    pub(super) fn map(&mut self, to: Register, map: &OwnedFd) -> &mut Self {
        self.put(0x18, to, 1, 0, map.as_raw_fd()).put(0, R0, 0, 0, 0)
    }

    /// Loads the address of the value in an array of one.
    pub(super) fn map_value(&mut self, to: Register, array: &OwnedFd) -> &mut Self {
        self.put(0x18, to, 2, 0, array.as_raw_fd()).put(0, R0, 0, 0, 0)
    }

    /// Holds a map until the program is loaded, which then holds it itself.
    pub(super) fn keep(&mut self, map: OwnedFd) -> &mut Self {
        self.kept.push(map);
        self
    }

    /// Ends with what is in `R0`.
    pub(super) fn exit(&mut self) -> &mut Self {
        self.put(0x95, R0, 0, 0, 0)
    }

    /// Loads the program.
    pub(super) fn program(&self, kind: Kind) -> io::Result<Program> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            licence: u64,
            // Level, size and place of a log, and a version of the kernel.
            unused: [u32; 5],
            flags: u32,
            // Name and device.
            unnamed: [u32; 5],
            attached: u32,
            end: u32,
        }
        let (flags, attached) = match kind {
            Kind::Classifier => (0, 0),
            Kind::Xdp => (FRAGMENTS, XDP),
        };
        let attributes = Attributes {
            kind: kind as u32,
            count: self.code.len() as u32,
            instructions: self.code.as_ptr() as u64,
            licence: c"Dual MIT/GPL".as_ptr() as u64,
            unused: [0; 5],
            flags,
            unnamed: [0; 5],
            attached,
            end: 0,
        };
        // SAFETY: the attributes have the layout of this command, and the memory that they name outlives the call.
        let fd = unsafe { bpf(command::PROG_LOAD, &mut { attributes }) }?;
        Ok(Program { fd, kind })
    }
}

/// A loaded program; it goes when the last who uses it goes.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
    kind: Kind,
}

/// A program on a device; dropping it takes it off.
#[derive(Debug)]
pub(super) struct Link(#[expect(dead_code, reason = "holds the link")] OwnedFd);

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    answer: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    /// The kernel insists on zeros where the next version may have a field.
    end: u32,
}

impl Program {
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The tc program on the ingress of a device of the calling thread's namespace.
    pub(super) fn attached(ifindex: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Query {
            ifindex: u32,
            kind: u32,
            flags: [u32; 2],
            ids: u64,
            count: u32,
            rest: [u32; 9],
        }
        let mut ids = [0u32; 8];
        let count = ids.len() as u32;
        let mut query =
            Query { ifindex, kind: TCX_INGRESS, flags: [0; 2], ids: ids.as_mut_ptr() as u64, count, rest: [0; 9] };
        // SAFETY: the attributes have the layout of this command; the kernel writes at most `count` numbers to `ids`.
        unsafe { call(command::PROG_QUERY, &mut query) }?;
        let id = ids.first().copied().filter(|id| *id != 0).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Self::numbered(id, Kind::Classifier)
    }

    /// The program of this number, which is of this kind.
    pub(super) fn numbered(id: u32, kind: Kind) -> io::Result<Self> {
        // SAFETY: the attributes have the layout of this command.
        let fd = unsafe { bpf(command::PROG_GET_FD_BY_ID, &mut [id, 0, 0]) }?;
        Ok(Self { fd, kind })
    }

    /// Puts it on the ingress, or into the driver, of a device of the calling thread's namespace.
    pub(super) fn attach(&self, ifindex: u32) -> io::Result<Link> {
        let (place, flags) = match self.kind {
            Kind::Classifier => (TCX_INGRESS, 0),
            Kind::Xdp => (XDP, NATIVE),
        };
        let mut attributes = [self.fd.as_raw_fd() as u32, ifindex, place, flags];
        // SAFETY: the attributes have the layout of this command.
        unsafe { bpf(command::LINK_CREATE, &mut attributes) }.map(Link)
    }

    /// Runs it on `frame`, that came in through a device, many times; the mean time of one run.
    pub(super) fn time(&self, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<Duration> {
        match self.kind {
            Kind::Classifier => {
                let mut context = [0u32; SK_BUFF / 4];
                // `__sk_buff::ifindex`.
                context[10] = ifindex;
                self.test_run(frame, &context, repeat, 0)
            }
            Kind::Xdp => self.test_run(frame, &xdp_context(frame, ifindex), repeat, 0),
        }
    }

    /// Makes packets of `frame`, which came in through a device as far as the program can tell, runs it on each, and does
    /// with them what it says; the mean time of one. That leaves out what was put off and done in between.
    pub(super) fn emit(&self, frame: &[u8], ifindex: u32, count: u32) -> io::Result<Duration> {
        self.test_run(frame, &xdp_context(frame, ifindex), count, LIVE_FRAMES)
    }

    fn test_run(&self, frame: &[u8], context: &[u32], repeat: u32, flags: u32) -> io::Result<Duration> {
        let mut run = TestRun {
            program: self.fd.as_raw_fd() as u32,
            size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            context_size_in: size_of_val(context) as u32,
            context_in: context.as_ptr() as u64,
            flags,
            ..TestRun::default()
        };
        // SAFETY: the attributes have the layout of this command, and the memory that they name outlives the call.
        unsafe { call(command::PROG_TEST_RUN, &mut run) }?;
        Ok(Duration::from_nanos(u64::from(run.duration)))
    }
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
const fn xdp_context(frame: &[u8], ifindex: u32) -> [u32; 6] {
    [0, frame.len() as u32, 0, ifindex, 0, 0]
}

/// A map with programs to go on with. It is empty again once its last descriptor is closed.
pub(super) fn next_programs(programs: &[&Program]) -> io::Result<OwnedFd> {
    let map = map(PROG_ARRAY, 4, programs.len() as u32, 0)?;
    for (place, program) in programs.iter().enumerate() {
        element(command::MAP_UPDATE, &map, place as u32, &mut program.fd.as_raw_fd())?;
    }
    Ok(map)
}

/// An array of `count` zeroed values, in such memory as the firewall's own tables.
pub(super) fn array(size: u32, count: u32) -> io::Result<OwnedFd> {
    map(ARRAY, size, count, MAPPABLE)
}

/// The number in an array of one number.
pub(super) fn number(array: &OwnedFd) -> io::Result<u64> {
    let mut number = 0u64;
    element(command::MAP_LOOKUP, array, 0, &mut number)?;
    Ok(number)
}

fn map(kind: u32, size: u32, count: u32, flags: u32) -> io::Result<OwnedFd> {
    // Kind, size of keys and of values, number of entries, flags.
    // SAFETY: the attributes have the layout of this command.
    unsafe { bpf(command::MAP_CREATE, &mut [kind, 4, size, count, flags]) }
}

/// Reads or writes a value of an array.
fn element<T>(command: libc::c_int, map: &OwnedFd, key: u32, value: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut element =
        Element { map: map.as_raw_fd() as u64, key: &raw const key as u64, value: &raw mut *value as u64, flags: 0 };
    // SAFETY: the attributes have the layout of these commands, and key and value outlive the call. All callers have
    // values of the map's size.
    unsafe { call(command, &mut element) }.map(drop)
}

/// A command that makes a descriptor.
///
/// # Safety
/// As [`call`].
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let made = unsafe { call(command, attributes) }?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// `bpf(2)`.
///
/// # Safety
/// The attributes must be those of the command, and what they point to must be valid.
unsafe fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
