//! SYN cookies by the kernel programs: a SYN becomes its answer, an acknowledgment is told from a stranger's, and whoever may
//! be made up is left to the slow path (checklist F12; RFC 4987 section 3.6).
#![expect(clippy::unwrap_used, reason = "a test bed fails loudly")]

use std::collections::HashMap;
use std::net::SocketAddr;

use flowhop_flow::cookie::{Cookies, LIFE, ServiceKey, WINDOW, Worth, origin, service_flags, state, worth};
use flowhop_flow::record::PortKey;
use flowhop_flow::{Reason, key};
use flowhop_io::bpf::{Attachment, Context, IndexKind, Program, TestRun};
use flowhop_io::tap::metadata::Punt;
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use flowhop_wire::{SliceFrame, checksum};

use super::common::{Bed, FORWARD, Flow, TCP_START, Wire, checksums_are_right, compare, in_namespaces, ip, tick};
use super::{DROP, REDIRECT};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Linux's options: segment size, selective acknowledgments, timestamps, scaling.
const OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
const ENDS: [(&str, &str); 2] =
    [("198.51.100.2:40000", "192.0.2.1:443"), ("[2001:db8:0:2::2]:40000", "[2001:db8::1]:443")];
const INITIAL: u32 = 0xffff_ffff;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn service_of(to: &str) -> ServiceKey {
    let to = at(to);
    ServiceKey::new(key::address(to.ip()), to.port(), if to.is_ipv4() { 4 } else { 6 })
}

/// Services are published to `lan`, which is port 1, by both families; every SYN is answered.
fn publish(bed: &mut Bed, flags: u32) {
    let config = &bed.kernel.shared().config[0];
    config.cookies.set_secret(tick(), false, [1, 2]);
    config.cookies.set_secret(tick(), true, [3, 4]);
    config.cookies.state.store(state::ANSWER | state::ACCEPT);
    let services = ENDS.map(|(_, to)| (service_of(to), (1400 | flags, [1 << 1, 0, 0, 0])));
    bed.kernel.set_services(&HashMap::from(services)).unwrap();
}

fn spec<'a>(bed: &Bed, (from, to): (&str, &str), flags: u8, numbers: (u32, u32), payload: &'a [u8]) -> Spec<'a> {
    Spec::tcp(at(from), at(to), flags, payload).with_sequence(numbers.0, numbers.1).with_link(STATION, bed.lan_mac)
}

fn syn(bed: &Bed, ends: (&str, &str)) -> Vec<u8> {
    spec(bed, ends, SYN, (INITIAL, 0), &[]).with_tcp_options(&OPTIONS).to_vec().unwrap()
}

fn cookies(bed: &Bed) -> &Cookies {
    &bed.kernel.shared().config[0].cookies
}

fn run(bed: &mut Bed, program: Program, frame: &[u8]) -> TestRun {
    let context = Context { ifindex: bed.lan, mark: 0, gso_size: 0 };
    bed.run(program, frame, context)
}

/// What a frame that was handed down says of it.
fn handed(run: &TestRun) -> Option<u8> {
    let punt = Punt::parse(*run.frame.first_chunk()?)?;
    (run.action == REDIRECT).then_some(punt.reason)
}

/// The TCP numbers of a frame: sequence, acknowledgment, flags.
fn numbers(frame: &[u8]) -> (u32, u32, u8) {
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let word = |offset: usize| u32::from_be_bytes(frame[at + offset..at + offset + 4].try_into().unwrap());
    (word(4), word(8), frame[at + 13])
}

fn assert_answers(bed: &Bed, frame: &[u8], ends: (&str, &str)) -> u32 {
    let (from, to) = (at(ends.0), at(ends.1));
    assert!(checksums_are_right(frame), "{frame:02x?}");
    let mut copy = frame.to_vec();
    let packet = SliceFrame::new(&mut copy);
    let parsed = match from.is_ipv4() {
        true => flowhop_flow::parse::ipv4(&packet, 14, 0),
        false => flowhop_flow::parse::ipv6(&packet, 14, 0),
    };
    let answer = parsed.unwrap();
    assert_eq!((frame[..6].to_vec(), frame[6..12].to_vec()), (STATION.to_vec(), bed.lan_mac.to_vec()));
    assert_eq!(frame.len(), 14 + answer.length as usize, "nothing behind it");
    assert_eq!((key::ip(&answer.key.source), answer.key.source_port()), (to.ip(), to.port()));
    assert_eq!((key::ip(&answer.key.destination), answer.key.destination_port()), (from.ip(), from.port()));
    assert_eq!(answer.ttl, 64);
    let (cookie, acknowledgment, flags) = numbers(frame);
    assert_eq!((acknowledgment, flags), (INITIAL.wrapping_add(1), SYN | ACK));
    let header = &frame[answer.transport_offset..];
    assert_eq!((&header[14..16], &header[20..]), (&WINDOW.to_be_bytes()[..], &[2, 4, 5, 120][..]));
    let asked = flowhop_flow::Key {
        source: answer.key.destination,
        destination: answer.key.source,
        ports: key::ports(from.port(), to.port()),
        ..answer.key
    };
    let found = worth(cookies(bed), &asked, INITIAL.wrapping_add(1), cookie.wrapping_add(1), tick());
    assert_eq!(found, Worth::Whole { size: 6 });
    cookie
}

#[test]
fn syns_become_their_answers_and_cookies_are_known_again() {
    for index in [IndexKind::Lines, IndexKind::KernelHash] {
        in_namespaces(move || {
            let mut bed = Bed::new(index);
            publish(&mut bed, 0);
            let program = Program::ingress(index);
            for ends in ENDS {
                let frame = syn(&bed, ends);
                let answer = run(&mut bed, program, &frame);
                assert_eq!(answer.action, REDIRECT);
                let cookie = assert_answers(&bed, &answer.frame, ends);
                let good = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
                for flags in [ACK, PSH | ACK, FIN | ACK] {
                    let frame = spec(&bed, ends, flags, good, b"x").to_vec().unwrap();
                    let run = run(&mut bed, program, &frame);
                    assert_eq!(handed(&run), Some(Reason::CookieAccepted.number()), "{flags:#x}");
                    assert_eq!(run.frame[6..], frame[6..], "as it came");
                }
                // One that follows is handed down in case that the connection is about to be there.
                let next = spec(&bed, ends, ACK, (good.0.wrapping_add(7), good.1), b"x").to_vec().unwrap();
                assert_eq!(handed(&run(&mut bed, program, &next)), Some(Reason::Miss.number()));
                // Anything else is a stranger's, and what is no acknowledgment none of this.
                for wrong in [(good.0, good.1 ^ 1 << 9), (good.0, good.1 ^ 8), (good.0, 5)] {
                    let frame = spec(&bed, ends, ACK, wrong, b"x").to_vec().unwrap();
                    assert_eq!(run(&mut bed, program, &frame).action, DROP, "{wrong:?}");
                }
                for flags in [RST, RST | ACK, SYN | ACK, FIN] {
                    let frame = spec(&bed, ends, flags, good, &[]).to_vec().unwrap();
                    assert_eq!(handed(&run(&mut bed, program, &frame)), Some(Reason::Miss.number()), "{flags:#x}");
                }
            }
            let counted = bed.kernel.counters(1).unwrap();
            let of = |reason| counted.of(reason).packets;
            assert_eq!([of(Reason::SynCookie), of(Reason::CookieAccepted), of(Reason::CookieRefused)], [2, 6, 6]);
            assert_eq!(counted.of(Reason::SynCookie).bytes, (74 + 94), "as received");
        });
    }
}

#[test]
fn whoever_may_be_made_up_is_left_to_the_slow_path() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        publish(&mut bed, 0);
        let program = Program::Ingress;
        let prefix = |text: &str, length: u32| {
            let address: std::net::IpAddr = text.parse().unwrap();
            (key::address(address), length + if address.is_ipv4() { 96 } else { 0 })
        };
        // On the link of port 1, on that of port 2, an own address, a broadcast address, and nobody's.
        let origins = [
            (prefix("198.51.100.0", 24), 2),
            (prefix("10.0.0.0", 8), 3),
            (prefix("198.51.100.1", 32), origin::ASK),
            (prefix("198.51.100.255", 32), origin::ASK),
            (prefix("224.0.0.0", 4), origin::ASK),
            (prefix("2001:db8:0:2::", 64), 2),
            (prefix("fd00::", 8), 3),
            (prefix("fe80::", 10), origin::ASK),
        ];
        bed.kernel.set_origins(&HashMap::from(origins)).unwrap();
        let [v4, v6] = ENDS.map(|(_, to)| to);
        for (from, to, answered) in [
            ("198.51.100.2:9", v4, true),
            ("203.0.113.5:9", v4, true),
            ("198.51.100.1:9", v4, false),
            ("198.51.100.255:9", v4, false),
            ("10.1.2.3:9", v4, false),
            ("224.0.0.9:9", v4, false),
            ("192.0.2.1:443", v4, false),
            ("[2001:db8:0:2::2]:9", v6, true),
            ("[2600::1]:9", v6, true),
            ("[fd00::1]:9", v6, false),
            ("[fe80::1]:9", v6, false),
            ("[::1]:9", v6, false),
            ("[::]:9", v6, false),
            ("[::ffff:203.0.113.5]:9", v6, false),
        ] {
            let mut frame = syn(&bed, if from.contains("ffff") { ENDS[1] } else { (from, to) });
            if from.contains("ffff") {
                // No socket address of the family keeps it.
                let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 5];
                frame[22..38].copy_from_slice(&mapped);
                frame[70..72].fill(0);
                let pseudo = checksum::pseudo_v6(mapped, frame[38..54].try_into().unwrap(), 6, 40);
                let sum = checksum::finish(pseudo + checksum::sum(&frame[54..]));
                frame[70..72].copy_from_slice(&sum.to_be_bytes());
            }
            let run = run(&mut bed, program, &frame);
            match answered {
                true => assert_eq!(numbers(&run.frame).2, SYN | ACK, "{from}"),
                false => assert_eq!(handed(&run), Some(Reason::Miss.number()), "{from}"),
            }
        }
        let as_before = |bed: &mut Bed, frame: &[u8], what: &str| {
            let run = run(bed, program, frame);
            assert!(handed(&run).is_some() && run.frame[6..] == frame[6..], "{what}: {run:?}");
        };
        let frame = syn(&bed, ENDS[0]);
        let mut many = frame.clone();
        many[6] |= 1;
        as_before(&mut bed, &many, "from a group of stations");
        let data = spec(&bed, ENDS[0], SYN, (1, 0), b"data").to_vec().unwrap();
        as_before(&mut bed, &data, "with data");
        let fin = spec(&bed, ENDS[0], SYN | FIN, (1, 0), &[]).to_vec().unwrap();
        as_before(&mut bed, &fin, "with a FIN");
        let other = spec(&bed, (ENDS[0].0, "192.0.2.1:444"), SYN, (1, 0), &[]).to_vec().unwrap();
        as_before(&mut bed, &other, "to another port");
        // Without pressure only what is always answered is; without a daemon nothing, and nothing at another port.
        cookies(&bed).state.store(state::ACCEPT);
        as_before(&mut bed, &frame, "without pressure");
        publish(&mut bed, service_flags::ALWAYS);
        cookies(&bed).state.store(state::ACCEPT);
        assert_eq!(numbers(&run(&mut bed, program, &frame).frame).2, SYN | ACK);
        let (lan, mac) = (bed.lan, bed.lan_mac);
        bed.kernel.attach(&Attachment::skb(lan, 7, mac)).unwrap();
        as_before(&mut bed, &frame, "at a port that it is not published to");
        bed.kernel.attach(&Attachment::skb(lan, 1, mac)).unwrap();
        bed.kernel.shared().config[0].heartbeat.store(tick().wrapping_sub(250_000));
        assert_eq!(run(&mut bed, program, &frame).action, DROP, "nobody is there");
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::NoDaemon).packets, 1);
        bed.kernel.shared().config[0].heartbeat.store(tick());
        // Its time is over.
        let (cookie, ..) = numbers(&run(&mut bed, program, &frame).frame);
        let good = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
        let old = cookie::seal_in_the_past(&bed, good);
        let late = spec(&bed, ENDS[0], ACK, (good.0, old), &[]).to_vec().unwrap();
        assert_eq!(run(&mut bed, program, &late).action, DROP);
        // No service is known any more.
        bed.kernel.set_services(&HashMap::new()).unwrap();
        as_before(&mut bed, &frame, "no service");
    });
}

mod cookie {
    use flowhop_flow::cookie::seal;

    use super::*;

    /// What acknowledges a cookie of two slots ago.
    pub(super) fn seal_in_the_past(bed: &Bed, (next, _): (u32, u32)) -> u32 {
        let ends = ENDS[0];
        let (from, to) = (at(ends.0), at(ends.1));
        let asked = flowhop_flow::Key {
            source: key::address(from.ip()),
            destination: key::address(to.ip()),
            ports: key::ports(from.port(), to.port()),
            identity: flowhop_flow::Key::identity(6, 4, 0),
        };
        seal(cookies(bed), &asked, next.wrapping_sub(1), 6, tick().wrapping_sub(LIFE)).wrapping_add(1)
    }
}

// In the driver: answered with the tag that it came with, where the device takes frames back; damaged SYNs are not.
#[test]
fn the_driver_answers_with_the_tag_that_came() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let done = std::process::Command::new("ethtool").args(["-K", "lan-peer", "gro", "on"]).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("not run: ethtool is missing");
            return;
        }
        ip("link set lan-peer up");
        publish(&mut bed, 0);
        let wire = Wire::open("lan-peer");
        let answered = |bed: &Bed| bed.kernel.driver_counters(1).unwrap().of(Reason::SynCookie).packets;
        let (lan, mac) = (bed.lan, bed.lan_mac);
        for tag in [0u16, 0x6014] {
            let port = PortKey { ifindex: lan, vid: tag & 0xfff };
            let attachment = Attachment { driver: Some(port), sends_back: true, ..Attachment::skb(lan, 1, mac) };
            bed.kernel.attach(&attachment).unwrap();
            for ends in ENDS {
                let mut frame = syn(&bed, ends);
                if tag != 0 {
                    let [high, low] = tag.to_be_bytes();
                    frame.splice(12..12, [0x81, 0, high, low]);
                }
                // A damaged one is not the driver's to answer.
                let mut damaged = frame.clone();
                *damaged.last_mut().unwrap() ^= 1;
                let before = answered(&bed);
                wire.send(&damaged);
                wire.send(&frame);
                let plain = |got: &[u8]| if tag == 0 { got.to_vec() } else { [&got[..12], &got[16..]].concat() };
                let mut answer = wire.expect(|got| got[..6] == STATION && checksums_are_right(&plain(got)));
                assert_eq!(answered(&bed), before + 1);
                if tag != 0 {
                    assert_eq!(answer[12..16], frame[12..16]);
                    answer.drain(12..16);
                }
                assert_answers(&bed, &answer, ends);
            }
        }
        assert_eq!(answered(&bed), 4);
        // A device that takes none back leaves it to the socket buffer.
        bed.kernel.attach(&Attachment { driver: Some(PortKey::of(lan)), ..Attachment::skb(lan, 1, mac) }).unwrap();
        let behind = |bed: &Bed| bed.kernel.counters(1).unwrap().of(Reason::SynCookie).packets;
        let before = behind(&bed);
        wire.send(&syn(&bed, ENDS[0]));
        let answer = wire.expect(|got| got[..6] == STATION);
        assert_answers(&bed, &answer, ENDS[0]);
        assert_eq!((answered(&bed), behind(&bed)), (4, before + 1));
    });
}

// A constant between the numbers of a server and those that its clients know, on either side of the connection, across the
// end of the numbers; the kernel programs judge as the native function does.
#[test]
fn numbers_are_moved_by_a_constant() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        for flow in [Flow::tcp4(), Flow::tcp6()] {
            for shift in [1u32, 0x8000_0000, u32::MAX - 2000, 0xdead_beef] {
                for own in [true, false] {
                    bed.insert(&flow, FORWARD);
                    let block = bed.kernel.shared().blocks.iter().rfind(|block| block.hot[0].identity.load() != 0);
                    let [forward, reverse] = &block.unwrap().tcp;
                    forward.set_constant_shift(if own { shift } else { 0 });
                    reverse.set_constant_shift(if own { 0 } else { shift });
                    let mut frame = flow.frame();
                    let (sequence, acknowledgment) = TCP_START;
                    let expected = if own {
                        (sequence.wrapping_add(shift), acknowledgment)
                    } else {
                        // The sender acknowledges what it has seen.
                        renumber(&mut frame, acknowledgment.wrapping_add(shift));
                        (sequence, acknowledgment)
                    };
                    let run = compare(&mut bed, &frame, 0);
                    assert_eq!(run.verdict.reason, Reason::Forwarded, "{flow:?} {shift:#x}");
                    let (sequence, acknowledgment, _) = numbers(&run.kernel.frame);
                    assert_eq!((sequence, acknowledgment), expected, "{shift:#x}");
                    assert!(checksums_are_right(&run.kernel.frame), "{flow:?} {shift:#x}");
                    // In the other numbers it is nowhere near.
                    if !own && shift != 1 {
                        let run = compare(&mut bed, &flow.frame(), 0);
                        assert_eq!(run.verdict.reason, Reason::TcpWindow, "{shift:#x}");
                    }
                    bed.remove_all();
                }
            }
        }
    });
}

/// Gives a segment another acknowledgment number and the right checksum.
fn renumber(frame: &mut [u8], acknowledgment: u32) {
    let v4 = frame[12..14] == [8, 0];
    let at = if v4 { 34 } else { 54 };
    frame[at + 8..at + 12].copy_from_slice(&acknowledgment.to_be_bytes());
    frame[at + 16..at + 18].fill(0);
    let length = frame.len() - at;
    let pseudo = if v4 {
        let [source, destination] = [26, 30].map(|at| frame[at..at + 4].try_into().unwrap());
        checksum::pseudo_v4(source, destination, 6, length as u16)
    } else {
        let [source, destination] = [22, 38].map(|at| frame[at..at + 16].try_into().unwrap());
        checksum::pseudo_v6(source, destination, 6, length as u32)
    };
    let sum = checksum::finish(pseudo + checksum::sum(&frame[at..]));
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
}
