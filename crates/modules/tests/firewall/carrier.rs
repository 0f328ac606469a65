//! External ports that follow from the inside address (RFC 7422), ports in blocks, and what is logged of both (RFC 6888
//! section 4).

use std::collections::HashSet;

use flowhop_flow::{Kind, Reason, key};
use flowhop_modules::Lease;
use flowhop_wire::build::Spec;

use crate::bed::{Bed, LAN, WAN, at, ip};
use crate::mapping::udp;
use crate::pools::{REMOTE, SECOND, pool};
use crate::translation::{HIDE, policy, syn};

const BLOCKS: &str = "allocation = \"blocks\"\nblock = 16\ntranslate.ports = \"2000-2047\"\nlog = true";

fn deterministic(sources: &str) -> String {
    let hide = HIDE.replace("10.0.0.0/8", sources).replace("\"interface\"", "[\"198.51.100.20\", \"198.51.100.30\"]");
    policy(&[&format!("{hide}allocation = \"deterministic\"\ntranslate.ports = \"1024-1123\"\n")])
}

// RFC 7422: nothing but the addresses decides, after a restart as well, and nobody else gets these ports.
#[test]
fn ports_follow_from_the_inside_address() {
    // Ten sources, two external addresses: five share one, twenty ports each.
    let mut bed = Bed::with(&deterministic("10.1.0.0-10.1.0.9"));
    for port in 1..=20 {
        let external = bed.seen(&format!("10.1.0.2:{port}"), REMOTE);
        assert_eq!(external.ip(), ip("198.51.100.20"));
        assert!((1064..=1083).contains(&external.port()), "{external}");
    }
    bed.refuses("10.1.0.2:21", Reason::NatExhausted);
    let external = bed.seen("10.1.0.3:21", REMOTE);
    assert!((1084..=1103).contains(&external.port()), "{external}");
    // TCP and echo have the same ports once more.
    let (_, external, _) = bed.passes(LAN, &syn("10.1.0.2:1", "198.51.100.2:80"));
    assert!((1064..=1083).contains(&external.port()), "{external}");
    assert_eq!(bed.send(LAN, &Spec::echo_request(ip("10.1.0.2"), ip("198.51.100.2"), 7, 1, b"x")).kind, Kind::Forward);
    let (_, frame) = bed.last();
    assert!((1064..=1083).contains(&u16::from_be_bytes([frame[38], frame[39]])));
    assert!(bed.bindings.take_leases().is_empty());
    // Its own ports do not rest for an address.
    let connections = bed.engine.table().live();
    assert_eq!(bed.reload(&deterministic("10.1.0.0-10.1.0.9")), (connections, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (connections, 0));
    bed.refuses("10.1.0.2:21", Reason::NatExhausted);
    bed.end_all();
    for port in 101..=120 {
        bed.seen(&format!("10.1.0.2:{port}"), REMOTE);
    }
    // Other sources, other ports: what does not follow from the address any more ends.
    assert_eq!(bed.reload(&deterministic("10.1.0.1-10.1.0.10")), (0, 20));
    bed.pass(SECOND);
    let external = bed.seen("10.1.0.2:1", REMOTE);
    assert!((1044..=1063).contains(&external.port()), "{external}");
    bed.ends_clean();
}

/// Inside address, first and last port, and whether it began.
fn lines(bed: &Bed) -> Vec<(String, (u16, u16), bool)> {
    let line = |lease: Lease| {
        assert!(lease.block && lease.nat == 1 && lease.inside.port == 0);
        assert_eq!(key::ip(&lease.external), ip("198.51.100.20"));
        (key::ip(&lease.inside.address).to_string(), lease.ports, lease.begun)
    };
    bed.bindings.take_leases().into_iter().map(line).collect()
}

// RFC 6888 REQ-13, REQ-14: one line for many mappings; whoever asks later finds one owner for a port.
#[test]
fn ports_are_given_out_in_blocks() {
    let mut bed = Bed::with(&pool("198.51.100.20", BLOCKS));
    let mut ports = HashSet::new();
    for port in 1..=16 {
        ports.insert(bed.seen(&format!("10.1.0.2:{port}"), REMOTE).port());
    }
    bed.passes(LAN, &syn("10.1.0.2:1", "198.51.100.2:80"));
    let begun = lines(&bed);
    let [(ref host, (first, last), true)] = begun[..] else { panic!("{begun:?}") };
    assert_eq!((host.as_str(), last - first, (first - 2000) % 16), ("10.1.0.2", 15, 0));
    assert_eq!(ports, (first..=last).collect());
    // Another address has another one; who needs more has two.
    let other = bed.seen("10.1.0.3:1", REMOTE).port();
    assert!(!(first..=last).contains(&other));
    bed.seen("10.1.0.2:17", REMOTE);
    assert_eq!(lines(&bed).len(), 2);
    bed.refuses("10.1.0.80:1", Reason::NatExhausted);
    // Filtering has nothing to do with it.
    bed.refused(WAN, &udp("198.51.100.3:53", at(&format!("198.51.100.20:{other}"))), Kind::Drop, Reason::NatFiltered);
    // A restart says nothing: the blocks are those of before, and free when their last mapping ends.
    let connections = bed.engine.table().live();
    assert_eq!(bed.reload(&pool("198.51.100.20", BLOCKS)), (connections, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!((adopted, lines(&bed).len()), ((connections, 0), 0));
    bed.refuses("10.1.0.80:1", Reason::NatExhausted);
    bed.end_all();
    let ended = lines(&bed);
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|(_, _, begun)| !begun) && ended.contains(&("10.1.0.2".to_owned(), (first, last), false)));
    bed.seen("10.1.0.80:1", REMOTE);
    bed.ends_clean();
}

// Without blocks there is a line for each mapping, and none without `log`.
#[test]
fn mappings_are_logged_where_the_policy_says_so() {
    let mut bed = Bed::with(&pool("198.51.100.20", "log = true"));
    let external = bed.seen("10.1.0.2:5000", REMOTE);
    bed.seen("10.1.0.2:5000", "198.51.100.3:53");
    let leases = bed.bindings.take_leases();
    let [lease] = leases[..] else { panic!("{leases:?}") };
    assert_eq!((lease.inside.protocol, lease.inside.port, lease.ports.0), (17, 5000, external.port()));
    assert!(lease.begun && !lease.block);
    bed.end_all();
    assert_eq!(bed.bindings.take_leases(), [Lease { begun: false, ..lease }]);
    let mut bed = Bed::with(&pool("198.51.100.20", ""));
    bed.seen("10.1.0.2:5000", REMOTE);
    assert!(bed.bindings.take_leases().is_empty());
}

// Blocks keep parity and ports where they can.
#[test]
fn blocks_keep_what_the_policy_says_of_ports() {
    let mut bed = Bed::with(&pool("198.51.100.20", &format!("{BLOCKS}\nparity = true\nkeep_port = true")));
    let even = bed.seen("10.1.0.2:40", REMOTE).port();
    assert_eq!(even % 2, 0);
    assert_eq!(bed.seen("10.1.0.2:41", REMOTE).port() % 2, 1);
    let kept = if even.is_multiple_of(16) { even + 2 } else { even - 2 };
    assert_eq!(bed.seen(&format!("10.1.0.2:{kept}"), REMOTE).port(), kept);
    bed.ends_clean();
}

// RFC 6888 REQ-8: a block whose ports rest is given to another address only where there is none whose ports do not.
#[test]
fn a_block_that_rests_is_the_last_one() {
    for round in 0..8 {
        let mut bed = Bed::with(&pool("198.51.100.20", BLOCKS));
        for port in 1..=16 + round {
            bed.seen(&format!("10.1.0.2:{port}"), REMOTE);
        }
        let block = |bed: &Bed| lines(bed).iter().filter(|line| line.2).map(|line| line.1).next_back().unwrap();
        let first = lines(&bed)[0].1;
        bed.end_all();
        let _ended = lines(&bed);
        for host in ["10.1.0.3", "10.1.0.4"].iter().take(if round > 0 { 1 } else { 2 }) {
            bed.seen(&format!("{host}:1"), REMOTE);
            assert_ne!(block(&bed), first);
        }
        bed.seen("10.1.0.80:1", REMOTE);
    }
}

// Blocks that the box keeps for itself are none, and no block is exhausted before it begins.
#[test]
fn only_blocks_with_a_port_to_give_are_given() {
    let text = policy(&[&format!("{HIDE}allocation = \"blocks\"\ntranslate.ports = \"32000-61999\"\nblock = 500\n")]);
    let mut bed = Bed::with(&text);
    // 32000 to 32499; one that is the box's own but for a few; 61000 to 61499 and 61500 to 61999.
    for host in 10..14 {
        let port = bed.seen(&format!("10.1.0.{host}:5000"), REMOTE).port();
        assert!(!(32768..=60999).contains(&port));
    }
    bed.refuses("10.1.0.15:5000", Reason::NatExhausted);
    bed.ends_clean();
}

// What was given out one by one before a reload is in nobody else's block: the log would name the wrong one.
#[test]
fn a_block_has_no_port_of_another() {
    for round in 1..=8 {
        let mut bed = Bed::with(&pool("198.51.100.20", "translate.ports = \"2000-2047\""));
        let plain = bed.seen(&format!("10.1.0.3:{round}"), REMOTE).port();
        assert_eq!(bed.reload(&pool("198.51.100.20", BLOCKS)), (1, 0));
        bed.passes(LAN, &syn("10.1.0.2:1", "198.51.100.2:80"));
        bed.passes(LAN, &syn("10.1.0.4:1", "198.51.100.2:80"));
        assert!(lines(&bed).iter().all(|(_, (first, last), _)| !(*first..=*last).contains(&plain)));
        bed.refused(LAN, &syn("10.1.0.5:1", "198.51.100.2:80"), Kind::Drop, Reason::NatExhausted);
        bed.ends_clean();
    }
}

// An interface may have an address that another entry gives out in blocks, or by the inside address: the ports have the
// owner that is logged, or follows, and no other.
#[test]
fn ports_with_an_owner_are_given_to_nobody_else_at_the_address_of_an_interface() {
    let carried = |how: &str| {
        let first = HIDE.replace("hide", "carried").replace("10.0.0.0/8", "10.1.0.2-10.1.0.3");
        let first = first.replace("\"interface\"", "\"198.51.100.1\"");
        let ports = "translate.ports = \"61000-61063\"\n";
        policy(&[&format!("{first}{ports}{how}"), &format!("{HIDE}{ports}")])
    };
    let mut bed = Bed::with(&carried("allocation = \"blocks\"\nblock = 16\n"));
    let own = bed.seen("10.1.0.2:1", REMOTE).port();
    let block = (own - 61000) / 16;
    for port in 1..=48 {
        let other = bed.seen(&format!("10.1.0.80:{port}"), REMOTE);
        assert_eq!(other.ip(), ip("198.51.100.1"));
        assert_ne!((other.port() - 61000) / 16, block);
    }
    bed.refuses("10.1.0.80:49", Reason::NatExhausted);
    // And the other way: there is no block without the ports of others.
    bed.refuses("10.1.0.3:1", Reason::NatExhausted);
    bed.seen("10.1.0.2:2", REMOTE);
    bed.ends_clean();

    // All of them are somebody's.
    let mut bed = Bed::with(&carried("allocation = \"deterministic\"\n"));
    bed.refuses("10.1.0.80:1", Reason::NatExhausted);
    bed.seen("10.1.0.2:1", REMOTE);
    bed.ends_clean();
}

// Hairpinning takes ports of the address that the client addresses, unless they are somebody else's.
#[test]
fn hairpinning_takes_nobodys_ports() {
    let carried = HIDE.replace("hide", "carried").replace("10.0.0.0/8", "10.2.0.0/31");
    let carried = carried.replace("\"interface\"", "\"198.51.100.20\"") + "allocation = \"deterministic\"\n";
    let publish = "[[nat]]\nname = \"publish\"\ndestination = \"198.51.100.20\"\nservice = \"udp/500\"\n\
                   translate.destination = \"10.1.0.80\"\n";
    let mut bed = Bed::with(&policy(&[&carried, publish]));
    let (_, source, server) = bed.passes(LAN, &udp("10.1.0.2:5000", at("198.51.100.20:500")));
    assert_eq!(server, at("10.1.0.80:500"));
    assert_eq!(source.ip(), ip("10.1.0.1"), "not of the address whose ports follow from inside addresses");
    bed.ends_clean();
}
