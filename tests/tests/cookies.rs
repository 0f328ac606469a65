//! SYN cookies for published services (checklist F12; RFC 4987 section 3.6): new clients get through a flood far larger than
//! the table on every path, what they send and get is whole, nobody else notices, and it ends when the flood does.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::net::SocketAddr;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Policy, alone};

fn port_of(server: &HttpServer) -> u16 {
    server.url().trim_end_matches("/body").rsplit_once(':').unwrap().1.parse().unwrap()
}

/// The service of an inside server at the router's outside address.
fn publish(family: Family, port: u16, cookies: &str) -> String {
    let (name, inside, external) = match family {
        Family::V4 => ("ipv4", format!("{}", family.inside_host()), family.outside_router()),
        Family::V6 => ("ipv6", format!("[{}]", family.inside_host()), family.outside_router()),
    };
    format!(
        "[[rule]]\nname = \"published {name}\"\nfrom = \"outside\"\nto = \"inside\"\ndestination = \"{}\"\n\
         service = \"tcp/{port}\"\naction = \"allow\"\n\
         [[nat]]\nname = \"publish {name}\"\nfamily = \"{name}\"\ndestination = \"{external}\"\nservice = \"tcp/443\"\n\
         translate.destination = \"{inside}:{port}\"\nsyn_cookies = \"{cookies}\"\n",
        family.inside_host(),
    )
}

fn always(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("cookies", path);
    let servers = Family::BOTH.map(|family| HttpServer::start(&bed.inside, family.inside_host()));
    let mut policy = Policy::new().masquerade(true).path(path);
    for (family, server) in Family::BOTH.into_iter().zip(&servers) {
        policy = policy.extra(&publish(family, port_of(server), "always"));
    }
    let daemon = Daemon::start(&bed.router, &policy);
    for family in Family::BOTH {
        let public = SocketAddr::new(family.outside_router(), 443);
        for _ in 0..3 {
            assert!(tools::curl(&bed.outside, &format!("http://{public}/body")) == tools::body(), "{path} {family:?}");
        }
        let flow = daemon.flows_to(&public.to_string()).pop().expect("a flow");
        println!("{flow}");
        for direction in ["forward", "reverse"] {
            assert_eq!(flow[direction]["path"], path, "{flow}");
        }
    }
    let status = daemon.json("show status")["status"].clone();
    println!("{path}: {} {}", status["syn_cookies"], daemon.json("show paths"));
    assert_eq!(status["syn_cookies"]["accepted"], 6, "{status}");
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
