//! What the kernel says beside a frame, and where it writes that.

use std::mem::size_of;

use flowhop_engine::Offload;

use super::header::{self, HEADER};

/// Room for one control message with a `tpacket_auxdata`, and some.
const CONTROL: usize = 64;
const ETHERTYPE: usize = 12;
/// 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

/// Whom a frame is addressed to on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketType {
    /// The interface.
    Host,
    /// Everybody.
    Broadcast,
    /// A group.
    Multicast,
    /// Another host: the interface, or the link below it, is promiscuous.
    Other,
}

/// What is known of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it in the buffer.
    pub len: usize,
    /// Its checksum and segmentation.
    pub offload: Offload,
    /// Whom it is addressed to on the link.
    pub packet_type: PacketType,
    /// It came with a VLAN tag, of whatever number. The outer tag is *not* in the buffer.
    pub tagged: bool,
    /// It was longer than the buffer, and the rest is lost.
    pub truncated: bool,
}

/// Where the kernel writes what it says beside a frame.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Slot {
    // First, and a multiple of 8 long: control messages have to be aligned.
    control: [u8; CONTROL],
    address: libc::sockaddr_ll,
    header: [u8; HEADER],
}

impl Slot {
    pub(super) const fn new() -> Self {
        Self { control: [0; CONTROL], address: no_address(), header: [0; HEADER] }
    }

    /// What the kernel said; `got` is what the call returned, `message` and `frame` are what it was given.
    pub(super) fn received(&self, message: &libc::msghdr, got: usize, frame: &[u8]) -> Received {
        let len = got.saturating_sub(HEADER).min(frame.len());
        let frame = frame.get(..len).unwrap_or_default();
        Received {
            len,
            offload: header::decode(self.header, frame),
            packet_type: match self.address.sll_pkttype {
                libc::PACKET_HOST => PacketType::Host,
                libc::PACKET_BROADCAST => PacketType::Broadcast,
                libc::PACKET_MULTICAST => PacketType::Multicast,
                _ => PacketType::Other,
            },
            tagged: self.tag_taken_off(message.msg_controllen)
                || frame.get(ETHERTYPE..ETHERTYPE + 2).is_some_and(|kind| TAGS.iter().any(|tag| kind == tag)),
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        }
    }

    /// The kernel took a VLAN tag off. One control message is all that such a socket gets: `cmsghdr`, then
    /// `tpacket_auxdata`, which begins with the status.
    fn tag_taken_off(&self, length: usize) -> bool {
        let at = |offset: usize| {
            let end = offset + size_of::<libc::c_int>();
            let bytes = self.control.get(offset..end).filter(|_| end <= length)?;
            bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
        };
        let (level, kind, data) = (size_of::<usize>(), size_of::<usize>() + 4, size_of::<libc::cmsghdr>());
        at(level) == Some(libc::SOL_PACKET)
            && at(kind) == Some(libc::PACKET_AUXDATA)
            && at(data).is_some_and(|status| status as u32 & libc::TP_STATUS_VLAN_VALID != 0)
    }
}

/// A message for receiving a frame and what is said beside it. Its pointers, and those in the parts, are good for as long
/// as slot, parts and frame are neither moved nor borrowed otherwise.
pub(super) fn message(slot: &mut Slot, parts: &mut [libc::iovec; 2], frame: &mut [u8]) -> libc::msghdr {
    parts[0] = libc::iovec { iov_base: slot.header.as_mut_ptr().cast(), iov_len: HEADER };
    parts[1] = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY: a `msghdr` of zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut slot.address).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message.msg_control = slot.control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    message
}

pub(super) const NO_PART: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

pub(super) const fn no_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
