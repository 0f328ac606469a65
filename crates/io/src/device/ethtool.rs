//! `SIOCETHTOOL`: the driver's name and the queues.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::tap::{ioctl, request, socket};

/// `linux/ethtool.h`; libc has neither the commands nor the structures.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GFLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`: tags are taken off received frames.
const STRIPS_TAGS: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    /// Versions, bus address, and five counts.
    rest: [u8; 160],
}
const _: () = assert!(size_of::<DriverInfo>() == 196);

/// `struct ethtool_channels`. A combined channel is a queue of each direction with one interrupt.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_receive: u32,
    max_transmit: u32,
    max_other: u32,
    max_combined: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

impl Channels {
    /// Receive queues in use, and how many could be. Drivers that know both kinds of channels share the hardware's
    /// queues among them, so their maxima do not add up.
    fn receive_queues(&self) -> (u32, u32) {
        let now = self.receive.saturating_add(self.combined).max(1);
        (now, self.max_receive.max(self.max_combined).max(now))
    }
}

/// A socket to ask through; of what family does not matter.
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?))
    }

    /// The driver's name; empty for devices that do not tell.
    pub(super) fn driver(&self, name: &str) -> io::Result<String> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        // SAFETY: the command fills in this structure.
        if !unsafe { self.ask(name, &mut info)? } {
            return Ok(String::new());
        }
        let text = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Receive queues in use and how many could be; one of one for devices that do not tell.
    pub(super) fn receive_queues(&self, name: &str) -> io::Result<(u32, u32)> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: the command fills in this structure.
        let told = unsafe { self.ask(name, &mut channels)? };
        Ok(if told { channels.receive_queues() } else { (1, 1) })
    }

    /// Whether the device takes VLAN tags off received frames.
    pub(super) fn strips_tags(&self, name: &str) -> io::Result<bool> {
        let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
        // SAFETY: the command fills in this structure.
        let told = unsafe { self.ask(name, &mut flags)? };
        Ok(told && flags.data & STRIPS_TAGS != 0)
    }

    /// Has the kernel carry out the command that `argument` begins with; `false` where the device does not know it.
    ///
    /// # Safety
    /// `T` must be the structure that the command reads and fills in, for which any contents are valid.
    unsafe fn ask<T>(&self, name: &str, argument: &mut T) -> io::Result<bool> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
        // SAFETY: the request reads an `ifreq`, and what that points to is an exclusive borrow of the structure that
        // the command is for (the caller's promise).
        match unsafe { ioctl(self.0.as_fd(), libc::SIOCETHTOOL, &raw const request as libc::c_ulong) } {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_counted_for_both_kinds_of_channels() {
        let none = Channels::default();
        assert_eq!(none.receive_queues(), (1, 1));
        let combined = Channels { combined: 4, max_combined: 16, ..Channels::default() };
        assert_eq!(combined.receive_queues(), (4, 16));
        let separate = Channels { receive: 2, max_receive: 8, transmit: 3, max_transmit: 9, ..Channels::default() };
        assert_eq!(separate.receive_queues(), (2, 8));
        let either = Channels { combined: 4, max_combined: 8, max_receive: 8, ..Channels::default() };
        assert_eq!(either.receive_queues(), (4, 8));
        let both = Channels { combined: 4, receive: 6, max_combined: 8, max_receive: 8, ..Channels::default() };
        assert_eq!(both.receive_queues(), (10, 10));
    }
}
