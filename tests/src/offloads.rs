//! What network devices do for their hosts, switched as `ethtool -K` does.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::namespace::Namespace;

/// Checksum, segmentation and coalescing offloads of all veth ends of a bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// As the kernel makes the devices: everything but GRO is on.
    Default,
    /// tx, rx, tso, gso and gro on.
    On,
    /// tx, rx, tso, gso and gro off.
    Off,
    /// As programs in drivers want the other side: the hosts complete their checksums (tx off) and take frames from
    /// programs (gro on). The router's devices send no super-packets (tso off).
    Driver,
}

impl Offloads {
    /// What a path that is forced on all interfaces needs.
    pub fn for_path(path: &str) -> Self {
        if path == "driver" { Self::Driver } else { Self::Default }
    }
}

/// An offload that `ethtool -K` knows, by the number of the command that sets it (linux/ethtool.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// `rx`: checksums of what comes in.
    Receive = 0x15,
    /// `tx`: checksums of what goes out are left to whoever comes last.
    Transmit = 0x17,
    /// `tso`.
    TcpSegmentation = 0x1f,
    /// `gso`.
    Segmentation = 0x24,
    /// `gro`; for a veth device also: its peer offers to send frames that programs redirect to it.
    Coalescing = 0x2c,
}

impl Offload {
    /// All of them, in the order that dependencies ask for: no segmentation without checksums.
    const ALL: [Self; 5] = [Self::Receive, Self::Transmit, Self::TcpSegmentation, Self::Segmentation, Self::Coalescing];
}

pub(crate) fn switch_all(namespace: &Namespace, device: &str, on: bool) {
    Offload::ALL.into_iter().for_each(|offload| switch_offload(namespace, device, offload, on));
}

/// What a host owes a program in the driver of the router: whole checksums, and room for frames.
pub(crate) fn complete_and_take_frames(host: &Namespace) {
    complete(host);
    switch_offload(host, "eth0", Offload::Coalescing, true);
}

/// Has a host complete its checksums and queue what the wire does not take at once: a veth device with a program in its
/// driver takes its frames from a ring of 256, and what finds it full is lost unless there is a queue before it.
pub(crate) fn complete(host: &Namespace) {
    switch_offload(host, "eth0", Offload::Transmit, false);
    host.run("tc", &["qdisc", "replace", "dev", "eth0", "root", "pfifo", "limit", "100000"]).ok();
}

/// `ethtool -K device offload on|off`, by the system call that it makes.
pub fn switch_offload(namespace: &Namespace, device: &str, offload: Offload, on: bool) {
    let mut value = u32::from(on);
    ethtool(namespace, device, offload as u32, &mut value).unwrap_or_else(|error| panic!("{offload:?}: {error}"));
}

/// `ethtool -K device txvlan off`.
pub(crate) fn put_tags_into_frames(namespace: &Namespace, device: &str) {
    // ETHTOOL_GFLAGS, ETHTOOL_SFLAGS and ETH_FLAG_TXVLAN of linux/ethtool.h.
    let (get, set, tags) = (0x25, 0x26, 1 << 7);
    let mut flags = 0;
    let ask = |command, flags: &mut u32| {
        ethtool(namespace, device, command, flags).unwrap_or_else(|error| panic!("flags of {device}: {error}"));
    };
    ask(get, &mut flags);
    flags &= !tags;
    ask(set, &mut flags);
}

/// One of ethtool's commands that take or give a number.
fn ethtool(namespace: &Namespace, device: &str, command: u32, value: &mut u32) -> std::io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        value: *mut Value,
        // The kernel's `struct ifreq` has a union of 24 bytes here.
        rest: [u64; 2],
    }
    const SIOCETHTOOL: libc::c_ulong = 0x8946;

    let socket = namespace.enter(|| {
        // SAFETY: plain system call.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
        // SAFETY: a descriptor just opened, owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    let mut passed = Value { command, data: *value };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut passed, rest: [0; 2] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: `request` is an ifreq in layout and size, and points to a value of the form that these commands take.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    *value = passed.data;
    Ok(())
}
