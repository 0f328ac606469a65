//! An established TCP connection whose sequence numbers are known on both sides of the router.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::bed::{Bed, Family};
use crate::raw::{Flags, Mac, Packet, RawPort, Transport};
use crate::wait::readable;

const LIMIT: Duration = Duration::from_secs(10);

/// A connection from the inside host to the outside host of a bed.
#[derive(Debug)]
pub struct Connection {
    /// The client's end.
    pub client: TcpStream,
    /// The server's end.
    pub server: TcpStream,
    /// The wire at the client: capture what arrives there, and send in the client's name.
    pub inside: RawPort,
    /// The wire at the server.
    pub outside: RawPort,
    /// The client as the inside knows it.
    pub client_inside: SocketAddr,
    /// The client as the outside knows it: differs when translated.
    pub client_outside: SocketAddr,
    /// The server, the same on both sides.
    pub address: SocketAddr,
    /// The next sequence number of the client.
    pub client_next: u32,
    /// The next sequence number of the server.
    pub server_next: u32,
    router_inside: Mac,
    router_outside: Mac,
}

impl Connection {
    /// Connects and exchanges a few bytes both ways.
    pub fn open(bed: &Bed, family: Family) -> Self {
        let inside = RawPort::open(&bed.inside, "eth0");
        let outside = RawPort::open(&bed.outside, "eth0");
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listener = bed.outside.enter(|| TcpListener::bind((any, 0)).expect("listen"));
        let port = listener.local_addr().expect("a bound socket").port();
        let address = SocketAddr::new(family.outside_host(), port);
        let client = bed.inside.enter(|| {
            TcpStream::connect_timeout(&address, LIMIT).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
        });
        assert!(readable(&listener, LIMIT), "the server saw no connection");
        let (server, client_outside) = listener.accept().expect("accept");
        for end in [&client, &server] {
            end.set_nodelay(true).expect("TCP_NODELAY");
            end.set_read_timeout(Some(LIMIT)).expect("a read timeout");
        }
        let client_inside = client.local_addr().expect("a connected socket");
        let mut connection = Self {
            client,
            server,
            inside,
            outside,
            client_inside,
            client_outside,
            address,
            client_next: 0,
            server_next: 0,
            router_inside: bed.router.mac("lan0"),
            router_outside: bed.router.mac("wan0"),
        };
        for _ in 0..4 {
            connection.exchange();
        }
        connection
    }

    /// Sends bytes both ways, panics unless they arrive unchanged, and learns the sequence numbers.
    pub fn exchange(&mut self) {
        self.try_exchange().unwrap_or_else(|error| panic!("the connection is broken: {error}"));
    }

    /// [`exchange`](Self::exchange) that says what is wrong.
    ///
    /// # Errors
    ///
    /// Whatever the sockets say, wrong bytes, or sequence numbers that never came by.
    pub fn try_exchange(&mut self) -> Result<(), String> {
        self.inside.clear();
        transfer(&mut self.client, &mut self.server, b"from the client").map_err(|e| e.to_string())?;
        transfer(&mut self.server, &mut self.client, b"from the server").map_err(|e| e.to_string())?;
        // The numbers that the client's own wire carried; they are the same outside, since a
        // translation leaves sequence numbers alone.
        for (outgoing, text) in [(true, &b"from the client"[..]), (false, b"from the server")] {
            let (client, server) = (self.client_inside, self.address);
            let frame = self.inside.capture(LIMIT, |frame| {
                frame.outgoing == outgoing
                    && frame.packet().is_some_and(|packet| {
                        let ends = (packet.source, packet.destination);
                        packet.payload == text && (ends == (client, server) || ends == (server, client))
                    })
            });
            let next = frame.and_then(|frame| frame.packet()?.next_seq()).ok_or("no such packet")?;
            match outgoing {
                true => self.client_next = next,
                false => self.server_next = next,
            }
        }
        Ok(())
    }

    /// Sends a segment in the server's name from the outside host's wire, `offset` bytes beyond the
    /// next sequence number that the client expects.
    pub fn forge_from_server(&self, offset: u32, flags: Flags, payload: &[u8]) {
        let transport =
            Transport::Tcp { seq: self.server_next.wrapping_add(offset), ack: self.client_next, flags, window: 1024 };
        let macs = (self.outside.mac, self.router_outside);
        let packet = Packet::new(macs, self.address, self.client_outside, transport, payload);
        self.outside.send(&packet.build());
    }

    /// The same in the client's name from the inside host's wire.
    pub fn forge_from_client(&self, offset: u32, flags: Flags, payload: &[u8]) {
        let transport =
            Transport::Tcp { seq: self.client_next.wrapping_add(offset), ack: self.server_next, flags, window: 1024 };
        let macs = (self.inside.mac, self.router_inside);
        let packet = Packet::new(macs, self.client_inside, self.address, transport, payload);
        self.inside.send(&packet.build());
    }
}

/// Writes at one end and reads the same at the other.
fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    from.write_all(bytes)?;
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got)?;
    if got == bytes { Ok(()) } else { Err(std::io::Error::other(format!("sent {bytes:?}, received {got:?}"))) }
}
