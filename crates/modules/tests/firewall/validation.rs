//! IP validation: each check drops with its own reason. See docs/validation.md.

use flowhop_engine::{Martians, Passing, Recording, ReversePath};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, IpPrefix, Route};
use flowhop_wire::build::{Extension, Ip, L4, Spec, V4, V6};
use flowhop_wire::{checksum, icmp4, icmp6, protocol, tcp_flags};

use crate::bed::{Bed, INSIDE_MAC, LAN_MAC, at, ip, is_sound};

const OPEN: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";

const CLIENT: &str = "10.1.0.2:1000";
const SERVER: &str = "198.51.100.2:53";
const CLIENT6: &str = "[fd00:0:0:1::2]:1000";
const SERVER6: &str = "[2001:db8:0:2::2]:53";

impl Bed {
    fn drops(&mut self, port: u8, spec: &Spec<'_>, reason: Reason, what: &str) {
        let before = self.engine.counters().get(port, reason).0;
        let outcome = self.send(port, spec);
        assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, reason), "{what}");
        assert_eq!(self.engine.counters().get(port, reason).0, before + 1, "{what}");
    }

    fn forwards(&mut self, port: u8, spec: &Spec<'_>, what: &str) {
        let outcome = self.send(port, spec);
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded), "{what}");
    }

    fn set(&mut self, port: u8, martians: Martians, reverse_path: ReversePath) {
        let interface = self.engine.interfaces().port(port).unwrap().clone();
        self.engine.interfaces_mut().set(flowhop_engine::Interface { martians, reverse_path, ..interface });
    }

    /// A frame from inside whose bytes from the IP header on are changed; the IPv4 checksum is made right again.
    fn inside(&mut self, spec: &Spec<'_>, change: impl FnOnce(&mut Vec<u8>)) -> (Kind, Reason) {
        let mut frame = spec.with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
        let mut ip = frame.split_off(14);
        change(&mut ip);
        let header = usize::from(ip[0] & 0xf) * 4;
        if ip[0] >> 4 == 4 && header >= 20 && header <= ip.len() {
            ip[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(&ip[..header]));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend_from_slice(&ip);
        let outcome = self.receive(1, frame);
        (outcome.kind, outcome.reason)
    }
}

fn with_options<'a>(options: &'a [u8]) -> Spec<'a> {
    let mut spec = Spec::udp(at(CLIENT), at(SERVER), b"x");
    let Ip::V4(v4) = spec.ip else { panic!("two IPv4 addresses") };
    spec.ip = Ip::V4(V4 { options, ..v4 });
    spec
}

fn with_extensions<'a>(extensions: &'a [Extension<'a>]) -> Spec<'a> {
    let mut spec = Spec::udp(at(CLIENT6), at(SERVER6), b"x");
    let Ip::V6(v6) = spec.ip else { panic!("two IPv6 addresses") };
    spec.ip = Ip::V6(V6 { extensions, ..v6 });
    spec
}

// RFC 1812 section 5.2.2, RFC 8200 section 3: lengths and versions that lie, each in its own name.
#[test]
fn headers_that_lie_are_dropped() {
    let mut bed = Bed::with(OPEN);
    let (v4, v6) = (Spec::udp(at(CLIENT), at(SERVER), &[1; 40]), Spec::udp(at(CLIENT6), at(SERVER6), &[1; 40]));
    let tcp = Spec::tcp(at(CLIENT), at(SERVER), tcp_flags::SYN, &[]);
    let dropped = |reason| (Kind::Drop, reason);
    assert_eq!(bed.inside(&v4, |ip| ip[0] = 0x55), dropped(Reason::BadHeader), "version");
    assert_eq!(bed.inside(&v4, |ip| ip[0] = 0x44), dropped(Reason::BadHeader), "header length");
    assert_eq!(bed.inside(&v4, |ip| ip[2..4].fill(0)), dropped(Reason::BadLength), "total length below the header");
    assert_eq!(bed.inside(&v4, |ip| ip[2] = 1), dropped(Reason::Truncated), "total length beyond the link's");
    assert_eq!(bed.inside(&v4, |ip| ip.truncate(19)), dropped(Reason::Truncated));
    assert_eq!(bed.inside(&v4, |ip| ip[24..26].copy_from_slice(&7u16.to_be_bytes())), dropped(Reason::TransportLength));
    assert_eq!(
        bed.inside(&v4, |ip| ip[24..26].copy_from_slice(&99u16.to_be_bytes())),
        dropped(Reason::TransportLength)
    );
    assert_eq!(bed.inside(&tcp, |ip| ip[32] = 0x40), dropped(Reason::TransportLength), "data offset below the header");
    assert_eq!(bed.inside(&tcp, |ip| ip[32] = 0xf0), dropped(Reason::TransportLength), "data offset beyond the packet");
    assert_eq!(bed.inside(&v4, |ip| ip[30] ^= 1), dropped(Reason::BadChecksum));
    assert_eq!(bed.inside(&v6, |ip| ip[0] = 0x50), dropped(Reason::BadHeader));
    assert_eq!(bed.inside(&v6, |ip| ip[4] = 1), dropped(Reason::Truncated));
    let mut frame = v4.with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
    frame[24] ^= 1;
    assert_eq!(bed.receive(1, frame).reason, Reason::BadIpChecksum);
    // Padding of a minimal frame is no lie.
    assert_eq!(bed.inside(&v4, |ip| ip.resize(100, 0)), (Kind::Forward, Reason::Forwarded));
    assert_eq!(bed.outside.sent.len(), 2, "the others but for what the link cut off are dropped in silence");
}

// RFC 2675, RFC 8200 section 4.1, RFC 5095, RFC 7045.
#[test]
fn extension_headers_out_of_order_are_dropped() {
    let mut bed = Bed::with(OPEN);
    let padding = &[0, 0, 1, 4, 0, 0, 0, 0][..];
    let hop_by_hop = Extension { protocol: protocol::HOP_BY_HOP, bytes: padding };
    let destination = Extension { protocol: protocol::DESTINATION_OPTIONS, bytes: padding };
    let jumbo = Extension { protocol: protocol::HOP_BY_HOP, bytes: &[0, 0, 0xc2, 4, 0, 1, 0, 0] };
    let route = |kind: &'static [u8]| Extension { protocol: protocol::ROUTING, bytes: kind };
    let (old, done, going) =
        (route(&[0, 0, 0, 0, 0, 0, 0, 0]), route(&[0, 0, 4, 0, 0, 0, 0, 0]), route(&[0, 0, 4, 1, 0, 0, 0, 0]));
    bed.forwards(1, &with_extensions(&[hop_by_hop, destination]), "in order");
    bed.drops(1, &with_extensions(&[destination, hop_by_hop]), Reason::HopByHopOrder, "hop-by-hop second");
    bed.drops(1, &with_extensions(&[old]), Reason::RoutingHeader0, "type 0, even without segments left");
    bed.forwards(1, &with_extensions(&[done]), "no segments left (RFC 8200 section 4.4)");
    bed.forwards(1, &with_extensions(&[going]), "segments left, of another type than 0 (RFC 5095 section 4.2)");
    bed.drops(1, &with_extensions(&[jumbo]), Reason::Jumbogram, "a payload length beside it");
    bed.drops(1, &with_extensions(&[destination; 9]), Reason::BadExtensionHeader, "too many");
    let empty = bed.inside(&with_extensions(&[jumbo]), |ip| ip[4..6].fill(0));
    assert_eq!(empty, (Kind::Drop, Reason::Jumbogram));
    let nothing = bed.inside(&with_extensions(&[hop_by_hop]), |ip| ip[4..6].fill(0));
    assert_eq!(nothing, (Kind::Drop, Reason::BadLength));
    let cut = bed.inside(&with_extensions(&[destination]), |ip| ip[41] = 200);
    assert_eq!(cut, (Kind::Drop, Reason::BadExtensionHeader));

    bed.engine.set_passing(Passing { routing_header: false, hop_by_hop: false, ..Passing::default() });
    bed.drops(1, &with_extensions(&[going]), Reason::ExtensionHeader, "by policy");
    bed.drops(1, &with_extensions(&[hop_by_hop]), Reason::ExtensionHeader, "by policy");
    bed.drops(1, &with_extensions(&[old]), Reason::RoutingHeader0, "whatever policy says");
}

// RFC 8200 section 4.2: the two high bits of a type say what happens where it is not known; RFC 4443 section 3.4.
#[test]
fn unknown_options_are_dropped_as_their_type_says() {
    let mut bed = Bed::with(OPEN);
    for (kind, drops, answers) in [(0x1e, false, false), (0x5e, true, false), (0x9e, true, true), (0xde, true, true)] {
        let bytes = [0, 0, kind, 4, 0, 0, 0, 0];
        let unknown = [Extension { protocol: protocol::HOP_BY_HOP, bytes: &bytes }];
        let spec = with_extensions(&unknown);
        if drops {
            bed.drops(1, &spec, Reason::UnknownOption, "unknown");
        } else {
            bed.forwards(1, &spec, "to be skipped");
            bed.outside.sent.clear();
        }
        assert_eq!(bed.outside.sent.len(), usize::from(answers), "type {kind:#x}");
        if answers {
            let (port, frame) = bed.last();
            assert_eq!((port, frame[54], frame[55]), (1, icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_OPTION));
            assert_eq!(frame[58..62], 42u32.to_be_bytes(), "the pointer");
        }
    }
    // Those for the receiver are not looked at.
    let for_host = [Extension { protocol: protocol::DESTINATION_OPTIONS, bytes: &[0, 0, 0xde, 4, 0, 0, 0, 0] }];
    bed.forwards(1, &with_extensions(&for_host), "destination options");
    let broken = [Extension { protocol: protocol::HOP_BY_HOP, bytes: &[0, 0, 5, 9, 0, 0, 0, 0] }];
    bed.drops(1, &with_extensions(&broken), Reason::BadOption, "beyond its header");
}

// RFC 7126 sections 4.3 to 4.23: source routes never pass, others as policy says, unaltered.
#[test]
fn options_pass_by_policy() {
    const RECORD: &[u8] = &[7, 7, 4, 0, 0, 0, 0, 0];
    const STAMP: &[u8] = &[68, 8, 5, 0, 0, 0, 0, 0];
    const ALERT: &[u8] = &[148, 4, 0, 0];
    const LABEL: &[u8] = &[134, 6, 0, 0, 0, 1, 0, 0];
    const STREAM: &[u8] = &[136, 4, 0, 1];
    const EXPERIMENT: &[u8] = &[94, 4, 0, 1];
    const UNKNOWN: &[u8] = &[150, 4, 0, 1];
    let alert6 = [Extension { protocol: protocol::HOP_BY_HOP, bytes: &[0, 0, 5, 2, 0, 1, 1, 0] }];
    let all = [RECORD, STAMP, ALERT, LABEL, STREAM, EXPERIMENT, UNKNOWN];
    let passing = |passes: [bool; 7]| {
        let recording = |passes| if passes { Recording::Pass } else { Recording::Drop };
        let [record_route, timestamp, router_alert, security, obsolete_options, experimental_options, unknown_options] =
            passes;
        let (record_route, timestamp) = (recording(record_route), recording(timestamp));
        Passing {
            record_route,
            timestamp,
            router_alert,
            security,
            obsolete_options,
            experimental_options,
            unknown_options,
            ..Passing::default()
        }
    };
    let mut bed = Bed::with(OPEN);
    let by_default = [false, false, true, true, false, false, true];
    assert_eq!(passing(by_default), Passing::default());
    for passes in [by_default, by_default.map(|passes| !passes)] {
        bed.engine.set_passing(passing(passes));
        for (options, passes) in all.into_iter().zip(passes) {
            if passes {
                bed.forwards(1, &with_options(options), "passes");
                let (_, frame) = bed.last();
                assert_eq!(frame[34..34 + options.len()], *options, "as it was");
            } else {
                bed.drops(1, &with_options(options), Reason::Options, "is dropped");
            }
        }
        if passes[2] {
            bed.forwards(1, &with_extensions(&alert6), "router alert of IPv6");
        } else {
            bed.drops(1, &with_extensions(&alert6), Reason::ExtensionHeader, "router alert of IPv6");
        }
        for source_route in [[131, 7, 4, 192, 0, 2, 1, 0], [137, 7, 8, 192, 0, 2, 1, 0]] {
            bed.drops(1, &with_options(&source_route), Reason::SourceRoute, "source route");
        }
        for broken in [[7, 1, 4, 0], [7, 9, 4, 0], [68, 0, 0, 0]] {
            bed.drops(1, &with_options(&broken), Reason::BadOption, "impossible length");
        }
    }
    bed.engine.set_passing(Passing::default());
    bed.forwards(1, &with_options(&[1, 1, 1, 0]), "padding");
}

// RFC 1812 sections 5.3.13.5, 5.3.13.6 and 5.2.5: the address of the link that the packet leaves by, until it is full.
#[test]
fn routes_and_times_are_recorded_by_policy() {
    let mut bed = Bed::with(OPEN);
    let (record_route, timestamp) = (Recording::Record, Recording::Record);
    bed.engine.set_passing(Passing { record_route, timestamp, ..Passing::default() });
    let own = [198, 51, 100, 1];
    let mut options = vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for place in [3, 7] {
        bed.forwards(1, &with_options(&options), "records");
        let (_, frame) = bed.last();
        assert!(is_sound(&frame));
        options[2] += 4;
        options[place..place + 4].copy_from_slice(&own);
        assert_eq!(frame[34..46], options);
    }
    bed.forwards(1, &with_options(&options), "full");
    assert_eq!(bed.last().1[34..46], options);
    bed.forwards(1, &with_options(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]), "an address and a time");
    let (_, frame) = bed.last();
    assert_eq!(
        (&frame[34..42], frame[42] & 0x80),
        (&[68, 12, 13, 1, 198, 51, 100, 1][..], 0x80),
        "of no standard clock"
    );
    assert!(is_sound(&frame));
}

// RFC 1812 section 4.3.3.5, RFC 792: what no other error is about is told where it is, in the first fragment alone; what
// policy drops is not.
#[test]
fn malformed_headers_of_ipv4_are_answered() {
    let mut bed = Bed::with(OPEN);
    let problem = |bed: &mut Bed| {
        let sent = std::mem::take(&mut bed.outside.sent);
        sent.first().map(|(port, frame)| {
            assert!(is_sound(frame), "{frame:02x?}");
            (*port, frame[34], frame[35], frame[38])
        })
    };
    bed.drops(1, &with_options(&[1, 134, 9, 0]), Reason::BadOption, "longer than the header");
    assert_eq!(problem(&mut bed), Some((1, icmp4::PARAMETER_PROBLEM, 0, 22)), "points at the length");
    bed.drops(1, &with_options(&[1, 1, 1, 134]), Reason::BadOption, "without a length");
    assert_eq!(
        problem(&mut bed),
        Some((1, icmp4::PARAMETER_PROBLEM, 0, 23)),
        "points at the option, not behind the header"
    );
    bed.drops(1, &with_options(&[131, 7, 4, 192, 0, 2, 1, 0]), Reason::SourceRoute, "by policy");
    assert_eq!(problem(&mut bed), None);
    let later = bed.inside(&with_options(&[1, 134, 9, 0]), |ip| ip[6..8].copy_from_slice(&185_u16.to_be_bytes()));
    assert_eq!((later, problem(&mut bed)), ((Kind::Drop, Reason::BadOption), None), "a later fragment");
    let cut = bed
        .inside(&Spec::udp(at(CLIENT), at(SERVER), b"payload"), |ip| ip[2..4].copy_from_slice(&100_u16.to_be_bytes()));
    assert_eq!(cut, (Kind::Drop, Reason::Truncated));
    assert_eq!(
        problem(&mut bed),
        Some((1, icmp4::PARAMETER_PROBLEM, 0, 2)),
        "RFC 1812 section 5.2.2: the total length"
    );
    // What RFC 1812 section 5.2.2 has discarded silently.
    let version = bed.inside(&Spec::udp(at(CLIENT), at(SERVER), b"payload"), |ip| ip[0] = 0x55);
    assert_eq!((version, problem(&mut bed)), ((Kind::Drop, Reason::BadHeader), None));
    let recording = Passing { record_route: Recording::Record, ..Passing::default() };
    bed.engine.set_passing(recording);
    bed.drops(1, &with_options(&[7, 7, 6, 0, 0, 0, 0, 0]), Reason::BadOption, "no whole slot");
    assert_eq!(problem(&mut bed), Some((1, icmp4::PARAMETER_PROBLEM, 0, 22)), "points at the pointer");
}

// RFC 1812 section 5.3.7, RFC 4291, RFC 3927 section 7: where addresses come from and go to.
#[test]
fn addresses_that_are_not_forwarded_are_dropped() {
    let mut bed = Bed::with(OPEN);
    let udp = |source: &str, destination: &str| Spec::udp(at(source), at(destination), b"x");
    for (source, destination, reason) in [
        ("10.1.0.2:1", "10.1.0.2:1", Reason::LandAttack),
        ("127.0.0.1:1", SERVER, Reason::LoopbackAddress),
        (CLIENT, "127.0.0.1:1", Reason::LoopbackAddress),
        ("224.0.0.5:1", SERVER, Reason::MulticastSource),
        ("255.255.255.255:1", SERVER, Reason::MulticastSource),
        ("0.0.0.0:1", SERVER, Reason::MartianSource),
        ("250.0.0.1:1", SERVER, Reason::MartianSource),
        (CLIENT, "0.0.0.1:1", Reason::MartianDestination),
        ("169.254.1.1:1", SERVER, Reason::LinkLocalTransit),
        (CLIENT, "169.254.1.1:1", Reason::LinkLocalTransit),
        (CLIENT, "198.51.100.255:1", Reason::DirectedBroadcast),
        ("198.51.100.1:1", SERVER, Reason::SpoofedSource),
        ("198.51.100.3:1", SERVER, Reason::SpoofedConnected),
        ("[fe80::2]:1", SERVER6, Reason::LinkLocalTransit),
        (CLIENT6, "[fe80::2]:1", Reason::LinkLocalTransit),
        ("[::]:1", SERVER6, Reason::UnspecifiedAddress),
        ("[::1]:1", SERVER6, Reason::LoopbackAddress),
        ("[ff0e::1]:1", SERVER6, Reason::MulticastSource),
        ("[::ffff:10.1.0.2]:1", SERVER6, Reason::MappedAddress),
        (CLIENT6, "[::ffff:198.51.100.2]:1", Reason::MappedAddress),
        ("[2001:db8:0:2::1]:1", SERVER6, Reason::SpoofedSource),
        ("[2001:db8:0:2::9]:1", SERVER6, Reason::SpoofedConnected),
    ] {
        bed.drops(1, &udp(source, destination), reason, &format!("{source} to {destination}"));
    }
    assert!(bed.outside.sent.is_empty(), "none of these is answered");
    assert_eq!(bed.engine.table().live(), 0);
    // From outside: sources that are connected inside.
    bed.drops(2, &udp("10.1.0.66:1", "10.2.0.2:9"), Reason::SpoofedConnected, "an inside source from outside");
    bed.drops(2, &udp("[fd00:0:0:1::66]:1", "[fd00:0:0:1::2]:9"), Reason::SpoofedConnected, "the same in IPv6");
    // The documentation prefixes that this bed uses are refused in the other mode (RFC 6890).
    bed.forwards(1, &udp(CLIENT, SERVER), "RFC 1812");
    bed.set(1, Martians::Registry, ReversePath::Off);
    bed.drops(1, &udp(CLIENT, SERVER), Reason::MartianDestination, "registry");
    bed.drops(1, &udp(CLIENT6, SERVER6), Reason::MartianDestination, "registry");
    bed.drops(1, &udp("192.0.2.7:1", "10.2.0.2:9"), Reason::MartianSource, "registry");
    bed.set(1, Martians::Off, ReversePath::Off);
    bed.forwards(1, &udp("250.0.0.1:1", SERVER), "off");
}

// RFC 1812 section 5.3.1: never forwarded with 0 or 1, and answered.
#[test]
fn time_to_live_ends() {
    let mut bed = Bed::with(OPEN);
    for (source, destination) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
        for ttl in [0, 1] {
            let spec = Spec::udp(at(source), at(destination), b"x").with_ttl(ttl);
            bed.drops(1, &spec, Reason::TtlExceeded, "time to live");
            assert_eq!(bed.last().0, 1);
        }
        bed.forwards(1, &Spec::udp(at(source), at(destination), b"x").with_ttl(2), "time to live");
        let own = if source == CLIENT { "10.1.0.1:9" } else { "[fd00:0:0:1::1]:9" };
        let local = bed.send(1, &Spec::udp(at(source), at(own), b"x").with_ttl(1));
        assert_eq!((local.kind, local.reason), (Kind::Stack, Reason::Local), "not looked at for the box itself");
    }
}

fn route(prefix: &str, gateway: &str, ifindex: u32, metric: u32) -> Route {
    let prefix: IpPrefix = prefix.parse().unwrap();
    Route { metric, ..Route::unicast(prefix, Some(ip(gateway)), ifindex) }
}

// RFC 3704 sections 2.2 to 2.4: what each mode asks of the way back.
#[test]
fn reverse_path_is_judged_when_a_connection_opens() {
    use ReversePath::{Feasible, Loose, Off, Strict};
    let mut bed = Bed::with(OPEN);
    // Behind outside by the best route, behind inside by a worse one; nowhere.
    bed.event(Event::RouteAdded(route("203.0.113.0/25", "198.51.100.3", 12, 10)));
    bed.event(Event::RouteAdded(route("203.0.113.0/25", "10.1.0.3", 11, 100)));
    bed.event(Event::RouteAdded(route("203.0.113.128/25", "198.51.100.3", 12, 10)));
    bed.event(Event::RouteAdded(route("192.0.2.0/25", "10.1.0.3", 11, 10)));
    let mut number = 1;
    for (mode, best, worse, other, nowhere) in [
        (Off, true, true, true, true),
        (Loose, true, true, true, false),
        (Feasible, true, true, false, false),
        (Strict, true, false, false, false),
    ] {
        bed.set(1, Martians::Rfc1812, mode);
        for (source, passes) in
            [("192.0.2.1", best), ("203.0.113.1", worse), ("203.0.113.129", other), ("192.0.2.129", nowhere)]
        {
            number += 1;
            let spec = Spec::udp(at(&format!("{source}:{number}")), at(SERVER), b"x");
            if passes {
                bed.forwards(1, &spec, &format!("{source} {mode:?}"));
            } else {
                bed.drops(1, &spec, Reason::ReversePath, &format!("{source} {mode:?}"));
            }
        }
    }
    // In IPv6 likewise.
    let spec = Spec::udp(at("[2600::1]:1"), at(SERVER6), b"x");
    bed.drops(1, &spec, Reason::ReversePath, "no route");
    bed.event(Event::RouteAdded(route("2600::/16", "fd00:0:0:1::80", 11, 10)));
    bed.forwards(1, &spec, "a route");
}

// RFC 3704: without a way back the source is invalid for what is there too; with one it is valid again.
#[test]
fn a_changed_route_is_judged_with_the_next_packet() {
    let mut bed = Bed::sized(OPEN, 1024, true);
    let inside = route("192.0.2.0/25", "10.1.0.3", 11, 10);
    bed.event(Event::RouteAdded(inside.clone()));
    bed.set(1, Martians::Rfc1812, ReversePath::Strict);
    let spec = Spec::udp(at("192.0.2.1:9"), at(SERVER), b"x");
    bed.forwards(1, &spec, "the route leads inside");
    bed.event(Event::RouteGone(inside.clone()));
    while bed.turn() {}
    bed.drops(1, &spec, Reason::ReversePath, "no route leads anywhere");
    bed.event(Event::RouteAdded(inside.clone()));
    while bed.turn() {}
    bed.forwards(1, &spec, "the route leads inside again");
    // Packets that turn up elsewhere in the zone of their connection are asked the same.
    bed.set(2, Martians::Rfc1812, ReversePath::Loose);
    let interface = bed.engine.interfaces().port(2).unwrap().clone();
    bed.engine.interfaces_mut().set(flowhop_engine::Interface { zone: 0, ..interface });
    bed.forwards(2, &spec, "loose: there is a route");
    bed.set(1, Martians::Rfc1812, ReversePath::Strict);
    bed.forwards(1, &spec, "strict: it leads here");
    bed.set(2, Martians::Rfc1812, ReversePath::Feasible);
    bed.drops(2, &spec, Reason::ReversePath, "feasible: no route leads there");
    bed.set(2, Martians::Rfc1812, ReversePath::Off);
    bed.drops(2, &spec, Reason::WrongInterface, "nothing is said: it has to be where answers go");
    // A policy that asks for more.
    bed.set(1, Martians::Registry, ReversePath::Off);
    bed.reload(OPEN);
    bed.drops(1, &spec, Reason::MartianSource, "documentation prefix");
    assert_eq!(bed.engine.table().live(), 1);
    bed.set(1, Martians::Rfc1812, ReversePath::Off);
    bed.forwards(1, &spec, "allowed again");
}

// An error about a connection is validated as other packets are.
#[test]
fn errors_come_from_valid_sources() {
    let mut bed = Bed::with(OPEN);
    let spec = Spec::udp(at(CLIENT), at(SERVER), b"x");
    bed.forwards(1, &spec, "opens");
    let quoted = bed.last().1.split_off(14);
    for (source, reason) in [
        ("10.2.0.2", Reason::SpoofedConnected),
        ("198.51.100.9", Reason::SpoofedSource),
        ("169.254.0.1", Reason::LinkLocalTransit),
        ("127.0.0.1", Reason::LoopbackAddress),
    ] {
        let l4 = L4::Icmp { kind: 3, code: 1, rest: [0; 4] };
        bed.drops(2, &Spec::new(ip(source), ip("10.1.0.2"), l4, &quoted), reason, source);
    }
    let l4 = L4::Icmp { kind: 3, code: 1, rest: [0; 4] };
    bed.forwards(2, &Spec::new(ip("198.51.100.3"), ip("10.1.0.2"), l4, &quoted), "a router");
}
