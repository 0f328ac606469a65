//! Datagrams in fragments on real traffic: large pings and UDP datagrams both ways, translated and not, in both families,
//! on every path; fragments by hand, in reversed order and overlapping (RFC 4787 REQ-14, RFC 1858, RFC 5722).
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`).
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test on the spot")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use flowhop_tests::raw::checksum;
use flowhop_tests::{
    Bed, Daemon, Family, Flags, Namespace, Offloads, Packet, Policy, RawPort, Transport, alone, tools, until,
};

/// Paths that are forced in turn.
const PATHS: [&str; 3] = ["driver", "skb", "user"];
const LIMIT: Duration = Duration::from_secs(10);
/// As much as says that nothing comes.
const SILENCE: Duration = Duration::from_millis(500);

/// Both ways, or inside to outside behind the router's address.
fn policy(path: &str, translated: bool) -> Policy {
    let policy = Policy::new().path(path).masquerade(translated);
    if translated {
        return policy;
    }
    policy.extra("[[rule]]\nname = \"outside to inside\"\nfrom = \"outside\"\nto = \"inside\"\naction = \"allow\"\n")
}

fn bed(label: &str, path: &str) -> Bed {
    Bed::with_offloads(label, Offloads::for_path(path))
}

fn datagram(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 256 + seed) as u8).collect()
}

fn bind(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, 0)).expect("bind"));
    socket.set_read_timeout(Some(LIMIT)).expect("a read timeout");
    socket
}

/// The next datagram, whole.
fn receive(socket: &UdpSocket, context: &str) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut bytes).unwrap_or_else(|error| panic!("{context}: {error}"));
    bytes.truncate(length);
    (bytes, from)
}

fn ping(from: &Namespace, to: IpAddr, context: &str) {
    let output = from.run("ping", &["-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", "60000", &to.to_string()]);
    assert!(output.stdout.contains(" 0% packet loss"), "{context}: {}", output.stdout);
}

/// Datagrams of 20,000 bytes to a server and back.
fn exchange(from: (&Namespace, IpAddr), to: (&Namespace, IpAddr), seen: IpAddr, context: &str) {
    let (client, server) = (bind(from.0, from.1), bind(to.0, to.1));
    let at = server.local_addr().expect("a bound socket");
    for round in 0..5 {
        let (request, answer) = (datagram(20_000, round), datagram(20_000, round + 100));
        client.send_to(&request, at).expect("send");
        let (bytes, peer) = receive(&server, context);
        assert!(bytes == request && peer.ip() == seen, "{context}: {} bytes from {peer}", bytes.len());
        server.send_to(&answer, peer).expect("send");
        let (bytes, peer) = receive(&client, context);
        assert!(bytes == answer && peer == at, "{context}: {} bytes from {peer}", bytes.len());
    }
}

// RFC 4787 REQ-14, RFC 5508: large datagrams pass both ways, through translation and plain.
#[test]
fn large_datagrams_pass_both_ways() {
    let _turn = alone();
    let pings = tools::find("ping").is_some();
    if !pings {
        eprintln!("not run: pings, ping is not installed");
    }
    for path in PATHS {
        for translated in [true, false] {
            let bed = bed("fragments", path);
            let daemon = Daemon::start(&bed.router, &policy(path, translated));
            for family in Family::BOTH {
                let context = format!("{path}, {family:?}, translated: {translated}");
                let inside = (&*bed.inside, family.inside_host());
                let outside = (&*bed.outside, family.outside_host());
                let seen = if translated { family.outside_router() } else { family.inside_host() };
                exchange(inside, outside, seen, &context);
                if !translated {
                    exchange(outside, inside, family.outside_host(), &context);
                }
                if pings {
                    ping(inside.0, outside.1, &context);
                    if !translated {
                        ping(outside.0, inside.1, &context);
                    }
                }
            }
            assert_eq!(
                daemon.drops(None),
                0,
                "{path}, translated: {translated}: {}",
                daemon.client("show drops").stdout
            );
        }
    }
}

/// Fragments of a packet as [`Packet::build`] makes it, each of so many bytes but the last.
fn fragments(frame: &[u8], identification: u16, size: usize) -> Vec<Vec<u8>> {
    let v4 = frame[12..14] == [8, 0];
    let start = if v4 { 34 } else { 54 };
    let pieces = frame[start..].chunks(size);
    let last = pieces.len() - 1;
    pieces
        .enumerate()
        .map(|(number, data)| {
            let offset = u16::try_from(number * size).expect("within a packet");
            let more = u16::from(number != last);
            let mut out = frame[..start].to_vec();
            if v4 {
                let length = u16::try_from(20 + data.len()).expect("within a packet");
                out[16..18].copy_from_slice(&length.to_be_bytes());
                out[18..20].copy_from_slice(&identification.to_be_bytes());
                out[20..22].copy_from_slice(&(offset / 8 + 0x2000 * more).to_be_bytes());
                out[24..26].fill(0);
                let sum = checksum(&[&out[14..34]]);
                out[24..26].copy_from_slice(&sum.to_be_bytes());
            } else {
                let length = u16::try_from(8 + data.len()).expect("within a packet");
                out[18..20].copy_from_slice(&length.to_be_bytes());
                let protocol = std::mem::replace(&mut out[20], 44);
                out.extend_from_slice(&[protocol, 0]);
                out.extend_from_slice(&(offset | more).to_be_bytes());
                out.extend_from_slice(&u32::from(identification).to_be_bytes());
            }
            out.extend_from_slice(data);
            out
        })
        .collect()
}

// RFC 4787 REQ-14: in reversed order; RFC 5722, RFC 1858: what overlaps does not pass, nor what is too small.
#[test]
fn fragments_by_hand_pass_in_any_order_unless_they_overlap() {
    let _turn = alone();
    for path in PATHS {
        for translated in [true, false] {
            let bed = bed("byhand", path);
            let daemon = Daemon::start(&bed.router, &policy(path, translated));
            let port = RawPort::open(&bed.inside, "eth0");
            let macs = (port.mac, bed.router.mac("lan0"));
            for (number, family) in [7u16, 8].into_iter().zip(Family::BOTH) {
                let context = format!("{path}, {family:?}, translated: {translated}");
                let server = bind(&bed.outside, family.outside_host());
                let at = server.local_addr().expect("a bound socket");
                let data = datagram(9000, usize::from(number));
                let from = SocketAddr::new(family.inside_host(), 4000);
                let frame = Packet::new(macs, from, at, Transport::Udp, &data).build();
                let mut all = fragments(&frame, number, 1440);
                all.reverse();
                for fragment in &all {
                    port.send(fragment);
                }
                assert!(receive(&server, &context).0 == data, "{context}: reversed");

                // One of its fragments comes once more with other bytes, before the first is there.
                let mut evil = frame.clone();
                let last = evil.len() - 1;
                evil[last - 4000..].fill(0);
                let (good, evil) = (fragments(&frame, number + 10, 1440), fragments(&evil, number + 10, 1440));
                let before = daemon.drops(Some("overlapping_fragment"));
                for fragment in good.iter().skip(1).chain([&evil[5], &good[0]]) {
                    port.send(fragment);
                }
                server.set_read_timeout(Some(SILENCE)).expect("a read timeout");
                let nothing = server.recv_from(&mut [0; 64]).expect_err("it overlaps");
                assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{context}: {nothing}");
                let count = good.len() as u64 + 1;
                assert_eq!(daemon.drops(Some("overlapping_fragment")), before + count, "{context}");

                // A first fragment that does not hold the TCP header.
                let tcp = Transport::Tcp { seq: 1, ack: 0, flags: Flags::SYN, window: 1000 };
                let tiny = fragments(&Packet::new(macs, from, at, tcp, &[0; 64]).build(), number + 20, 16);
                let before = daemon.drops(Some("tiny_fragment"));
                port.send(&tiny[0]);
                until("the tiny fragment is dropped", LIMIT, || {
                    (daemon.drops(Some("tiny_fragment")) == before + 1).then_some(())
                });
                // What comes after all this passes.
                server.set_read_timeout(Some(LIMIT)).expect("a read timeout");
                for fragment in fragments(&frame, number + 30, 1440) {
                    port.send(&fragment);
                }
                assert!(receive(&server, &context).0 == data, "{context}: in order");
            }
        }
    }
}
