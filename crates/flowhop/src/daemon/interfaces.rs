//! Interfaces of the policy and devices of the system, brought together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowhop_engine::FastPath;
use flowhop_engine::interfaces::Interface;
use flowhop_flow::record::PortKey;
use flowhop_io::bpf::KernelError;
use flowhop_io::device::{Capabilities, DeviceQueries, XdpFeatures};
use flowhop_policy::ForwardingPath;
use flowhop_routing::Link;

use super::Daemon;
use super::plane::Plane;
use crate::convert;
use crate::paths::{self, Facts};

/// How often devices are asked what they can do; the kernel announces links, but not this.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Largest layer-3 packet that surely fits a driver's single buffer, beside the room that it keeps.
const ONE_BUFFER: u32 = 3072;

/// What is known of devices beside what routing knows.
pub(super) struct Devices {
    queries: Option<DeviceQueries>,
    asked: Instant,
    /// What devices said last.
    known: HashMap<u32, Capabilities>,
    /// Devices whose frames had partial checksums in the driver.
    partial: HashSet<u32>,
    /// Devices whose driver refused the program, and its words.
    refused: HashMap<u32, String>,
    /// Doubts that were spoken of, by interface.
    doubts: HashMap<String, String>,
}

impl Devices {
    pub(super) fn open() -> Self {
        let queries = DeviceQueries::open().inspect_err(|error| say!("flowhop: cannot ask devices: {error}")).ok();
        Self {
            queries,
            asked: Instant::now(),
            known: HashMap::new(),
            partial: HashSet::new(),
            refused: HashMap::new(),
            doubts: HashMap::new(),
        }
    }

    /// Asks a device; what it said last stands while it says nothing.
    fn ask(&mut self, ifindex: u32) {
        let answer = self.queries.as_mut().and_then(|queries| queries.capabilities(ifindex).ok());
        if let Some(answer) = answer {
            self.known.insert(ifindex, answer);
        }
    }

    /// Whether a device takes frames of this size from programs in other drivers.
    fn takes_frames(&self, ifindex: u32, mtu: u32) -> bool {
        let needed = if mtu <= ONE_BUFFER {
            XdpFeatures::NDO_XMIT
        } else {
            XdpFeatures::NDO_XMIT.union(XdpFeatures::NDO_XMIT_SG)
        };
        self.known.get(&ifindex).and_then(|device| device.xdp).is_some_and(|xdp| xdp.contains(needed))
    }
}

impl Daemon {
    /// Brings interfaces, programs and adjacencies in line with the policy and the devices that exist.
    pub(super) fn sync_interfaces(&mut self) {
        let refused_before = std::mem::take(&mut self.refused);
        let mut wanted = self.wanted_interfaces();
        let ports: HashSet<u8> = wanted.iter().map(|interface| interface.port).collect();
        let gone: Vec<u8> = self
            .engine
            .interfaces()
            .iter()
            .map(|interface| interface.port)
            .filter(|port| !ports.contains(port))
            .collect();
        // Connections of theirs end with the change of policy that took them out.
        for port in gone {
            self.engine.interfaces_mut().remove(port);
        }
        self.set_aside(&wanted);
        let mut paths_changed = false;
        for interface in &mut wanted {
            self.take_into_use(interface);
            let can = |interface: &Interface| (interface.fast, interface.takes_frames, interface.lower);
            paths_changed |=
                self.engine.interfaces().port(interface.port).is_some_and(|before| can(before) != can(interface));
            self.engine.interfaces_mut().set(interface.clone());
        }
        let retained = match &mut self.outside.plane {
            Plane::Kernel(kernel) => kernel.retain(&wanted, &self.aside).map_err(|error| error.to_string()),
            Plane::Packet(packet) => {
                let present = wanted.iter().map(|interface| interface.ifindex).filter(|ifindex| *ifindex != 0);
                packet.retain(&present.collect());
                Ok(())
            }
        };
        if let Err(error) = retained {
            say!("flowhop: {error}");
        }
        self.open_sockets();
        for (name, why) in self.refused.iter().filter(|refused| !refused_before.contains(refused)) {
            say!("flowhop: interface {name:?} is not taken into use: {why}");
        }
        self.engine.interfaces_changed();
        if paths_changed {
            self.engine.paths_changed();
        }
        self.descriptors_changed = true;
        self.sync_services();
    }

    /// The interfaces as they should be, absent ones with index 0.
    fn wanted_interfaces(&mut self) -> Vec<Interface> {
        let mut wanted = Vec::new();
        let policy = self.policy.clone();
        for spec in &policy.interfaces {
            let Ok(port @ 1..=255) = u8::try_from(self.outside.numbers.ports.number(&spec.name)) else {
                self.refused.push((spec.name.clone(), "more than 255 interfaces".into()));
                continue;
            };
            let link = self.engine.routing().links().find(|link| link.name == spec.device).cloned();
            let usable = link.as_ref().map(paths::usable);
            if let Some(Err(reason)) = &usable {
                self.refused.push((spec.name.clone(), reason.clone()));
            }
            let link = link.filter(|_| matches!(usable, Some(Ok(()))));
            let lower = link.as_ref().map_or(PortKey::of(0), paths::lower);
            let facts = self.facts(link.as_ref(), lower.ifindex);
            let choice = paths::choose(&policy, spec, &facts);
            self.speak_of(&spec.name, spec.path == Some(ForwardingPath::Driver), choice.doubt);
            let mtu = link.as_ref().map_or(0, |link| link.mtu);
            wanted.push(Interface {
                name: Arc::from(spec.name.as_str()),
                device: Arc::from(spec.device.as_str()),
                port,
                ifindex: link.as_ref().map_or(0, |link| link.ifindex),
                mac: link.as_ref().and_then(|link| link.mac).unwrap_or_default(),
                lower,
                partial_checksums: facts.is_virtual(),
                takes_frames: !facts.headerless && self.devices.takes_frames(lower.ifindex, mtu),
                zone: spec.zone.0,
                fast: choice.fast,
                falls_back: policy.paths.allows(ForwardingPath::Skb),
                reason: choice.reason,
                martians: convert::martians(spec.martians),
                reverse_path: convert::reverse_path(spec.rpf),
            });
        }
        wanted
    }

    /// What is known of an interface's device, and of the one below it that has the driver.
    fn facts(&mut self, link: Option<&Link>, lower: u32) -> Facts {
        let Some(link) = link else {
            return Facts { kernel: matches!(self.outside.plane, Plane::Kernel(_)), ..Facts::default() };
        };
        self.devices.ask(lower);
        let below = self.engine.routing().links().find(|link| link.ifindex == lower).unwrap_or(link);
        Facts {
            kernel: matches!(self.outside.plane, Plane::Kernel(_)),
            partial: self.devices.partial.contains(&lower),
            refused: self.devices.refused.get(&lower).cloned(),
            ..Facts::of(link, below, self.devices.known.get(&lower))
        }
    }

    /// Says once what speaks against a path that policy forces.
    fn speak_of(&mut self, name: &str, forced: bool, doubt: Option<String>) {
        let Some(doubt) = doubt.filter(|_| forced) else {
            self.devices.doubts.remove(name);
            return;
        };
        if self.devices.doubts.get(name) != Some(&doubt) {
            say!("flowhop: warning: interface {name:?}: path = \"driver\": {doubt}");
            self.devices.doubts.insert(name.to_owned(), doubt);
        }
    }

    fn take_into_use(&mut self, interface: &mut Interface) {
        if interface.ifindex == 0 {
            return;
        }
        let result = match &mut self.outside.plane {
            Plane::Kernel(kernel) => match kernel.attach(interface) {
                Err(KernelError::Driver { error, .. }) => {
                    say!("flowhop: interface {:?}: the driver takes no program: {error}", interface.name);
                    self.devices.refused.insert(interface.lower.ifindex, error.to_string());
                    interface.fast = FastPath::Skb;
                    interface.reason = flowhop_engine::PathReason::Refused;
                    kernel.attach(interface).map_err(|error| error.to_string())
                }
                other => other.map_err(|error| error.to_string()),
            },
            Plane::Packet(packet) => packet.attach(interface).map_err(|error| error.to_string()),
        };
        if let Err(error) = result {
            self.refused.push((interface.name.to_string(), error));
        }
    }

    /// Frames with partial checksums came through a driver's program: its device takes the path of the socket buffer
    /// from now on.
    pub(super) fn leave_driver(&mut self, port: u8) {
        let Some(interface) = self.engine.interfaces().port(port) else { return };
        if self.devices.partial.insert(interface.lower.ifindex) {
            say!(
                "flowhop: interface {:?}: frames come with partial checksums, which are lost in the driver; it takes \
                  the path `skb` from now on. Have the sending side complete them: ethtool -K … tx off",
                interface.name
            );
            self.sync_interfaces();
        }
    }

    /// Asks the devices again, now and then.
    pub(super) fn ask_devices(&mut self) {
        if self.devices.asked.elapsed() < ASK_EVERY {
            return;
        }
        self.devices.asked = Instant::now();
        let before = self.devices.known.clone();
        let lowers: HashSet<u32> = self.engine.interfaces().iter().map(|interface| interface.lower.ifindex).collect();
        for lower in lowers.into_iter().filter(|lower| *lower != 0) {
            self.devices.ask(lower);
        }
        if self.devices.known == before {
            self.open_sockets();
        } else {
            self.sync_interfaces();
        }
    }

    /// Gives receive queues that have none a socket to hand packets down to.
    fn open_sockets(&mut self) {
        let Plane::Kernel(kernel) = &mut self.outside.plane else { return };
        let known = &self.devices.known;
        match kernel.open_sockets(|ifindex| known.get(&ifindex).map_or(1, |device| device.queues)) {
            Ok(opened) => self.descriptors_changed |= opened,
            Err(error) => say!("flowhop: {error}"),
        }
    }
}
