//! A veth in a namespace of the test's own, with a packet socket at one end and AF_XDP sockets at the other.

use std::time::{Duration, Instant};

use flowhop_engine::Offload;
use flowhop_io::packet::PacketPort;
use flowhop_io::poll::Poller;
use flowhop_io::xsk::{Received, Sockets, XskError};
use flowhop_wire::build::Spec;

use crate::program::{HandDown, MARK, NUMBER};
use crate::support::{in_own_namespace, ip};

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// In a namespace with a link between `near` (where programs run) and `far`. Nothing is on it but what the test sends.
pub(crate) fn with_link(options: &'static str, test: impl FnOnce() + Send + 'static) {
    in_own_namespace(move || {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip(&format!("link add name near {options} type veth peer name far {options}"));
        ip("link set dev near up");
        ip("link set dev far up");
        test();
    });
}

pub(crate) fn ethtool(words: &str) {
    let output = std::process::Command::new("ethtool").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ethtool {words}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// A frame of this length and number, of the flow with this source port; its bytes depend on the number.
pub(crate) fn frame(number: u32, flow: u16, length: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend((0..length - NUMBER - 4).map(|n| (n as u32 ^ number.rotate_left(n as u32 / 64)) as u8));
    let spec = Spec::udp(([10, 0, 0, 1], flow).into(), ([10, 0, 0, 2], 9).into(), &payload);
    let mut frame = vec![0; length];
    assert_eq!(spec.write(&mut frame), Ok(length));
    frame
}

pub(crate) fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[NUMBER..NUMBER + 4].try_into().unwrap())
}

/// The far end: sends and receives by a packet socket.
pub(crate) struct Far(PacketPort);

impl Far {
    pub(crate) fn open() -> Self {
        Self(PacketPort::open(index("far")).unwrap())
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert!(self.0.send(frame, &Offload::default()).unwrap());
    }

    /// The next frame, waited for.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65536];
        let mut poller = Poller::new().unwrap();
        poller.add(&self.0, 0).unwrap();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(received) = self.0.recv(&mut buffer).unwrap() {
                buffer.truncate(received.len);
                return buffer;
            }
            poller.wait(Some(Duration::from_millis(100)), &mut Vec::new()).unwrap();
        }
        panic!("nothing came within {PATIENCE:?}; lost in the socket: {:?}", self.0.take_drops());
    }

    pub(crate) fn nothing_waits(&self) -> bool {
        self.0.recv(&mut [0; 65536]).unwrap().is_none()
    }
}

/// Binds a queue that the kernel may not yet be done with.
pub(crate) fn bind(sockets: &mut Sockets, ifindex: u32, queue: u32) {
    let start = Instant::now();
    while let Err(error) = sockets.bind(ifindex, queue) {
        assert!(matches!(error, XskError::Busy { .. }) && start.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sockets and a poller for them.
pub(crate) struct Near {
    pub(crate) sockets: Sockets,
    poller: Poller,
    buffer: Vec<u8>,
}

impl Near {
    pub(crate) fn new(sockets: Sockets) -> Self {
        Self { sockets, poller: Poller::new().unwrap(), buffer: vec![0; 10_000] }
    }

    /// Binds a queue and has its packets come.
    pub(crate) fn bind(&mut self, program: &HandDown, ifindex: u32, queue: u32) {
        bind(&mut self.sockets, ifindex, queue);
        let socket = self.sockets.fd(ifindex, queue).unwrap();
        self.poller.add(socket, 0).unwrap();
        program.set(queue, socket);
    }

    /// The next packet, waited for.
    pub(crate) fn receive(&mut self) -> (Received, &[u8]) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(received) = self.sockets.receive(&mut self.buffer) {
                check_metadata(&received, &self.buffer);
                return (received, &self.buffer[..received.len]);
            }
            self.poller.wait(Some(Duration::from_millis(100)), &mut Vec::new()).unwrap();
        }
        panic!("nothing came within {PATIENCE:?}: {:?}", self.sockets.statistics());
    }

    /// Sends until something comes: after a change of its queues a veth drops what it is to send for a while.
    pub(crate) fn until_something_comes(&mut self, far: &Far) {
        let start = Instant::now();
        while self.sockets.receive(&mut self.buffer).is_none() {
            assert!(start.elapsed() < PATIENCE, "nothing comes: {:?}", self.sockets.statistics());
            far.send(&frame(u32::MAX, 4000, 100));
            self.poller.wait(Some(Duration::from_millis(100)), &mut Vec::new()).unwrap();
        }
        while self.sockets.receive(&mut self.buffer).is_some() {}
    }

    /// Waits until the sockets have counted something.
    pub(crate) fn until(&self, condition: impl Fn(&Sockets) -> bool) {
        let start = Instant::now();
        while !condition(&self.sockets) {
            assert!(start.elapsed() < PATIENCE, "it did not happen: {:?}", self.sockets.statistics());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The metadata is what the program wrote for this packet, on this queue.
fn check_metadata(received: &Received, packet: &[u8]) {
    assert_eq!(received.metadata[..4], packet[NUMBER..NUMBER + 4]);
    let [a, b, c, d] = *received.metadata.last_chunk().unwrap();
    assert_eq!(u32::from(u16::from_ne_bytes([a, b])), received.queue);
    assert_eq!(u16::from_ne_bytes([c, d]), MARK);
}
