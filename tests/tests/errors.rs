//! ICMP and ICMPv6 errors about connections on real traffic: traceroute, path MTU discovery, refused ports, large pings,
//! through translation and without (RFC 5508, RFC 4787 REQ-10, RFC 5382 REQ-9, RFC 1191, RFC 8201).
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`).
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, Probe, alone};

/// Paths that are forced in turn.
const PATHS: [&str; 3] = ["driver", "skb", "user"];
/// A port that nobody listens at (the first of traceroute's).
const CLOSED: u16 = 33434;
/// What the hops let through.
const MTU: u32 = 1400;
const LIMIT: Duration = Duration::from_secs(20);

/// Inside to outside, translated, the hosts behind the inside one as well.
fn translated(path: &str) -> Policy {
    let mut policy = Policy::new().masquerade(true).path(path);
    for (name, source, more) in
        [("hide the deep", "10.2.0.0/24", ""), ("hide the deep, IPv6", "fd00:0:0:5::/64", "family = \"ipv6\"\n")]
    {
        policy = policy.extra(&format!(
            "[[nat]]\nname = \"{name}\"\nto = \"outside\"\nsource = \"{source}\"\ntranslate.source = \"interface\"\n{more}"
        ));
    }
    policy
}

/// Both ways, nothing translated.
fn open(path: &str) -> Policy {
    Policy::new()
        .path(path)
        .extra("[[rule]]\nname = \"outside to inside\"\nfrom = \"outside\"\nto = \"inside\"\naction = \"allow\"\n")
}

/// Sends from `from` to a closed port, one hop further each time, and expects to hear from these, the last of which
/// refuses.
fn assert_trace(from: &Namespace, to: IpAddr, hops: &[IpAddr], context: &str) {
    let probe = Probe::connect(from, SocketAddr::new(to, CLOSED));
    let (exceeded, refused) = if to.is_ipv4() { ((11, 0), (3, 3)) } else { ((3, 0), (1, 4)) };
    for (number, hop) in hops.iter().enumerate() {
        probe.send(number as u8 + 1, b"probe");
        let report = probe.report();
        let last = number + 1 == hops.len();
        let expected = if last { (*hop, libc::ECONNREFUSED, refused) } else { (*hop, libc::EHOSTUNREACH, exceeded) };
        assert_eq!((report.from, report.errno, report.kind), expected, "{context}: hop {}", number + 1);
    }
}

/// Connects to an address that the outside host has no way to, and expects its error, about a SYN in flight, to end the
/// attempt at once.
fn assert_connection_fails(bed: &Bed, from: &Namespace, family: Family, context: &str) {
    let (nowhere, errno) = match family {
        Family::V4 => ("198.18.0.77", libc::EHOSTUNREACH),
        Family::V6 => ("2001:db8:0:4::77", libc::ENETUNREACH),
    };
    bed.outside.ip(&format!("route add unreachable {nowhere}"));
    let to = SocketAddr::new(nowhere.parse().expect("an address"), CLOSED);
    let error = from.enter(|| TcpStream::connect_timeout(&to, LIMIT).expect_err("nobody is there"));
    assert_eq!(error.raw_os_error(), Some(errno), "{context}: {error}");
}

// RFC 5508 REQ-4: routers outside are seen by inside hosts as they are. REQ-5: routers inside are seen from outside as
// the external address.
#[test]
fn routes_are_traced_through_translation() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::with_hops("trace", path);
        let daemon = Daemon::start(&bed.router, &translated(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            let hops = [family.deep_router(), family.inside_router(), family.outside_host(), family.far_host()];
            assert_trace(deep, family.far_host(), &hops, &context);
            assert_trace(&bed.inside, family.far_host(), &hops[1..], &context);
            assert_connection_fails(&bed, deep, family, &context);

            let server = far.enter(|| UdpSocket::bind((family.far_host(), 0)).expect("bind"));
            let client = Probe::connect(deep, server.local_addr().expect("a bound socket"));
            client.send(64, b"hello");
            let (_, external) = server.recv_from(&mut [0; 64]).expect("receive");
            assert_eq!(external.ip(), family.outside_router(), "{context}");
            let server = Probe::over(server, external);
            server.send(64, b"answer");
            assert_eq!(client.receive(), b"answer", "{context}");
            // It ends at the inside host, which is a router here.
            server.send(3, b"too short a life");
            let report = server.report();
            assert_eq!((report.from, report.errno), (external.ip(), libc::EHOSTUNREACH), "{context}");
            drop(client);
            server.send(64, b"to nobody");
            let report = server.report();
            assert_eq!((report.from, report.errno), (external.ip(), libc::ECONNREFUSED), "{context}");
        }
        assert_eq!(daemon.drops(None), daemon.drops(Some("ttl_exceeded")), "{path}");
    }
}

// Without translation, from both sides; a server's refusal is seen by plain sockets.
#[test]
fn routes_are_traced_and_refusals_seen_without_translation() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::with_hops("plain", path);
        let _daemon = Daemon::start(&bed.router, &open(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            let hops = [family.deep_router(), family.inside_router(), family.outside_host(), family.far_host()];
            assert_trace(deep, family.far_host(), &hops, &context);
            let hops = [family.far_router(), family.outside_router(), family.inside_host(), family.deep_host()];
            assert_trace(far, family.deep_host(), &hops, &context);
            for (from, to) in [(far, family.deep_host()), (deep, family.far_host())] {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = from.enter(|| UdpSocket::bind(any).expect("bind"));
                socket.connect((to, CLOSED + 1)).expect("connect");
                socket.set_read_timeout(Some(LIMIT)).expect("a read timeout");
                socket.send(b"anybody there?").expect("send");
                let error = socket.recv(&mut [0; 64]).expect_err("nobody answers");
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{context}: {error}");
            }
        }
    }
}

/// The MTU that a host has learned for a destination.
fn learned_mtu(namespace: &Namespace, to: IpAddr) -> Option<u32> {
    let text = namespace.ip(&format!("route get {to}"));
    let mut words = text.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// Forgets learned MTUs.
fn forget(namespaces: [&Namespace; 2], family: Family) {
    for namespace in namespaces {
        namespace.ip(if family == Family::V4 { "-4 route flush cache" } else { "-6 route flush cache" });
    }
}

/// Sends some megabytes from `from` to a listener and compares what arrives.
fn assert_upload(from: &Namespace, to: &Namespace, address: IpAddr, context: &str) {
    let listener = to.enter(|| TcpListener::bind((address, 0)).expect("listen"));
    let at = listener.local_addr().expect("a bound socket");
    let bytes = tools::body();
    let mut client = from.enter(|| TcpStream::connect_timeout(&at, LIMIT).expect("connect"));
    let (mut server, _) = listener.accept().expect("accept");
    client.set_write_timeout(Some(LIMIT)).expect("a write timeout");
    server.set_read_timeout(Some(LIMIT)).expect("a read timeout");
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&bytes).expect("send");
            client.shutdown(Shutdown::Write).expect("finish");
        });
        server.read_to_end(&mut got).expect("receive");
    });
    assert!(got == bytes, "{context}: {} bytes of {}", got.len(), bytes.len());
}

/// One ping of this many bytes; with `df`, never in fragments.
fn ping(namespace: &Namespace, to: IpAddr, size: &str, df: bool) -> String {
    let to = to.to_string();
    let mut options = vec!["-n", "-c", "1", "-W", "2", "-s", size];
    if df {
        options.extend(["-M", "do"]);
    }
    options.push(&to);
    namespace.run("ping", &options).stdout
}

/// A large ping arrives, the first one or, where its size had to be found out first, one of the next.
fn assert_large_ping(from: &Namespace, to: IpAddr, context: &str) {
    let arrives = |_| ping(from, to, "60000", false).contains(" 0% packet loss");
    assert!((0..4).any(arrives), "{context}: no large ping arrives at {to}");
}

// RFC 1191, RFC 8201, RFC 5508 REQ-4 and REQ-5: what a hop says of its MTU reaches the sender, whichever side it is on.
#[test]
fn path_mtu_is_discovered_through_translation() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::with_hops("pmtu", path);
        bed.narrow(MTU);
        let _daemon = Daemon::start(&bed.router, &translated(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            let (host, external) = (family.far_host(), family.outside_router());
            assert_eq!((learned_mtu(deep, host), learned_mtu(far, external)), (None, None), "{context}");
            // A hop outside is narrow for what the client sends.
            assert_upload(deep, far, host, &context);
            assert_eq!(learned_mtu(deep, host), Some(MTU), "{context}: the client");
            // A host that knows the MTU of a path asks for no larger segments.
            forget([deep, far], family);
            // A hop inside is narrow for what the server sends.
            let server = HttpServer::start(far, host);
            tools::assert_download(deep, &server);
            assert_eq!(learned_mtu(far, external), Some(MTU), "{context}: the server");
            if tools::find("ping").is_none() {
                eprintln!("not run: pings, ping is not installed");
                continue;
            }
            forget([deep, far], family);
            let output = ping(deep, host, "1450", true);
            let said = ["mtu = 1400", "mtu=1400"].iter().any(|text| output.contains(text));
            let by = format!("From {}", family.outside_host());
            assert!(said && output.contains(&by), "{context}: {output}");
            assert_eq!(learned_mtu(deep, host), Some(MTU), "{context}: by ping");
            assert_large_ping(deep, host, &context);
            assert_large_ping(&bed.inside, family.outside_host(), &context);
        }
    }
}

// Large pings both ways, through narrow hops on either side.
#[test]
fn large_pings_pass_both_ways() {
    let _turn = alone();
    if tools::find("ping").is_none() {
        eprintln!("not run: ping is not installed");
        return;
    }
    for path in PATHS {
        let bed = Bed::with_hops("large", path);
        bed.narrow(MTU);
        let _daemon = Daemon::start(&bed.router, &open(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            assert_large_ping(deep, family.far_host(), &context);
            assert_large_ping(far, family.deep_host(), &context);
        }
    }
}
