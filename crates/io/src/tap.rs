//! The punt device: a persistent TAP through which packets go between the kernel programs and this process.
//!
//! One queue, so that nobody else can open it while a daemon has it (`EBUSY`). Frames carry a virtio header, so
//! super-packets of segmentation offload and partial checksums go through whole, in both directions. The
//! device outlives the process with its interface index and its program, so a new daemon just opens it again.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;

#[path = "../../kernel/src/metadata.rs"]
pub mod metadata;

/// Name of the device.
pub const NAME: &str = "flowhop0";
/// Bytes that hold any frame of a device with usual settings: a super-packet and its Ethernet header with tags.
pub const MAX_FRAME: usize = 65536 + 64;
/// Packets that may wait for this process.
const QUEUE_LENGTH: libc::c_int = 10_000;
/// Slices that [`Tap::write`] takes.
const MAX_SLICES: usize = 15;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// `TUN_F_CSUM`, `TSO4`, `TSO6`, `TSO_ECN`.
const OFFLOADS: libc::c_ulong = 1 | 2 | 4 | 8;
/// `TUN_F_USO4`, `TUN_F_USO6` (Linux 6.2).
const UDP_OFFLOADS: libc::c_ulong = 0x20 | 0x40;

/// Why there is no punt device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TapError {
    /// The TUN driver is not there.
    #[error("/dev/net/tun: {0}; the TUN driver is needed (modprobe tun)")]
    NoDriver(#[source] io::Error),
    /// Without the rights.
    #[error("making the network device {0} needs root (CAP_NET_ADMIN)")]
    NotPermitted(String),
    /// Another process has it open.
    #[error("the network device {0} is in use: another flowhop runs in this network namespace")]
    Busy(String),
    /// A device of this name is there and is no TAP of flowhop's.
    #[error("there is another network device named {0}")]
    Foreign(String),
    /// Something else.
    #[error("network device {name}: {call}: {error}")]
    System {
        /// The device.
        name: String,
        /// What failed.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl TapError {
    /// Whether it is for want of rights, so that another way in may be open.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        matches!(self, Self::NotPermitted(_))
    }
}

/// What is known of a frame beside its bytes (`struct virtio_net_hdr`, native byte order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CHECKSUM`](Self::NEEDS_CHECKSUM), [`CHECKSUM_VALID`](Self::CHECKSUM_VALID).
    pub flags: u8,
    /// Kind of super-packet, 0 = none.
    pub gso_type: u8,
    /// Bytes of all headers of a super-packet.
    pub header_length: u16,
    /// Payload of each segment of a super-packet.
    pub gso_size: u16,
    /// Offset of the first byte that the checksum is over.
    pub checksum_start: u16,
    /// Offset of the checksum from there.
    pub checksum_offset: u16,
}

impl VirtioHeader {
    /// Length before each frame: the ten bytes and a count of buffers that is of no use here.
    pub const LEN: usize = 12;
    /// The checksum field holds the pseudo-header's sum and has to be completed.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum was verified by the device.
    pub const CHECKSUM_VALID: u8 = 2;

    /// The frame is a super-packet.
    #[must_use]
    pub const fn is_super_packet(&self) -> bool {
        self.gso_type != 0
    }

    fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h, _, _] = bytes;
        Self {
            flags,
            gso_type,
            header_length: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    fn bytes(self) -> [u8; Self::LEN] {
        let [a, b] = self.header_length.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, 0, 0]
    }
}

/// The open punt device.
pub struct Tap {
    file: File,
    ifindex: u32,
}

impl Tap {
    /// Opens the device of this name in the caller's network namespace, makes it if need be, and takes it into use:
    /// not blocking, all offloads, up.
    ///
    /// # Errors
    /// What is missing, or that somebody else has it.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let tap = Self::make(name)?;
        let failed = |call| move |error| TapError::System { name: name.to_owned(), call, error };
        let header = VirtioHeader::LEN as libc::c_int;
        // SAFETY: the request reads one int at the address.
        unsafe { ioctl(tap.file.as_fd(), TUNSETVNETHDRSZ, &raw const header as libc::c_ulong) }
            .map_err(failed("header length"))?;
        // SAFETY: this request takes a number.
        unsafe { ioctl(tap.file.as_fd(), TUNSETOFFLOAD, OFFLOADS | UDP_OFFLOADS) }
            // SAFETY: as above.
            .or_else(|_| unsafe { ioctl(tap.file.as_fd(), TUNSETOFFLOAD, OFFLOADS) })
            .map_err(failed("offloads"))?;
        // SAFETY: this request takes a number.
        unsafe { ioctl(tap.file.as_fd(), TUNSETPERSIST, 1) }.map_err(failed("persistence"))?;
        let control = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(failed("socket"))?;
        let mut request = request(name).map_err(failed("name"))?;
        // Without an IPv6 address of its own the kernel has nothing to say there. Best effort: what it says
        // nevertheless carries no metadata and is ignored.
        let _ = no_ipv6_address(tap.ifindex);
        request.ifr_ifru.ifru_metric = QUEUE_LENGTH;
        // SAFETY: the request reads an `ifreq`.
        unsafe { ioctl(control.as_fd(), libc::SIOCSIFTXQLEN, &raw const request as libc::c_ulong) }
            .map_err(failed("queue length"))?;
        // SAFETY: the request fills in an `ifreq`.
        unsafe { ioctl(control.as_fd(), libc::SIOCGIFFLAGS, &raw mut request as libc::c_ulong) }
            .map_err(failed("flags"))?;
        // SAFETY: the flags are what the request before filled in.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
        // SAFETY: the request reads an `ifreq`.
        unsafe { ioctl(control.as_fd(), libc::SIOCSIFFLAGS, &raw const request as libc::c_ulong) }
            .map_err(failed("up"))?;
        Ok(tap)
    }

    /// Opens the device, or makes it for as long as it is open.
    fn make(name: &str) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => TapError::NotPermitted(name.to_owned()),
                _ => TapError::NoDriver(error),
            })?;
        let failed = |call| move |error| TapError::System { name: name.to_owned(), call, error };
        let mut request = request(name).map_err(failed("name"))?;
        request.ifr_ifru.ifru_flags = FLAGS as libc::c_short;
        // SAFETY: the request reads and fills in an `ifreq`.
        unsafe { ioctl(file.as_fd(), TUNSETIFF, &raw mut request as libc::c_ulong) }.map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPERM) => TapError::NotPermitted(name.to_owned()),
                Some(libc::EBUSY) => TapError::Busy(name.to_owned()),
                Some(libc::EINVAL | libc::EEXIST) => TapError::Foreign(name.to_owned()),
                _ => failed("open")(error),
            }
        })?;
        let ifindex = interface_index(name).ok_or_else(|| failed("index")(io::Error::last_os_error()))?;
        Ok(Self { file, ifindex })
    }

    /// Its interface index.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Takes one frame; `None` when none waits. The buffer should hold [`MAX_FRAME`] bytes.
    ///
    /// # Errors
    /// `InvalidData` for a frame that does not fit the buffer (it is lost), or what the device says.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VirtioHeader, usize)>> {
        let mut header = [0; VirtioHeader::LEN];
        let parts = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
        ];
        // SAFETY: both parts are exclusive borrows with their lengths, and outlive the call.
        let got = unsafe { libc::readv(self.file.as_raw_fd(), parts.as_ptr(), 2) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        match (got as usize).checked_sub(VirtioHeader::LEN) {
            // The device answers with the frame's length even where it had to cut.
            Some(length) if length <= buffer.len() => Ok(Some((VirtioHeader::parse(header), length))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Gives one frame, in up to 15 pieces, to the device.
    ///
    /// # Errors
    /// `InvalidInput` for more pieces, or what the device says (`EINVAL` for a header that makes no sense).
    pub fn write(&self, header: VirtioHeader, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let header = header.bytes();
        let mut parts = [IoSlice::new(&[]); MAX_SLICES + 1];
        parts[0] = IoSlice::new(&header);
        let used = frame.len() + 1;
        parts.get_mut(1..used).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(frame);
        // SAFETY: an `IoSlice` has the layout of an `iovec`, and all of them outlive the call.
        let put = unsafe { libc::writev(self.file.as_raw_fd(), parts.as_ptr().cast(), used as libc::c_int) };
        if put < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Removes a persistent device from the caller's network namespace; none is fine.
///
/// # Errors
/// `EBUSY` while a process has it open.
pub fn delete(name: &str) -> io::Result<()> {
    if interface_index(name).is_none() {
        return Ok(());
    }
    let tap = Tap::make(name).map_err(io::Error::other)?;
    // SAFETY: this request takes a number. The device goes with its last descriptor, here.
    unsafe { ioctl(tap.file.as_fd(), TUNSETPERSIST, 0) }
}

/// The index of an interface in the caller's network namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the name ends with a zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The name of an interface in the caller's network namespace.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the function asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// # Safety
/// `argument` must be what the request takes: a number, or the address of what it reads or fills in.
pub(crate) unsafe fn ioctl(file: BorrowedFd<'_>, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the caller's promise.
    if unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(crate) fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// `ip link set dev … addrgenmode none`: a request that is as fixed as a request can be.
fn no_ipv6_address(ifindex: u32) -> io::Result<()> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    const LENGTH: usize = 48;
    let mut message = [0u8; LENGTH];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (to, from) in message.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    };
    // The header: length, type, flags. Then `ifinfomsg` (index at 4), then three attributes, one in another.
    put(0, &(LENGTH as u32).to_ne_bytes());
    put(4, &libc::RTM_SETLINK.to_ne_bytes());
    put(6, &((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    put(20, &ifindex.to_ne_bytes());
    for (offset, length, kind) in
        [(32, 16u16, IFLA_AF_SPEC), (36, 12, libc::AF_INET6 as u16), (40, 5, IFLA_INET6_ADDR_GEN_MODE)]
    {
        put(offset, &length.to_ne_bytes());
        put(offset + 2, &kind.to_ne_bytes());
    }
    put(44, &[IN6_ADDR_GEN_MODE_NONE]);
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut answer = [0u8; 256];
    // SAFETY: the buffers have the lengths that are passed.
    let (sent, got) = unsafe {
        (
            libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0),
            libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0),
        )
    };
    if sent < 0 || got < 20 {
        return Err(io::Error::last_os_error());
    }
    // An acknowledgment is an error message with error 0, behind the header.
    match answer[16..].first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error.unwrap_or(-libc::EIO))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let header = VirtioHeader {
            flags: 1,
            gso_type: 4,
            header_length: 66,
            gso_size: 1448,
            checksum_start: 34,
            checksum_offset: 16,
        };
        assert_eq!(VirtioHeader::parse(header.bytes()), header);
        assert!(header.is_super_packet());
    }

    #[test]
    fn metadata_round_trips_and_foreign_addresses_are_none() {
        use metadata::{Order, Punt, TO_STACK};
        let punt = Punt { port: 7, reason: 1, gate: 16384 };
        assert_eq!(Punt::parse(punt.address()), Some(punt));
        let order = Order { action: TO_STACK, port: 255 };
        assert_eq!(Order::parse(order.address()), Some(order));
        assert_eq!(Punt::parse([0x33, 0x33, 0, 0, 0, 1]), None);
        assert_eq!(Order::parse([0xff; 6]), None);
    }
}
