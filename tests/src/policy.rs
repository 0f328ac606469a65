//! Policy files for the bed, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::bed::Family;

/// Builds the text of a policy: what the inside may do outside, whether it is masqueraded, and which
/// path established flows are forced to.
#[derive(Debug, Clone)]
pub struct Policy {
    masquerade: bool,
    path: Option<String>,
    paths: BTreeMap<String, String>,
    devices: BTreeMap<String, String>,
    second: bool,
    services: Option<Vec<String>>,
    accelerate: bool,
    connections: u32,
    extra: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy {
    /// Inside to outside: any service; no translation; paths as the daemon chooses.
    pub fn new() -> Self {
        Self {
            masquerade: false,
            path: None,
            paths: BTreeMap::new(),
            devices: BTreeMap::new(),
            second: false,
            services: None,
            accelerate: true,
            connections: 65536,
            extra: String::new(),
        }
    }

    /// Translates inside sources to the address of the output interface, in both families.
    pub fn masquerade(mut self, on: bool) -> Self {
        self.masquerade = on;
        self
    }

    /// Forces a path (`driver`, `skb`, `user`) on every interface; `default` leaves the choice.
    pub fn path(mut self, path: &str) -> Self {
        self.path = (path != "default").then(|| path.to_owned());
        self
    }

    /// Forces a path on one interface (`lan`, `wan`, `second`), whatever the others have.
    pub fn path_of(mut self, interface: &str, path: &str) -> Self {
        self.paths.insert(interface.to_owned(), path.to_owned());
        self
    }

    /// Another device than the bed's for an interface (`lan`, `wan`, `second`).
    pub fn device(mut self, interface: &str, device: &str) -> Self {
        self.devices.insert(interface.to_owned(), device.to_owned());
        self
    }

    /// Adds `wan1`, for beds with a second outside host.
    pub fn second(mut self) -> Self {
        self.second = true;
        self
    }

    /// Allows only these services from the inside.
    pub fn services(mut self, services: &[&str]) -> Self {
        self.services = Some(services.iter().map(|&service| service.to_owned()).collect());
        self
    }

    /// Keeps the flows of the rule on the user path.
    pub fn unaccelerated(mut self) -> Self {
        self.accelerate = false;
        self
    }

    /// Room in the flow table.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Adds tables of one's own at the end.
    pub fn extra(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self.extra.push('\n');
        self
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = "[interfaces]\n".to_owned();
        let mut interfaces = vec![("lan", "inside"), ("wan", "outside")];
        if self.second {
            interfaces.push(("second", "outside"));
        }
        for (name, zone) in interfaces {
            let device = match (self.devices.get(name), name) {
                (Some(device), _) => device,
                (None, "lan") => "lan0",
                (None, "wan") => "wan0",
                (None, _) => "wan1",
            };
            let path = self.paths.get(name).or(self.path.as_ref());
            let path = path.map_or(String::new(), |path| format!(", path = \"{path}\""));
            let _ = writeln!(text, "{name} = {{ device = \"{device}\", zone = \"{zone}\"{path} }}");
        }
        text.push_str("\n[[rule]]\nname = \"inside to outside\"\nfrom = \"inside\"\nto = \"outside\"\n");
        if let Some(services) = &self.services {
            let _ = writeln!(text, "service = {services:?}");
        }
        if !self.accelerate {
            text.push_str("accelerate = false\n");
        }
        text.push_str("action = \"allow\"\n");
        if self.masquerade {
            for family in Family::BOTH {
                let (name, source, more) = match family {
                    Family::V4 => ("hide the inside", "10.1.0.0/24", ""),
                    Family::V6 => ("hide the inside, IPv6", "fd00:0:0:1::/64", "family = \"ipv6\"\n"),
                };
                let _ = write!(
                    text,
                    "\n[[nat]]\nname = \"{name}\"\nto = \"outside\"\nsource = \"{source}\"\n\
                     translate.source = \"interface\"\n{more}"
                );
            }
        }
        let _ = writeln!(text, "\n[table]\nconnections = {}\n\n{}", self.connections, self.extra);
        text
    }
}
