//! What the outside must not be able to do, tried.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use flowhop_wire::{checksum, protocol};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Story, account};
use crate::lab::{Bed, Daemon, Family, LabError, Tried};

/// How long something that must not happen is waited for.
const NOTHING: Duration = Duration::from_millis(300);
/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Packets of each attack.
const SHOTS: u32 = 50;

/// Tries all of it, and prints what came of it with the reasons that the firewall gives.
pub(super) fn attack(story: &mut Story<'_>, bed: &Bed, daemon: &Daemon) -> Result<(), LabError> {
    story.say("\n4. An attack from the outside")?;
    let before = account::drops(bed, daemon)?;
    for family in Family::BOTH {
        let came = connect(bed, family)?;
        story.say(format!("   a connection to the inside host by {}: {}", family.name(), verdict(!came)))?;
        story.expect(!came, || format!("the outside could connect to the inside by {}", family.name()));
    }
    let came = foreign(bed)?;
    story
        .say(format!("   {SHOTS} datagrams to an open port of the inside, from a stranger: {}", verdict(came == 0)))?;
    story.expect(came == 0, || format!("{came} datagrams from a stranger reached the inside"));
    let alive = reset(bed)?;
    story.say(format!("   {SHOTS} forged resets of a live TCP connection: {}", verdict(alive)))?;
    story.expect(alive, || "forged resets ended a connection".to_owned());
    // The process counts what it has seen; it has seen it soon.
    thread::sleep(Duration::from_millis(50));
    let after = account::drops(bed, daemon)?;
    let mut dropped = 0;
    for (reason, packets) in after {
        let new = packets.saturating_sub(before.get(&reason).copied().unwrap_or(0));
        if new > 0 {
            story.say(format!("   {new:>6} packets dropped, the reason: {reason}"))?;
            dropped += new;
        }
    }
    story.expect(dropped >= 2 * u64::from(SHOTS), || {
        format!("only {dropped} packets of the attack were counted as dropped")
    });
    Ok(())
}

const fn verdict(held: bool) -> &'static str {
    if held { "came to nothing" } else { "SUCCEEDED" }
}

/// Tries to connect to a listening socket of the inside host.
fn connect(bed: &Bed, family: Family) -> Result<bool, LabError> {
    let target = family.inside_host();
    let listener = bed.inside.enter(|| TcpListener::bind((target, 0)))?.tried("listen")?;
    let address = listener.local_addr().tried("listen")?;
    bed.outside.enter(|| TcpStream::connect_timeout(&address, NOTHING).is_ok())
}

/// Opens a port by sending from it, then sends to it from another port of the host that was sent to. How many came?
fn foreign(bed: &Bed) -> Result<usize, LabError> {
    let outside = Family::V4.outside_host();
    let bind = |address: IpAddr| move || UdpSocket::bind((address, 0));
    let friend = bed.outside.enter(bind(outside))?.tried("a socket")?;
    let stranger = bed.outside.enter(bind(outside))?.tried("a socket")?;
    let inside = bed.inside.enter(bind(Family::V4.inside_host()))?.tried("a socket")?;
    let open = |socket: &UdpSocket| -> io::Result<SocketAddr> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 64];
        inside.send_to(b"hello", friend.local_addr()?)?;
        let (_, mapped) = socket.recv_from(&mut buffer)?;
        inside.set_read_timeout(Some(PATIENCE))?;
        // The way back is open, for the friend.
        socket.send_to(b"hello back", mapped)?;
        inside.recv_from(&mut buffer)?;
        Ok(mapped)
    };
    let mapped = open(&friend).tried("exchange datagrams")?;
    for _ in 0..SHOTS {
        stranger.send_to(b"let me in", mapped).tried("send datagrams")?;
    }
    inside.set_read_timeout(Some(Duration::from_millis(20))).tried("a socket")?;
    let end = Instant::now() + NOTHING;
    let mut came = 0;
    while Instant::now() < end {
        came += usize::from(inside.recv_from(&mut [0; 64]).is_ok());
    }
    Ok(came)
}

/// Sends resets with wrong sequence numbers in the server's name; whether the connection is still good.
fn reset(bed: &Bed) -> Result<bool, LabError> {
    let listener = bed.outside.enter(|| TcpListener::bind((Family::V4.outside_host(), 0)))?.tried("listen")?;
    let address = listener.local_addr().tried("listen")?;
    let client = bed.inside.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?.tried("connect")?;
    // The connection is there, so this does not wait.
    let (server, mapped) = listener.accept().tried("accept")?;
    exchange(&client, &server).tried("a TCP connection")?;
    let raw =
        bed.outside.enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))?;
    // That type is a descriptor with the calls for datagrams, whatever the protocol.
    let raw = UdpSocket::from(raw.tried("a raw socket")?);
    for shot in 0..SHOTS {
        // Far apart, so that at most one of them could be right by chance.
        let segment = forged(address, mapped, shot.wrapping_mul(0x0501_0101));
        raw.send_to(&segment, (mapped.ip(), 0)).tried("send forged segments")?;
    }
    thread::sleep(Duration::from_millis(50));
    Ok(exchange(&client, &server).is_ok())
}

/// A TCP reset.
fn forged(from: SocketAddr, to: SocketAddr, sequence: u32) -> Vec<u8> {
    const RST: [u8; 2] = [5 << 4, 4];
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&[0; 4]);
    segment.extend_from_slice(&RST);
    segment.extend_from_slice(&[0; 6]);
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) {
        let pseudo = checksum::pseudo_v4(source.octets(), destination.octets(), protocol::TCP, segment.len() as u16);
        let sum = checksum::finish(pseudo + checksum::sum(&segment));
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    segment
}

/// A few bytes both ways.
fn exchange(mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4];
    for stream in [client, server] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    client.write_all(b"ping")?;
    server.read_exact(&mut buffer)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut buffer)
}
