//! Packet sockets in the kernel.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flowhop_engine::Offload;
use flowhop_io::packet::{Batch, MAX_FRAME, PacketError, PacketPort, PacketType, Received};
use flowhop_io::poll::Poller;

use crate::support::Namespace;

/// Two namespaces with a link, and a port on the near end.
fn linked() -> (Namespace, Namespace, PacketPort) {
    let (near, far) = (Namespace::new(), Namespace::new());
    near.link("n", &far, "f");
    far.ip("addr add 10.0.0.2/24 dev f");
    let index = near.index("n");
    let port = near.run(move || PacketPort::open(index).unwrap());
    (near, far, port)
}

/// The next frame that has this EtherType (the kernel has business of its own on a new link).
fn next(port: &PacketPort, ethertype: [u8; 2], frame: &mut [u8]) -> Received {
    for _ in 0..2000 {
        match port.recv(frame).unwrap() {
            Some(received) if frame[12..14] == ethertype => return received,
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("it did not come");
}

/// A broadcast frame of an EtherType for experiments.
fn experiment(length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(length, 0x5a);
    frame
}

/// Relays frames between two ports until told to stop; returns how many super-packets and partial checksums it saw.
fn relay(ports: &[PacketPort; 2], stop: &AtomicBool, batched: bool) -> (u64, u64) {
    let (mut super_packets, mut partial) = (0, 0);
    let mut poller = Poller::new().unwrap();
    for (port, token) in ports.iter().zip(0..) {
        poller.add(port, token).unwrap();
    }
    let (mut batch, mut buffer, mut ready) = (Batch::default(), vec![0; MAX_FRAME], Vec::new());
    let mut pass = |received: Received, frame: &[u8], out: &PacketPort| {
        assert!(!received.truncated);
        super_packets += u64::from(received.offload.segmentation != 0);
        partial += u64::from(received.offload.partial);
        // A frame that nobody can take is lost, which TCP is used to.
        let _ = out.send(frame, &received.offload).unwrap();
    };
    while !stop.load(Ordering::Relaxed) {
        poller.wait(Some(Duration::from_millis(20)), &mut ready).unwrap();
        for token in &ready {
            let [port, out] = if *token == 0 { [&ports[0], &ports[1]] } else { [&ports[1], &ports[0]] };
            if batched {
                port.recv_batch(&mut batch).unwrap();
                batch.frames().for_each(|(received, frame)| pass(received, frame, out));
            } else if let Some(received) = port.recv(&mut buffer).unwrap() {
                pass(received, &buffer[..received.len], out);
            }
        }
    }
    (super_packets, partial)
}

#[test]
fn super_packets_and_partial_checksums_go_through_whole() {
    for batched in [false, true] {
        let (left, middle, right) = (Namespace::new(), Namespace::new(), Namespace::new());
        middle.link("l", &left, "a");
        middle.link("r", &right, "b");
        left.ip("addr add 10.0.0.1/24 dev a");
        right.ip("addr add 10.0.0.2/24 dev b");
        let ports = ["l", "r"].map(|name| {
            let index = middle.index(name);
            middle.run(move || PacketPort::open(index).unwrap())
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let relaying = thread::spawn(move || relay(&ports, &stopped, batched));

        let sent: Vec<u8> = (0..8_000_000u32).map(|n| (n ^ n >> 8) as u8).collect();
        let listener = right.run(|| TcpListener::bind("10.0.0.2:80").unwrap());
        let receiving = thread::spawn(move || {
            let mut got = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
            got
        });
        let mut stream = left.run(|| TcpStream::connect("10.0.0.2:80").unwrap());
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(receiving.join().unwrap() == sent, "what was sent arrived");
        stop.store(true, Ordering::Relaxed);
        let (super_packets, partial) = relaying.join().unwrap();
        assert!(super_packets > 50 && partial > super_packets, "{super_packets} super-packets, {partial} partial");
    }
}

#[test]
fn what_came_is_described() {
    let (near, far, port) = linked();
    let index = far.index("f");
    let out = far.run(move || PacketPort::open(index).unwrap());
    let mut buffer = vec![0; MAX_FRAME];

    assert!(out.send(&experiment(100), &Offload::default()).unwrap());
    let received = next(&port, [0x88, 0xb5], &mut buffer);
    let plain = Received {
        len: 100,
        offload: Offload::default(),
        packet_type: PacketType::Broadcast,
        tagged: false,
        truncated: false,
    };
    assert_eq!(received, plain);
    assert_eq!(buffer[..100], experiment(100));

    let mut tagged = experiment(100);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    assert!(out.send(&tagged, &Offload::default()).unwrap());
    assert_eq!(next(&port, [0x88, 0xb5], &mut buffer), Received { tagged: true, ..plain });
    tagged.splice(12..12, [0x88, 0xa8, 0x00, 0x08]);
    assert!(out.send(&tagged, &Offload::default()).unwrap());
    assert_eq!(next(&port, [0x81, 0x00], &mut buffer), Received { len: 104, tagged: true, ..plain });

    let mut to_other = experiment(100);
    to_other[0] = 2;
    assert!(out.send(&to_other, &Offload::default()).unwrap());
    assert_eq!(next(&port, [0x88, 0xb5], &mut buffer), Received { packet_type: PacketType::Other, ..plain });

    assert!(out.send(&experiment(100), &Offload::default()).unwrap());
    let cut = next(&port, [0x88, 0xb5], &mut buffer[..60]);
    assert_eq!(cut, Received { len: 60, truncated: true, ..plain });

    // What is sent here does not come back.
    assert!(port.send(&experiment(90), &Offload::default()).unwrap());
    assert_eq!(next(&out, [0x88, 0xb5], &mut buffer).len, 90);
    assert!(out.send(&experiment(91), &Offload::default()).unwrap());
    assert_eq!(next(&port, [0x88, 0xb5], &mut buffer).len, 91);
    drop(near);
}

#[test]
fn losses_are_counted() {
    let (_near, far, port) = linked();
    let index = far.index("f");
    let out = far.run(move || PacketPort::open(index).unwrap());
    port.take_drops().unwrap();
    let room = port.receive_buffer().unwrap();
    let sent = room / 1500 + 1000;
    for _ in 0..sent {
        assert!(out.send(&experiment(1500), &Offload::default()).unwrap());
    }
    let mut batch = Batch::default();
    let mut came = 0;
    loop {
        let got = port.recv_batch(&mut batch).unwrap();
        came += batch.frames().filter(|(_, frame)| frame[12..14] == [0x88, 0xb5]).count();
        if got == 0 {
            break;
        }
    }
    let dropped = port.take_drops().unwrap() as usize;
    assert!(dropped > 0 && came > 0);
    // The kernel's own frames may be among those dropped.
    assert!((sent..sent + 50).contains(&(came + dropped)), "{sent} sent, {came} came, {dropped} dropped");
    assert_eq!(port.take_drops().unwrap(), 0);
}

#[test]
fn interfaces_may_come_and_go() {
    let (near, far, port) = linked();
    let mut buffer = vec![0; MAX_FRAME];
    let frame = experiment(100);
    near.ip("link set dev n down");
    while port.recv(&mut buffer).unwrap().is_some() {}
    assert!(!port.send(&frame, &Offload::default()).unwrap());
    near.ip("link set dev n up");
    assert!(port.send(&frame, &Offload::default()).unwrap());
    far.run(|| UdpSocket::bind("10.0.0.2:7").unwrap().send_to(b"x", "10.0.0.1:7").unwrap());
    assert_eq!(next(&port, [0x08, 0x06], &mut buffer).packet_type, PacketType::Broadcast);
    near.ip("link del dev n");
    while port.recv(&mut buffer).unwrap().is_some() {}
    assert_eq!(port.send(&frame, &Offload::default()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
}

#[test]
fn nonsense_is_refused_and_loses_one_frame_only() {
    let (near, _far, port) = linked();
    let sensible = Offload {
        partial: true,
        checksum_start: 34,
        checksum_offset: 16,
        segmentation: 1,
        segment: 1000,
        headers: 54,
        ..Offload::default()
    };
    for offload in [
        Offload { checksum_start: 9000, ..sensible },
        Offload { headers: 9000, ..sensible },
        Offload { segmentation: 77, ..sensible },
        Offload { segment: 0, ..sensible },
    ] {
        let error = port.send(&experiment(3000), &offload).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{offload:?}");
    }
    let error = port.send(&experiment(3000), &Offload::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    port.send(&[], &Offload::default()).unwrap_err();
    assert!(port.send(&experiment(1514), &Offload::default()).unwrap());

    near.run(|| {
        assert!(matches!(PacketPort::open(9999), Err(PacketError::NoInterface(9999))));
        assert!(matches!(PacketPort::open(0), Err(PacketError::NoInterface(0))));
    });
    near.ip("tuntap add tun9 mode tun");
    let tun = near.index("tun9");
    near.run(move || assert!(matches!(PacketPort::open(tun), Err(PacketError::NotEthernet { .. }))));
}
