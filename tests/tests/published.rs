//! Published services in namespaces, by real tools: from outside, by the external address from inside, on one arm
//! (checklist C8, C9; RFC 4787 REQ-9, RFC 5382 REQ-8; interface.md on translation before local delivery).
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Load, Namespace, Offloads, Policy, alone, numbered, until};
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);
/// The router's outside address, which clients use.
const EXTERNAL: &str = "198.51.100.1";
/// A second one, published whole.
const WHOLE: &str = "198.51.100.7";
/// The web server on the inside host's segment.
const SERVER: &str = "10.1.0.80";
const SERVER6: &str = "fd00:0:0:1::80";
/// A host of another subnet on the same wire.
const OTHER: &str = "10.3.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The bed with two more hosts on the inside host's segment.
struct Site {
    bed: Bed,
    server: Arc<Namespace>,
    other: Arc<Namespace>,
}

impl Site {
    fn new(path: &str) -> Self {
        let offloads = if path == "driver" { Offloads::Driver } else { Offloads::Default };
        let bed = Bed::with_offloads("publish", offloads);
        // The inside host's device becomes a port of a bridge, which has its addresses then.
        let mut lines =
            "link add br0 type bridge\nlink set br0 up\naddr flush dev eth0\nlink set eth0 master br0\n".to_owned();
        lines +=
            "addr add 10.1.0.2/24 dev br0\naddr add fd00:0:0:1::2/64 dev br0 nodad\nroute add default via 10.1.0.1\n";
        lines += "route replace default via fd00:0:0:1::1 dev br0\n";
        bed.inside.ip_batch(&lines);
        bed.router.ip_batch(&format!("addr add 10.3.0.1/24 dev lan0\naddr add {WHOLE}/24 dev wan0\n"));
        let host = |label: &str, port: &str, address: &str, router: &str| {
            let host = Namespace::new(label);
            bed.inside.ip(&format!("link add {port} type veth peer name eth0 netns {}", host.name()));
            bed.inside.ip_batch(&format!("link set {port} master br0\nlink set {port} up\n"));
            host.ip_batch(&format!(
                "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {router}\n"
            ));
            host
        };
        let server = host("publish-web", "p1", SERVER, "10.1.0.1");
        server.ip_batch(&format!("addr add {SERVER6}/64 dev eth0 nodad\nroute add default via fd00:0:0:1::1\n"));
        let other = host("publish-arm", "p2", OTHER, "10.3.0.1");
        Self { bed, server, other }
    }

    fn policy(&self, path: &str) -> Policy {
        Policy::new().masquerade(true).path(path).extra(RULES)
    }
}

const RULES: &str = r#"
[[rule]]
name = "published"
to = "inside"
destination = "10.1.0.80"
action = "allow"
[[rule]]
name = "between the subnets"
from = "inside"
to = "inside"
destination = "10.3.0.0/24"
action = "allow"
"#;

/// The published service: a port of the external address, and the server behind it.
fn publish(name: &str, service: &str, target: &str) -> String {
    format!(
        "[[nat]]\nname = \"{name}\"\ndestination = \"{EXTERNAL}\"\nservice = \"{service}\"\n\
         translate.destination = \"{target}\"\n"
    )
}

fn port_of(server: &HttpServer) -> u16 {
    let endpoint = server.url().trim_start_matches("http://").trim_end_matches("/body");
    endpoint.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn url(address: &str, port: u16) -> String {
    format!("http://{address}:{port}/body")
}

#[track_caller]
fn downloads(from: &Namespace, url: &str) {
    assert!(tools::curl(from, url) == tools::body(), "{url}: not what the server has");
}

/// The last flow to a destination as received.
#[track_caller]
fn last_flow(daemon: &Daemon, destination: &str) -> Value {
    daemon.flows_to(destination).into_iter().max_by_key(|flow| flow["id"].as_u64()).expect("a flow")
}

#[track_caller]
fn assert_paths(flow: &Value, path: &str) {
    for direction in ["forward", "reverse"] {
        assert_eq!(flow[direction]["path"], *path, "{flow}");
    }
}

/// Sends lines back until the client has enough of it.
fn echo_server(namespace: &Arc<Namespace>, address: &str, port: u16) -> std::thread::JoinHandle<()> {
    let listener = namespace.enter(|| TcpListener::bind((ip(address), port)).expect("listen"));
    namespace.thread(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).expect("answer");
        }
    })
}

fn open(from: &Namespace, address: &str, port: u16) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(ip(address), port), 2 * SECOND))
}

/// A dialogue of short lines, as of a shell.
#[track_caller]
fn talks(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(2 * SECOND)).unwrap();
    for number in 0..100u32 {
        let line = number.to_be_bytes();
        stream.write_all(&line).expect("send");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, line);
    }
}

/// Everything with one policy.
fn services(path: &str) {
    let _turn = alone();
    let site = Site::new(path);
    let [web, web6] = [SERVER, SERVER6].map(|address| HttpServer::start(&site.server, ip(address)));
    let target = format!("{SERVER}:{}", port_of(&web));
    let six = format!(
        "[[rule]]\nname = \"six\"\nto = \"inside\"\ndestination = \"{SERVER6}\"\nservice = \"tcp/{}\"\n\
         action = \"allow\"\n[[nat]]\nname = \"publish6\"\nfamily = \"ipv6\"\ndestination = \"{}\"\n\
         service = \"tcp/443\"\ntranslate.destination = \"[{SERVER6}]:{}\"\n",
        port_of(&web6),
        Family::V6.outside_router(),
        port_of(&web6),
    );
    let nats = publish("publish", "tcp/443", &target) + &publish("numbers", "udp/5000", SERVER) + &six;
    let daemon = Daemon::start(&site.bed.router, &site.policy(path).extra(&nats));
    a_web_server_is_reached_from_outside_and_from_inside(&site, &daemon, path, &target);
    the_box_itself_is_reached_while_its_address_masquerades(&site, &daemon, path);
    two_subnets_on_one_interface(&site, &daemon, path);
    ipv6_is_published_by_a_rule_alone_or_translated_on_demand(&site, &daemon, path, &web6);
}

fn a_web_server_is_reached_from_outside_and_from_inside(site: &Site, daemon: &Daemon, path: &str, target: &str) {
    let bed = &site.bed;
    let external = format!("{EXTERNAL}:443");
    downloads(&bed.outside, &url(EXTERNAL, 443));
    let flow = last_flow(daemon, &external);
    assert_eq!((&flow["nat"], &flow["destination_nat"]), (&"publish".into(), &"publish".into()), "{path}");
    assert_eq!((&flow["forward"]["translated_destination"], &flow["rule"]), (&target.into(), &"published".into()));
    assert_paths(&flow, path);

    // The server is a neighbour: its answers would go past the router.
    downloads(&bed.inside, &url(EXTERNAL, 443));
    let flow = last_flow(daemon, &external);
    assert_eq!((&flow["nat"], &flow["destination_nat"]), (&"hide the inside".into(), &"publish".into()), "{path}");
    assert_eq!((&flow["forward"]["in"], &flow["forward"]["out"]), (&"lan".into(), &"lan".into()));
    assert!(flow["forward"]["translated_source"].as_str().unwrap().starts_with(EXTERNAL), "{flow}");
    assert_paths(&flow, path);

    for from in [&bed.outside, &bed.inside] {
        let load = Load::new(ip(EXTERNAL), 5000).received_at(ip(SERVER), 5000).rate(5000, 500).flows(5).echo();
        numbered::run(from, &site.server, &load).assert_clean(&format!("{path}, numbers from {from:?}"));
    }
    let listed = daemon.json("show nat");
    let published = listed["nat"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "published");
    assert_eq!(published.count(), 3, "{listed}");
}

fn the_box_itself_is_reached_while_its_address_masquerades(site: &Site, daemon: &Daemon, path: &str) {
    let bed = &site.bed;
    // The address that masquerades is in use the whole time.
    let load = Load::new(Family::V4.outside_host(), 5000).rate(2000, 1000).flows(20).echo();
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    running.wait_sent(200);
    for (address, from) in [(EXTERNAL, &bed.inside), ("10.1.0.1", &bed.inside), (EXTERNAL, &bed.outside)] {
        let shell = echo_server(&bed.router, address, 22);
        let mut stream = open(from, address, 22).expect("the box itself");
        talks(&mut stream);
        assert!(daemon.flows_to(&format!("{address}:22")).is_empty(), "the kernel's business: {path}");
        drop(stream);
        shell.join().unwrap();
    }
    assert!(tools::ping(&bed.inside, ip(EXTERNAL), 3).is_clean(), "{path}");
    running.finish().assert_clean(path);
}

// Issue 3: one-armed routing on all paths.
fn two_subnets_on_one_interface(site: &Site, daemon: &Daemon, path: &str) {
    let server = HttpServer::start(&site.other, ip(OTHER));
    tools::assert_download(&site.bed.inside, &server);
    let flow = last_flow(daemon, &format!("{OTHER}:{}", port_of(&server)));
    assert_eq!((&flow["forward"]["in"], &flow["forward"]["out"]), (&"lan".into(), &"lan".into()), "{path}");
    assert_eq!((&flow["nat"], &flow["forward"]["translated_source"]), (&Value::Null, &flow["forward"]["source"]));
    assert_paths(&flow, path);
    assert!(tools::ping(&site.bed.inside, ip(OTHER), 3).is_clean(), "{path}");
    let load = Load::new(ip(OTHER), 5000).rate(5000, 500).echo();
    numbered::run(&site.bed.inside, &site.other, &load).assert_clean(path);
}

fn ipv6_is_published_by_a_rule_alone_or_translated_on_demand(
    site: &Site,
    daemon: &Daemon,
    path: &str,
    server: &HttpServer,
) {
    let port = port_of(server);
    tools::assert_download(&site.bed.outside, server);
    let flow = last_flow(daemon, &format!("[{SERVER6}]:{port}"));
    assert_eq!((&flow["nat"], &flow["rule"]), (&Value::Null, &"six".into()), "{path}: {flow}");
    assert_paths(&flow, path);
    let denied = open(&site.bed.outside, SERVER6, port ^ 1).expect_err("no rule allows that");
    assert_eq!(denied.kind(), std::io::ErrorKind::TimedOut, "{path}");
    for from in [&site.bed.outside, &site.bed.inside] {
        downloads(from, &url(&format!("[{}]", Family::V6.outside_router()), 443));
    }
}

// interface.md: addresses and ports in use by a translation belong to flowhop first; and no longer than that.
fn before_local_delivery(path: &str) {
    let _turn = alone();
    let site = Site::new(path);
    let bed = &site.bed;
    let server = HttpServer::start(&site.server, ip(SERVER));
    let target = format!("{SERVER}:{}", port_of(&server));
    let plain = site.policy(path);
    let daemon = Daemon::start(&bed.router, &plain);
    let reload = |policy: &Policy, reloads: usize| {
        daemon.reload(policy);
        until("the reload", 5 * SECOND, || {
            (daemon.stderr().matches("policy reloaded").count() == reloads).then_some(())
        });
    };
    let ours = echo_server(&bed.router, EXTERNAL, 8080);

    // A port that a mapping has is published later, and stays so when the mapping ends.
    let far = echo_server(&bed.outside, "198.51.100.2", 7);
    let mut stream = open(&bed.inside, "198.51.100.2", 7).expect("the outside host");
    talks(&mut stream);
    let flow = last_flow(&daemon, "198.51.100.2:7");
    let mapped = flow["forward"]["translated_source"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let whole = format!("[[nat]]\nname = \"whole\"\ndestination = \"{WHOLE}\"\ntranslate.destination = \"{SERVER}\"\n");
    let nats =
        publish("range", "tcp/8000-8100", &target) + &publish("mapped", &format!("tcp/{mapped}"), &target) + &whole;
    reload(&plain.clone().extra(&nats), 1);
    talks(&mut stream);
    drop(stream);
    far.join().unwrap();
    daemon.client(&format!("delete flow {}", flow["id"])).ok();
    until("the mapping to end", 5 * SECOND, || daemon.flows_to("198.51.100.2:7").is_empty().then_some(()));
    // A grace period of the kernel programs later the block is free, and the port given back.
    until("the block to be free", 5 * SECOND, || {
        let table = daemon.json("show status")["status"]["table"].clone();
        let number = |key: &str| table[key].as_u64().expect("a number");
        (number("free") + number("connections") == number("size")).then_some(())
    });
    for port in [8000, 8080, 8100, mapped.parse().unwrap()] {
        downloads(&bed.outside, &url(EXTERNAL, port));
    }
    assert!(tools::ping(&bed.outside, ip(WHOLE), 3).is_clean());
    let ping = daemon.json("show flows")["flows"]
        .as_array()
        .unwrap()
        .iter()
        .any(|flow| flow["destination_nat"] == "whole" && flow["protocol"] == "icmp");
    assert!(ping, "{path}: echo requests to an address that is published whole");

    // What is not published any more is the box's own again.
    reload(&plain, 2);
    let mut stream = open(&bed.outside, EXTERNAL, 8080).expect("the box's own service");
    talks(&mut stream);
    drop(stream);
    ours.join().unwrap();
    let refused = open(&bed.outside, EXTERNAL, 8000).expect_err("nobody listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{path}");
    assert!(tools::ping(&bed.outside, ip(WHOLE), 3).is_clean());
}

macro_rules! on_paths {
    ($($path:ident)*) => {
        $(mod $path {
            #[test]
            fn services_are_published() {
                super::services(stringify!($path));
            }

            #[test]
            fn translation_goes_before_local_delivery_as_long_as_it_is_there() {
                super::before_local_delivery(stringify!($path));
            }
        })*
    };
}

on_paths! { driver skb user }
