//! Devices that were interfaces of the policy and are called otherwise now.
//!
//! A policy names devices by their names, so a device with another name is no interface of its any more, and the
//! interface waits for a device of its name. But what was an interface must not become an open door because somebody
//! renamed it: with `ip_forward` on, the kernel would forward what comes in there, past every rule. So the device keeps
//! its program, under a port number that no interface has: packets in transit are handed down and dropped (`no_zone`),
//! those for the box itself still reach it. That lasts until it has its name back, the policy is read again (which is
//! the word of somebody who knows what the devices are called), or it is gone.

use std::collections::HashSet;

use flowhop_engine::interfaces::Interface;

use super::Daemon;
use super::plane::Plane;

/// A device that is set aside.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    /// Its interface index.
    pub(super) ifindex: u32,
    /// A port number that no interface has.
    pub(super) port: u8,
    /// The port number that it had.
    pub(super) was: u8,
    /// Its link-layer address; zeros where the link has no header.
    pub(super) mac: [u8; 6],
    /// Which of the names for such ports it has.
    place: usize,
}

impl Daemon {
    /// Sets aside what was an interface, is still there, and is none of `wanted`.
    pub(super) fn set_aside(&mut self, wanted: &[Interface]) {
        let taken: HashSet<u32> = wanted.iter().map(|interface| interface.ifindex).collect();
        let routing = self.engine.routing();
        self.aside.retain(|aside| !taken.contains(&aside.ifindex) && routing.link(aside.ifindex).is_some());
        let renamed = |interface: &&Interface| {
            interface.ifindex != 0
                && !taken.contains(&interface.ifindex)
                && routing.link(interface.ifindex).is_some_and(|link| *link.name != *interface.device)
        };
        let renamed: Vec<Interface> = self.engine.interfaces().iter().filter(renamed).cloned().collect();
        for interface in renamed {
            let name = self.engine.routing().link(interface.ifindex).map(|link| link.name.clone()).unwrap_or_default();
            say!(
                "flowhop: interface {:?}: device {} is called {name} now; nothing is forwarded through it until it has \
                 its name back or the policy is reloaded",
                interface.name,
                interface.device
            );
            let place = (0..).find(|place| !self.aside.iter().any(|aside| aside.place == *place)).unwrap_or_default();
            let Ok(port) = u8::try_from(self.outside.numbers.ports.number(&format!("(set aside {place})"))) else {
                say!("flowhop: no port number is left to keep {name} closed with");
                continue;
            };
            let (ifindex, was, mac) = (interface.ifindex, interface.port, interface.mac);
            self.aside.push(Aside { ifindex, port, was, mac, place });
        }
        if let Plane::Kernel(kernel) = &mut self.outside.plane {
            for aside in &self.aside {
                if let Err(error) = kernel.set_aside(aside) {
                    say!("flowhop: {error}");
                }
            }
        }
    }
}
