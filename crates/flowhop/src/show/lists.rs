//! `show rules` and `show interfaces`.

use std::collections::HashMap;

use flowhop_engine::FastPath;
use flowhop_policy::{RuleTarget, ZoneMatch};
use serde_json::{Value, json};

use crate::show::connection::{live, mac};
use crate::show::{Port, View};

impl View {
    pub(super) fn rules(&self) -> Vec<Value> {
        let mut connections: HashMap<u16, u64> = HashMap::new();
        for connection in live(&self.regions) {
            *connections.entry(connection.rule).or_default() += 1;
        }
        let current = &self.policy;
        let identities = current.rules.iter().copied().chain(std::iter::repeat(0));
        current
            .policy
            .rules
            .iter()
            .zip(identities)
            .map(|(rule, identity)| {
                json!({
                    "name": rule.name,
                    "action": rule.action.name(),
                    "from": self.zones(&rule.from),
                    "to": self.targets(&rule.to),
                    "log": rule.log,
                    "accelerate": rule.accelerate,
                    "file": &*rule.file,
                    "line": rule.line,
                    "connections": connections.get(&identity).copied().unwrap_or_default(),
                })
            })
            .collect()
    }

    fn zones(&self, zones: &ZoneMatch) -> Vec<&str> {
        match zones {
            ZoneMatch::Any => vec!["any"],
            ZoneMatch::Zones(set) => set.as_slice().iter().map(|zone| self.policy.policy.zone_name(*zone)).collect(),
        }
    }

    fn targets(&self, target: &RuleTarget) -> Vec<&str> {
        match target {
            RuleTarget::Any => vec!["any"],
            RuleTarget::Zones(set) => set.as_slice().iter().map(|zone| self.policy.policy.zone_name(*zone)).collect(),
            RuleTarget::SelfBox => vec!["self"],
        }
    }

    pub(super) fn interfaces(&self) -> Vec<Value> {
        self.ports
            .iter()
            .map(|port| {
                let interface = &port.interface;
                let present = interface.ifindex != 0;
                json!({
                    "name": &*interface.name,
                    "device": &*interface.device,
                    "zone": port.zone,
                    "ifindex": present.then_some(interface.ifindex),
                    "state": state(port),
                    "path": path(port),
                    "path_reason": interface.reason.name(),
                    "mac": present.then(|| mac(interface.mac)),
                    "mtu": port.mtu,
                    "problem": port.problem,
                })
            })
            .collect()
    }
}

/// `absent` while the device is not there, which blocks what belongs to it.
const fn state(port: &Port) -> &'static str {
    match (port.interface.ifindex, port.up) {
        (0, _) => "absent",
        (_, true) => "up",
        (_, false) => "down",
    }
}

/// The path of flows that come in there.
pub(super) fn path(port: &Port) -> &'static str {
    fast_path_name(port.interface.fast)
}

/// The name of the path that an interface's flows take.
#[must_use]
pub(crate) const fn fast_path_name(fast: FastPath) -> &'static str {
    match fast {
        FastPath::Driver => "driver",
        FastPath::Skb => "skb",
        FastPath::None => "user",
    }
}
