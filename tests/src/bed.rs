//! The test bed: inside host, router, outside host.
//!
//! ```text
//!  inside                    router                       outside
//!  eth0 10.1.0.2      lan0 10.1.0.1   wan0 198.51.100.1   eth0 198.51.100.2
//!  fd00:0:0:1::2      fd00:0:0:1::1   2001:db8:0:2::1     2001:db8:0:2::2
//!                                     wan1 203.0.113.1 -- eth0 203.0.113.2   second (on request)
//!                                     2001:db8:0:3::1     2001:db8:0:3::2
//! ```
//!
//! With [hops](Bed::with_hops), inside and outside host are routers themselves, with a host behind each:
//!
//! ```text
//!  deep            inside                          outside              far
//!  eth0 10.2.0.2   eth1 10.2.0.1  ...  router ...  eth1 198.18.0.1      eth0 198.18.0.2
//!  fd00:0:0:5::2   fd00:0:0:5::1                   2001:db8:0:4::1      2001:db8:0:4::2
//! ```
//!
//! Where the link is a VLAN (see [`Link`]) addresses are on devices over these (`lan0.10`, `eth0.10`).
//!
//! With a second outside host, both outside hosts own the [`Family::roaming`] address, which the router
//! reaches through `wan0` to begin with: a changed route moves its traffic from one to the other.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::namespace::Namespace;
use crate::offloads::{
    Offload, Offloads, complete, complete_and_take_frames, put_tags_into_frames, switch_all, switch_offload,
};
use crate::tools;
use crate::tuntap::{Kind, Pump};

/// Which internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from(v4)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(v6)),
        }
    }

    /// The inside host.
    pub fn inside_host(self) -> IpAddr {
        self.pick([10, 1, 0, 2], [0xfd00, 0, 0, 1, 0, 0, 0, 2])
    }

    /// The router's inside address.
    pub fn inside_router(self) -> IpAddr {
        self.pick([10, 1, 0, 1], [0xfd00, 0, 0, 1, 0, 0, 0, 1])
    }

    /// The outside host.
    pub fn outside_host(self) -> IpAddr {
        self.pick([198, 51, 100, 2], [0x2001, 0xdb8, 0, 2, 0, 0, 0, 2])
    }

    /// The router's outside address: the source of masqueraded connections.
    pub fn outside_router(self) -> IpAddr {
        self.pick([198, 51, 100, 1], [0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])
    }

    /// The second outside host.
    pub fn second_host(self) -> IpAddr {
        self.pick([203, 0, 113, 2], [0x2001, 0xdb8, 0, 3, 0, 0, 0, 2])
    }

    /// The router's address towards the second outside host.
    pub fn second_router(self) -> IpAddr {
        self.pick([203, 0, 113, 1], [0x2001, 0xdb8, 0, 3, 0, 0, 0, 1])
    }

    /// The host behind the inside one.
    pub fn deep_host(self) -> IpAddr {
        self.pick([10, 2, 0, 2], [0xfd00, 0, 0, 5, 0, 0, 0, 2])
    }

    /// The inside host's address towards the one behind it.
    pub fn deep_router(self) -> IpAddr {
        self.pick([10, 2, 0, 1], [0xfd00, 0, 0, 5, 0, 0, 0, 1])
    }

    /// The host behind the outside one.
    pub fn far_host(self) -> IpAddr {
        self.pick([198, 18, 0, 2], [0x2001, 0xdb8, 0, 4, 0, 0, 0, 2])
    }

    /// The outside host's address towards the one behind it.
    pub fn far_router(self) -> IpAddr {
        self.pick([198, 18, 0, 1], [0x2001, 0xdb8, 0, 4, 0, 0, 0, 1])
    }

    /// An address that both outside hosts own.
    pub fn roaming(self) -> IpAddr {
        self.pick([192, 0, 2, 10], [0x2001, 0xdb8, 0, 0xff, 0, 0, 0, 0x10])
    }
}

/// The namespaces of a test and the wires between them.
#[derive(Debug)]
pub struct Bed {
    /// The host whose connections the router serves; its device is `eth0`.
    pub inside: Arc<Namespace>,
    /// The router: `lan0`, `wan0` and perhaps `wan1`; `ip_forward` is 0.
    pub router: Arc<Namespace>,
    /// The host on the far side; its device is `eth0`.
    pub outside: Arc<Namespace>,
    second: Option<Arc<Namespace>>,
    hops: Option<[Arc<Namespace>; 2]>,
    /// What `lan0` and `wan0` are.
    links: [Link; 2],
    pumps: Mutex<Vec<Pump>>,
}

/// What connects the router to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A pair of veth devices.
    Veth,
    /// A VLAN over such a pair, with its tag in the frames.
    Vlan(u16),
    /// A pair of tun devices: packets without a link-layer header.
    Tun,
    /// A pair of tap devices.
    Tap,
}

impl Bed {
    /// A bed with default offloads and one outside host.
    pub fn new(label: &str) -> Self {
        Self::build(label, Offloads::Default, false, [Link::Veth; 2])
    }

    /// A bed with all offloads switched.
    pub fn with_offloads(label: &str, offloads: Offloads) -> Self {
        Self::build(label, offloads, false, [Link::Veth; 2])
    }

    /// A bed with a second outside host behind `wan1`.
    pub fn with_second(label: &str) -> Self {
        Self::build(label, Offloads::Default, true, [Link::Veth; 2])
    }

    /// A bed for a path whose inside and outside hosts are routers with a host behind each. They limit no ICMP errors.
    pub fn with_hops(label: &str, path: &str) -> Self {
        let mut bed = Self::build(label, Offloads::for_path(path), false, [Link::Veth; 2]);
        let [deep, far] = ["deep", "far"].map(|name| Namespace::new(&format!("{label}-{name}")));
        wire(&bed.inside, "eth1", Family::deep_router, &deep, Family::deep_host, Link::Veth);
        wire(&bed.outside, "eth1", Family::far_router, &far, Family::far_host, Link::Veth);
        bed.make_hop(&bed.inside, Family::deep_router, "lan0", Family::inside_host);
        bed.make_hop(&bed.outside, Family::far_router, "wan0", Family::outside_host);
        for namespace in [&bed.inside, &bed.outside, &deep, &far] {
            namespace.sysctl("net/ipv4/icmp_ratelimit", "0");
            namespace.sysctl("net/ipv6/icmp/ratelimit", "0");
        }
        bed.hops = Some([deep, far]);
        bed
    }

    /// Has a host forward, and the router send it what is for the network behind it.
    fn make_hop(&self, hop: &Namespace, behind: Address, device: &str, via: Address) {
        hop.sysctl("net/ipv4/ip_forward", "1");
        hop.sysctl("net/ipv6/conf/all/forwarding", "1");
        let [v4, v6] = Family::BOTH;
        self.router.ip_batch(&format!(
            "route add {}/24 via {} dev {device}\nroute add {}/64 via {} dev {device}\n",
            network(behind(v4)),
            via(v4),
            network(behind(v6)),
            via(v6),
        ));
    }

    /// The hosts behind the inside and the outside one, of [`with_hops`](Self::with_hops).
    pub fn behind(&self) -> [&Arc<Namespace>; 2] {
        self.hops.as_ref().expect("the bed was built with hops").each_ref()
    }

    /// Has inside and outside host refuse to forward packets larger than this to the hosts behind them, as if the link
    /// there were of that MTU; the other way, and the links themselves, stay as they are.
    pub fn narrow(&self, mtu: u32) {
        for (hop, address) in [(&self.inside, Family::deep_router as Address), (&self.outside, Family::far_router)] {
            let [v4, v6] = Family::BOTH.map(|family| network(address(family)));
            hop.ip_batch(&format!(
                "route replace {v4}/24 dev eth1 mtu lock {mtu}\n\
                 route replace {v6}/64 dev eth1 metric 256 mtu lock {mtu}\n"
            ));
        }
    }

    /// A bed whose hosts are as a path wants them: as the kernel makes them, except for `driver`.
    pub fn for_path(label: &str, path: &str) -> Self {
        Self::build(label, Offloads::for_path(path), false, [Link::Veth; 2])
    }

    /// The same with a second outside host.
    pub fn for_path_with_second(label: &str, path: &str) -> Self {
        Self::build(label, Offloads::for_path(path), true, [Link::Veth; 2])
    }

    /// A bed for a path with other links than pairs of veth devices. VLANs need [`has_vlans`](Self::has_vlans).
    pub fn with_links(label: &str, path: &str, links: [Link; 2]) -> Self {
        Self::build(label, Offloads::for_path(path), false, links)
    }

    /// Whether the kernel has VLAN devices.
    pub fn has_vlans() -> bool {
        let namespace = Namespace::new("vlan");
        namespace.ip("link add probe type veth peer name other");
        namespace.tries_ip("link add link probe name tagged type vlan id 10")
    }

    fn build(label: &str, offloads: Offloads, second: bool, links: [Link; 2]) -> Self {
        let bed = Self {
            inside: Namespace::new(&format!("{label}-in")),
            router: Namespace::new(&format!("{label}-rt")),
            outside: Namespace::new(&format!("{label}-out")),
            second: second.then(|| Namespace::new(&format!("{label}-out2"))),
            hops: None,
            links,
            pumps: Mutex::default(),
        };
        bed.connect(&bed.inside, "lan0", Family::inside_router, Family::inside_host);
        bed.connect_outside();
        if let Some(host) = &bed.second {
            bed.connect(host, "wan1", Family::second_router, Family::second_host);
        }
        if second {
            bed.route_roaming(false);
        }
        bed.set_offloads(offloads);
        bed
    }

    /// Connects the outside host to the router's `wan0`, at first or after that device was deleted.
    pub fn connect_outside(&self) {
        self.connect(&self.outside, "wan0", Family::outside_router, Family::outside_host);
    }

    fn connect(&self, host: &Namespace, device: &str, ours: Address, theirs: Address) {
        let link = match device {
            "lan0" => self.links[0],
            "wan0" => self.links[1],
            _ => Link::Veth,
        };
        let pump = wire(&self.router, device, ours, host, theirs, link);
        self.pumps.lock().expect("no thread panics with it").extend(pump);
        if self.second.is_some() && device != "lan0" {
            let [v4, v6] = Family::BOTH.map(Family::roaming);
            host.ip_batch(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"));
        }
    }

    /// The second outside host of [`with_second`](Self::with_second).
    pub fn second(&self) -> &Arc<Namespace> {
        self.second.as_ref().expect("the bed was built with a second outside host")
    }

    /// Routes the roaming addresses to the outside host, or to the second one.
    pub fn route_roaming(&self, to_second: bool) {
        let mut lines = String::new();
        for family in Family::BOTH {
            let (via, device) = match to_second {
                true => (family.second_host(), "wan1"),
                false => (family.outside_host(), "wan0"),
            };
            let _ = writeln!(lines, "route replace {} via {via} dev {device}", family.roaming());
        }
        self.router.ip_batch(&lines);
    }

    /// Switches the offloads of every veth end, the router's and the hosts'.
    pub fn set_offloads(&self, offloads: Offloads) {
        let on = match offloads {
            Offloads::Default => return,
            Offloads::On => true,
            Offloads::Off => false,
            Offloads::Driver => {
                let veths = self.hosts().into_iter().filter(|host| self.is_veth(host));
                veths.for_each(|host| complete_and_take_frames(host));
                return self.send_by_one_queue();
            }
        };
        let mut ends =
            vec![(&self.inside, "eth0"), (&self.outside, "eth0"), (&self.router, "lan0"), (&self.router, "wan0")];
        if let Some(second) = &self.second {
            ends.extend([(second, "eth0"), (&self.router, "wan1")]);
        }
        for (namespace, device) in ends {
            switch_all(namespace, device, on);
        }
    }

    /// A veth device that may send super-packets puts socket buffers into another queue of its peer than frames that
    /// programs redirect to it, and the peer empties the two in any order. With segmentation off there is one queue, so
    /// that what is seen out of order is the router's doing.
    fn send_by_one_queue(&self) {
        for (place, device) in ["lan0", "wan0", "wan1"].into_iter().enumerate().take(self.hosts().len()) {
            if self.links.get(place).is_none_or(|link| matches!(link, Link::Veth)) {
                switch_offload(&self.router, device, Offload::TcpSegmentation, false);
            }
        }
    }

    /// Every host completes its checksums and its segments by itself, as a program in the router's driver needs it
    /// for packets that come in. Whether it takes frames from such a program is another thing: see
    /// [`take_frames`](Self::take_frames).
    pub fn complete_checksums(&self) {
        self.hosts().into_iter().for_each(|host| complete(host));
    }

    /// Whether the router's device on the other side of a host's offers to send what programs redirect to it.
    pub fn take_frames(&self, host: &Namespace, on: bool) {
        switch_offload(host, "eth0", Offload::Coalescing, on);
    }

    /// Whether a host's `eth0` is a veth device, whose offloads can be switched.
    fn is_veth(&self, host: &Namespace) -> bool {
        let end = [&self.inside, &self.outside].iter().position(|one| one.name() == host.name());
        end.is_none_or(|end| matches!(self.links[end], Link::Veth | Link::Vlan(_)))
    }

    /// All hosts; the device of each is `eth0`.
    fn hosts(&self) -> Vec<&Arc<Namespace>> {
        [&self.inside, &self.outside].into_iter().chain(&self.second).collect()
    }

    /// Makes the kernel itself the router, for tests of the bed.
    pub fn forward_by_kernel(&self) {
        self.router.sysctl("net/ipv4/ip_forward", "1");
        self.router.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// The same with masquerading by nftables; false, and plain forwarding, where `nft` is missing.
    pub fn masquerade_by_kernel(&self) -> bool {
        self.forward_by_kernel();
        let chain = "type nat hook postrouting priority srcnat; oifname wan0 masquerade;";
        let rules = format!("table inet t {{ chain c {{ {chain} }}; }}");
        let found = tools::find("nft").is_some();
        if found {
            self.router.run("nft", &[&rules]).ok();
        } else {
            eprintln!("not run: masquerading by the kernel, nft is not installed");
        }
        found
    }

    /// Lets hosts tell their neighbours about a changed hardware address, then changes it.
    pub fn change_mac(&self, host: &Namespace, mac: &str) {
        host.sysctl("net/ipv4/conf/all/arp_notify", "1");
        host.sysctl("net/ipv6/conf/all/ndisc_notify", "1");
        host.ip(&format!("link set dev eth0 address {mac}"));
    }
}

/// The device that addresses go to: itself, or one for a VLAN over it. Either is to be set up by the caller.
///
/// A host puts its tags into its frames instead of beside them, as they would be on a wire: there a program in the
/// driver of the other side sees them.
fn over(namespace: &Namespace, device: &str, link: Link) -> String {
    let Link::Vlan(vlan) = link else { return device.to_owned() };
    if device == "eth0" {
        put_tags_into_frames(namespace, device);
    }
    let name = format!("{device}.{vlan}");
    namespace.ip_batch(&format!("link set {device} up\nlink add link {device} name {name} type vlan id {vlan}\n"));
    name
}

/// One of the addresses of [`Family`].
type Address = fn(Family) -> IpAddr;

/// Connects a router's device to a host's `eth0`, with addresses, and default routes of the host through the router.
fn wire(
    router: &Namespace,
    device: &str,
    ours: Address,
    host: &Namespace,
    theirs: Address,
    link: Link,
) -> Option<Pump> {
    let [v4, v6] = Family::BOTH;
    let ends = [(router, device), (host, "eth0")];
    let pump = match link {
        Link::Veth | Link::Vlan(_) => {
            router.ip(&format!("link add {device} type veth peer name eth0 netns {}", host.name()));
            None
        }
        Link::Tun => Some(Pump::between(Kind::Tun, ends)),
        Link::Tap => Some(Pump::between(Kind::Tap, ends)),
    };
    let (device, eth0) = (over(router, device, link), over(host, "eth0", link));
    router.ip_batch(&format!(
        "addr add {}/24 dev {device}\naddr add {}/64 dev {device} nodad\nlink set {device} up\n",
        ours(v4),
        ours(v6),
    ));
    host.ip_batch(&format!(
        "addr add {}/24 dev {eth0}\naddr add {}/64 dev {eth0} nodad\nlink set {eth0} up\n\
         route add default via {}\nroute add default via {}\n",
        theirs(v4),
        theirs(v6),
        ours(v4),
        ours(v6),
    ));
    pump
}

/// The network of an address of the bed: of 24 or 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// `address:port` in the spelling of URLs and of the daemon.
pub fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
