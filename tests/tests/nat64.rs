//! IPv6-only hosts and IPv4 servers (stateful NAT64, RFC 6146), by tools of others: curl, ping, iperf3, traceroute; and
//! numbered datagrams, large pings, a narrow IPv4 hop.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test on the spot"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, alone, until};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);

/// An IPv4 address behind the well-known prefix.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d).into()
}

/// The same behind a prefix of the network's own, which may lead to any host of the beds.
fn behind_own(address: IpAddr) -> IpAddr {
    let IpAddr::V6(address) = embedded(address) else { panic!("{address}") };
    Ipv6Addr::from_bits(0x2001_0db8_0064 << 80 | address.to_bits() & 0xffff_ffff).into()
}

fn server() -> IpAddr {
    Family::V4.outside_host()
}

fn policy(path: &str) -> Policy {
    Policy::new().path(path).extra(
        "[[nat]]\nname = \"nat64\"\nto = \"outside\"\nsource = \"fd00::/16\"\nprefix64 = \"64:ff9b::/96\"\n\
         translate.source = \"interface\"\n",
    )
}

fn own(path: &str) -> Policy {
    Policy::new().path(path).extra(
        "[[nat]]\nname = \"nat64\"\nto = \"outside\"\nprefix64 = \"2001:db8:64::/96\"\ntranslate.source = \"interface\"\n",
    )
}

/// The inside has IPv6 alone.
fn bed(label: &str, path: &str) -> Bed {
    let bed = Bed::for_path(label, path);
    bed.inside.ip("-4 addr flush dev eth0");
    bed
}

/// A page is fetched whole, and everything that is shown names both forms.
fn web(path: &str) {
    let _turn = alone();
    let bed = bed("web64", path);
    let daemon = Daemon::start(&bed.router, &policy(path));
    let http = HttpServer::start(&bed.outside, server());
    let url = http.url().replace(&server().to_string(), &format!("[{}]", embedded(server())));
    assert!(url.contains("[64:ff9b::c633:6402]"), "{url}");
    assert!(tools::curl(&bed.inside, &url) == tools::body(), "{path}: not what was served");
    let flows = daemon.json("show flows");
    let flow = &flows["flows"][0];
    let forward = &flow["forward"];
    assert!(forward["destination"].as_str().unwrap().starts_with("[64:ff9b::c633:6402]:"), "{flow}");
    assert!(forward["translated_destination"].as_str().unwrap().starts_with("198.51.100.2:"), "{flow}");
    assert!(forward["source"].as_str().unwrap().starts_with("[fd00:0:0:1::2]:"), "{flow}");
    assert!(forward["translated_source"].as_str().unwrap().starts_with("198.51.100.1:"), "{flow}");
    for direction in ["forward", "reverse"] {
        assert_eq!(
            (&flow[direction]["path"], &flow[direction]["path_reason"]),
            (&"user".into(), &"nat64".into()),
            "{flow}"
        );
        assert!(flow[direction]["packets"].as_u64().unwrap() > 1, "{flow}");
    }
    let nat = daemon.json("show nat");
    let kinds: Vec<_> = nat["nat"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"nat64") && kinds.contains(&"connection"), "{nat}");
}

/// Small and large pings, all answered; datagrams with numbers, none lost, changed or out of order.
fn pings_and_numbers(path: &str) {
    let _turn = alone();
    let bed = bed("ping64", path);
    let _daemon = Daemon::start(&bed.router, &policy(path));
    let shown = embedded(server());
    assert!(tools::ping(&bed.inside, shown, 10).is_clean(), "{path}");
    // In fragments both ways: of IPv6 there, of IPv4 back.
    let large =
        bed.inside.run_within(LIMIT, "ping", &["-6", "-n", "-c", "3", "-i", "0.2", "-s", "20000", &shown.to_string()]);
    assert!(large.stdout.contains(" 0% packet loss"), "{path}: {}", large.stdout);
    let echo = bed.outside.enter(|| UdpSocket::bind((server(), 7000)).expect("a socket"));
    let back = bed.outside.thread(move || {
        let mut buffer = [0; 65536];
        echo.set_read_timeout(Some(3 * SECOND)).unwrap();
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], from).expect("send back");
        }
    });
    let client = bed.inside.enter(|| UdpSocket::bind("[fd00:0:0:1::2]:0").expect("a socket"));
    client.set_read_timeout(Some(2 * SECOND)).unwrap();
    let to = SocketAddr::new(shown, 7000);
    for number in 0..3000u32 {
        let mut datagram = vec![number as u8; 4 + (number as usize * 7) % 1300];
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        client.send_to(&datagram, to).expect("send");
        let mut buffer = [0; 2000];
        let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{path}: {number}: {error}"));
        assert_eq!(from, to);
        assert!(buffer[..length] == datagram, "{path}: {number} came back changed");
    }
    back.join().expect("the echo server");
}

/// Every hop shows: the box by IPv6, the server by its embedded address.
fn routes(path: &str) {
    if tools::find("traceroute").is_none() {
        eprintln!("not run: traceroute is not installed");
        return;
    }
    let _turn = alone();
    let bed = Bed::with_hops("trace64", path);
    let _daemon = Daemon::start(&bed.router, &own(path));
    let [inside, _] = bed.behind();
    for kind in ["-U", "-I", "-T"] {
        let to = behind_own(Family::V4.far_host()).to_string();
        let hops = hops(inside, kind, &to);
        let expected = [
            Family::V6.deep_router(),
            Family::V6.inside_router(),
            behind_own(Family::V4.outside_host()),
            behind_own(Family::V4.far_host()),
        ];
        assert_eq!(hops, expected.map(|hop| hop.to_string()), "{path} {kind}");
    }
}

fn hops(from: &Namespace, kind: &str, to: &str) -> Vec<String> {
    let options = ["-6", kind, "-n", "-q", "1", "-w", "3", "-m", "6", to];
    let output = from.run_within(LIMIT, "traceroute", &options).ok().stdout;
    let lines = output.lines().skip(1);
    lines.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

/// Sends megabytes both ways, from a host to the one at an IPv4 address, and compares them.
fn transfer(client: &Namespace, far: &Arc<Namespace>, address: IpAddr, path: &str) {
    let listener = far.enter(|| TcpListener::bind((address, 0)).expect("listen"));
    let port = listener.local_addr().unwrap().port();
    let data: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let copy = data.clone();
    let server = far.thread(move || {
        let (mut stream, peer) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut all = vec![0; copy.len()];
        stream.read_exact(&mut all).expect("all of it");
        stream.write_all(&all).expect("send back");
        (all == copy, peer)
    });
    let to = SocketAddr::new(behind_own(address), port);
    let mut stream = client.enter(|| TcpStream::connect_timeout(&to, 5 * SECOND)).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&data).expect("send");
    let mut all = vec![0; data.len()];
    stream.read_exact(&mut all).expect("all of it back");
    let (same, peer) = server.join().expect("the server");
    assert!(same && all == data, "{path}: changed on the way");
    assert_eq!(peer.ip(), Family::V4.outside_router());
}

/// Path MTU discovery works across families, in both directions: routers on both sides carry less than the hosts think.
fn narrow(path: &str) {
    let _turn = alone();
    for mtu in [1400, 1280] {
        let bed = Bed::with_hops("narrow64", path);
        bed.narrow(mtu);
        let _daemon = Daemon::start(&bed.router, &own(path));
        let [deep, far] = bed.behind();
        transfer(deep, far, Family::V4.far_host(), path);
        // Both were told, each in terms of its own family (RFC 7915 sections 4.2 and 5.2).
        let route = deep.ip(&format!("-6 route get {}", behind_own(Family::V4.far_host())));
        assert!(route.contains(&format!("mtu {}", mtu + 20)), "{path}: {route}");
        let route = far.ip(&format!("route get {}", Family::V4.outside_router()));
        assert!(route.contains(&format!("mtu {}", mtu - 20)), "{path}: {route}");
    }
}

/// The box's own IPv4 link is narrow: the host is told what of IPv6 fits it, and that does.
fn narrow_link(path: &str) {
    let _turn = alone();
    let mtu = 1300;
    let bed = bed("link64", path);
    bed.router.ip(&format!("link set wan0 mtu {mtu}"));
    bed.outside.ip(&format!("link set eth0 mtu {mtu}"));
    let daemon = Daemon::start(&bed.router, &policy(path));
    let shown = embedded(server()).to_string();
    let ping = |size: u32| {
        let size = size.to_string();
        bed.inside
            .run_within(LIMIT, "ping", &["-6", "-n", "-c", "2", "-i", "0.2", "-M", "do", "-s", &size, &shown])
            .stdout
    };
    let refused = ping(1300);
    assert!(refused.contains("mtu=1320") || refused.contains("Packet too big"), "{path}: {refused}");
    assert!(daemon.drops(Some("too_big")) > 0, "{path}");
    let route = bed.inside.ip(&format!("-6 route get {shown}"));
    assert!(route.contains("mtu 1320"), "{path}: {route}");
    let fits = ping(1320 - 48);
    assert!(fits.contains(" 0% packet loss"), "{path}: {fits}");
}

/// A stream of iperf3 in both directions.
fn bulk(path: &str) {
    if tools::find("iperf3").is_none() {
        eprintln!("not run: iperf3 is not installed");
        return;
    }
    let _turn = alone();
    let bed = bed("bulk64", path);
    let _daemon = Daemon::start(&bed.router, &policy(path));
    for more in [&[][..], &["-R"]] {
        let _server = bed.outside.spawn("iperf3", &["-s", "-1", "-B", &server().to_string()]);
        until("iperf3 to listen", LIMIT, || bed.outside.run("ss", &["-ltnH"]).stdout.contains(":5201 ").then_some(()));
        let shown = embedded(server()).to_string();
        let options = [&["-6", "-c", &shown, "-t", "2", "-J"], more].concat();
        let report = bed.inside.run_within(LIMIT, "iperf3", &options).ok().json();
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_default();
        println!("{path} {more:?}: {:.0} Mbit/s, {} sent again", rate / 1e6, report["end"]["sum_sent"]["retransmits"]);
        assert!(rate > 20e6, "{path} {more:?}: {rate} bit/s");
    }
}

macro_rules! on_paths {
    ($($path:ident)*) => {
        $(mod $path {
            #[test]
            fn pages_are_fetched_and_both_forms_are_shown() {
                super::web(stringify!($path));
            }

            #[test]
            fn pings_and_numbered_datagrams_are_answered() {
                super::pings_and_numbers(stringify!($path));
            }

            #[test]
            fn routes_are_traced_to_the_end() {
                super::routes(stringify!($path));
            }

            #[test]
            fn narrow_routers_on_both_sides_are_found_out_about() {
                super::narrow(stringify!($path));
            }

            #[test]
            fn a_narrow_ipv4_link_is_told_about() {
                super::narrow_link(stringify!($path));
            }

            #[test]
            fn streams_pass_both_ways() {
                super::bulk(stringify!($path));
            }
        })*
    };
}

on_paths! { driver skb user }
