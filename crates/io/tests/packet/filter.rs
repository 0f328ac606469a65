//! The kernel filter in the kernel: a router between two hosts, each in a namespace.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use flowhop_engine::Offload;
use flowhop_io::cbpf::{Claim, KernelFilter, remove};
use flowhop_io::packet::{Batch, PacketPort};

use crate::support::Namespace;

/// Long enough for an answer over a veth, and short enough to wait for one that never comes.
const WAIT: Duration = Duration::from_millis(400);

struct Network {
    client: Namespace,
    router: Namespace,
    server: Namespace,
    /// The router's interface towards the client.
    port: u32,
}

/// 10.0.1.2 and fd01::2 — router .1 with forwarding on — 10.0.2.2 and fd02::2.
fn network() -> Network {
    let (client, router, server) = (Namespace::new(), Namespace::new(), Namespace::new());
    router.link("ra", &client, "a");
    router.link("rb", &server, "b");
    router.ip("addr add 10.0.1.1/24 dev ra\naddr add fd01::1/64 dev ra\naddr add 10.0.2.1/24 dev rb");
    client.ip("addr add 10.0.1.2/24 dev a\naddr add fd01::2/64 dev a\nroute add default via 10.0.1.1");
    server.ip("addr add 10.0.2.2/24 dev b\nroute add default via 10.0.2.1");
    router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    let port = router.index("ra");
    Network { client, router, server, port }
}

impl Network {
    fn install(&self, filter: KernelFilter) {
        let port = self.port;
        self.router.run(move || filter.install(port).unwrap());
    }

    /// What a datagram from the client is answered with: "refused" is what "port unreachable" becomes.
    fn udp(&self, to: &str) -> Option<ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.client.run(move || {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            socket.send(b"hello").unwrap();
            socket.recv(&mut [0; 16]).err().map(|error| error.kind())
        })
    }

    fn tcp(&self, to: &str) -> Option<ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.client.run(move || TcpStream::connect_timeout(&to, WAIT).err().map(|error| error.kind()))
    }

    /// Whether a datagram from the client reaches the server.
    fn transit(&self) -> bool {
        let server = self.server.run(|| UdpSocket::bind("10.0.2.2:9").unwrap());
        server.set_read_timeout(Some(WAIT)).unwrap();
        self.client.run(|| UdpSocket::bind("10.0.1.2:7777").unwrap().send_to(b"hello", "10.0.2.2:9").unwrap());
        server.recv(&mut [0; 16]).is_ok()
    }
}

fn own(claims: &[(&str, Claim)]) -> KernelFilter {
    KernelFilter {
        own: ["10.0.1.1", "10.0.2.1", "fd01::1"].map(|text| text.parse().unwrap()).to_vec(),
        translated: claims.iter().map(|(text, claim)| (text.parse().unwrap(), claim.clone())).collect(),
    }
}

const REFUSED: Option<ErrorKind> = Some(ErrorKind::ConnectionRefused);
/// What a read and a connect that nobody answers say.
const SILENCE: Option<ErrorKind> = Some(ErrorKind::WouldBlock);
const TIMEOUT: Option<ErrorKind> = Some(ErrorKind::TimedOut);

#[test]
fn the_kernel_is_silent_where_it_must_be_and_answers_elsewhere() {
    let network = network();
    assert_eq!((network.udp("10.0.1.1:40000"), network.tcp("10.0.1.1:40000")), (REFUSED, REFUSED));
    assert!(network.transit(), "the kernel forwards before the filter is there");
    let port = network.port;
    let socket = network.router.run(move || PacketPort::open(port).unwrap());
    network.install(own(&[
        ("10.0.1.1", Claim::Udp(40000..=49999)),
        ("10.0.1.1", Claim::Tcp(40000..=49999)),
        ("fd01::1", Claim::Udp(40000..=49999)),
        ("fd01::1", Claim::Tcp(40000..=49999)),
    ]));
    assert_eq!(network.udp("10.0.1.1:40000"), SILENCE);
    assert_eq!(network.tcp("10.0.1.1:49999"), TIMEOUT);
    assert_eq!(network.udp("[fd01::1]:40000"), SILENCE);
    assert_eq!(network.tcp("[fd01::1]:40000"), TIMEOUT);
    assert!(!network.transit());
    assert_eq!((network.udp("10.0.1.1:39999"), network.tcp("10.0.1.1:50000")), (REFUSED, REFUSED));
    assert_eq!((network.udp("[fd01::1]:39999"), network.tcp("[fd01::1]:50000")), (REFUSED, REFUSED));
    let ping = network.client.run(|| Command::new("ping").args(["-c1", "-W1", "10.0.1.1"]).output().unwrap());
    assert!(ping.status.success(), "{ping:?}");

    // The socket saw it all.
    let mut seen = Vec::new();
    let mut batch = Batch::default();
    while socket.recv_batch(&mut batch).unwrap() > 0 {
        seen.extend(batch.frames().filter_map(|(_, frame)| {
            let ports = match frame.get(12..14)? {
                [0x08, 0x00] => frame.get(36..38)?,
                _ => frame.get(56..58)?,
            };
            Some((frame[13], u16::from_be_bytes(ports.try_into().ok()?)))
        }));
    }
    for wanted in [(0x00, 40000), (0x00, 49999), (0xdd, 40000), (0x00, 9), (0x00, 39999), (0xdd, 39999)] {
        assert!(seen.contains(&wanted), "{wanted:?} in {seen:?}");
    }
}

#[test]
fn filters_are_replaced_and_removed() {
    let network = network();
    let port = network.port;
    for claimed in [40000, 41000] {
        network.install(own(&[("10.0.1.1", Claim::Udp(claimed..=claimed))]));
        let expect = |number: u16| if number == claimed { SILENCE } else { REFUSED };
        assert_eq!(network.udp("10.0.1.1:40000"), expect(40000));
        assert_eq!(network.udp("10.0.1.1:41000"), expect(41000));
    }
    let tc = |words: &'static str| {
        let output = network
            .router
            .run(|| Command::new("tc").args(words.split(' ').map(|word| word.replace('_', " "))).output().unwrap());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = tc("filter show dev ra ingress");
    assert_eq!(listed.matches("handle").count(), 1, "one only: {listed}");
    // The largest possible program goes through netlink, and an address that is not own any more is not answered at.
    let addresses = (0..2030u32).map(|n| std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into()).collect();
    network.install(KernelFilter { own: addresses, ..KernelFilter::default() });
    assert_eq!(network.udp("10.0.1.1:40000"), SILENCE);
    for _ in 0..2 {
        network.router.run(move || remove(port).unwrap());
        assert_eq!(network.udp("10.0.1.1:40000"), REFUSED);
        assert!(network.transit());
    }
    assert!(!tc("qdisc show dev ra").contains("clsact"));
    // What others have there is left to them.
    tc("qdisc add dev ra clsact");
    tc("filter add dev ra egress protocol ip prio 7 bpf bytecode 1,6_0_0_0 da");
    network.install(own(&[]));
    network.router.run(move || remove(port).unwrap());
    assert!(tc("filter show dev ra egress").contains("bpf"));
    // No interface: nothing to remove, and a clear error.
    network.router.run(|| {
        remove(9999).unwrap();
        let error = own(&[]).install(9999).unwrap_err().to_string();
        assert!(error.contains("add clsact qdisc on interface 9999: "), "{error}");
    });
}

#[test]
fn priority_tags_are_no_way_round() {
    let network = network();
    network.install(own(&[]));
    // Not from /sys, which shows the namespace that it was mounted in.
    let mac = |namespace: &Namespace, name: &'static str| -> Vec<u8> {
        let output = namespace.run(move || Command::new("ip").args(["-br", "link", "show", name]).output().unwrap());
        let text = String::from_utf8(output.stdout).unwrap();
        let mac = text.split_whitespace().nth(2).unwrap().to_owned();
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    let addresses = [mac(&network.router, "ra"), mac(&network.client, "a")].concat();
    let server = network.server.run(|| UdpSocket::bind("10.0.2.2:9").unwrap());
    server.set_read_timeout(Some(WAIT)).unwrap();
    let received = |tags: &[u16]| -> io::Result<usize> {
        let mut frame = addresses.clone();
        for tag in tags {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([0x08, 0, 0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17]);
        frame.extend([0x63, 0xcb - 1, 10, 0, 1, 2, 10, 0, 2, 2]);
        // No UDP checksum.
        frame.extend([0x1e, 0x61, 0, 9, 0, 13, 0, 0, 1, 2, 3, 4, 5]);
        let sum: u32 = frame[frame.len() - 33..frame.len() - 13]
            .chunks(2)
            .enumerate()
            .filter(|(at, _)| *at != 5)
            .map(|(_, word)| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        let at = frame.len() - 23;
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let index = network.client.index("a");
        assert!(
            network.client.run(move || PacketPort::open(index).unwrap().send(&frame, &Offload::default()).unwrap())
        );
        server.recv(&mut [0; 16])
    };
    // The number of a VLAN that has no device passes the filter, and goes nowhere in the kernel.
    let numbered = [[9].as_slice(), &[0xe000, 9], &[9, 0xe000]];
    let not_numbered = [[].as_slice(), &[0xe000], &[0xe000, 0], &[0, 0, 0xe000]];
    for tags in numbered.into_iter().chain(not_numbered) {
        assert!(received(tags).is_err(), "{tags:?}");
    }
    let port = network.port;
    network.router.run(move || remove(port).unwrap());
    for tags in not_numbered {
        assert_eq!(received(tags).unwrap(), 5, "{tags:?}: the frame as such is forwarded");
    }
}
