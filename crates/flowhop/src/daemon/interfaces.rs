//! Interfaces of the policy and devices of the system, brought together.

use std::collections::HashSet;
use std::sync::Arc;

use flowhop_engine::interfaces::Interface;
use flowhop_policy::Martians;
use flowhop_routing::{Link, LinkLayer};

use super::plane::Plane;
use super::{Daemon, policy};

impl Daemon {
    /// Brings interfaces, programs and adjacencies in line with the policy and the devices that exist.
    pub(super) fn sync_interfaces(&mut self) {
        self.refused.clear();
        let wanted = self.wanted_interfaces();
        let ports: HashSet<u8> = wanted.iter().map(|interface| interface.port).collect();
        let gone: Vec<u8> = self
            .engine
            .interfaces()
            .iter()
            .map(|interface| interface.port)
            .filter(|port| !ports.contains(port))
            .collect();
        for port in gone {
            self.engine.interfaces_mut().remove(port);
            self.engine.end_port(port);
        }
        for interface in &wanted {
            self.take_into_use(interface);
            self.engine.interfaces_mut().set(interface.clone());
        }
        let present: HashSet<u32> =
            wanted.iter().map(|interface| interface.ifindex).filter(|ifindex| *ifindex != 0).collect();
        let retained = match &mut self.plane {
            Plane::Kernel(kernel) => kernel.retain(&present).map_err(|error| error.to_string()),
            Plane::Packet(packet) => {
                packet.retain(&present);
                Ok(())
            }
        };
        if let Err(error) = retained {
            say!("flowhop: {error}");
        }
        self.engine.interfaces_changed();
        self.descriptors_changed = true;
    }

    /// The interfaces as they should be, absent ones with index 0.
    fn wanted_interfaces(&mut self) -> Vec<Interface> {
        let kernel = matches!(self.plane, Plane::Kernel(_));
        let mut wanted = Vec::new();
        for spec in &self.policy.interfaces {
            let Ok(port @ 1..=255) = u8::try_from(self.numbers.ports.number(&spec.name)) else {
                self.refused.push((spec.name.clone(), "more than 255 interfaces".into()));
                continue;
            };
            let link = self.engine.routing().links().find(|link| link.name == spec.device);
            let usable = link.map(usable);
            if let Some(Err(reason)) = &usable {
                self.refused.push((spec.name.clone(), (*reason).to_owned()));
            }
            let (fast, reason) = policy::path(&self.policy, spec, kernel);
            let (ifindex, mac) = match usable {
                Some(Ok(pair)) => pair,
                _ => (0, [0; 6]),
            };
            wanted.push(Interface {
                name: Arc::from(spec.name.as_str()),
                device: Arc::from(spec.device.as_str()),
                port,
                ifindex,
                mac,
                zone: spec.zone.0,
                fast,
                reason,
                martians: spec.martians != Martians::Off,
            });
        }
        wanted
    }

    fn take_into_use(&mut self, interface: &Interface) {
        if interface.ifindex == 0 {
            return;
        }
        let result = match &mut self.plane {
            Plane::Kernel(kernel) => kernel.attach(interface).map_err(|error| error.to_string()),
            Plane::Packet(packet) => packet.attach(interface).map_err(|error| error.to_string()),
        };
        if let Err(error) = result {
            say!("flowhop: interface {:?}: {error}", interface.name);
            self.refused.push((interface.name.to_string(), error));
        }
    }
}

/// Index and address of a device that can be an interface, or why it cannot.
fn usable(link: &Link) -> Result<(u32, [u8; 6]), &'static str> {
    match (link.layer2, link.mac) {
        _ if link.loopback => Err("the loopback device forwards nothing"),
        (LinkLayer::Ethernet, Some(mac)) => Ok((link.ifindex, mac)),
        (LinkLayer::Headerless, _) => Err("devices without a link-layer header (tun, ppp, …) are not supported yet"),
        _ => Err("not an Ethernet device"),
    }
}
