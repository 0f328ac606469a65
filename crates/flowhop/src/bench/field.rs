//! Beds for very many flows, and the flows in them.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answer::answer;
use super::bpf::{Kind, Program};
use super::frame::{Frame, Hop};
use super::load::{Form, Shape};
use crate::lab::namespace::{find, run};
use crate::lab::wire::Wire;
use crate::lab::{Bed, Daemon, Family, LabError, Tried, device};

/// First packets in a second. The daemon judges many more, but with this many none waits for room.
const RATE: u32 = 100_000;
/// Later packets of connections that are known to the kernel side.
const FAST: u32 = 400_000;
/// How long first packets that were lost are sent again, where nothing else is said: once through millions of flows takes most of a
/// minute.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// How often they are sent in vain.
const IN_VAIN: u32 = 3;
/// Until packets that were sent have been handled.
const SETTLE: Duration = Duration::from_millis(200);

/// Where sources are that the translation uses: enough for four million connections of each protocol.
pub(super) const POOL: &str = "203.0.113.64-203.0.113.191";

/// A bed with routes for the generated flows.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) bed: Bed,
    /// Of frames from the inside host to the router.
    pub(super) hop: Hop,
    /// Of frames from the router to the outside host.
    pub(super) onward: Hop,
    /// Indices of `eth0` inside, `lan0`, `wan0`, `eth0` outside.
    pub(super) inside: u32,
    pub(super) lan: u32,
    pub(super) wan: u32,
    pub(super) outside: u32,
    /// Flows of UDP and of TCP that were opened, of IPv4 and of IPv6.
    opened: [[u32; 2]; 2],
}

impl Field {
    pub(super) fn new() -> Result<Self, LabError> {
        let bed = Bed::new()?;
        let (inside, inside_mac) = device(&bed.inside, "eth0")?;
        let (lan, lan_mac) = device(&bed.router, "lan0")?;
        let (wan, wan_mac) = device(&bed.router, "wan0")?;
        let (outside, outside_mac) = device(&bed.outside, "eth0")?;
        // Nobody is to ask for addresses while a sink takes everything.
        bed.router.ip(
            &[],
            &format!(
                "neigh replace 10.1.0.2 lladdr {} dev lan0 nud permanent\n\
                 neigh replace fd00:0:0:1::2 lladdr {} dev lan0 nud permanent\n\
                 neigh replace 198.51.100.2 lladdr {} dev wan0 nud permanent\n\
                 neigh replace 2001:db8:0:2::2 lladdr {} dev wan0 nud permanent\n\
                 route add 10.64.0.0/16 via 10.1.0.2\nroute add 192.0.2.0/24 via 198.51.100.2\n\
                 route add fd00:0:0:40::/64 via fd00:0:0:1::2\nroute add 2001:db8:0:9::/64 via 2001:db8:0:2::2\n",
                text(inside_mac),
                text(inside_mac),
                text(outside_mac),
                text(outside_mac)
            ),
        )?;
        let hop = Hop { to: lan_mac, from: inside_mac };
        let onward = Hop { to: outside_mac, from: wan_mac };
        Ok(Self { bed, hop, onward, inside, lan, wan, outside, opened: [[0; 2]; 2] })
    }

    /// The program in the driver of `lan0`.
    pub(super) fn driver_program(&self) -> Result<Program, LabError> {
        let ip = find("ip").ok_or(LabError::Missing { program: "ip", package: "iproute2" })?;
        let mut command = self.bed.router.command(ip, &[]);
        command.args(["-json", "-details", "link", "show", "dev", "lan0"]);
        let text = run(command, "ip", "")?;
        let links: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::from).tried("ip -json")?;
        let id = links[0]["xdp"]["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| LabError::Late("a program in the driver of lan0".to_owned()))?;
        Program::numbered(id, Kind::Xdp).tried("the program in the driver of lan0")
    }

    /// Opens flows through a firewall until it knows all of them, those opened before included; `known` tells how many
    /// it knows. Those of UDP have had a packet, those of TCP their handshake, made by hand at both ends. It
    /// has so long to learn of them. Where they are open already there is nothing to do.
    pub(super) fn open(
        &mut self,
        form: Form,
        flows: u32,
        patience: Duration,
        known: Known<'_>,
    ) -> Result<(), LabError> {
        let [v4, v6] = &mut self.opened;
        let [udp, tcp] = if form.family == Family::V4 { v4 } else { v6 };
        let opened = if form.shape == Shape::Udp { udp } else { tcp };
        if *opened >= flows {
            return Ok(());
        }
        *opened = flows;
        match form.shape {
            Shape::Udp => self.open_udp(form, flows, patience, known),
            Shape::Syn | Shape::Ack => self.open_tcp(form, flows, patience, known),
        }
    }

    fn open_udp(&self, form: Form, flows: u32, patience: Duration, known: Known<'_>) -> Result<(), LabError> {
        self.send(form, flows, RATE)?;
        self.complete(form, flows, patience, known)?;
        // Second packets: whatever happens at those has happened.
        self.send(form, flows, FAST)
    }

    fn open_tcp(&self, form: Form, flows: u32, patience: Duration, known: Known<'_>) -> Result<(), LabError> {
        let stop = Arc::new(AtomicBool::new(false));
        let answering = {
            let (stop, ifindex) = (Arc::clone(&stop), self.outside);
            let wire =
                self.bed.outside.enter(|| Wire::open(ifindex, Some(form.ethertype())))?.tried("a packet socket")?;
            self.bed.outside.thread(move || answer(&wire, &stop).tried("answer TCP connections"))
        };
        let opened = (|| {
            self.send(form.with(Shape::Syn), flows, RATE)?;
            self.complete(form.with(Shape::Syn), flows, patience, known)?;
            thread::sleep(SETTLE);
            // Three times: those whose handshake had not ended are in it still.
            self.send(form.with(Shape::Ack), flows, RATE)?;
            (0..2).try_for_each(|_| self.send(form.with(Shape::Ack), flows, FAST))
        })();
        stop.store(true, Ordering::Release);
        let answered = answering.finish()?;
        opened?;
        if answered < flows {
            return Err(LabError::Late(format!("only {answered} of {flows} TCP connections were answered")));
        }
        Ok(())
    }

    /// Sends first packets again until all opened connections are known.
    fn complete(&self, form: Form, flows: u32, patience: Duration, known: Known<'_>) -> Result<(), LabError> {
        let wanted = self.opened.iter().flatten().copied().map(u64::from).sum();
        let (mut now, mut in_vain) = (0, 0);
        let end = Instant::now() + patience;
        while in_vain < IN_VAIN && Instant::now() < end {
            thread::sleep(SETTLE);
            let before = now;
            now = known(&self.bed)?;
            if now >= wanted {
                return Ok(());
            }
            in_vain = if now > before { 0 } else { in_vain + 1 };
            self.send(form, flows, RATE)?;
        }
        Err(LabError::Late(format!("only {now} of {wanted} connections are known")))
    }

    fn send(&self, form: Form, flows: u32, rate: u32) -> Result<(), LabError> {
        let (ifindex, hop) = (self.inside, self.hop);
        let send = || -> io::Result<()> {
            let frames = (0..flows).map(|flow| Frame::of(hop, form, flow));
            Wire::open(ifindex, None)?.send(frames, rate)
        };
        self.bed.inside.enter(send)?.tried("send first packets")
    }
}

/// Tells how many connections a firewall knows.
pub(super) type Known<'a> = &'a dyn Fn(&Bed) -> Result<u64, LabError>;

/// Connections that the daemon knows.
pub(super) fn connections(bed: &Bed, daemon: &Daemon) -> Result<u64, LabError> {
    let status = daemon.show(bed, "status")?;
    Ok(status["status"]["table"]["connections"].as_u64().unwrap_or(0))
}

/// Connections that the router's kernel knows.
pub(super) fn conntrack_entries(bed: &Bed) -> Result<u64, LabError> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    let text = bed.router.enter(|| fs::read_to_string(path))?.tried(path)?;
    Ok(text.trim().parse().unwrap_or(0))
}

/// A link-layer address as people write it.
pub(super) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the machine's kernel allows for its own connections, all namespaces together.
pub(super) fn conntrack_room() -> u64 {
    let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
