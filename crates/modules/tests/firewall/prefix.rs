//! Prefix translation for IPv6 (RFC 6296).

use std::net::{IpAddr, SocketAddr};

use flowhop_flow::{Kind, Reason};
use flowhop_policy::PrefixPair;
use flowhop_wire::build::{L4, Spec};

use crate::bed::{Bed, LAN, WAN, at, ends, ip, is_sound};
use crate::mapping::udp;
use crate::translation::{policy, syn};

const PREFIX: &str = "[[nat]]\nname = \"prefix\"\nfamily = \"ipv6\"\nto = \"outside\"\nsource = \"fd00:0:0:1::/64\"\ntranslate.prefix = \"2001:db8:0:9::/64\"\n";
const CLIENT: &str = "[fd00:0:0:1::2]:1000";
const REMOTE: &str = "[2001:db8:0:2::2]:80";

/// What an inside endpoint is known as.
fn outside(inside: &str) -> SocketAddr {
    let pair = PrefixPair::new(("fd00:0:0:1::".parse().unwrap(), 64), ("2001:db8:0:9::".parse().unwrap(), 64)).unwrap();
    let SocketAddr::V6(inside) = at(inside) else { panic!("{inside}") };
    let external = pair.external_of(inside.ip().to_bits()).unwrap();
    SocketAddr::new(IpAddr::V6(external.into()), inside.port())
}

#[test]
fn a_prefix_is_translated_in_both_directions() {
    let mut bed = Bed::with(&policy(&[PREFIX]));
    assert_eq!(bed.connects([LAN, WAN], CLIENT, REMOTE), (outside(CLIENT), at(REMOTE)));
    // From outside as the rules say, which see the inside address.
    let server = outside("[fd00:0:0:1::80]:443");
    assert_eq!(bed.connects([WAN, LAN], REMOTE, &server.to_string()), (at(REMOTE), at("[fd00:0:0:1::80]:443")));
    bed.refused(WAN, &syn(REMOTE, &outside("[fd00:0:0:1::2]:443").to_string()), Kind::Drop, Reason::NoRule);
    // Hairpin: the server sees the client as others would.
    let (seen, inside) = bed.connects([LAN, LAN], CLIENT, &server.to_string());
    assert_eq!((seen, inside), (outside(CLIENT), at("[fd00:0:0:1::80]:443")));
    let echo = Spec::echo_request(ip("fd00:0:0:1::2"), ip("2001:db8:0:2::2"), 7, 1, b"x");
    assert_eq!(bed.send(LAN, &echo).kind, Kind::Forward);
    assert!(is_sound(&bed.last().1));
    // No state but connections, which stay on reload and restart.
    assert!(bed.bindings.is_empty());
    assert_eq!(bed.reload(&policy(&[PREFIX])), (4, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (4, 0));
    assert_eq!(bed.reload(&policy(&[PREFIX])), (4, 0));
    assert_eq!(bed.reload(&policy(&[&PREFIX.replace("0:9::", "0:a::")])), (0, 4));
    bed.ends_clean();
}

// RFC 6296 section 2.6: neutral to checksums, so nothing behind the addresses changes, whatever it is.
#[test]
fn nothing_behind_the_addresses_changes() {
    let mut bed = Bed::with(&policy(&[PREFIX]));
    for protocol in [17, 136, 33, 50] {
        let spec = Spec::new(ip("fd00:0:0:1::2"), ip("2001:db8:0:2::2"), L4::Raw { protocol }, &[7; 24]);
        let spec = if protocol == 17 { udp(CLIENT, at(REMOTE)) } else { spec };
        let sent = spec.with_link(crate::bed::INSIDE_MAC, crate::bed::LAN_MAC).to_vec().unwrap();
        assert_eq!(bed.receive(LAN, sent.clone()).kind, Kind::Forward, "{protocol}");
        let (_, frame) = bed.last();
        assert_eq!(frame[54..], sent[54..]);
        assert_eq!(ends(&frame).0.ip(), outside(CLIENT).ip());
    }
    // RFC 6296 section 3.5: an address that nothing can make up for.
    let odd = udp("[fd00:0:0:1:ffff:ffff:ffff:ffff]:1", at(REMOTE));
    bed.refused(LAN, &odd, Kind::Drop, Reason::NatUnsupported);
    let odd = udp(REMOTE, at("[2001:db8:0:9:ffff:ffff:ffff:ffff]:1"));
    bed.refused(WAN, &odd, Kind::Drop, Reason::NatUnsupported);
    bed.ends_clean();
}
