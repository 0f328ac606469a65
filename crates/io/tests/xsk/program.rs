//! A kernel program of a few instructions that hands every packet down, and the map that it does so by.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Commands and constants of `linux/bpf.h`.
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_LINK_UPDATE: i64 = 29;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where the program looks for the number of a packet: behind Ethernet, IPv4 and UDP headers.
pub(crate) const NUMBER: usize = 14 + 20 + 8;
/// In the upper half of the second word of metadata.
pub(crate) const MARK: u16 = 0x5a5a;

/// Attached while it lives. Packets of queues without a socket are dropped.
pub(crate) struct HandDown {
    map: OwnedFd,
    link: OwnedFd,
}

impl HandDown {
    /// Loads the program and attaches it in the driver of an interface.
    pub(crate) fn attach(ifindex: u32) -> Self {
        let map = xskmap().expect("an XSKMAP");
        let program = load(&instructions(map.as_raw_fd())).expect("the program is right");
        let link = attach(&program, ifindex).expect("the driver runs programs");
        Self { map, link }
    }

    /// Puts the same program in the place of the attached one. Drivers take a change of their queues into account when they
    /// are given a program: a veth has its new queues run none until then.
    pub(crate) fn replace(&self) {
        let program = load(&instructions(self.map.as_raw_fd())).expect("the program is right");
        let words = [pair(self.link.as_raw_fd() as u32, program.as_raw_fd() as u32), 0];
        // SAFETY: numbers alone.
        unsafe { bpf(BPF_LINK_UPDATE, &words) }.expect("the driver runs programs");
    }

    /// Gives the packets of a queue to a socket.
    pub(crate) fn set(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd() as u32;
        let words = [self.map.as_raw_fd() as u64, &raw const queue as u64, &raw const value as u64, 0];
        // SAFETY: key and value are of the sizes that the map was made with.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &words) }.expect("the map has this queue");
    }
}

/// The program: leaves the packet's number, the queue and the mark in front of it, and redirects it by its queue.
fn instructions(map: i32) -> [u64; 26] {
    const DROP: i32 = 1;
    const ADJUST_META: i32 = 54;
    const REDIRECT_MAP: i32 = 51;
    let word = |code: u64, to: u64, from: u64, offset: i16, value: i32| {
        code | to << 8 | from << 12 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
    };
    let (move_register, set, add, or) = (0xbf, 0xb7, 0x07, 0x47);
    let (load, store, call, exit, if_not, if_above) = (0x61, 0x63, 0x85, 0x95, 0x55, 0x2d);
    let (data, data_end, data_meta, queue) = (0, 4, 8, 16);
    [
        word(move_register, 6, 1, 0, 0),
        word(set, 2, 0, 0, -8),
        word(call, 0, 0, 0, ADJUST_META),
        word(if_not, 0, 0, 20, 0),
        word(load, 2, 6, data, 0),
        word(load, 3, 6, data_end, 0),
        word(load, 4, 6, data_meta, 0),
        word(move_register, 5, 4, 0, 0),
        word(add, 5, 0, 0, 8),
        word(if_above, 5, 2, 14, 0),
        word(move_register, 5, 2, 0, 0),
        word(add, 5, 0, 0, NUMBER as i32 + 4),
        word(if_above, 5, 3, 11, 0),
        word(load, 5, 2, NUMBER as i16, 0),
        word(store, 4, 5, 0, 0),
        word(load, 5, 6, queue, 0),
        word(or, 5, 0, 0, i32::from(MARK) << 16),
        word(store, 4, 5, 4, 0),
        word(0x18, 1, 1, 0, map), // The address of a map takes two words.
        0,
        word(load, 2, 6, queue, 0),
        word(set, 3, 0, 0, DROP),
        word(call, 0, 0, 0, REDIRECT_MAP),
        word(exit, 0, 0, 0, 0),
        word(set, 0, 0, 0, DROP),
        word(exit, 0, 0, 0, 0),
    ]
}

fn xskmap() -> io::Result<OwnedFd> {
    let (key, value, entries) = (4, 4, 64);
    // SAFETY: numbers alone.
    let map = unsafe { bpf(BPF_MAP_CREATE, &[pair(BPF_MAP_TYPE_XSKMAP, key), pair(value, entries)]) }?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; 64 << 10];
    let words = [
        pair(BPF_PROG_TYPE_XDP, program.len() as u32),
        program.as_ptr() as u64,
        c"GPL".as_ptr() as u64,
        pair(1, log.len() as u32),
        log.as_mut_ptr() as u64,
        pair(0, BPF_F_XDP_HAS_FRAGS),
        0,
        0,
        pair(0, BPF_XDP),
    ];
    // SAFETY: the program, the licence and the log have the lengths given, or end with a zero.
    let loaded = unsafe { bpf(BPF_PROG_LOAD, &words) };
    let said = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap()).into_owned();
    let program = loaded.map_err(|error| io::Error::other(format!("{error}: {said}")))?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

fn attach(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let words = [pair(program.as_fd().as_raw_fd() as u32, ifindex), pair(BPF_XDP, XDP_FLAGS_DRV_MODE)];
    // SAFETY: numbers alone.
    let link = unsafe { bpf(BPF_LINK_CREATE, &words) }?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// # Safety
/// The words are the attributes of the command, and what addresses among them lead to is what the command takes there.
unsafe fn bpf(command: i64, words: &[u64]) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
