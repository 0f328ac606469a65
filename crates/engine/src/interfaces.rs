//! The interfaces that policy names, by port number, interface index and zone.

use std::collections::HashMap;
use std::sync::Arc;

use flowhop_flow::record::PortKey;

use crate::spoofing::ReversePath;
use crate::validate::Martians;

/// Which kernel path carries flows that come in through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FastPath {
    /// None: all of its packets go through user space.
    #[default]
    None,
    /// The tc program on the socket buffer.
    Skb,
    /// The XDP program in the driver, for outputs that take frames from it; else the one on the socket buffer.
    Driver,
}

/// Why a flow's packets take the path they take.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathReason {
    /// The best that input and output can do.
    #[default]
    Default = 0,
    /// The interface is set to this path by policy.
    Interface = 1,
    /// Policy's `[paths] allowed` names no faster one.
    NotAllowed = 2,
    /// The rule says `accelerate = false`.
    Rule = 3,
    /// No kernel programs here (no root, or replay).
    NoKernel = 4,
    /// The output takes no frames from programs in drivers.
    Output = 5,
    /// An operator's command.
    Moved = 6,
    /// Packets with partial checksums came in, which a program in the driver would break.
    PartialChecksum = 7,
    /// The driver refused the program.
    Refused = 8,
    /// The connection is opening, and its SYNs are rewritten.
    Handshake = 9,
    /// A helper looks at the payload of the connection.
    Helper = 10,
    /// IPv6 and IPv4 are translated to each other, which the daemon does itself.
    Nat64 = 11,
    /// Its client was answered with a cookie, and its server has not answered yet.
    SynCookie = 12,
    /// The slow path made something else of one of its packets than the kernel path had (shadow mode).
    Shadow = 13,
}

impl PathReason {
    /// The name that operators see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Interface => "interface",
            Self::NotAllowed => "not_allowed",
            Self::Rule => "rule",
            Self::NoKernel => "no_kernel_path",
            Self::Output => "output",
            Self::Moved => "moved",
            Self::PartialChecksum => "partial_checksum",
            Self::Refused => "driver_refused",
            Self::Handshake => "handshake",
            Self::Helper => "helper",
            Self::Nat64 => "nat64",
            Self::SynCookie => "syn_cookie",
            Self::Shadow => "shadow",
        }
    }

    /// The reason with this number; unknown numbers read as the default.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Interface,
            2 => Self::NotAllowed,
            3 => Self::Rule,
            4 => Self::NoKernel,
            5 => Self::Output,
            6 => Self::Moved,
            7 => Self::PartialChecksum,
            8 => Self::Refused,
            9 => Self::Handshake,
            10 => Self::Helper,
            11 => Self::Nat64,
            12 => Self::SynCookie,
            13 => Self::Shadow,
            _ => Self::Default,
        }
    }
}

/// An interface of policy's.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// Its device.
    pub device: Arc<str>,
    /// Port number.
    pub port: u8,
    /// Interface index; 0 while the device is absent.
    pub ifindex: u32,
    /// The device's own link-layer address; zeros where the link has no header.
    pub mac: [u8; 6],
    /// What drivers know its frames by: the device that carries them (the one below a VLAN interface) and their VLAN
    /// id.
    pub lower: PortKey,
    /// It is a virtual device, whose other side may leave checksums to whoever comes last.
    pub partial_checksums: bool,
    /// That device takes frames from programs in other devices' drivers.
    pub takes_frames: bool,
    /// Zone number.
    pub zone: u16,
    /// Path of flows that come in here, and why.
    pub fast: FastPath,
    /// Flows that a driver's program cannot send on may take the path of the socket buffer.
    pub falls_back: bool,
    /// Why.
    pub reason: PathReason,
    /// Which martian addresses are dropped.
    pub martians: Martians,
    /// Where the sources of what comes in here have to be reachable.
    pub reverse_path: ReversePath,
}

/// All interfaces.
#[derive(Debug, Default)]
pub struct Interfaces {
    by_port: Vec<Option<Interface>>,
    by_ifindex: HashMap<u32, u8>,
}

impl Interfaces {
    /// Adds or replaces an interface by its port number.
    pub fn set(&mut self, interface: Interface) {
        let place = usize::from(interface.port);
        if self.by_port.len() <= place {
            self.by_port.resize(place + 1, None);
        }
        self.by_ifindex.retain(|_, port| *port != interface.port);
        if interface.ifindex != 0 {
            self.by_ifindex.insert(interface.ifindex, interface.port);
        }
        self.by_port[place] = Some(interface);
    }

    /// Takes an interface out.
    pub fn remove(&mut self, port: u8) {
        self.by_ifindex.retain(|_, other| *other != port);
        if let Some(slot) = self.by_port.get_mut(usize::from(port)) {
            *slot = None;
        }
    }

    /// The interface with this port number.
    #[must_use]
    pub fn port(&self, port: u8) -> Option<&Interface> {
        self.by_port.get(usize::from(port))?.as_ref()
    }

    /// The interface with this index.
    #[must_use]
    pub fn ifindex(&self, ifindex: u32) -> Option<&Interface> {
        self.port(*self.by_ifindex.get(&ifindex)?)
    }

    /// All interfaces by port number.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.by_port.iter().flatten()
    }
}
