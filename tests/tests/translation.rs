//! Translation in namespaces, by the kernel's own sockets: what a mapping depends on, who is let in, segments that fit,
//! and strangers that are told (RFC 4787, RFC 5382, RFC 6691).
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, alone};

const SECOND: Duration = Duration::from_secs(1);

fn inside() -> IpAddr {
    Family::V4.inside_host()
}

fn outside() -> IpAddr {
    Family::V4.outside_host()
}

fn policy(path: &str, nat: &str) -> Policy {
    let hide = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";
    Policy::new().path(path).extra(&format!("{hide}{nat}\n"))
}

fn socket(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, 0)).expect("a socket"));
    socket.set_read_timeout(Some(SECOND)).unwrap();
    socket
}

/// Who a datagram came from, if one comes.
fn sender(socket: &UdpSocket) -> Option<SocketAddr> {
    let mut buffer = [0; 64];
    socket.recv_from(&mut buffer).ok().map(|(_, from)| from)
}

/// The largest segment that a socket sends, in bytes; options of each segment are not part of it.
fn largest_segment(stream: &TcpStream) -> i32 {
    let mut size: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `size`, on a descriptor that is open.
    let done = unsafe {
        let place = (&raw mut size).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, place, &raw mut length)
    };
    assert_eq!(done, 0);
    size
}

/// What two ports and another address of the outside see, and who of them may send to a mapping.
fn kinds(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("kinds", path);
    let second: IpAddr = "198.51.100.3".parse().unwrap();
    bed.outside.ip("addr add 198.51.100.3/24 dev eth0");
    let words = ["endpoint-independent", "address-dependent", "address-and-port-dependent"];
    for (mapping, filtering) in [(0, 0), (0, 2), (1, 1), (2, 2), (2, 0)] {
        let nat = format!("mapping = \"{}\"\nfiltering = \"{}\"", words[mapping], words[filtering]);
        let daemon = Daemon::start(&bed.router, &policy(path, &nat));
        let own = socket(&bed.inside, inside());
        let remotes = [outside(), outside(), second].map(|address| socket(&bed.outside, address));
        let seen = [0, 1, 2].map(|number: usize| {
            // Twice, so that the second one goes by the path.
            for _ in 0..2 {
                own.send_to(b"x", remotes[number].local_addr().unwrap()).unwrap();
            }
            let first = sender(&remotes[number]).expect("it arrives");
            assert_eq!(sender(&remotes[number]), Some(first));
            first
        });
        assert_eq!((seen[0] == seen[1], seen[0] == seen[2]), (mapping < 2, mapping < 1), "{path}: {nat}");
        let strangers = [outside(), "198.51.100.4".parse().unwrap()].map(|address| {
            if address != outside() {
                bed.outside.ip("addr replace 198.51.100.4/24 dev eth0");
            }
            let stranger = socket(&bed.outside, address);
            stranger.send_to(b"x", seen[0]).unwrap();
            let arrived = sender(&own).is_some();
            if arrived {
                own.send_to(b"x", stranger.local_addr().unwrap()).unwrap();
                assert_eq!(sender(&stranger), Some(seen[0]), "answered from the endpoint that it was sent to");
            }
            arrived
        });
        assert_eq!(strangers, [filtering < 2, filtering < 1], "{path}: {nat}");
        drop(daemon);
    }
}

/// A connection whose SYNs are clamped, and which then goes by the path.
fn clamped(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("mss", path);
    let daemon = Daemon::start(&bed.router, &policy(path, "mss_clamp = 1000"));
    let listener = bed.outside.enter(|| TcpListener::bind((outside(), 0)).expect("listen"));
    let address = listener.local_addr().unwrap();
    let server = bed.outside.thread(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let size = largest_segment(&stream);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("to the end");
        (size, all)
    });
    let mut client = bed.inside.enter(|| TcpStream::connect_timeout(&address, 5 * SECOND)).expect("a connection");
    let data: Vec<u8> = (0..2_000_000u32).map(|number| (number % 251) as u8).collect();
    client.write_all(&data).expect("send");
    let sizes = largest_segment(&client);
    let flow = daemon.only_flow_to(&address.to_string());
    drop(client);
    let (server_size, received) = server.join().unwrap();
    assert!(received == data, "{path}: not what was sent");
    assert!(sizes <= 1000 && server_size <= 1000, "{path}: {sizes} and {server_size}");
    for direction in ["forward", "reverse"] {
        assert_eq!(flow[direction]["path"], *path, "{flow}");
        assert_ne!(flow[direction]["path_reason"], "handshake", "{flow}");
    }
}

/// A stranger's connection to a mapping is refused, not left to its timeout.
fn strangers_are_told(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("told", path);
    let daemon = Daemon::start(&bed.router, &policy(path, ""));
    let listener = bed.outside.enter(|| TcpListener::bind((outside(), 0)).expect("listen"));
    let address = listener.local_addr().unwrap();
    let client = bed.inside.enter(|| TcpStream::connect_timeout(&address, 5 * SECOND)).expect("a connection");
    let (_server, external) = listener.accept().expect("a client");
    let refused = bed.outside.enter(|| TcpStream::connect_timeout(&external, 30 * SECOND)).expect_err("a mapping");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{path}");
    assert!(daemon.drops(Some("nat_filtered")) > 0);
    drop(client);
}

macro_rules! on_paths {
    ($($path:ident)*) => {
        $(mod $path {
            #[test]
            fn mappings_and_filters_are_what_the_policy_says() {
                super::kinds(stringify!($path));
            }

            #[test]
            fn clamped_connections_are_accelerated_when_they_are_established() {
                super::clamped(stringify!($path));
            }

            #[test]
            fn strangers_are_told_that_nobody_is_there() {
                super::strangers_are_told(stringify!($path));
            }
        })*
    };
}

on_paths! { driver skb user }
