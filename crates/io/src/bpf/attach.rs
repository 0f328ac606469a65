//! Programs on interfaces: attaching, swapping, taking off, and the map of ports that goes with it.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp};
use aya::util::KernelVersion;
use flowhop_flow::record::{PORT_PROBES, PORTS, PortKey, PortSlot, port_flags};

use super::pins::{Hook, Pins};
use super::run::load_program;
use super::{Kernel, KernelError, Program, Shared};
use crate::tap;

/// A device that is to be a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its interface index.
    pub ifindex: u32,
    /// Its number.
    pub port: u8,
    /// Its link-layer address; zeros where the link has no header.
    pub mac: [u8; 6],
    /// Its link has no header (tun, WireGuard, PPP).
    pub headerless: bool,
    /// What its frames are known by in the driver, if a program there is to judge them: the device that receives them
    /// (itself, or the one below a VLAN interface) and their VLAN id.
    pub driver: Option<PortKey>,
    /// Where the sockets of that device's receive queues begin.
    pub sockets: u16,
    /// That device takes frames from programs in drivers, so that what came in can be sent back.
    pub sends_back: bool,
}

impl Attachment {
    /// An Ethernet device whose packets are judged on the socket buffer.
    #[must_use]
    pub const fn skb(ifindex: u32, port: u8, mac: [u8; 6]) -> Self {
        Self { ifindex, port, mac, headerless: false, driver: None, sockets: 0, sends_back: false }
    }
}

impl Kernel {
    /// Makes an interface a port: enters it into the maps, then attaches the programs, in place of an earlier
    /// daemon's if there are any. The program on the socket buffer comes first, so that what the one in the driver
    /// passes on meets it.
    ///
    /// # Errors
    /// When there is no such interface, no room for it, or it takes no program. Where only the program in the driver
    /// is refused, the port works without it and the error is a `Driver` one.
    pub fn attach(&mut self, port: &Attachment) -> Result<(), KernelError> {
        set_port(&self.shared, port)?;
        let index = self.geometry.index;
        let program = if port.headerless { Program::headerless(index) } else { Program::ingress(index) };
        self.link(port.ifindex, program)?;
        let shared = Arc::clone(&self.shared);
        let record = &shared.ports[usize::from(port.port)];
        let Some(key) = port.driver else {
            record.driver.store(0);
            clear_keys(&shared, port.port, |key| key == PortKey::of(port.ifindex));
            return Ok(());
        };
        enter(&shared, key, port.port)?;
        clear_keys(&shared, port.port, |other| other == key || other == PortKey::of(port.ifindex));
        let linked = self.link_driver(key.ifindex);
        linked.map_err(|error| KernelError::Driver { ifindex: key.ifindex, error: Box::new(error) })?;
        let back = if port.sends_back { port_flags::SENDS_BACK } else { 0 };
        record.driver.store(port_flags::DRIVER | back | u32::from(port.sockets) << 16);
        Ok(())
    }

    /// Makes a device the punt device: attaches the program that carries out orders, and tells the others.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_tap(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.link(ifindex, Program::Tap)?;
        self.shared.config[0].punt_ifindex.store(ifindex);
        Ok(())
    }

    /// Ends what [`attach`](Self::attach) or [`attach_tap`](Self::attach_tap) began on a device's socket buffers. An
    /// interface that is gone or has no program is fine.
    ///
    /// # Errors
    /// When the link's pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), KernelError> {
        Pins::remove(&self.pins.link(Hook::Ingress, ifindex))?;
        clear_port(&self.shared, ifindex);
        let punt = &self.shared.config[0].punt_ifindex;
        if punt.load() == ifindex {
            punt.store(0);
        }
        Ok(())
    }

    /// Has no packet belong to a port any more; programs stay where they are.
    pub fn vacate(&mut self, port: u8) {
        clear_keys(&self.shared, port, |_| false);
        let record = &self.shared.ports[usize::from(port)];
        record.driver.store(0);
        record.ifindex.store(0);
    }

    /// Takes the program out of a device's driver. None there is fine.
    ///
    /// # Errors
    /// When the link's pin cannot be removed.
    pub fn detach_driver(&mut self, ifindex: u32) -> Result<(), KernelError> {
        Pins::remove(&self.pins.link(Hook::Driver, ifindex))
    }

    /// Interfaces that have a program on their socket buffers, an earlier daemon's included.
    ///
    /// # Errors
    /// When the pins cannot be listed.
    pub fn attached(&self) -> Result<Vec<u32>, KernelError> {
        self.pins.links(Hook::Ingress)
    }

    /// Devices that have a program in their driver, an earlier daemon's included.
    ///
    /// # Errors
    /// When the pins cannot be listed.
    pub fn attached_drivers(&self) -> Result<Vec<u32>, KernelError> {
        self.pins.links(Hook::Driver)
    }

    /// Gives the programs in drivers a socket to hand packets down to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_socket(&mut self, slot: u16, socket: impl AsRawFd) -> Result<(), KernelError> {
        let result = self.sockets.set(u32::from(slot), socket, 0);
        result.map_err(|error| KernelError::Map { name: "SOCKETS", error })
    }

    fn link(&mut self, ifindex: u32, program: Program) -> Result<(), KernelError> {
        let path = self.pins.link(Hook::Ingress, ifindex);
        let name = program.name();
        load_program(&mut self.ebpf, program)?;
        let classifier = classifier(&mut self.ebpf, program)?;
        if let Some(pinned) = pinned(ifindex, &path)? {
            let link = SchedClassifierLink::try_from(pinned).map_err(|error| KernelError::Link { ifindex, error })?;
            match classifier.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps the link; what is dropped here is a descriptor.
                    classifier.take_link(id).map_err(|error| KernelError::of_program(name, error))?;
                    return Ok(());
                }
                Err(error) => gone(name, &path, error)?,
            }
        }
        let interface = tap::interface_name(ifindex).ok_or(KernelError::NoInterface(ifindex))?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = classifier.attach_with_options(&interface, TcAttachType::Ingress, options);
        let id = attached.map_err(|error| match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(6, 6, 0) => KernelError::NoTcx(error),
            _ => KernelError::of_program(name, error),
        })?;
        let link = classifier.take_link(id).map_err(|error| KernelError::of_program(name, error))?;
        pin(ifindex, &path, link)
    }

    fn link_driver(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let path = self.pins.link(Hook::Driver, ifindex);
        let program = Program::driver(self.geometry.index);
        let name = program.name();
        load_program(&mut self.ebpf, program)?;
        let driver = driver(&mut self.ebpf, program)?;
        if let Some(pinned) = pinned(ifindex, &path)? {
            let link = XdpLink::try_from(pinned).map_err(|error| KernelError::Link { ifindex, error })?;
            match driver.attach_to_link(link) {
                Ok(id) => {
                    driver.take_link(id).map_err(|error| KernelError::of_program(name, error))?;
                    return Ok(());
                }
                Err(error) => gone(name, &path, error)?,
            }
        }
        let attached = driver.attach_to_if_index(ifindex, XdpMode::Driver);
        let id = attached.map_err(|error| KernelError::of_program(name, error))?;
        let link = driver.take_link(id).map_err(|error| KernelError::of_program(name, error))?;
        pin(ifindex, &path, link)
    }
}

/// The link that is pinned there, if any.
fn pinned(ifindex: u32, path: &Path) -> Result<Option<FdLink>, KernelError> {
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some(FdLink::from(pinned))),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::Link { ifindex, error }),
    }
}

/// A program could not be put on a pinned link: fine, and the pin goes, if the link's device is gone and its index was
/// given to another one.
fn gone(name: &'static str, path: &Path, error: ProgramError) -> Result<(), KernelError> {
    if error_number(&error) == Some(libc::ENOLINK) {
        return Pins::remove(path);
    }
    Err(KernelError::of_program(name, error))
}

fn pin<L: TryInto<FdLink, Error = LinkError>>(ifindex: u32, path: &Path, link: L) -> Result<(), KernelError> {
    let link: FdLink = link.try_into().map_err(|error| KernelError::Link { ifindex, error })?;
    link.pin(path).map(drop).map_err(|error| KernelError::Pin { ifindex, error })
}

pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, KernelError> {
    let name = program.name();
    let found = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    found.try_into().map_err(|error| KernelError::Program { name, error })
}

pub(super) fn driver(ebpf: &mut Ebpf, program: Program) -> Result<&mut Xdp, KernelError> {
    let name = program.name();
    let found = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    found.try_into().map_err(|error| KernelError::Program { name, error })
}

/// Enters a port into the map of ports under its own index: the record first, then the slot that leads to it.
fn set_port(shared: &Shared, port: &Attachment) -> Result<(), KernelError> {
    let record = &shared.ports[usize::from(port.port)];
    record.set_mac(port.mac);
    record.ifindex.store(port.ifindex);
    enter(shared, PortKey::of(port.ifindex), port.port)
}

/// Enters a port under one of its keys.
fn enter(shared: &Shared, key: PortKey, port: u8) -> Result<(), KernelError> {
    let slots = || (0..PORT_PROBES as u32).map(|probe| &shared.port_slots[key.slot(probe) as usize]);
    let slot = slots()
        .find(|slot| slot.port_of(key).is_some())
        .or_else(|| slots().find(|slot| slot.0.load() == 0))
        .ok_or(KernelError::PortsFull(key.ifindex))?;
    slot.0.store(PortSlot::word(key, port));
    Ok(())
}

/// Takes a port's keys out of the map, but for those to be kept.
fn clear_keys(shared: &Shared, port: u8, keep: impl Fn(PortKey) -> bool) {
    for slot in shared.port_slots.iter() {
        if slot.tenant().is_some_and(|(key, number)| number == port && !keep(key)) {
            slot.0.store(0);
        }
    }
}

/// Takes the ports of a device out of the map: the slots first, then the record.
fn clear_port(shared: &Shared, ifindex: u32) {
    for number in 0..PORTS {
        let record = &shared.ports[number];
        if record.ifindex.load() == ifindex {
            clear_keys(shared, number as u8, |_| false);
            record.driver.store(0);
            record.ifindex.store(0);
        }
    }
}

fn error_number(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
