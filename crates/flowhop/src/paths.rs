//! Which kernel path an interface's flows take, and why: one answer for the daemon, `show` and `doctor`.

use flowhop_engine::{FastPath, PathReason};
use flowhop_flow::record::PortKey;
use flowhop_io::device::{Capabilities, XdpFeatures};
use flowhop_policy::{ForwardingPath, Interface, Policy};
use flowhop_routing::{Link, LinkLayer};

/// Drivers of virtual devices: their peers leave checksums and segmentation to whoever comes last, which a program in
/// the driver would have to do without.
const VIRTUAL: [&str; 8] = ["veth", "tun", "virtio_net", "vif", "xen_netfront", "hv_netvsc", "vmxnet3", "dummy"];

/// What is known of an interface's device.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Kernel programs can be had.
    pub kernel: bool,
    /// Its link has no header.
    pub headerless: bool,
    /// The kind of a device that the kernel makes up (`veth`, `bridge`, …); that of the device below a VLAN interface.
    pub kind: Option<String>,
    /// Its driver's name, empty if it does not tell.
    pub driver: String,
    /// What its driver offers to programs; `None` if the kernel does not tell.
    pub xdp: Option<XdpFeatures>,
    /// The device takes VLAN tags off before a program in the driver sees the frame.
    pub strips_tags: bool,
    /// Frames with partial checksums came through its driver's program.
    pub partial: bool,
    /// Why its driver did not take the program.
    pub refused: Option<String>,
}

impl Facts {
    /// What is known of a link and of the one below it that has the driver (itself, unless it is a VLAN interface).
    #[must_use]
    pub fn of(link: &Link, below: &Link, device: Option<&Capabilities>) -> Self {
        Self {
            kernel: true,
            headerless: link.layer2 == LinkLayer::Headerless,
            kind: below.kind.clone(),
            driver: device.map(|device| device.driver.clone()).unwrap_or_default(),
            xdp: device.and_then(|device| device.xdp),
            strips_tags: device.is_some_and(|device| device.strips_tags),
            partial: false,
            refused: None,
        }
    }

    /// Whether the device is not a piece of hardware.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.kind.is_some() || VIRTUAL.contains(&self.driver.as_str())
    }
}

/// A choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The path.
    pub fast: FastPath,
    /// Why.
    pub reason: PathReason,
    /// What speaks against a path that was forced, or stands in the way of a faster one.
    pub doubt: Option<String>,
}

/// The path of flows that come in through an interface.
#[must_use]
pub fn choose(policy: &Policy, interface: &Interface, facts: &Facts) -> Choice {
    let choice = |fast, reason, doubt| Choice { fast, reason, doubt };
    if !facts.kernel {
        return choice(FastPath::None, PathReason::NoKernel, None);
    }
    let allowed = |path| policy.paths.allows(path);
    let (obstacle, risk) = (obstacle(facts), risk(facts));
    match interface.path {
        Some(ForwardingPath::User) => return choice(FastPath::None, PathReason::Interface, None),
        Some(ForwardingPath::Skb) => return choice(FastPath::Skb, PathReason::Interface, None),
        Some(ForwardingPath::Driver) => {
            return match obstacle {
                None => choice(FastPath::Driver, PathReason::Interface, risk),
                Some((reason, why)) => choice(FastPath::Skb, reason, Some(why)),
            };
        }
        None => {}
    }
    let driver = allowed(ForwardingPath::Driver) && obstacle.is_none();
    if driver && risk.is_none() {
        return choice(FastPath::Driver, PathReason::Default, None);
    }
    if allowed(ForwardingPath::Skb) {
        let (reason, why) = obstacle.map_or((PathReason::Default, risk), |(reason, why)| (reason, Some(why)));
        let reason = if reason == PathReason::PartialChecksum { reason } else { PathReason::Default };
        return choice(FastPath::Skb, reason, why);
    }
    if driver {
        return choice(FastPath::Driver, PathReason::NotAllowed, risk);
    }
    choice(FastPath::None, PathReason::NotAllowed, obstacle.map(|(_, why)| why))
}

/// What makes the path in the driver impossible.
fn obstacle(facts: &Facts) -> Option<(PathReason, String)> {
    if facts.partial {
        let why = "frames with partial checksums come in, which a program in the driver would send on broken";
        return Some((PathReason::PartialChecksum, why.to_owned()));
    }
    if let Some(why) = &facts.refused {
        return Some((PathReason::Refused, why.clone()));
    }
    if facts.headerless {
        return Some((PathReason::Refused, "its link has no Ethernet header".to_owned()));
    }
    let needed = XdpFeatures::BASIC.union(XdpFeatures::REDIRECT);
    match facts.xdp {
        Some(features) if !features.contains(needed) => {
            let driver = if facts.driver.is_empty() { "its driver" } else { &facts.driver };
            Some((PathReason::Refused, format!("{driver} has no native XDP with redirection")))
        }
        _ => None,
    }
}

/// What makes it unwise.
fn risk(facts: &Facts) -> Option<String> {
    if facts.is_virtual() {
        let name = facts.kind.as_deref().unwrap_or(&facts.driver);
        return Some(format!(
            "{name} devices hand over partial checksums and super-packets, which XDP breaks or ends: have the other \
             side complete checksums (ethtool -K … tx off)"
        ));
    }
    if facts.xdp.is_none() {
        return Some("the kernel does not tell what the driver can do".to_owned());
    }
    facts.strips_tags.then(|| {
        "the device takes VLAN tags off before a program in the driver sees them: ethtool -K … rxvlan off".to_owned()
    })
}

/// What drivers know an interface's frames by.
#[must_use]
pub fn lower(link: &Link) -> PortKey {
    match (link.kind.as_deref(), link.lower, link.vlan) {
        (Some("vlan"), Some(ifindex), Some(vid)) => PortKey { ifindex, vid },
        _ => PortKey::of(link.ifindex),
    }
}

/// Whether a device can be an interface.
///
/// # Errors
/// Why it cannot.
pub fn usable(link: &Link) -> Result<(), String> {
    if link.loopback {
        return Err("the loopback device forwards nothing".to_owned());
    }
    match link.master_kind.as_deref() {
        Some("bridge") => return Err("it is a port of a bridge; name the bridge instead".to_owned()),
        Some("bond" | "team") => return Err("it is part of a bond; name the bond instead".to_owned()),
        _ => {}
    }
    match (link.layer2, link.mac) {
        (LinkLayer::Ethernet, Some(_)) | (LinkLayer::Headerless, _) => Ok(()),
        _ => Err("neither an Ethernet device nor one without link-layer header".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: Option<ForwardingPath> = Some(ForwardingPath::Driver);

    fn choice(allowed: &[ForwardingPath], path: Option<ForwardingPath>, facts: &Facts) -> Choice {
        let mut policy = Policy::default();
        policy.paths.allowed = (!allowed.is_empty()).then(|| allowed.to_vec());
        let interface = Interface {
            name: "lan".into(),
            device: "lan0".into(),
            zone: flowhop_policy::ZoneId(0),
            path,
            rpf: flowhop_policy::ReversePath::Off,
            martians: flowhop_policy::Martians::Off,
            line: 1,
        };
        choose(&policy, &interface, facts)
    }

    fn physical() -> Facts {
        let xdp = Some(XdpFeatures::BASIC.union(XdpFeatures::REDIRECT));
        Facts { kernel: true, driver: "mlx5_core".into(), xdp, ..Facts::default() }
    }

    fn veth() -> Facts {
        Facts { kind: Some("veth".into()), driver: "veth".into(), ..physical() }
    }

    // B9: the driver where it can, the socket buffer where the driver would do harm.
    #[test]
    fn the_default_is_the_driver_on_physical_devices_only() {
        let plain = choice(&[], None, &physical());
        assert_eq!((plain.fast, plain.reason, plain.doubt), (FastPath::Driver, PathReason::Default, None));
        let virtual_one = choice(&[], None, &veth());
        assert_eq!((virtual_one.fast, virtual_one.reason), (FastPath::Skb, PathReason::Default));
        assert!(virtual_one.doubt.unwrap().contains("veth"));
        let strips = choice(&[], None, &Facts { strips_tags: true, ..physical() });
        assert!(strips.fast == FastPath::Skb && strips.doubt.unwrap().contains("rxvlan"));
        let old = choice(&[], None, &Facts { xdp: Some(XdpFeatures::BASIC), ..physical() });
        assert!(old.fast == FastPath::Skb && old.doubt.unwrap().contains("mlx5_core"));
    }

    #[test]
    fn a_forced_driver_is_doubted_but_done_unless_it_breaks_packets() {
        let forced = choice(&[], DRIVER, &veth());
        assert_eq!((forced.fast, forced.reason), (FastPath::Driver, PathReason::Interface));
        assert!(forced.doubt.is_some());
        let broken = choice(&[], DRIVER, &Facts { partial: true, ..veth() });
        assert_eq!((broken.fast, broken.reason), (FastPath::Skb, PathReason::PartialChecksum));
    }

    #[test]
    fn what_is_not_allowed_is_not_chosen() {
        let user = choice(&[ForwardingPath::User], None, &physical());
        assert_eq!((user.fast, user.reason), (FastPath::None, PathReason::NotAllowed));
        let driver = choice(&[ForwardingPath::Driver, ForwardingPath::User], None, &veth());
        assert_eq!((driver.fast, driver.reason), (FastPath::Driver, PathReason::NotAllowed));
        let skb = choice(&[ForwardingPath::Skb], None, &physical());
        assert_eq!((skb.fast, skb.reason), (FastPath::Skb, PathReason::Default));
        let none = choice(&[], None, &Facts::default());
        assert_eq!((none.fast, none.reason), (FastPath::None, PathReason::NoKernel));
    }
}
