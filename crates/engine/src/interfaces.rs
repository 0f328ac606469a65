//! The interfaces that policy names, by port number, interface index and zone.

use std::collections::HashMap;
use std::sync::Arc;

/// Which kernel path carries flows that come in through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FastPath {
    /// None: all of its packets go through user space.
    #[default]
    None,
    /// The tc program on the socket buffer.
    Skb,
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
    /// The device's own link-layer address.
    pub mac: [u8; 6],
    /// Zone number.
    pub zone: u16,
    /// Path of flows that come in here, and why.
    pub fast: FastPath,
    /// Why.
    pub reason: PathReason,
    /// Martian addresses are dropped (RFC 1812 section 5.3.7).
    pub martians: bool,
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
