//! The two ways in which packets come to the daemon: the kernel programs with their punt device, or, without
//! the right to load programs, packet sockets.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use flowhop_engine::interfaces::Interface;
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{PORT_MAPS, local_flags};
use flowhop_io::bpf::{Kernel, KernelError};
use flowhop_io::tap::{self, Tap, TapError};
use flowhop_modules::PortChange;
use flowhop_table::Geometry;
use flowhop_wire::protocol;
use thiserror::Error;

use super::packet_plane::{self, PacketPlane};

/// Why there is no way for packets.
#[derive(Debug, Error)]
pub enum PlaneError {
    /// The kernel programs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The punt device.
    #[error(transparent)]
    Tap(#[from] TapError),
}

impl PlaneError {
    /// Whether it is for want of rights, so that packet sockets may be tried.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Kernel(error) => error.is_denied(),
            Self::Tap(error) => error.is_denied(),
        }
    }
}

/// How packets come and go.
pub(super) enum Plane {
    /// Kernel programs and punt device.
    Kernel(Box<KernelPlane>),
    /// Packet sockets.
    Packet(PacketPlane),
}

/// Kernel programs and punt device.
pub(super) struct KernelPlane {
    pub(super) kernel: Kernel,
    pub(super) tap: Tap,
    attached: HashMap<u32, (u8, [u8; 6])>,
    port_maps: HashMap<Address, u32>,
    own: HashSet<Address>,
}

impl Plane {
    /// Ports that translations may use on the box's own addresses.
    pub(super) const fn own_ports(&self) -> RangeInclusive<u16> {
        match self {
            Self::Kernel(_) => 1024..=u16::MAX,
            Self::Packet(_) => packet_plane::TRANSLATED,
        }
    }
}

impl KernelPlane {
    /// Loads or adopts the programs and takes the punt device.
    pub(super) fn open(state: &Path, geometry: Geometry) -> Result<Self, PlaneError> {
        // Programs first: where they cannot be had, no device is left behind.
        let mut kernel = Kernel::load(state, geometry.into())?;
        let tap = Tap::open(tap::NAME)?;
        if !kernel.pins_last() {
            say!(
                "flowhop: cannot tell whether mounts of this process outlive it; if they do not, the kernel side \
                 ends with the daemon and the interfaces are left open"
            );
        }
        kernel.attach_tap(tap.ifindex())?;
        let mut port_maps = HashMap::new();
        for (address, flags) in kernel.locals()? {
            if flags & local_flags::TRANSLATED != 0 {
                port_maps.insert(address, flags & 0xffff);
            }
        }
        Ok(Self { kernel, tap, attached: HashMap::new(), port_maps, own: HashSet::new() })
    }

    /// Puts the program on an interface, or tells the program of another link-layer address.
    pub(super) fn attach(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let wanted = (interface.port, interface.mac);
        if self.attached.get(&interface.ifindex) == Some(&wanted) {
            return Ok(());
        }
        self.kernel.attach(interface.ifindex, interface.port, interface.mac)?;
        self.attached.insert(interface.ifindex, wanted);
        Ok(())
    }

    /// Takes the program off all interfaces but these.
    pub(super) fn retain(&mut self, ifindexes: &HashSet<u32>) -> Result<(), KernelError> {
        for ifindex in self.kernel.attached()? {
            if ifindex != self.tap.ifindex() && !ifindexes.contains(&ifindex) {
                self.kernel.detach(ifindex)?;
                self.attached.remove(&ifindex);
            }
        }
        Ok(())
    }

    /// Tells the programs the box's own addresses.
    pub(super) fn set_locals(&mut self, addresses: &HashSet<Address>) -> Result<(), KernelError> {
        self.own.clone_from(addresses);
        let known: HashMap<Address, u32> = self.kernel.locals()?.into_iter().collect();
        for address in known.keys().filter(|address| !addresses.contains(*address)) {
            self.kernel.remove_local(address)?;
        }
        for address in addresses {
            let flags = self.port_maps.get(address).map_or(0, |slot| local_flags::TRANSLATED | slot);
            if known.get(address) != Some(&flags) {
                self.kernel.insert_local(address, flags)?;
            }
        }
        Ok(())
    }

    /// Marks ports of the box's own addresses that translations use, so that packets to them come here.
    pub(super) fn note_ports(&mut self, changes: &[PortChange]) -> Result<(), KernelError> {
        for change in changes {
            let endpoint = &change.endpoint;
            let row = match endpoint.protocol {
                protocol::TCP => 0,
                protocol::UDP => 1,
                protocol::ICMP | protocol::ICMPV6 => 2,
                _ => continue,
            };
            if !self.own.contains(&endpoint.address) {
                continue;
            }
            let Some(slot) = self.port_map(&endpoint.address)? else { continue };
            let word = &self.kernel.shared().port_bits[slot as usize].0[row][usize::from(endpoint.port >> 6)];
            let bit = 1u64 << (endpoint.port & 63);
            // One writer: reading and storing the word is as good as an atomic change.
            word.store(if change.used { word.load() | bit } else { word.load() & !bit });
        }
        Ok(())
    }

    /// The bitmap of an own address, a new one if it has none; none when all are taken. Then packets to that
    /// address that no flow knows go to the kernel's stack, and inbound packets to a mapping without a flow are
    /// lost.
    fn port_map(&mut self, address: &Address) -> Result<Option<u32>, KernelError> {
        if let Some(slot) = self.port_maps.get(address) {
            return Ok(Some(*slot));
        }
        let Some(slot) = (0..PORT_MAPS as u32).find(|slot| !self.port_maps.values().any(|taken| taken == slot)) else {
            say!("flowhop: no port map left for {}", key::ip(address));
            return Ok(None);
        };
        for cell in self.kernel.shared().port_bits[slot as usize].0.iter().flatten() {
            cell.store(0);
        }
        self.port_maps.insert(*address, slot);
        self.kernel.insert_local(address, local_flags::TRANSLATED | slot)?;
        Ok(Some(slot))
    }
}

impl AsFd for KernelPlane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}
