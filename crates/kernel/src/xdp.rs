//! A frame in a driver's receive buffer as a packet that can be rewritten.

use core::cell::Cell;
use core::ptr::read_volatile;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use flowhop_flow::Packet;
use flowhop_flow::rewrite::fix_in_place;
use flowhop_flow::shadow::HEAD;
use flowhop_wire::checksum::Delta;
use flowhop_wire::{Frame, ethertype};

use crate::window::{self, opaque};

/// Length of a VLAN tag in the frame.
const TAG: i32 = 4;
/// The VLAN id in the tag's second half; the rest is priority.
const VID: u16 = 0x0fff;
/// The longest frame that a link pads, with a tag.
const PADDED: usize = 64;
/// Bytes in front of the frame that tell the daemon what is known of it.
pub const METADATA: usize = 8;

/// A frame on a driver's hook; it may go on in further buffers, which no header reaches into.
pub struct Xdp {
    raw: *mut xdp_md,
    /// Bytes in the first buffer; in all of them once more were asked for.
    length: Cell<usize>,
}

macro_rules! field {
    ($xdp:expr, $name:ident) => {
        // SAFETY: the context pointer is valid while the program runs. Volatile, because the verifier accepts
        // loads of whole fields only and LLVM would merge neighbouring ones.
        unsafe { read_volatile(&raw const (*$xdp.raw).$name) }
    };
}

impl Xdp {
    /// The frame that a program was started with.
    #[inline(always)]
    pub fn new(raw: *mut xdp_md) -> Self {
        let xdp = Self { raw, length: Cell::new(0) };
        xdp.length.set(opaque((field!(xdp, data_end) - field!(xdp, data)) as usize));
        xdp
    }

    /// Takes all buffers into account; returns the length of the whole.
    ///
    /// Frames whose IP packet ends with the first buffer, or which are padded to the least length that there is, are
    /// spared the call: nearly all.
    #[inline(always)]
    pub fn measure(&self) -> usize {
        // SAFETY: the context is the program's own.
        let length = unsafe { bpf_xdp_get_buff_len(self.raw) } as usize;
        self.length.set(length);
        length
    }

    /// Device that received it.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self, ingress_ifindex)
    }

    /// Receive queue that it came by.
    #[inline(always)]
    pub fn queue(&self) -> u32 {
        field!(self, rx_queue_index)
    }

    /// The VLAN id of a tag in the frame; `None` without a tag.
    #[inline(always)]
    pub fn vid(&self) -> Option<u16> {
        let [a, b, c, d] = *self.read::<4>(12)?;
        (u16::from_be_bytes([a, b]) == ethertype::VLAN).then_some(u16::from_be_bytes([c, d]) & VID)
    }

    /// Gives the frame the tag of another VLAN, takes the tag off, or puts one on; `false` when it could not be. The
    /// link-layer addresses are `macs`. Priority bits of a tag stay.
    #[inline(always)]
    pub fn retag(&mut self, tagged: bool, vid: u16, macs: &[u8; 12]) -> bool {
        match (tagged, vid) {
            (false, 0) => true,
            (true, 0) => self.move_head(TAG) && self.set_addresses(macs),
            (true, _) => match self.write::<2>(14) {
                Some(tag) => {
                    *tag = (u16::from_be_bytes(*tag) & !VID | vid).to_be_bytes();
                    true
                }
                None => false,
            },
            (false, _) => {
                if !self.move_head(-TAG) || !self.set_addresses(macs) {
                    return false;
                }
                let Some([a, b, c, d]) = self.write::<4>(12) else {
                    return false;
                };
                [*a, *b] = ethertype::VLAN.to_be_bytes();
                [*c, *d] = vid.to_be_bytes();
                true
            }
        }
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> bool {
        // SAFETY: the context is the program's own, and no packet pointer is held.
        unsafe { bpf_xdp_adjust_head(self.raw, by) == 0 }
    }

    #[inline(always)]
    fn set_addresses(&mut self, macs: &[u8; 12]) -> bool {
        self.write::<12>(0).map(|place| *place = *macs).is_some()
    }

    /// Puts metadata in front of the frame; `false` where the driver leaves no room for it.
    #[inline(always)]
    pub fn describe(&mut self, metadata: [u8; METADATA]) -> bool {
        // SAFETY: the context is the program's own, and no packet pointer is held.
        if unsafe { bpf_xdp_adjust_meta(self.raw, -(METADATA as i32)) } != 0 {
            return false;
        }
        let start = field!(self, data_meta) as usize;
        let end = field!(self, data) as usize;
        if opaque(start + METADATA) > end {
            return false;
        }
        // SAFETY: the bytes were just made room for, and checked to lie in front of the frame.
        unsafe { *(start as *mut [u8; METADATA]) = metadata };
        true
    }

    /// The address of `N` bytes at `offset` in the first buffer.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        window::at(field!(self, data), offset, || field!(self, data_end))
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn len(&self) -> usize {
        self.length.get()
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        let first = self.len();
        length == first || length < first && first <= PADDED || length <= self.measure()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `at` checked that the bytes are inside the first buffer. Helpers that move the frame take it by
        // exclusive reference.
        self.at(offset).map(|bytes| unsafe { &*bytes })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `read`; the exclusive reference makes this the only borrow, and a driver's buffer is its own.
        self.at(offset).map(|bytes| unsafe { &mut *bytes })
    }
}

impl Packet for Xdp {
    const WHOLE_CHECKSUMS: bool = true;

    #[inline(always)]
    fn head(&self, to: &mut [u8; HEAD], length: u32) -> bool {
        let Some(length) = window::head_of(length) else { return false };
        // SAFETY: the context is the program's own, and there is room for that many bytes.
        unsafe { bpf_xdp_load_bytes(self.raw, 0, to.as_mut_ptr().cast(), length) == 0 }
    }

    #[inline(always)]
    fn shorten(&mut self, length: usize) -> Option<()> {
        // SAFETY: the context is the program's own. Not the length of the first buffer: the frame may go on behind it.
        let whole = unsafe { bpf_xdp_get_buff_len(self.raw) } as i32;
        let by = length as i32 - whole;
        // SAFETY: the context is the program's own, and no packet pointer is held.
        (by >= 0 || unsafe { bpf_xdp_adjust_tail(self.raw, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        // A driver's buffer says nothing of checksums: the one in the packet has to be complete.
        fix_in_place(self, offset, addresses, ports, udp, false)
    }
}
