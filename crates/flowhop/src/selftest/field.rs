//! The firewall between two hosts that are played: frames go in on one side and are looked for on the other.
//!
//! The addresses of the played hosts are nobody's, so no kernel answers in their place; the router finds them by
//! permanent neighbours.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use flowhop_wire::build::Spec;
use flowhop_wire::{checksum, protocol};
use serde_json::Value;

use super::policies::Policy;
pub(super) use super::seen::Seen;
use crate::lab::wire::Wire;
use crate::lab::{Bed, Daemon, LabError, Tried, device};

/// How long what has to come may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_millis(60);
/// How long a flow with a timeout of few seconds may take to end.
const OBLIVION: Duration = Duration::from_secs(12);
/// Networks behind the played hosts: to the first of each family two ways lead, and the better one is outside.
const ROUTES: &str = "route add 203.0.113.0/24 via 198.51.100.52 dev wan0\n\
    route add 203.0.113.0/24 via 10.1.0.52 dev lan0 metric 5000\n\
    route add 203.0.114.0/24 via 198.51.100.52 dev wan0\n\
    route add 2001:db8:99::/64 via 2001:db8:0:2::52 dev wan0 metric 10\n\
    route add 2001:db8:99::/64 via fd00:0:0:1::52 dev lan0 metric 5000\n\
    route add 2001:db8:98::/64 via 2001:db8:0:2::52 dev wan0\n";
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

    /// The one across.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
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

/// The firewall and what is around it.
pub struct Field {
    /// The namespaces.
    pub bed: Bed,
    daemon: Mutex<Daemon>,
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
        lines += ROUTES;
        if let Some(mtu) = policy.mtu {
            lines += &format!("link set wan0 mtu {mtu}\n");
        }
        bed.router.ip(&[], &lines)?;
        let daemon = Daemon::start_with(&bed, folder, &policy.text(path))?;
        let field =
            Self { bed, daemon: Mutex::new(daemon), wires: [inside, outside], macs: [a, b], port: Cell::new(20_000) };
        field.warm_up(policy)?;
        Ok(field)
    }

    /// Sends datagrams out until one arrives: devices that have just got a program may lose the first.
    fn warm_up(&self, policy: &Policy) -> Result<(), LabError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let side = if policy.outside { Side::Outside } else { Side::Inside };
            let to = SocketAddr::new(side.host(false, 1), self.fresh());
            let from = self.at(Side::Inside, false);
            let arrived = self.send(Side::Inside, &Spec::udp(from, to, b"x")).and_then(|()| {
                let is = |seen: &Seen| (seen.protocol == protocol::UDP && seen.to() == to).then_some(());
                self.look(side, SILENCE, is)
            });
            if matches!(arrived, Ok(Some(()))) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(LabError::Late("a first datagram".to_owned()));
            }
        }
    }

    /// Ends the firewall.
    ///
    /// # Errors
    /// When it did not end well.
    pub fn stop(self) -> Result<(), LabError> {
        self.daemon.into_inner().map_err(|_| LabError::Late("a thread that failed".to_owned()))?.stop()
    }

    /// `flowhop show WHAT -j`.
    ///
    /// # Errors
    /// What the client says.
    pub fn show(&self, what: &str) -> Result<Value, Fault> {
        Ok(self.daemon()?.show(&self.bed, what)?)
    }

    fn daemon(&self) -> Result<MutexGuard<'_, Daemon>, Fault> {
        self.daemon.lock().map_err(|_| Fault("a thread failed".to_owned()))
    }

    /// The lines of the log with this in them, of which there have to be some.
    ///
    /// # Errors
    /// When there are none.
    pub fn logged(&self, what: &str) -> Result<Vec<String>, Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines: Vec<_> = self.daemon()?.said().iter().filter(|line| line.contains(what)).cloned().collect();
            if !lines.is_empty() {
                return Ok(lines);
            }
            if Instant::now() > end {
                return Err(Fault(format!("nothing is logged with {what}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the flow that was opened from here has ended by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn forgets(&self, source: SocketAddr) -> Result<(), Fault> {
        let end = Instant::now() + OBLIVION;
        while self.flow(source)?.is_some() {
            holds(Instant::now() < end, || format!("the flow from {source} did not end"))?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Waits until nothing that has ended takes room any more: its ports are free.
    ///
    /// # Errors
    /// When something still does after a while.
    pub fn reclaims(&self) -> Result<(), Fault> {
        let end = Instant::now() + OBLIVION;
        loop {
            let status = self.show("status")?;
            let table = &status["status"]["table"];
            let [connections, refusals, free, size] =
                ["connections", "refusals", "free", "size"].map(|key| table[key].as_u64());
            if size.is_some() && connections.zip(refusals).zip(free).map(|((a, b), c)| a + b + c) == size {
                return Ok(());
            }
            holds(Instant::now() < end, || format!("what has ended takes room: {table}"))?;
            thread::sleep(Duration::from_millis(20));
        }
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
            // What waits is looked at even when the time is over.
            let Some(frame) = frame else {
                if left.is_zero() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(found) = Seen::of(frame).as_ref().and_then(&wanted) {
                return Ok(Some(found));
            }
        }
    }

    /// Forgets what has come in on a side so far.
    ///
    /// # Errors
    /// When frames cannot be received.
    pub fn drain(&self, side: Side) -> Result<(), Fault> {
        self.look(side, Duration::ZERO, |_| None::<()>).map(drop)
    }

    /// The next packet on a side of which `is` holds.
    ///
    /// # Errors
    /// When none comes.
    pub fn expect(&self, side: Side, what: &str, is: impl Fn(&Seen) -> bool) -> Result<Seen, Fault> {
        self.expect_within(side, PATIENCE, what, is)
    }

    /// The same, if it comes within a time.
    ///
    /// # Errors
    /// When none comes.
    pub fn expect_within(
        &self,
        side: Side,
        limit: Duration,
        what: &str,
        is: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, Fault> {
        let found = self.look(side, limit, |seen| is(seen).then(|| seen.clone()))?;
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

    /// Sends a packet from a side; what of it arrives on the other.
    ///
    /// # Errors
    /// When nothing does of which `is` holds.
    pub fn crosses(&self, side: Side, spec: &Spec<'_>, is: impl Fn(&Seen) -> bool) -> Result<Seen, Fault> {
        self.send(side, spec)?;
        self.expect(side.other(), &format!("a packet from {side:?}"), is)
    }

    /// The flow that was opened from here, if there is one.
    ///
    /// # Errors
    /// What the client says.
    pub fn flow(&self, source: SocketAddr) -> Result<Option<Value>, Fault> {
        let flows = self.show("flows")?;
        let flows = flows["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let source = source.to_string();
        Ok(flows.iter().find(|flow| flow["forward"]["source"] == source.as_str()).cloned())
    }

    /// How long the flow that was opened from here lasts without packets, in seconds.
    ///
    /// # Errors
    /// When there is none.
    pub fn timeout(&self, source: SocketAddr) -> Result<f64, Fault> {
        let flow = self.flow(source)?.ok_or_else(|| Fault(format!("no flow from {source}")))?;
        flow["timeout_s"].as_f64().ok_or_else(|| Fault(format!("no timeout in {flow}")))
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

    /// Sends a datagram in, to a mapping, that has to arrive at `inside`.
    ///
    /// # Errors
    /// When it does not.
    pub fn admits(&self, from: SocketAddr, to: SocketAddr, inside: SocketAddr) -> Result<Seen, Fault> {
        self.send(Side::Outside, &Spec::udp(from, to, b"answer"))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == inside;
        self.expect(Side::Inside, &format!("a datagram from {from} to {to}"), is)
    }

    /// Sends a datagram in, to a mapping, that must not arrive at `inside`.
    ///
    /// # Errors
    /// When it does.
    pub fn refuses(&self, from: SocketAddr, to: SocketAddr, inside: SocketAddr) -> Result<(), Fault> {
        self.send(Side::Outside, &Spec::udp(from, to, b"answer"))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == inside;
        self.nothing(Side::Inside, &format!("a datagram from {from} to {to}"), is)
    }
}

/// Makes the checksum of the IPv4 header of a frame right.
pub(super) fn right_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let length = usize::from(frame[14] & 15).clamp(1, 5) * 4;
    let sum = checksum::finish(checksum::sum(&frame[14..14 + length]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// A condition that has to hold.
///
/// # Errors
/// When it does not.
pub(super) fn holds(condition: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if condition { Ok(()) } else { Err(Fault(what())) }
}
