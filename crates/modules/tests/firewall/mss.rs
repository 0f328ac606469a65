//! The largest segments that SYNs announce (RFC 9293 section 3.7.1, RFC 6691), and where such connections run until they
//! are established.

use std::net::SocketAddr;

use flowhop_engine::{Arrived, Buffer, Offload, Path, PathReason};
use flowhop_flow::Kind;
use flowhop_routing::{Event, Link};
use flowhop_wire::build::{Spec, TcpFields};
use flowhop_wire::tcp_flags::{ACK, RST, SYN};

use crate::bed::{Bed, INSIDE_MAC, LAN, LAN_MAC, OUTSIDE_MAC, WAN, WAN_MAC, at, is_sound};
use crate::translation::{CLIENT, HIDE, policy};

const SERVER: &str = "198.51.100.2:80";
/// Window scale, then the size at an odd place, then "end of options".
const ODD: [u8; 8] = [3, 3, 7, 2, 4, 0x05, 0xb4, 0];
const EVEN: [u8; 4] = [2, 4, 0x05, 0xb4];

fn clamped(nat: &str, rule: &str) -> String {
    let text = policy(&[&format!("{HIDE}{nat}\n")]);
    text.replacen("action = \"allow\"", &format!("action = \"allow\"\n{rule}"), 1)
}

fn segment<'a>(from: SocketAddr, to: SocketAddr, flags: u8, numbers: (u32, u32), options: &'a [u8]) -> Spec<'a> {
    let mut spec = Spec::tcp(from, to, flags, &[]).with_sequence(numbers.0, numbers.1);
    if let flowhop_wire::build::L4::Tcp(fields) = &mut spec.l4 {
        *fields = TcpFields { options, ..*fields };
    }
    spec
}

/// The announced size, whether at the odd or the even place.
fn size(frame: &[u8], options: &[u8]) -> u16 {
    let header = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let place = header + 20 + if options == ODD { 5 } else { 2 };
    u16::from_be_bytes([frame[place], frame[place + 1]])
}

impl Bed {
    /// Sizes in the SYN and in its answer as they leave, of a connection with these options.
    #[track_caller]
    fn sizes(&mut self, client: &str, server: &str, options: &[u8]) -> [u16; 2] {
        let out = self.send(LAN, &segment(at(client), at(server), SYN, (1000, 0), options));
        assert_eq!(out.kind, Kind::Forward);
        let (_, sent) = self.last();
        let (seen, _) = crate::bed::ends(&sent);
        let answer = self.send(WAN, &segment(at(server), seen, SYN | ACK, (5000, 1001), options));
        assert_eq!(answer.kind, Kind::Forward);
        let (_, answered) = self.last();
        assert!(is_sound(&sent) && is_sound(&answered));
        [size(&sent, options), size(&answered, options)]
    }
}

#[test]
fn both_syns_are_clamped_to_a_number() {
    for options in [&ODD[..], &EVEN[..]] {
        let mut bed = Bed::with(&clamped("mss_clamp = 1200", ""));
        assert_eq!(bed.sizes(CLIENT, SERVER, options), [1200; 2]);
        let mut bed = Bed::with(&clamped("", "mss_clamp = 1300"));
        assert_eq!(bed.sizes(CLIENT, SERVER, options), [1300; 2]);
        // The smaller one of both; what is smaller already stays.
        let mut bed = Bed::with(&clamped("mss_clamp = 1200", "mss_clamp = 1300"));
        assert_eq!(bed.sizes(CLIENT, SERVER, options), [1200; 2]);
        let mut bed = Bed::with(&clamped("mss_clamp = 9000", "mss_clamp = false"));
        assert_eq!(bed.sizes(CLIENT, SERVER, options), [1460; 2]);
        let mut bed = Bed::with(&clamped("", ""));
        assert_eq!(bed.sizes(CLIENT, SERVER, options), [1460; 2]);
    }
}

// RFC 6691: the MTU less the fixed headers, of the narrower of both ways.
#[test]
fn the_path_says_what_fits() {
    let mut bed = Bed::with(&clamped("", "mss_clamp = true"));
    assert_eq!(bed.sizes(CLIENT, SERVER, &ODD), [1460; 2]);
    for (ifindex, name, mac, mtu, fits) in [(12, "wan0", WAN_MAC, 1400, 1360), (11, "lan0", LAN_MAC, 1280, 1240)] {
        bed.event(Event::LinkUpsert(Link { mtu, ..Link::ethernet(ifindex, name, mac) }));
        bed.neighbours();
        let client = format!("10.1.0.2:{fits}");
        assert_eq!(bed.sizes(&client, SERVER, &ODD), [fits; 2]);
    }
    let v6 = bed.sizes("[fd00:0:0:1::2]:1000", "[2001:db8:0:2::2]:80", &EVEN);
    assert_eq!(v6, [1220; 2]);
}

// What is not TCP, has no such option or options that make no sense is left alone.
#[test]
fn only_sizes_are_changed() {
    let mut bed = Bed::with(&clamped("mss_clamp = 1200", ""));
    for options in [&[1, 1, 1, 0][..], &[4, 2, 0, 0][..], &[]] {
        bed.send(LAN, &segment(at(CLIENT), at(SERVER), SYN, (1000, 0), options));
        let (_, frame) = bed.last();
        assert!(is_sound(&frame));
        assert_eq!(&frame[54..54 + options.len()], options);
    }
    assert_eq!(bed.send(LAN, &Spec::udp(at(CLIENT), at(SERVER), &[2, 4, 5, 0xb4])).kind, Kind::Forward);
    let (_, frame) = bed.last();
    assert_eq!(frame[42..46], [2, 4, 5, 0xb4]);
}

// A checksum that is left to the device covers the size when the device completes it.
#[test]
fn a_partial_checksum_stays_one() {
    let mut bed = Bed::with(&clamped("mss_clamp = 1200", ""));
    let spec = segment(at(CLIENT), at(SERVER), SYN, (1000, 0), &EVEN).with_link(INSIDE_MAC, LAN_MAC);
    let mut frame = spec.to_vec().unwrap();
    let pseudo = flowhop_wire::checksum::pseudo_v4([10, 1, 0, 2], [198, 51, 100, 2], 6, 24);
    frame[50..52].copy_from_slice(&flowhop_wire::checksum::fold(pseudo).to_be_bytes());
    let offload = Offload { partial: true, checksum_start: 34, checksum_offset: 16, ..Offload::default() };
    let arrived = Arrived { port: LAN, gate: 0, driver: false, now: bed.now };
    let outcome = bed.engine.receive(&arrived, &mut Buffer::new(&mut frame, offload), &mut bed.outside);
    assert_eq!(outcome.kind, Kind::Forward);
    let (_, mut sent) = bed.last();
    assert_eq!(size(&sent, &EVEN), 1200);
    flowhop_wire::verify::complete_partial(&mut sent, 34, 16).unwrap();
    assert!(is_sound(&sent));
}

// Both SYNs have to come to the user path; what follows has not. A restart in between changes nothing.
#[test]
fn a_connection_is_accelerated_when_it_is_established() {
    let text = clamped("mss_clamp = 1200", "");
    let mut bed = Bed::sized(&text, 64, true);
    let syn = segment(at(CLIENT), at(SERVER), SYN, (1000, 0), &ODD);
    let (block, serial) = bed.send(LAN, &syn).session.unwrap();
    let (seen, _) = crate::bed::ends(&bed.last().1);
    bed.settle();
    assert_eq!((bed.paths(block), bed.reasons(block)), ([Path::User; 2], [PathReason::Handshake; 2]));
    assert!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now).is_err(), "not while it opens");
    assert_eq!(bed.engine.move_flow(serial, None, bed.now), Ok([Path::User; 2]));
    bed.engine.paths_changed();
    bed.pass(1000);
    assert_eq!(bed.paths(block), [Path::User; 2]);
    assert_eq!(bed.reload(&text), (1, 0));
    let answer = segment(at(SERVER), seen, SYN | ACK, (5000, 1001), &ODD);
    assert_eq!(bed.send(WAN, &answer).kind, Kind::Forward);
    assert_eq!(size(&bed.last().1, &ODD), 1200);
    assert_eq!(bed.paths(block), [Path::User; 2]);
    assert_eq!(bed.send(LAN, &segment(at(CLIENT), at(SERVER), ACK, (1001, 5001), &[])).kind, Kind::Forward);
    bed.settle();
    assert_eq!((bed.paths(block), bed.reasons(block)), ([Path::Skb; 2], [PathReason::Default; 2]));
    // A new connection in the place of one that was reset: its SYNs come here as well.
    assert_eq!(bed.send(LAN, &segment(at(CLIENT), at(SERVER), RST, (1001, 0), &[])).kind, Kind::Forward);
    let again = segment(at(CLIENT), at(SERVER), SYN, (90_000, 0), &ODD);
    assert_eq!(bed.send(LAN, &again).session, Some((block, serial)));
    assert_eq!(size(&bed.last().1, &ODD), 1200);
    assert_eq!((bed.paths(block), bed.reasons(block)), ([Path::User; 2], [PathReason::Handshake; 2]));

    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (1, 0));
    let answer = segment(at(SERVER), seen, SYN | ACK, (70_000, 90_001), &ODD).with_link(OUTSIDE_MAC, WAN_MAC);
    assert_eq!(bed.send(WAN, &answer).kind, Kind::Forward);
    assert_eq!(size(&bed.last().1, &ODD), 1200);
}

// Without clamping connections are accelerated at once.
#[test]
fn others_do_not_wait() {
    let mut bed = Bed::sized(&clamped("", ""), 64, true);
    let syn = segment(at(CLIENT), at(SERVER), SYN, (1000, 0), &ODD);
    let (block, _) = bed.send(LAN, &syn).session.unwrap();
    assert_eq!(bed.paths(block), [Path::Skb; 2]);
}
