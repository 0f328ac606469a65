//! Where nothing is translated, or only addresses are: permission alone (RFC 6887 section 11.3, RFC 6092); and IPv4
//! addresses for IPv6 hosts (section 10).

use flowhop_flow::Reason;
use flowhop_wire::pcp::ResultCode;
use flowhop_wire::protocol::{TCP, UDP};

use super::{Ask, OUT, PCP, filter_option};
use crate::bed::{Bed, LAN, WAN, at};
use crate::mapping::udp;
use crate::translation::syn;

const V6_HOST: &str = "fd00:0:0:1::2";
const V6_REMOTE: &str = "[2001:db8:0:2::2]:50000";

// RFC 6092 section 3.4 asks for such a protocol.
#[test]
fn an_ipv6_host_opens_the_firewall_for_itself() {
    let text = format!("{OUT}{PCP}");
    let mut bed = Bed::with(&text);
    let inside = at("[fd00:0:0:1::2]:8080");
    assert!(!bed.reached(V6_REMOTE, inside, "[fd00:0:0:1::2]:8080"));
    let ask = Ask::new(TCP, 8080).of(V6_HOST).like("[::]:0");
    assert_eq!(bed.granted(&ask), inside);
    assert!(bed.reached(V6_REMOTE, inside, "[fd00:0:0:1::2]:8080"));
    for other in ["[fd00:0:0:1::2]:8081", "[fd00:0:0:1::80]:8080"] {
        assert!(!bed.reached(V6_REMOTE, at(other), other));
    }
    bed.denied(&ask.like("[::]:9").with(&[2, 0, 0, 0]), ResultCode::CannotProvideExternal);
    assert_eq!(bed.granted(&ask.like("[::]:8080").with(&[2, 0, 0, 0])), inside);
    // Filters, and the end of its time.
    bed.granted(&ask.with(&filter_option(64, 0, "2001:db8:0:3::")));
    assert!(!bed.reached("[2001:db8:0:2::2]:1", inside, "[fd00:0:0:1::2]:8080"));
    bed.granted(&ask.with(&filter_option(64, 0, "2001:db8:0:2::")));
    assert!(bed.reached("[2001:db8:0:2::2]:1", inside, "[fd00:0:0:1::2]:8080"));
    // It goes on by a reload and a restart as long as the table allows it.
    assert_eq!(bed.reload(&text), (2, 0));
    let (mut bed, adopted) = bed.adopt();
    let now = bed.now;
    assert_eq!((adopted, bed.engine.policy_adopted(now).live), ((2, 0), 2));
    assert!(!bed.reached("[2001:db8:0:2::2]:2", inside, "[fd00:0:0:1::2]:8080"), "to be asked for again");
    assert_eq!(bed.reload(OUT), (0, 2));
    bed.ends_clean();
}

#[test]
fn one_to_one_translation_keeps_the_port() {
    let nat = "[[nat]]\nname = \"pairs\"\nfrom = \"inside\"\nto = \"outside\"\nsource = \"10.1.0.2-10.1.0.3\"\n\
               translate.source = \"198.51.100.32-198.51.100.33\"\none_to_one = true\n";
    let mut bed = Bed::with(&format!("{OUT}{nat}{PCP}"));
    let external = at("198.51.100.33:8080");
    assert!(!bed.reached("198.51.100.2:5", external, "10.1.0.3:8080"));
    assert_eq!(bed.granted(&Ask::new(TCP, 8080).of("10.1.0.3")), external);
    assert!(bed.reached("198.51.100.2:5", external, "10.1.0.3:8080"));
    assert!(!bed.reached("198.51.100.2:5", at("198.51.100.32:8080"), "10.1.0.2:8080"));
    let (_, seen, _) = bed.passes(LAN, &udp("10.1.0.3:8080", at("198.51.100.2:53")));
    assert_eq!(seen, external);
}

// RFC 6887 section 10: the family of the suggested address is the family that is asked for.
#[test]
fn an_ipv6_host_asks_for_an_ipv4_address() {
    let nat = "[[nat]]\nname = \"nat64\"\nto = \"outside\"\nprefix64 = \"64:ff9b::/96\"\n\
               translate.source = \"198.51.100.9\"\n";
    let mut bed = Bed::with(&format!("{OUT}{nat}{PCP}"));
    let ask = Ask::new(UDP, 7000).of(V6_HOST);
    let external = bed.granted(&ask.like("0.0.0.0:0"));
    assert_eq!(external, at("198.51.100.9:7000"));
    let (port, from, to) = bed.passes(WAN, &udp("198.51.100.2:53", external));
    assert_eq!((port, from, to), (LAN, at("[64:ff9b::c633:6402]:53"), at("[fd00:0:0:1::2]:7000")));
    // It knows its peers by their IPv6 addresses.
    let peer = filter_option(128, 0, "64:ff9b::c633:6403");
    bed.granted(&ask.like("0.0.0.0:0").with(&peer));
    assert_eq!(bed.send(WAN, &udp("198.51.100.2:54", external)).reason, Reason::NatFiltered);
    bed.passes(WAN, &udp("198.51.100.3:54", external));
    // And one of the other kind for another port.
    assert_eq!(bed.granted(&Ask::new(TCP, 7001).of(V6_HOST).like("[::]:0")), at("[fd00:0:0:1::2]:7001"));
}

// A host that is behind the same translation reaches it by the external endpoint (RFC 4787 REQ-9); what a rule is about
// is the rule's business.
#[test]
fn hosts_on_the_same_side_reach_it_by_its_external_endpoint() {
    let mut bed = Bed::with(&super::policy(""));
    let external = bed.granted(&Ask::new(TCP, 8080));
    let (port, from, to) = bed.passes(LAN, &syn("10.1.0.3:999", &external.to_string()));
    assert_eq!((port, to), (LAN, at("10.1.0.2:8080")));
    assert_eq!(from.ip(), external.ip(), "and sees the host by its own");
}
