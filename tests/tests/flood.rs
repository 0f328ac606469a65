//! A flood of SYNs at ten times what the table holds (checklist A6, F5; RFC 4987): connections that exist lose nothing,
//! memory does not grow, and a client of another source reaches the published service. All that without SYN cookies, which
//! `cookies` is about.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`).
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::net::{Ipv4Addr, SocketAddr};

use flowhop_tests::raw::{Flags, Transport};
use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Flood, Load, Policy, Segment, alone, numbered};

const CONNECTIONS: u32 = 16_384;
/// SYNs of one flood.
const FLOOD: u64 = 10 * CONNECTIONS as u64;
/// SYNs a second: as many as a slow path that was built for tests can take, with what the server answers.
const RATE: u64 = 10_000;
/// Growth of the daemon's own memory, in kB, that is none: a few pages of the allocator's.
const NOTHING: u64 = 1024;

/// The SYN of a flood with a number, from a source of its own.
fn syn(number: u64, to: SocketAddr) -> Segment {
    let source = Ipv4Addr::from(0x0b00_0000 + number as u32);
    let source = SocketAddr::new(source.into(), 1024 + (number % 50_000) as u16);
    (source, to, Transport::Tcp { seq: 1, ack: 0, flags: Flags::SYN, window: 1024 })
}

/// Memory of a process that is its own, in kB.
fn own_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn a_flood(path: &str) {
    let _turn = alone();
    undisturbed();
    let bed = Bed::for_path("flood", path);
    let server = HttpServer::start(&bed.inside, Family::V4.inside_host());
    let url = server.url().to_owned();
    let port: u16 = url.trim_end_matches("/body").rsplit_once(':').unwrap().1.parse().unwrap();
    let external = SocketAddr::new(Family::V4.outside_router(), port);
    let published = format!(
        "[[rule]]\nname = \"published\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/{port}\"\naction = \"allow\"\n\
         [[nat]]\nname = \"publish\"\ndestination = \"{}\"\nservice = \"tcp/{port}\"\n\
         translate.destination = \"{}\"\nsyn_cookies = \"off\"\n",
        external.ip(),
        Family::V4.inside_host(),
    );
    let policy = Policy::new().masquerade(true).path(path).connections(CONNECTIONS).extra(&published);
    let daemon = Daemon::start(&bed.router, &policy);
    let public = format!("http://{external}/body");
    assert!(tools::curl(&bed.outside, &public) == tools::body(), "the service is reached");

    // The first one shows what memory all this takes.
    let (mut memory, mut reached) = (Vec::new(), 0);
    for syns in [2 * u64::from(CONNECTIONS), FLOOD] {
        let load =
            Load::new(Family::V4.outside_host(), 5000).rate(20_000, if syns == FLOOD { 8000 } else { 500 }).flows(50);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(1000);
        let flood = Flood::start(&bed, RATE, move |number| vec![syn(number, external)]);
        flood.wait(syns / 10);
        while running.sent() < load.packets {
            assert!(tools::curl(&bed.outside, &public) == tools::body(), "the service is reached in the flood");
            reached += 1;
        }
        let report = running.finish();
        println!("{path}: {report}");
        assert!(report.is_clean(), "{report}\ndrops: {}", daemon.json("show drops"));
        let bulk = tools::iperf3(&bed.inside, &bed.outside, Family::V4.outside_host(), 3);
        println!("{path}: {:.1} Gbit/s", bulk.bits_per_second / 1e9);
        flood.wait(syns);
        assert!(tools::curl(&bed.outside, &public) == tools::body(), "the service is reached after the flood");
        drop(flood);
        memory.push(own_memory(daemon.id()));
    }
    let status = daemon.json("show status")["status"].clone();
    println!("{path}: reached {reached} times; {memory:?} kB; {}", status["pressure"]);
    assert!(reached > 0);
    assert!(memory[1] <= memory[0] + NOTHING, "{memory:?} kB");
    let pressure = &status["pressure"];
    let number = |key: &str| pressure[key].as_u64().expect("a number");
    assert_eq!(number("half_open_limit"), u64::from(CONNECTIONS) / 4);
    assert!(number("half_open") <= number("half_open_limit"), "{pressure}");
    assert!(number("evicted") > u64::from(CONNECTIONS), "{pressure}");
}

#[test]
fn a_flood_of_syns_hurts_nobody_on_the_driver() {
    a_flood("driver");
}

#[test]
fn a_flood_of_syns_hurts_nobody_on_the_socket_buffer() {
    a_flood("skb");
}
