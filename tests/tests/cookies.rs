//! SYN cookies for published services (checklist F12; RFC 4987 section 3.6): new clients get through a flood far larger than
//! the table on every path, what they send and get is whole, nobody else notices, and it ends when the flood does.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flowhop_tests::raw::{Flags, Packet, RawPort, Transport};
use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Flood, Link, Load, Namespace, Policy, Segment, alone, numbered, until};
use serde_json::Value;

const CONNECTIONS: u32 = 4096;
/// What half-open connections may take of them.
const HALF_OPEN: u64 = CONNECTIONS as u64 / 4;
/// SYNs of one flood.
const FLOOD: u64 = 20 * CONNECTIONS as u64;
/// SYNs a second.
const RATE: u64 = 10_000;
const LIMIT: Duration = Duration::from_secs(60);
/// The published port of the web server, and that of the one that talks.
const WEB: u16 = 443;
const TALK: u16 = 444;

fn port_of(server: &HttpServer) -> u16 {
    server.url().trim_end_matches("/body").rsplit_once(':').unwrap().1.parse().unwrap()
}

fn public(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.outside_router(), port)
}

/// Services of an inside server at the router's outside address: (external port, inside port).
fn publish(family: Family, ports: &[(u16, u16)], cookies: &str) -> String {
    let (name, inside) = match family {
        Family::V4 => ("ipv4", family.inside_host().to_string()),
        Family::V6 => ("ipv6", format!("[{}]", family.inside_host())),
    };
    let mut text = format!(
        "[[rule]]\nname = \"published {name}\"\nfrom = \"outside\"\nto = \"inside\"\ndestination = \"{}\"\n\
         action = \"allow\"\n",
        family.inside_host()
    );
    for (external, port) in ports {
        text += &format!(
            "[[nat]]\nname = \"{name} {external}\"\nfamily = \"{name}\"\ndestination = \"{}\"\n\
             service = \"tcp/{external}\"\ntranslate.destination = \"{inside}:{port}\"\nsyn_cookies = \"{cookies}\"\n",
            family.outside_router(),
        );
    }
    text
}

/// Takes connections; on each it says [`tools::body`] and hears what the other side says at once, and then what it thinks of
/// that.
fn talker(namespace: &Arc<Namespace>, address: IpAddr) -> u16 {
    let listener = namespace.enter(|| TcpListener::bind((address, 0)).expect("listen"));
    let port = listener.local_addr().unwrap().port();
    // It ends with the test. A server that takes refuge in cookies of its own, as before ours began, may take a late segment
    // for a client; that one is silent, and others have to be served meanwhile.
    let _thread = namespace.thread(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                let Ok(heard) = exchange(&stream, &tools::body()) else { return };
                let _gone = (&stream).write_all(&[u8::from(heard == tools::body())]);
            });
        }
    });
    port
}

/// Says something, and returns as much of what is said at the same time.
fn exchange(stream: &TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(words)
        });
        let mut heard = vec![0; words.len()];
        let mut reader = stream;
        reader.read_exact(&mut heard)?;
        sender.join().expect("no panic")?;
        Ok(heard)
    })
}

fn talk(from: &Namespace, to: SocketAddr) {
    let stream = from.enter(|| TcpStream::connect_timeout(&to, LIMIT)).expect("connect");
    let (body, mut verdict) = (tools::body(), [0]);
    let heard = exchange(&stream, &body).expect("a whole dialogue");
    assert!(heard == body, "what the server said");
    (&stream).read_exact(&mut verdict).expect("a verdict");
    assert_eq!(verdict, [1], "what the server heard");
}

/// A site with a web server and a talking one in both families.
struct Site {
    bed: Bed,
    _servers: [HttpServer; 2],
    policy: Policy,
}

impl Site {
    fn new(path: &str, cookies: &str) -> Self {
        Self::over(Bed::for_path("cookies", path), path, cookies)
    }

    fn over(bed: Bed, path: &str, cookies: &str) -> Self {
        let servers = Family::BOTH.map(|family| HttpServer::start(&bed.inside, family.inside_host()));
        let mut policy = Policy::new().masquerade(true).path(path).connections(CONNECTIONS);
        for (family, server) in Family::BOTH.into_iter().zip(&servers) {
            let talking = talker(&bed.inside, family.inside_host());
            policy = policy.extra(&publish(family, &[(WEB, port_of(server)), (TALK, talking)], cookies));
        }
        Self { bed, _servers: servers, policy: policy.extra("[timeouts]\ntcp_opening = \"6s\"\n") }
    }

    /// Somebody outside downloads, and talks, by either family.
    fn reach(&self, family: Family) {
        let url = format!("http://{}/body", public(family, WEB));
        assert!(tools::curl(&self.bed.outside, &url) == tools::body(), "{family:?}");
        talk(&self.bed.outside, public(family, TALK));
    }
}

fn cookies(daemon: &Daemon) -> Value {
    daemon.json("show status")["status"]["syn_cookies"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn always(path: &str) {
    let _turn = alone();
    let site = Site::new(path, "always");
    let daemon = Daemon::start(&site.bed.router, &site.policy);
    for family in Family::BOTH {
        (0..2).for_each(|_| site.reach(family));
        for port in [WEB, TALK] {
            for flow in daemon.flows_to(&public(family, port).to_string()) {
                for direction in ["forward", "reverse"] {
                    assert_eq!(flow[direction]["path"], path, "{flow}");
                }
            }
        }
    }
    let cookies = cookies(&daemon);
    let values = ["sent", "accepted", "refused", "opening", "services"].map(|key| number(&cookies[key]));
    assert_eq!(values, [8, 8, 0, 0, 4], "{cookies}");
    assert_eq!(cookies["answering"], false, "no pressure");
    assert_eq!(daemon.json("show drops")["drops"].as_array().unwrap().len(), 0, "{}", daemon.json("show drops"));
}

#[test]
fn transfers_are_whole_on_the_driver() {
    always("driver");
}

#[test]
fn transfers_are_whole_on_the_socket_buffer() {
    always("skb");
}

#[test]
fn transfers_are_whole_on_the_user_path() {
    always("user");
}

// Where the link has no header, and where frames carry a tag.
#[test]
fn answers_leave_by_links_of_all_kinds() {
    let mut kinds = vec![("skb", Link::Tun), ("skb", Link::Tap)];
    if Bed::has_vlans() {
        kinds.extend([("skb", Link::Vlan(10)), ("driver", Link::Vlan(10))]);
    } else {
        eprintln!("not run: VLANs, the kernel has none");
    }
    for (path, link) in kinds {
        let _turn = alone();
        let site = Site::over(Bed::with_links("cookies", path, [Link::Veth, link]), path, "always");
        let wan = if matches!(link, Link::Vlan(_)) { "wan0.10" } else { "wan0" };
        let daemon = Daemon::start(&site.bed.router, &site.policy.clone().device("wan", wan));
        Family::BOTH.iter().for_each(|family| site.reach(*family));
        let cookies = cookies(&daemon);
        assert_eq!(["sent", "accepted"].map(|key| number(&cookies[key])), [4, 4], "{path} {link:?}: {cookies}");
    }
}

/// The segments of a flood with a number: a SYN from a source of its own, of either family, and with every tenth an acknowledgment.
fn segments(number: u64) -> Vec<Segment> {
    let word = number as u32;
    let port = 1024 + (word % 50_000) as u16;
    let (source, family): (IpAddr, _) = match number % 2 {
        0 => (Ipv4Addr::from(0x0b00_0000 + word).into(), Family::V4),
        _ => (Ipv6Addr::from_bits(0x2600_u128 << 112 | u128::from(word)).into(), Family::V6),
    };
    let (source, to) = (SocketAddr::new(source, port), public(family, if number % 4 < 2 { WEB } else { TALK }));
    let syn = Transport::Tcp { seq: word, ack: 0, flags: Flags::SYN, window: 1024 };
    let ack = Transport::Tcp { seq: word, ack: word.wrapping_mul(0x9e37_79b1), flags: Flags::ACK, window: 1024 };
    let mut all = vec![(source, to, syn)];
    if number.is_multiple_of(10) {
        all.push((source, to, ack));
    }
    all
}

fn flood(path: &str) {
    let _turn = alone();
    undisturbed();
    let site = Site::new(path, "auto");
    let bed = &site.bed;
    let daemon = Daemon::start(&bed.router, &site.policy);
    Family::BOTH.iter().for_each(|family| site.reach(*family));
    assert_eq!(number(&cookies(&daemon)["sent"]), 0, "no pressure, no cookies");

    let load = Load::new(Family::V4.outside_host(), 5000).rate(10_000, 8000).flows(50);
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    running.wait_sent(1000);
    let flood = Flood::start(bed, RATE, segments);
    until("answers", LIMIT, || (cookies(&daemon)["answering"] == true).then_some(()));
    let (mut reached, mut most) = (0, 0);
    while running.sent() < load.packets || flood.sent() < FLOOD {
        Family::BOTH.iter().for_each(|family| site.reach(*family));
        reached += 1;
        most = most.max(number(&daemon.json("show status")["status"]["table"]["connections"]));
    }
    let report = running.finish();
    println!("{path}: {report}; reached {reached} times; at most {most} connections of {} SYNs", flood.sent());
    assert!(report.is_clean(), "{report}\ndrops: {}", daemon.json("show drops"));
    flood.wait(FLOOD);
    let sent = flood.sent();
    drop(flood);
    let during = cookies(&daemon);
    println!("{path}: {during}");
    assert!(reached > 0);
    // What was open before answering began, the flows that go on, and the clients that came meanwhile.
    assert!(most <= HALF_OPEN + 100 + 4 * reached, "{most}");
    assert!(number(&during["sent"]) > sent - 2 * HALF_OPEN, "{during} of {sent}");
    assert!(number(&during["refused"]) > sent / 10 - HALF_OPEN, "{during}");
    assert_eq!(number(&daemon.json("show status")["status"]["pressure"]["evicted"]), 0, "nobody made room");
    if path != "user" {
        // The daemon has seen what came before it was under way, and what clients acknowledged.
        let paths = daemon.json("show paths");
        let user = paths["paths"].as_array().unwrap().iter().find(|entry| entry["name"] == "user").unwrap();
        assert!(number(&user["misses"]) < sent / 10, "{paths}");
    }
    until("the end of answers", LIMIT, || (cookies(&daemon)["answering"] == false).then_some(()));
    let before = cookies(&daemon);
    Family::BOTH.iter().for_each(|family| site.reach(*family));
    let after = cookies(&daemon);
    assert_eq!((&after["sent"], &after["accepted"]), (&before["sent"], &before["accepted"]), "as without cookies");
}

#[test]
fn a_flood_is_answered_on_the_driver() {
    flood("driver");
}

#[test]
fn a_flood_is_answered_on_the_socket_buffer() {
    flood("skb");
}

#[test]
fn a_flood_is_answered_on_the_user_path() {
    flood("user");
}

// The daemon is killed while cookies are given: nothing is answered while it is away, connections go on with their numbers
// shifted, and what was answered before is good for the next one.
#[test]
fn another_daemon_goes_on() {
    for path in ["driver", "skb"] {
        let _turn = alone();
        let site = Site::new(path, "always");
        let bed = &site.bed;
        let mut daemon = Daemon::start(&bed.router, &site.policy);
        let echo = bed.inside.enter(|| TcpListener::bind((Family::V4.inside_host(), 0)).unwrap());
        let port = echo.local_addr().unwrap().port();
        let policy = site.policy.clone().extra(&format!(
            "[[nat]]\nname = \"echo\"\ndestination = \"{}\"\nservice = \"tcp/7\"\n\
             translate.destination = \"{}:{port}\"\nsyn_cookies = \"always\"\n",
            Family::V4.outside_router(),
            Family::V4.inside_host()
        ));
        daemon.reload(&policy);
        until("the reload", LIMIT, || daemon.stderr().contains("policy reloaded").then_some(()));
        let to = public(Family::V4, 7);
        let mut client = bed.outside.enter(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
        let (mut server, _) = echo.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let mut say = |word: &[u8; 4]| {
            let mut heard = [0; 4];
            client.write_all(word).unwrap();
            server.read_exact(&mut heard).unwrap();
            server.write_all(&heard).unwrap();
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, word, "{path}");
        };
        say(b"one.");
        until("the path", LIMIT, || {
            let settled = daemon.json("show status")["status"]["pending"] == 0;
            let flow = daemon.only_flow_to(&to.to_string());
            (settled && ["forward", "reverse"].iter().all(|way| flow[way]["path"] == path)).then_some(())
        });
        let wire = RawPort::open(&bed.outside, "eth0");
        let mac = RawPort::open(&bed.router, "wan0").mac;
        let source = SocketAddr::new(Ipv4Addr::new(11, 1, 2, 3).into(), 4000);
        let send = |seq, ack, flags| {
            let transport = Transport::Tcp { seq, ack, flags, window: 1024 };
            wire.send(&Packet::new((wire.mac, mac), source, to, transport, &[]).build());
        };
        let answer = |limit| wire.capture(limit, |frame| frame.came(to, source)).and_then(|frame| frame.packet());
        send(77, 0, Flags::SYN);
        let packet = answer(LIMIT).expect("an answer");
        let Transport::Tcp { seq: cookie, ack: 78, .. } = packet.transport else { panic!("{packet:?}") };
        assert!(packet.checksums, "{packet:?}");

        daemon.kill9();
        say(b"two.");
        // A moment later the programs have noticed, and hand nothing down.
        until("silence", LIMIT, || {
            wire.clear();
            send(78, 0, Flags::SYN);
            answer(Duration::from_millis(300)).is_none().then_some(())
        });
        send(78, 0, Flags::SYN);
        assert_eq!(answer(Duration::from_millis(300)), None, "{path}");
        say(b"3333");
        daemon.start_again();
        say(b"four");
        send(78, cookie.wrapping_add(1), Flags::ACK);
        until("the connection", LIMIT, || {
            daemon
                .flows_to(&to.to_string())
                .iter()
                .any(|flow| flow["forward"]["source"] == source.to_string())
                .then_some(())
        });
    }
}

// What is opened at a cookie's acknowledgment and finds no server is told so.
#[test]
fn a_server_that_refuses_is_heard_of() {
    for path in ["driver", "skb", "user"] {
        let _turn = alone();
        let bed = Bed::for_path("cookies", path);
        let mut policy = Policy::new().masquerade(true).path(path);
        for family in Family::BOTH {
            // Nobody listens there.
            policy = policy.extra(&publish(family, &[(WEB, 1)], "always"));
        }
        let daemon = Daemon::start(&bed.router, &policy);
        for family in Family::BOTH {
            // The reset may be there before the client has looked.
            let opened = bed.outside.enter(|| TcpStream::connect_timeout(&public(family, WEB), LIMIT));
            let ended = opened.and_then(|mut stream| {
                stream.set_read_timeout(Some(LIMIT))?;
                stream.read(&mut [0; 1])
            });
            let ended = ended.expect_err("nobody is there");
            assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset, "{path} {family:?}");
        }
        assert_eq!(number(&cookies(&daemon)["opening"]), 0);
    }
}
