//! The two ways in which packets come to the daemon: the kernel programs with their punt device, or, without
//! the right to load programs, packet sockets.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice};
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use flowhop_engine::interfaces::Interface;
use flowhop_engine::{Arrived, FastPath, Offload, Told};
use flowhop_flow::key::Address;
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{PortKey, Tick};
use flowhop_flow::shadow::Sample;
use flowhop_io::bpf::{Attachment, Kernel, KernelError};
use flowhop_io::tap::metadata::{Order, Punt, TO_STACK, TRANSMIT};
use flowhop_io::tap::{self, Tap, TapError, VirtioHeader};
use flowhop_modules::{Bindings, PortChange, Published};
use flowhop_table::Geometry;
use thiserror::Error;

use super::aside::Aside;
use super::driver_plane::DriverPlane;
use super::locals::Locals;
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
    Packet(Box<PacketPlane>),
}

/// Kernel programs and punt device.
pub(super) struct KernelPlane {
    pub(super) kernel: Kernel,
    pub(super) tap: Tap,
    pub(super) driver: DriverPlane,
    /// Drivers are asked first this time.
    turn: bool,
    attached: HashMap<u32, Attachment>,
    locals: Locals,
    /// What the programs were told for SYN cookies.
    told: Option<Told>,
}

/// What waited in the queues from the kernel.
pub(super) enum Received {
    /// A packet, at this place in the buffer.
    Packet(Arrived, Offload, Range<usize>),
    /// Something that no program of ours handed down.
    Foreign,
    /// Nothing.
    Nothing,
    /// The punt device is gone.
    Failed(io::Error),
}

impl Plane {
    /// The next packet.
    pub(super) fn receive(&mut self, frame: &mut [u8], now: Tick) -> Received {
        match self {
            Self::Kernel(kernel) => kernel.receive(frame, now),
            Self::Packet(packet) => packet
                .receive(frame, now)
                .map_or(Received::Nothing, |(arrived, offload, length)| Received::Packet(arrived, offload, 0..length)),
        }
    }

    /// Has everything leave that was given to be sent; `false` when something is left for a moment.
    pub(super) fn flush(&mut self) -> bool {
        match self {
            Self::Kernel(kernel) => kernel.driver.flush(),
            Self::Packet(_) => true,
        }
    }

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
        let tap = match Tap::open(tap::NAME) {
            Ok(tap) => tap,
            Err(error) => {
                // Another daemon has the punt device. What was made for this one is of use to nobody.
                if !kernel.adopted() {
                    drop(kernel);
                    Kernel::forget(state)?;
                }
                return Err(error.into());
            }
        };
        if !kernel.pins_last() {
            say!(
                "flowhop: cannot tell whether mounts of this process outlive it; if they do not, the kernel side \
                 ends with the daemon and the interfaces are left open"
            );
        }
        kernel.attach_tap(tap.ifindex())?;
        let locals = Locals::adopt(&kernel)?;
        Ok(Self {
            kernel,
            tap,
            driver: DriverPlane::default(),
            turn: false,
            attached: HashMap::new(),
            locals,
            told: None,
        })
    }

    /// Puts the programs on an interface, or tells them of its new ways.
    pub(super) fn attach(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let driver = (interface.fast == FastPath::Driver).then_some(interface.lower);
        let wanted = Attachment {
            ifindex: interface.ifindex,
            port: interface.port,
            mac: interface.mac,
            headerless: interface.mac == [0; 6],
            driver,
            sockets: driver.map_or(0, |lower| self.driver.first_socket(lower.ifindex)),
            sends_back: interface.takes_frames,
        };
        if self.attached.get(&interface.ifindex) != Some(&wanted) {
            self.kernel.attach(&wanted)?;
            self.attached.insert(interface.ifindex, wanted);
        }
        Ok(())
    }

    /// Has a device that was a port be another one, which no interface has: its packets are handed down, and dropped.
    pub(super) fn set_aside(&mut self, aside: &Aside) -> Result<(), KernelError> {
        let Aside { ifindex, port, mac, was, .. } = *aside;
        let wanted = Attachment { headerless: mac == [0; 6], ..Attachment::skb(ifindex, port, mac) };
        if self.attached.get(&ifindex) != Some(&wanted) {
            self.kernel.attach(&wanted)?;
            self.kernel.vacate(was);
            self.attached.insert(ifindex, wanted);
        }
        Ok(())
    }

    /// A device is gone; one that has its number is another one.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }

    /// Takes the programs off everything but these interfaces, and devices that are set aside.
    pub(super) fn retain(&mut self, interfaces: &[Interface], aside: &[Aside]) -> Result<(), KernelError> {
        let drivers: HashSet<u32> = interfaces
            .iter()
            .filter(|interface| interface.ifindex != 0 && interface.fast == FastPath::Driver)
            .map(|interface| interface.lower.ifindex)
            .collect();
        for ifindex in self.kernel.attached_drivers()? {
            if !drivers.contains(&ifindex) {
                self.kernel.detach_driver(ifindex)?;
                if interfaces.iter().any(|interface| interface.lower.ifindex == ifindex) {
                    self.driver.close_when_empty(ifindex);
                } else {
                    self.driver.close(ifindex);
                }
            }
        }
        for ifindex in self.kernel.attached()? {
            let known = interfaces.iter().any(|interface| interface.ifindex == ifindex)
                || aside.iter().any(|aside| aside.ifindex == ifindex);
            if ifindex != self.tap.ifindex() && !known {
                self.kernel.detach(ifindex)?;
                self.attached.remove(&ifindex);
            }
        }
        Ok(())
    }

    /// Opens sockets for receive queues of devices with a program in the driver that have none; tells whether there
    /// are new ones. A device whose number of queues has changed gets its program anew: veth runs it on the queues only
    /// that were there when it came. Until then the program on the socket buffer does the work.
    pub(super) fn open_sockets(&mut self, queues: impl Fn(u32) -> u32) -> Result<bool, KernelError> {
        let mut opened = false;
        let devices: HashSet<u32> =
            self.attached.values().filter_map(|port| port.driver).map(|lower| lower.ifindex).collect();
        for device in devices {
            let queues = queues(device);
            if self.driver.queues_changed(device, queues) {
                self.kernel.detach_driver(device)?;
                let ports = self.attached.values().filter(|port| port.driver.is_some_and(|key| key.ifindex == device));
                ports.copied().collect::<Vec<_>>().iter().try_for_each(|port| self.kernel.attach(port))?;
            }
            opened |= self.driver.open(device, queues, &mut self.kernel);
        }
        Ok(opened)
    }

    /// Tells the programs the box's own addresses, and what of them translations use.
    pub(super) fn set_locals(
        &mut self,
        addresses: &HashSet<Address>,
        published: &Published,
        bindings: &Bindings,
    ) -> Result<(), KernelError> {
        self.locals.set(&mut self.kernel, addresses, published, bindings)
    }

    /// Tells the programs what they need to answer SYNs with cookies. Where sources may come in goes first: until that is
    /// known no service is.
    pub(super) fn tell(&mut self, told: Told) -> Result<(), KernelError> {
        if self.told.as_ref() == Some(&told) {
            return Ok(());
        }
        self.told = None;
        let told_all = self.kernel.set_origins(&told.origins).and_then(|()| self.kernel.set_services(&told.services));
        if let Err(error) = told_all {
            self.kernel.set_services(&HashMap::new())?;
            return Err(error);
        }
        self.told = Some(told);
        Ok(())
    }

    /// The next packet that a program lets be looked at once more.
    pub(super) fn next_sample(&mut self) -> Option<Sample> {
        self.kernel.next_sample()
    }

    /// Marks ports of the box's own addresses that translations use, so that packets to them come here.
    pub(super) fn note_ports(&mut self, changes: &[PortChange]) -> Result<(), KernelError> {
        self.locals.note_ports(&mut self.kernel, changes)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.tap.as_fd(), self.kernel.samples()].into_iter().chain(self.driver.fds())
    }

    /// The next packet: from drivers and from socket buffers by turns.
    fn receive(&mut self, frame: &mut [u8], now: Tick) -> Received {
        self.turn = !self.turn || self.driver.is_closing();
        if self.turn
            && let Some((arrived, offload, place)) = self.driver.receive(frame, now)
        {
            return Received::Packet(arrived, offload, place);
        }
        match self.tap.read(frame) {
            Ok(Some((header, length))) => match frame.first_chunk().and_then(|address| Punt::parse(*address)) {
                Some(punt) => {
                    let arrived = Arrived { port: punt.port, gate: u32::from(punt.gate), driver: false, now };
                    Received::Packet(arrived, offload_of(&header), 0..length)
                }
                None => Received::Foreign,
            },
            Ok(None) if self.turn => Received::Nothing,
            Ok(None) => match self.driver.receive(frame, now) {
                Some((arrived, offload, place)) => Received::Packet(arrived, offload, place),
                None => Received::Nothing,
            },
            // A frame that does not fit is gone; the next one may be well.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Interrupted) => {
                Received::Foreign
            }
            Err(error) => Received::Failed(error),
        }
    }

    /// Sends a frame: by the output's own socket where it has one and the frame is complete, else by an order to the
    /// punt device's program. What was given to sockets leaves first, so that no packet overtakes another.
    pub(super) fn transmit(&mut self, port: u8, ifindex: u32, frame: &mut [u8], offload: &Offload) -> bool {
        let complete = !offload.partial && offload.segmentation == 0;
        let own = self.attached.get(&ifindex).and_then(|port| port.driver) == Some(PortKey::of(ifindex));
        if complete && own && self.driver.send(ifindex, frame) {
            return true;
        }
        self.driver.flush();
        self.order(Order { action: TRANSMIT, port }, frame, offload)
    }

    /// Gives a frame to the kernel's stack.
    pub(super) fn stack(&mut self, port: u8, frame: &mut [u8], offload: &Offload) -> bool {
        self.order(Order { action: TO_STACK, port }, frame, offload)
    }

    /// Hands a frame to the punt device's program with an order in place of its source address.
    fn order(&self, order: Order, frame: &mut [u8], offload: &Offload) -> bool {
        let Some(link) = frame.first_chunk_mut::<ETHERNET>() else { return false };
        link[6..12].copy_from_slice(&order.address());
        let header = VirtioHeader {
            flags: if offload.partial { VirtioHeader::NEEDS_CHECKSUM } else { 0 },
            gso_type: offload.segmentation,
            header_length: offload.headers,
            gso_size: offload.segment,
            checksum_start: offload.checksum_start,
            checksum_offset: offload.checksum_offset,
        };
        self.tap.write(header, &[IoSlice::new(frame)]).is_ok()
    }
}

/// The offload state of a frame that the punt device delivered.
const fn offload_of(header: &VirtioHeader) -> Offload {
    Offload {
        partial: header.flags & VirtioHeader::NEEDS_CHECKSUM != 0,
        verified: header.flags & VirtioHeader::CHECKSUM_VALID != 0,
        checksum_start: header.checksum_start,
        checksum_offset: header.checksum_offset,
        segmentation: header.gso_type,
        segment: header.gso_size,
        headers: header.header_length,
    }
}
