//! Hosts that ask for mappings, by the kernel's own sockets (RFC 6887, RFC 6888 REQ-9): a web server inside is reached with
//! curl after it was asked for, and only then; and what a restart means for it.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, alone, until};
use flowhop_wire::pcp::{self, Map, RequestHeader, ResponseHeader, opcode};
use flowhop_wire::protocol::TCP;

const LIMIT: Duration = Duration::from_secs(20);
const PCP: &str = "[pcp]\nfrom = \"inside\"\nto = \"outside\"\n";

fn policy(path: &str) -> Policy {
    let hide = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";
    Policy::new().path(path).extra(hide).extra(PCP)
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A client on the inside host.
struct Client {
    socket: UdpSocket,
    family: Family,
}

/// What the server answered: result, lifetime, epoch and external endpoint.
struct Answer {
    result: u8,
    lifetime: u32,
    epoch: u32,
    external: SocketAddr,
}

impl Client {
    fn new(inside: &Namespace, family: Family) -> Self {
        let socket = inside.enter(|| UdpSocket::bind((family.inside_host(), 0)).expect("a socket"));
        socket.connect((family.inside_router(), pcp::SERVER_PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self { socket, family }
    }

    /// Asks for a mapping of a port of TCP; asks again where no answer comes (RFC 6887 section 8.1.1).
    fn ask(&self, port: u16, lifetime: u32, suggested: SocketAddr) -> Option<Answer> {
        let header = RequestHeader {
            version: pcp::VERSION,
            opcode: opcode::MAP,
            reserved: 0.into(),
            lifetime: lifetime.into(),
            client: mapped(self.family.inside_host()),
        };
        let map = Map {
            nonce: *b"a test's own",
            protocol: TCP,
            reserved: [0; 3],
            internal_port: port.into(),
            external_port: suggested.port().into(),
            external_address: mapped(suggested.ip()),
        };
        let mut answer = [0; 1500];
        for _ in 0..3 {
            self.socket.send(&[header.bytes(), map.bytes()].concat()).ok()?;
            let Ok(length) = self.socket.recv(&mut answer) else { continue };
            let (header, rest) = ResponseHeader::split(&answer[..length]).unwrap();
            let (map, _) = Map::split(rest).unwrap();
            let address = Ipv6Addr::from(map.external_address).to_canonical();
            return Some(Answer {
                result: header.result,
                lifetime: header.lifetime.get(),
                epoch: header.epoch.get(),
                external: SocketAddr::new(address, map.external_port.get()),
            });
        }
        None
    }

    fn none(&self) -> SocketAddr {
        let address = if self.family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        address.parse().unwrap()
    }
}

/// Whether curl reaches a server.
fn reaches(from: &Namespace, at: SocketAddr) -> bool {
    let url = format!("http://{at}/body");
    let output = from.run("curl", &["-gsS", "--noproxy", "*", "--connect-timeout", "1", "-o", "/dev/null", &url]);
    output.code() == Some(0)
}

fn port_of(server: &HttpServer) -> u16 {
    let address = server.url().trim_start_matches("http://").trim_end_matches("/body");
    address.parse::<SocketAddr>().unwrap().port()
}

/// Asked for, reached, deleted, not reached.
fn reached(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("pcp", path);
    let daemon = Daemon::start(&bed.router, &policy(path));
    for family in Family::BOTH {
        let server = HttpServer::start(&bed.inside, family.inside_host());
        let port = port_of(&server);
        let client = Client::new(&bed.inside, family);
        let by_itself = SocketAddr::new(family.inside_host(), port);
        if family == Family::V6 {
            assert!(!reaches(&bed.outside, by_itself), "{path}: nobody has asked");
        }
        let answer = client.ask(port, 600, client.none()).expect("an answer");
        assert_eq!((answer.result, answer.lifetime), (0, 600));
        let external = answer.external;
        let expected = if family == Family::V4 { family.outside_router() } else { family.inside_host() };
        assert_eq!(external.ip(), expected);
        let got = tools::curl(&bed.outside, &format!("http://{external}/body"));
        assert!(got == tools::body(), "{path}: not what was sent");

        let flow = &daemon.flows_to(&external.to_string())[0];
        assert_eq!(flow["rule"], "pcp", "{flow}");
        for direction in ["forward", "reverse"] {
            assert_eq!(flow[direction]["path"], *path, "{flow}");
        }
        let shown = daemon.json("show nat");
        let mapping = shown["nat"].as_array().unwrap().iter().find(|entry| entry["kind"] == "pcp").unwrap();
        assert_eq!((&mapping["protocol"], &mapping["destination"]), (&"tcp".into(), &external.to_string().into()));
        assert_eq!(mapping["translated_destination"], by_itself.to_string());

        assert_eq!(client.ask(port, 0, client.none()).expect("an answer").result, 0);
        assert!(!reaches(&bed.outside, external), "{path}: it was deleted");
    }
    // By the link-local address that IPv6 hosts know their router by; the answer comes from there.
    let neighbours = bed.router.ip("-6 addr show dev lan0 scope link");
    let router = neighbours.split_whitespace().find_map(|word| word.split('/').next()?.parse::<Ipv6Addr>().ok());
    let router = router.expect("a link-local address");
    let index = bed.inside.ip("-o link show dev eth0").split(':').next().and_then(|text| text.trim().parse().ok());
    let index: u32 = index.expect("an interface index");
    let client = Client::new(&bed.inside, Family::V6);
    client.socket.connect(std::net::SocketAddrV6::new(router, pcp::SERVER_PORT, 0, index)).unwrap();
    let answer = client.ask(4321, 600, client.none()).expect("an answer");
    assert_eq!((answer.result, answer.external), (0, SocketAddr::new(Family::V6.inside_host(), 4321)), "{path}");

    // From outside nobody is answered, and the box's own sockets are left alone.
    let stranger = bed.outside.enter(|| UdpSocket::bind((Family::V4.outside_host(), 0)).expect("a socket"));
    stranger.connect((Family::V4.outside_router(), pcp::SERVER_PORT)).unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stranger.send(&[2; 60]).unwrap();
    let error = stranger.recv(&mut [0; 100]).expect_err("no server is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "by the kernel");
    let own = bed.router.enter(|| UdpSocket::bind((Family::V4.outside_router(), pcp::SERVER_PORT)).expect("a socket"));
    own.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stranger.send(b"for the box").unwrap();
    let mut buffer = [0; 100];
    assert_eq!(own.recv(&mut buffer).expect("a datagram"), 11, "{path}");
}

/// Copies what comes from each connection back to it.
fn echo(inside: &Arc<Namespace>, listener: TcpListener) {
    let _runs = inside.thread(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn says(stream: &mut TcpStream, word: &[u8]) {
    let mut buffer = [0; 64];
    stream.write_all(word).expect("send");
    let length = stream.read(&mut buffer).expect("an echo");
    assert_eq!(&buffer[..length], word);
}

/// A restart: hosts are told, connections go on, and the same endpoint is had again.
fn restarted(path: &str) {
    let _turn = alone();
    let bed = Bed::for_path("pcp-again", path);
    let mut daemon = Daemon::start(&bed.router, &policy(path));
    let inside = Family::V4.inside_host();
    let listener = bed.inside.enter(|| TcpListener::bind((inside, 0)).expect("listen"));
    let port = listener.local_addr().unwrap().port();
    echo(&bed.inside, listener);
    let client = Client::new(&bed.inside, Family::V4);
    let external = client.ask(port, 600, client.none()).expect("an answer").external;
    let mut stream = bed.outside.enter(|| TcpStream::connect_timeout(&external, LIMIT)).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    says(&mut stream, b"before");
    let before = until("the epoch to go on", LIMIT, || {
        let epoch = client.ask(port, 600, external)?.epoch;
        (epoch >= 2).then_some(epoch)
    });

    let told = bed.inside.enter(|| UdpSocket::bind(("0.0.0.0", pcp::CLIENT_PORT)).expect("a socket"));
    told.set_read_timeout(Some(LIMIT)).unwrap();
    daemon.kill9();
    if path != "user" {
        says(&mut stream, b"meanwhile");
    }
    daemon.start_again();
    let mut buffer = [0; 100];
    let (length, from) = told.recv_from(&mut buffer).expect("an announcement");
    assert_eq!((length, from), (24, (Family::V4.inside_router(), pcp::SERVER_PORT).into()));
    assert_eq!(buffer[..4], [2, 0x80, 0, 0]);
    assert!(u32::from_be_bytes(buffer[8..12].try_into().unwrap()) < before);

    says(&mut stream, b"after");
    assert!(bed.outside.enter(|| TcpStream::connect_timeout(&external, Duration::from_secs(1))).is_err());
    let again = client.ask(port, 600, external).expect("an answer");
    assert_eq!((again.result, again.external), (0, external));
    assert!(again.epoch < before);
    let mut second = bed.outside.enter(|| TcpStream::connect_timeout(&external, LIMIT)).expect("a connection");
    second.set_read_timeout(Some(LIMIT)).unwrap();
    says(&mut second, b"another");
    says(&mut stream, b"at last");

    // A policy that has no such table any more.
    let hide = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";
    daemon.reload(&Policy::new().path(path).extra(hide));
    until("the mapping's connections to end", LIMIT, || {
        daemon.flows_to(&external.to_string()).is_empty().then_some(())
    });
    assert!(!reaches(&bed.outside, external));
}

macro_rules! on_paths {
    ($($path:ident)*) => {
        $(mod $path {
            #[test]
            fn a_server_is_reached_after_it_was_asked_for() {
                super::reached(stringify!($path));
            }

            #[test]
            fn a_restart_is_announced_and_connections_go_on() {
                super::restarted(stringify!($path));
            }
        })*
    };
}

on_paths! { driver skb user }
