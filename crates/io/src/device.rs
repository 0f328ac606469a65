//! What a network device can do: its driver, its receive queues, and what its driver offers to XDP programs.
//!
//! All of it may change while a device is there (queues by `ethtool -L`; what a veth offers depends on its other end),
//! and nothing of it is announced: ask again from time to time. It takes three system calls and no privileges.

mod ethtool;
mod netdev;

use std::io;

use self::ethtool::Ethtool;
use self::netdev::Netdev;
use crate::tap::interface_name;

/// What a device can do, as of the moment when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the driver (`veth`, `virtio_net`, `ice`, …); empty for devices that do not tell.
    pub driver: String,
    /// What the driver offers to XDP programs; `None` where the kernel does not tell (before Linux 6.3).
    pub xdp: Option<XdpFeatures>,
    /// Receive queues in use, at least 1. Devices that do not tell count as one with 1.
    pub queues: u32,
    /// Receive queues that could be in use, at least [`queues`](Self::queues).
    pub max_queues: u32,
    /// VLAN tags are taken off received frames before a program in the driver sees them.
    pub strips_tags: bool,
}

/// What a driver offers to XDP programs (`enum netdev_xdp_act` of `linux/netdev.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Programs run in the driver, and may pass, drop, abort, and send back.
    pub const BASIC: Self = Self(1);
    /// Programs may redirect packets of this device.
    pub const REDIRECT: Self = Self(2);
    /// Packets may be redirected to this device. Some drivers offer that only while a program is attached.
    pub const NDO_XMIT: Self = Self(4);
    /// AF_XDP sockets without a copy.
    pub const XSK_ZEROCOPY: Self = Self(8);
    /// Programs run in the device itself.
    pub const HW_OFFLOAD: Self = Self(16);
    /// Packets of several buffers (jumbo frames) reach programs that can handle them.
    pub const RX_SG: Self = Self(32);
    /// Packets of several buffers may be redirected to this device.
    pub const NDO_XMIT_SG: Self = Self(64);

    /// Everything in `these` is offered.
    #[must_use]
    pub const fn contains(self, these: Self) -> bool {
        self.0 & these.0 == these.0
    }

    /// What is offered by either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags as the kernel numbers them.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Asks the kernel about devices of one network namespace.
pub struct DeviceQueries {
    ethtool: Ethtool,
    netdev: Netdev,
}

impl DeviceQueries {
    /// Opens the sockets in the network namespace that the calling thread is in. They stay there.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn open() -> io::Result<Self> {
        Ok(Self { ethtool: Ethtool::open()?, netdev: Netdev::open()? })
    }

    /// What a device can do. To be called on a thread in the network namespace that the queries were opened in.
    ///
    /// # Errors
    /// `ENODEV` for an index that no device has.
    pub fn capabilities(&mut self, ifindex: u32) -> io::Result<Capabilities> {
        let name = interface_name(ifindex).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let (queues, max_queues) = self.ethtool.receive_queues(&name)?;
        Ok(Capabilities {
            driver: self.ethtool.driver(&name)?,
            xdp: self.netdev.xdp_features(ifindex),
            queues,
            max_queues,
            strips_tags: self.ethtool.strips_tags(&name)?,
        })
    }
}
