//! A socket buffer as a packet that can be rewritten.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_pull_data,
};
use flowhop_flow::Packet;
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::shadow::HEAD;
use flowhop_wire::checksum::Delta;
use flowhop_wire::{Frame, ethertype, protocol};

use crate::window::{self, opaque};

/// Bytes that hold every header that the fast path reads: Ethernet, IPv6, and TCP with all its options.
const HEADERS: usize = 128;
/// What lowering the hop limit by one does to a sum in memory order.
const HOP_LIMIT_DELTA: Delta = Delta(!u16::from_ne_bytes([0, 1]));

/// A socket buffer on a classifier's hook.
pub struct Skb {
    raw: *mut __sk_buff,
    /// Delta of the addresses, remembered for [`Skb::settle`].
    addresses: Delta,
    /// Delta of what else was replaced in an IPv6 header.
    header: Delta,
}

macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context pointer is valid while the program runs. Volatile, because the verifier accepts
        // loads of whole fields only and LLVM would merge neighbouring ones.
        unsafe { read_volatile(&raw const (*$skb.raw).$name) }
    };
}

impl Skb {
    /// The buffer that a program was started with.
    #[inline(always)]
    pub const fn new(raw: *mut __sk_buff) -> Self {
        Self { raw, addresses: Delta::ZERO, header: Delta::ZERO }
    }

    /// The packet mark.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        field!(self, mark)
    }

    /// Sets the packet mark.
    #[inline(always)]
    pub fn set_mark(&mut self, mark: u32) {
        // SAFETY: as in `field!`; `mark` is one of the fields that a classifier may write.
        unsafe { core::ptr::write_volatile(&raw mut (*self.raw).mark, mark) }
    }

    /// Interface that the packet came in through.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self, ifindex)
    }

    /// It carries a VLAN tag beside the frame.
    #[inline(always)]
    pub fn tagged(&self) -> bool {
        field!(self, vlan_present) != 0
    }

    /// The tag beside the frame names no VLAN (VID 0): it only carries a priority, and the stack ignores it.
    #[inline(always)]
    pub fn priority_tagged(&self) -> bool {
        self.tagged() && field!(self, vlan_tci) & 0xfff == 0
    }

    /// Takes the tag beside the frame off.
    #[inline(always)]
    pub fn pop_tag(&mut self) {
        // SAFETY: the context is the program's own; on failure the tag stays, and is seen to be there.
        unsafe { aya_ebpf::helpers::generated::bpf_skb_vlan_pop(self.raw) };
    }

    /// Payload of each segment of a super-packet, else 0.
    #[inline(always)]
    pub fn segment(&self) -> u32 {
        field!(self, gso_size)
    }

    /// Bytes that can be read directly.
    #[inline(always)]
    fn linear(&self) -> usize {
        (field!(self, data_end) - field!(self, data)) as usize
    }

    /// Makes all headers readable: brings them into the linear part if the driver left them in fragments.
    ///
    /// A super-packet usually has just its headers there, so what follows looks at how long they are instead of
    /// pulling payload for nothing. Where that fails, reading fails later and the packet is handed down.
    #[inline(always)]
    pub fn pull_headers(&self, network: usize) {
        let linear = self.linear();
        let length = self.len();
        if linear >= HEADERS || linear >= length || linear >= self.headers(network) {
            return;
        }
        let wanted = if length < HEADERS { length } else { HEADERS };
        // SAFETY: the context pointer is valid while the program runs, and no packet pointer is held.
        let _ = unsafe { bpf_skb_pull_data(self.raw, wanted as u32) };
    }

    /// How many bytes the headers take, as far as the linear part tells.
    #[inline(always)]
    fn headers(&self, network: usize) -> usize {
        let next = match self.ethertype(network) {
            ethertype::IPV4 => self.read::<1>(network + 9).map(|next| (network + 20, next[0])),
            ethertype::IPV6 => self.read::<1>(network + 6).map(|next| (network + 40, next[0])),
            _ => return ETHERNET,
        };
        match next {
            Some((transport, protocol::TCP)) => match self.read::<1>(transport + 12) {
                Some(offset) => transport + (offset[0] as usize >> 4) * 4,
                None => HEADERS,
            },
            Some((transport, _)) => transport + 8,
            None => HEADERS,
        }
    }

    /// The ethertype, 0 if there is none; without a link-layer header, what the IP version stands for.
    #[inline(always)]
    fn ethertype(&self, network: usize) -> u16 {
        if network == 0 {
            return match self.read::<1>(0) {
                Some([first]) if first >> 4 == 4 => ethertype::IPV4,
                Some([first]) if first >> 4 == 6 => ethertype::IPV6,
                _ => 0,
            };
        }
        self.read::<2>(12).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    /// Puts a link-layer header in front of a packet that came without; tells whether there was room.
    #[inline(always)]
    pub fn push_link(&mut self, macs: &[u8; 12]) -> bool {
        let ethertype = self.ethertype(0);
        // SAFETY: the context is the program's own, and no packet pointer is held.
        if unsafe { bpf_skb_change_head(self.raw, ETHERNET as u32, 0) } != 0 {
            return false;
        }
        let Some(link) = self.write::<ETHERNET>(0) else {
            return false;
        };
        let [head @ .., high, low] = link;
        *head = *macs;
        [*high, *low] = ethertype.to_be_bytes();
        true
    }

    /// Brings what a device summed over the whole packet in line with the rewrite, before it is sent.
    ///
    /// In IPv4 every change of the header is made up for by its checksum. In IPv6 the hop limit is made up for
    /// by nothing, and the addresses by the transport checksum; but the helper that changes the latter was
    /// made for IPv4 and takes the delta out of the sum, so it is put back here.
    #[inline(always)]
    pub fn settle(&mut self, network: usize) {
        self.update_sum(network, self.addresses.and(HOP_LIMIT_DELTA));
    }

    /// The same for a packet that has become its own answer.
    #[inline(always)]
    pub fn settle_answer(&mut self, network: usize) {
        self.update_sum(network, self.addresses.and(self.header));
    }

    #[inline(always)]
    fn update_sum(&mut self, network: usize, delta: Delta) {
        if self.ethertype(network) == ethertype::IPV6 {
            // SAFETY: the context pointer is valid while the program runs. The helper refuses, without harm,
            // when the device has summed nothing.
            let _ = unsafe { bpf_csum_update(self.raw, u32::from(delta.0)) };
        }
    }

    /// Writes the link-layer addresses that lie at `offset`; tells whether they are there.
    #[inline(always)]
    pub fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> bool {
        match self.write::<N>(offset) {
            Some(place) => {
                *place = bytes;
                true
            }
            None => false,
        }
    }

    /// The address of `N` bytes at `offset` in the linear part.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        window::at(field!(self, data), offset, || field!(self, data_end))
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> usize {
        // Otherwise LLVM proves the checks of `at` from comparisons with the length and removes them.
        opaque(field!(self, len) as usize)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `at` checked that the bytes are inside the packet. Helpers that move the packet take the
        // buffer by exclusive reference (or, in `pull_headers`, while nothing is borrowed).
        self.at(offset).map(|bytes| unsafe { &*bytes })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `read`; the exclusive reference makes this the only borrow. The kernel has made the
        // linear part of a cloned buffer its own before it runs a program with such writes.
        self.at(offset).map(|bytes| unsafe { &mut *bytes })
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn head(&self, to: &mut [u8; HEAD], length: u32) -> bool {
        let Some(length) = window::head_of(length) else { return false };
        // SAFETY: the context is the program's own, and there is room for that many bytes.
        unsafe { bpf_skb_load_bytes(self.raw.cast(), 0, to.as_mut_ptr().cast(), length) == 0 }
    }

    #[inline(always)]
    fn header_changed(&mut self, delta: Delta) {
        self.header = self.header.and(delta);
    }

    #[inline(always)]
    fn shorten(&mut self, length: usize) -> Option<()> {
        if length >= self.len() {
            return Some(());
        }
        // SAFETY: the context is the program's own; `self` is borrowed exclusively, so nobody holds a packet pointer.
        (unsafe { bpf_skb_change_tail(self.raw, length as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        // The helper knows whether the checksum is complete, partial (then it holds the pseudo-header's sum, and
        // ports are none of its business) or was summed by the device. The upper limit of an offset there is
        // 65535. A field of size 0 says: the new value is a difference.
        let zero = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
        let mut failed = 0;
        if addresses.0 != 0 {
            self.addresses = addresses;
            // SAFETY: the context pointer is valid while the program runs; `self` is borrowed exclusively, so
            // nobody holds a packet pointer, which the call makes invalid.
            failed |= unsafe { bpf_l4_csum_replace(self.raw, offset as u32, 0, u64::from(addresses.0), pseudo) };
        }
        if ports.0 != 0 {
            // SAFETY: as above.
            failed |= unsafe { bpf_l4_csum_replace(self.raw, offset as u32, 0, u64::from(ports.0), zero) };
        }
        (failed == 0).then_some(())
    }
}
