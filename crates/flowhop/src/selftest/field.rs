//! The firewall between two hosts that are played: frames go in on one side and are looked for on the other.
//!
//! The addresses of the played hosts are nobody's, so no kernel answers in their place; the router finds them by
//! permanent neighbours.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use flowhop_wire::build::Spec;
use flowhop_wire::{protocol, verify};

use super::policies::Policy;
use crate::lab::wire::Wire;
use crate::lab::{Bed, Daemon, LabError, Tried, device};

/// How long what has to come may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_millis(60);
/// All ethertypes.
const ALL: u16 = libc::ETH_P_ALL as u16;

/// Why a clause does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<LabError> for Fault {
    fn from(error: LabError) -> Self {
        Self(error.to_string())
    }
}

/// A side of the firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Behind `lan0`.
    Inside,
    /// Behind `wan0`.
    Outside,
}

impl Side {
    /// Its number.
    const fn number(self) -> usize {
        self as usize
    }

    /// The `n`th played host of a family (true: IPv6).
    #[must_use]
    pub fn host(self, six: bool, n: u8) -> IpAddr {
        match (self, six) {
            (Self::Inside, false) => Ipv4Addr::new(10, 1, 0, 50 + n).into(),
            (Self::Outside, false) => Ipv4Addr::new(198, 51, 100, 50 + n).into(),
            (Self::Inside, true) => Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0x50 + u16::from(n)).into(),
            (Self::Outside, true) => Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 0x50 + u16::from(n)).into(),
        }
    }
}

/// Played hosts of a side and family.
const HOSTS: u8 = 4;

/// A frame that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// All of it.
    pub frame: Vec<u8>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol behind the IP header.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Where the transport header begins.
    pub at: usize,
}

impl Seen {
    /// What a frame is; `None` when it is no whole IP packet.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let frame = frame.to_vec();
        let (source, destination, protocol, ttl, at) = match frame.get(12..15)? {
            [8, 0, first] if first >> 4 == 4 => {
                let header = frame.get(14..34)?;
                let address = |at: usize| header.get(at..at + 4)?.first_chunk::<4>().map(|bytes| (*bytes).into());
                (address(12)?, address(16)?, header[9], header[8], 14 + usize::from(first & 15) * 4)
            }
            [0x86, 0xdd, _] => {
                let header = frame.get(14..54)?;
                let address = |at: usize| header.get(at..at + 16)?.first_chunk::<16>().map(|bytes| (*bytes).into());
                (address(8)?, address(24)?, header[6], header[7], 54)
            }
            _ => return None,
        };
        Some(Self { frame, source, destination, protocol, ttl, at })
    }

    /// What is behind the IP header.
    #[must_use]
    pub fn l4(&self) -> &[u8] {
        self.frame.get(self.at..).unwrap_or_default()
    }

    /// Big-endian 16 bits of it.
    #[must_use]
    pub fn word(&self, at: usize) -> u16 {
        self.l4().get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    /// Big-endian 32 bits of it.
    #[must_use]
    pub fn long(&self, at: usize) -> u32 {
        self.l4().get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// Source with port.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.word(0))
    }

    /// Destination with port.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.word(2))
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        if self.protocol == protocol::TCP { self.l4().get(13).copied().unwrap_or(0) & 0x3f } else { 0 }
    }

    /// Type and code, if it is ICMP of its family.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let is = self.protocol == if self.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        match self.l4() {
            [kind, code, ..] if is => Some((*kind, *code)),
            _ => None,
        }
    }

    /// Whether all checksums are right.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let packet = self.frame.get(14..).unwrap_or_default();
        let header = !self.source.is_ipv4() || verify::ipv4_header(packet) == verify::Verified::Valid;
        header && verify::transport(packet).is_acceptable()
    }
}

/// The firewall and what is around it.
pub struct Field {
    /// The namespaces.
    pub bed: Bed,
    daemon: Daemon,
    wires: [Mutex<Wire>; 2],
    /// Addresses of the hosts' devices, and of the router's facing them.
    macs: [([u8; 6], [u8; 6]); 2],
    port: Cell<u16>,
}

impl Field {
    /// With all interfaces on a path, under a policy; the firewall's files are in `folder`.
    ///
    /// # Errors
    /// When the system refuses, or with what the daemon said.
    pub fn new(path: &'static str, folder: &Path, policy: &Policy) -> Result<Self, LabError> {
        let bed = Bed::new()?;
        bed.take_frames()?;
        let side = |host, far| {
            let ((ifindex, mac), (_, router)) = (device(host, "eth0")?, device(&bed.router, far)?);
            let wire = host.enter(|| Wire::open(ifindex, Some(ALL)))?.tried("a packet socket")?;
            Ok::<_, LabError>((Mutex::new(wire), (mac, router)))
        };
        let ((inside, a), (outside, b)) = (side(&bed.inside, "lan0")?, side(&bed.outside, "wan0")?);
        let mut lines = String::new();
        for (side, device, mac) in [(Side::Inside, "lan0", a.0), (Side::Outside, "wan0", b.0)] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            for (six, n) in [false, true].into_iter().flat_map(|six| (0..HOSTS).map(move |n| (six, n))) {
                lines += &format!("neigh replace {} lladdr {mac} dev {device} nud permanent\n", side.host(six, n));
            }
        }
        bed.router.ip(&[], &lines)?;
        let daemon = Daemon::start_with(&bed, folder, &policy.text(path))?;
        Ok(Self { bed, daemon, wires: [inside, outside], macs: [a, b], port: Cell::new(20_000) })
    }

    /// Ends the firewall.
    ///
    /// # Errors
    /// When it did not end well.
    pub fn stop(self) -> Result<(), LabError> {
        self.daemon.stop()
    }

    /// `flowhop show WHAT -j`.
    ///
    /// # Errors
    /// What the client says.
    pub fn show(&self, what: &str) -> Result<serde_json::Value, Fault> {
        Ok(self.daemon.show(&self.bed, what)?)
    }

    /// Packets dropped for a reason so far, on all paths and interfaces.
    ///
    /// # Errors
    /// What the client says.
    pub fn drops(&self, reason: &str) -> Result<u64, Fault> {
        let drops = self.show("drops")?;
        let drops = drops["drops"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(drops.iter().filter(|drop| drop["reason"] == reason).filter_map(|drop| drop["packets"].as_u64()).sum())
    }

    /// A port that nobody has used.
    #[must_use]
    pub fn fresh(&self) -> u16 {
        self.port.replace(self.port.get() + 1)
    }

    /// The first played host of a side and family with a fresh port.
    #[must_use]
    pub fn at(&self, side: Side, six: bool) -> SocketAddr {
        SocketAddr::new(side.host(six, 0), self.fresh())
    }

    /// Sends a packet from a side, as the side's link has it.
    ///
    /// # Errors
    /// When it cannot be built or sent.
    pub fn send(&self, side: Side, spec: &Spec<'_>) -> Result<(), Fault> {
        self.send_frame(side, self.frame(side, spec)?)
    }

    /// A packet as a frame from a side's host to the router.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn frame(&self, side: Side, spec: &Spec<'_>) -> Result<Vec<u8>, Fault> {
        let (host, router) = self.macs[side.number()];
        spec.with_link(host, router).to_vec().map_err(|error| Fault(format!("cannot build {spec:?}: {error}")))
    }

    /// Sends a frame from a side.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send_frame(&self, side: Side, frame: Vec<u8>) -> Result<(), Fault> {
        let wire = self.wires[side.number()].lock().map_err(|_| Fault("a thread failed".to_owned()))?;
        wire.send_all(&mut [frame]).tried("send a frame").map_err(Fault::from)
    }

    /// Looks at what comes in on a side until `wanted` takes something.
    fn look<T>(&self, side: Side, limit: Duration, wanted: impl Fn(&Seen) -> Option<T>) -> Result<Option<T>, Fault> {
        let wire = self.wires[side.number()].lock().map_err(|_| Fault("a thread failed".to_owned()))?;
        let end = Instant::now() + limit;
        let mut buffer = [0; 65_700];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = wire.receive(&mut buffer, left).tried("receive a frame")?;
            if let Some(found) = frame.and_then(Seen::of).as_ref().and_then(&wanted) {
                return Ok(Some(found));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// The next packet on a side of which `is` holds.
    ///
    /// # Errors
    /// When none comes.
    pub fn expect(&self, side: Side, what: &str, is: impl Fn(&Seen) -> bool) -> Result<Seen, Fault> {
        let found = self.look(side, PATIENCE, |seen| is(seen).then(|| seen.clone()))?;
        let seen = found.ok_or_else(|| Fault(format!("{what}: did not come")))?;
        if seen.is_sound() { Ok(seen) } else { Err(Fault(format!("{what}: came with a wrong checksum"))) }
    }

    /// That no packet of which `is` holds comes on a side for a while.
    ///
    /// # Errors
    /// When one comes.
    pub fn nothing(&self, side: Side, what: &str, is: impl Fn(&Seen) -> bool) -> Result<(), Fault> {
        match self.look(side, SILENCE, |seen| is(seen).then(|| seen.clone()))? {
            None => Ok(()),
            Some(seen) => Err(Fault(format!("{what}: came from {} to {}", seen.source, seen.destination))),
        }
    }

    /// Sends a datagram out and tells from where it arrived at `to`.
    ///
    /// # Errors
    /// When it did not.
    pub fn udp_out(&self, from: SocketAddr, to: SocketAddr) -> Result<SocketAddr, Fault> {
        self.send(Side::Inside, &Spec::udp(from, to, b"question"))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
        Ok(self.expect(Side::Outside, &format!("a datagram from {from} to {to}"), is)?.from())
    }

    /// Sends a datagram in, to a mapping; whether it arrives at `inside`.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn udp_in(&self, from: SocketAddr, to: SocketAddr, inside: SocketAddr) -> Result<bool, Fault> {
        self.send(Side::Outside, &Spec::udp(from, to, b"answer"))?;
        let is = |seen: &Seen| (seen.protocol == protocol::UDP && seen.to() == inside).then_some(());
        Ok(self.look(Side::Inside, 3 * SILENCE, is)?.is_some())
    }
}

/// A condition that has to hold.
///
/// # Errors
/// When it does not.
pub(super) fn holds(condition: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if condition { Ok(()) } else { Err(Fault(what())) }
}
