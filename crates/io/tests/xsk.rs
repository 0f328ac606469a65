//! AF_XDP sockets on a veth, with a kernel program of a few instructions: each test in a network namespace of its own.
//!
//! Needs root, Linux 6.6, `ip` and `ethtool`. A veth shows nothing of what drivers of real devices get wrong.
#![cfg(test)]

#[path = "xsk/bed.rs"]
mod bed;
#[path = "xsk/program.rs"]
mod program;
#[path = "netlink/support.rs"]
#[expect(dead_code, reason = "shared with the tests of the monitor")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use bed::{Far, Near, PATIENCE, ethtool, frame, index, number_of, with_link};
use flowhop_io::xsk::{Limits, Sockets, Statistics, XskError};
use program::{HandDown, NUMBER};
use support::ip;

const SMALL: Limits = Limits { sockets: 4, receive_frames: 64, send_frames: 64 };
/// Frame lengths around the ends of frames of the shared memory, on the way in (256 bytes less) and on the way out.
const LENGTHS: [usize; 15] = [60, 61, 1514, 1791, 1792, 1793, 2048, 2049, 3584, 3585, 4096, 4097, 8192, 9013, 9014];

// A17: what is handed down comes whole, once and in order, and 48 times around the rings.
#[test]
fn a_hundred_thousand_packets_come_once_and_in_order() {
    const PACKETS: u32 = 100_000;
    /// As many as the queue between the ends of a veth holds, with some to spare.
    const ON_THE_WAY: u32 = 192;
    with_link("", || {
        let near = index("near");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(Limits::default()));
        sockets.bind(&program, near, 0);
        let far = Far::open();
        let received = Arc::new(AtomicU32::new(0));
        let progress = Arc::clone(&received);
        let start = Instant::now();
        let sender = thread::spawn(move || {
            let mut frame = frame(0, 4000, 60);
            for number in 0..PACKETS {
                while number - progress.load(Ordering::Acquire) >= ON_THE_WAY {
                    assert!(start.elapsed() < PATIENCE, "stuck at {number}");
                    thread::yield_now();
                }
                frame[NUMBER..NUMBER + 4].copy_from_slice(&number.to_be_bytes());
                far.send(&frame);
            }
        });
        for number in 0..PACKETS {
            let (got, packet) = sockets.receive();
            assert_eq!((number_of(packet), packet.len()), (number, 60));
            assert_eq!((got.ifindex, got.queue), (near, 0));
            received.store(number + 1, Ordering::Release);
        }
        println!("{PACKETS} packets in {:?}", start.elapsed());
        sender.join().unwrap();
        let wanted = Statistics { received: u64::from(PACKETS), ..Statistics::default() };
        assert_eq!(sockets.sockets.statistics(), wanted, "no frame was ever missing");
    });
}

#[test]
fn what_finds_no_frame_is_counted_and_the_next_packets_come_again() {
    with_link("", || {
        let near = index("near");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        sockets.bind(&program, near, 0);
        let far = Far::open();
        for round in 0..3 {
            (0..100).for_each(|number| far.send(&frame(round * 1000 + number, 4000, 100)));
            let dropped = u64::from(round + 1) * 36;
            sockets.until(|sockets| sockets.statistics().kernel_dropped == dropped);
            (0..64).for_each(|number| assert_eq!(number_of(sockets.receive().1), round * 1000 + number));
            assert_eq!(sockets.sockets.receive(&mut [0; 2048]), None);
        }
        let counted = sockets.sockets.statistics();
        assert!(counted.fill_ring_empty >= 108, "{counted:?}");
        assert_eq!((counted.received, counted.invalid), (192, 0));
    });
}

#[test]
fn jumbo_frames_come_whole() {
    with_link("mtu 9000", || {
        let near = index("near");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        sockets.bind(&program, near, 0);
        let far = Far::open();
        // Often enough for chains to go around the end of the ring at different places.
        for round in 0..40 {
            for (n, length) in LENGTHS.into_iter().enumerate() {
                let sent = frame(round * 100 + n as u32, 4000, length);
                far.send(&sent);
                let (_, packet) = sockets.receive();
                assert!(packet == sent, "{length} bytes, came with {}", packet.len());
            }
        }
        let counted = sockets.sockets.statistics();
        assert_eq!(counted, Statistics { received: 40 * LENGTHS.len() as u64, ..Statistics::default() });
    });
}

#[test]
fn a_packet_that_does_not_fit_is_dropped_whole() {
    with_link("mtu 9000", || {
        let near = index("near");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        sockets.bind(&program, near, 0);
        let far = Far::open();
        for number in 0..200 {
            far.send(&frame(number, 4000, 8000));
            far.send(&frame(number, 4000, 101));
            far.send(&frame(number, 4000, 100));
            let mut buffer = [0xa5; 101];
            sockets.until(|sockets| sockets.fds().next().is_some_and(readable));
            let received = loop {
                if let Some(received) = sockets.sockets.receive(&mut buffer[..100]) {
                    break received;
                }
                thread::yield_now();
            };
            assert_eq!((received.len, number_of(&buffer), buffer[100]), (100, number, 0xa5));
        }
        let counted = sockets.sockets.statistics();
        assert_eq!((counted.received, counted.too_long, counted.invalid), (200, 400, 0));
        assert_eq!(counted.kernel_dropped, 0, "frames of dropped packets are used again");
    });
}

fn readable(descriptor: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut poller = flowhop_io::poll::Poller::new().unwrap();
    poller.add(descriptor, 1).unwrap();
    let mut tokens = Vec::new();
    poller.wait(Some(std::time::Duration::ZERO), &mut tokens).unwrap();
    !tokens.is_empty()
}

#[test]
fn small_and_jumbo_frames_are_sent_intact_and_in_order() {
    with_link("mtu 9000", || {
        let near = index("near");
        let far = Far::open();
        let mut sockets = Sockets::new(SMALL);
        sockets.bind(near, 0).unwrap();
        assert!(!sockets.send(near, &[]) && !sockets.send(near, &[0; 40_000]) && !sockets.send(9999, &[0; 60]));
        let mut number = 0;
        for _ in 0..40 {
            for length in LENGTHS {
                let sent = frame(number, 4000, length);
                assert!(sockets.send(near, &sent));
                assert!(sockets.flush());
                let received = far.receive();
                assert!(received == sent, "{length} bytes, came with {}", received.len());
                number += 1;
            }
        }
        // Without a flush in between: what there is no room for makes room for itself.
        for n in 0..1000 {
            assert!(sockets.send(near, &frame(number + n, 4000, LENGTHS[n as usize % LENGTHS.len()])), "{n}");
        }
        assert!(sockets.flush());
        for n in 0..1000 {
            assert!(far.receive() == frame(number + n, 4000, LENGTHS[n as usize % LENGTHS.len()]), "{n}");
        }
        let sent = u64::from(number) + 1000;
        assert_eq!(sockets.statistics(), Statistics { sent, not_taken: 3, ..Statistics::default() });
    });
}

#[test]
fn a_full_ring_refuses_and_recovers() {
    with_link("", || {
        let near = index("near");
        let mut sockets = Sockets::new(SMALL);
        sockets.bind(near, 0).unwrap();
        let far = Far::open();
        ip("link set dev near down");
        for number in 0..64 {
            assert!(sockets.send(near, &frame(number, 4000, 100)));
        }
        assert!(!sockets.send(near, &frame(64, 4000, 100)));
        assert!(sockets.flush(), "a device that is down is not waited for");
        assert!(!sockets.send(near, &frame(64, 4000, 100)), "all of it is left");
        assert_eq!(sockets.statistics(), Statistics { sent: 64, not_taken: 2, ..Statistics::default() });
        ip("link set dev near up");
        assert!(sockets.flush());
        (0..64).for_each(|number| assert_eq!(number_of(&far.receive()), number));
        assert!(sockets.send(near, &frame(65, 4000, 100)) && sockets.flush());
        assert_eq!(number_of(&far.receive()), 65);
        assert!(far.nothing_waits());
    });
}

#[test]
fn what_is_lost_for_want_of_a_carrier_is_counted() {
    with_link("", || {
        let near = index("near");
        let mut sockets = Sockets::new(SMALL);
        sockets.bind(near, 0).unwrap();
        ip("link set dev far down");
        for number in 0..64 {
            assert!(sockets.send(near, &frame(number, 4000, 100)));
        }
        assert!(sockets.flush());
        assert_eq!(sockets.statistics(), Statistics { sent: 64, refused: 64, ..Statistics::default() });
        ip("link set dev far up");
        let far = Far::open();
        assert!(sockets.send(near, &frame(64, 4000, 100)) && sockets.flush());
        assert_eq!(number_of(&far.receive()), 64);
    });
}

/// Sends packets of many flows, which the far end spreads over its queues, and returns how many came on which queue.
fn by_queue(sockets: &mut Near, far: &Far) -> BTreeMap<u32, u32> {
    sockets.until_something_comes(far);
    let mut queues = BTreeMap::new();
    for flow in 0..64 {
        far.send(&frame(u32::from(flow), 4000 + flow, 100));
        let (got, packet) = sockets.receive();
        assert_eq!(number_of(packet), u32::from(flow));
        *queues.entry(got.queue).or_default() += 1;
    }
    queues
}

#[test]
fn each_queue_has_its_socket() {
    with_link("numrxqueues 2 numtxqueues 2", || {
        let near = index("near");
        ethtool("-L near rx 2 tx 2");
        ethtool("-L far rx 2 tx 2");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        sockets.bind(&program, near, 0);
        sockets.bind(&program, near, 1);
        let queues = by_queue(&mut sockets, &Far::open());
        assert_eq!(queues.values().sum::<u32>(), 64);
        assert_eq!(queues.len(), 2, "{queues:?}");
    });
}

#[test]
fn a_queue_that_came_later_is_bound_then() {
    with_link("numrxqueues 2 numtxqueues 2", || {
        let near = index("near");
        ethtool("-L far rx 1 tx 1");
        ethtool("-L near rx 1 tx 1");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        let far = Far::open();
        sockets.bind(&program, near, 0);
        let refused = sockets.sockets.bind(near, 1);
        assert!(matches!(refused, Err(XskError::NoQueue { queue: 1, .. })), "{refused:?}");
        assert_eq!(by_queue(&mut sockets, &far), BTreeMap::from([(0, 64)]));

        ethtool("-L near rx 2 tx 1");
        ethtool("-L far rx 1 tx 2");
        sockets.bind(&program, near, 1);
        program.replace();
        assert_eq!(by_queue(&mut sockets, &far).len(), 2, "both, the old one without having been touched");
    });
}

#[test]
fn a_queue_is_closed_and_bound_again() {
    with_link("", || {
        let near = index("near");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        let far = Far::open();
        for round in 0..20 {
            sockets.bind(&program, near, 0);
            far.send(&frame(round, 4000, 100));
            assert_eq!(number_of(sockets.receive().1), round);
            assert!(sockets.sockets.is_bound(near, 0) && sockets.sockets.fd(near, 0).is_some());
            sockets.sockets.bind(near, 0).unwrap(); // It is there: nothing happens.
            sockets.sockets.close(near);
            assert!(!sockets.sockets.is_bound(near, 0) && sockets.sockets.fd(near, 0).is_none());
            assert_eq!(sockets.sockets.fds().count(), 0);
            far.send(&frame(999, 4000, 100)); // The program drops it.
            assert_eq!(sockets.sockets.receive(&mut [0; 2048]), None);
        }
        assert_eq!(sockets.sockets.statistics(), Statistics { received: 20, ..Statistics::default() });
    });
}

#[test]
fn a_device_that_goes_takes_nothing_along() {
    with_link("", || {
        closed_pair("other");
        let (near, other) = (index("near"), index("other"));
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(SMALL));
        sockets.bind(&program, near, 0);
        sockets.sockets.bind(other, 0).unwrap();
        ip("link del dev other");
        assert!(sockets.sockets.send(other, &[0; 60]), "it has a ring yet");
        assert!(sockets.sockets.flush());
        sockets.sockets.close(other);
        assert!(!sockets.sockets.send(other, &[0; 60]));
        assert!(sockets.sockets.flush());
        Far::open().send(&frame(7, 4000, 100));
        assert_eq!(number_of(sockets.receive().1), 7);
    });
}

#[test]
fn sockets_take_turns() {
    with_link("numrxqueues 2 numtxqueues 2", || {
        let near = index("near");
        ethtool("-L near rx 2 tx 2");
        ethtool("-L far rx 2 tx 2");
        let program = HandDown::attach(near);
        let mut sockets = Near::new(Sockets::new(Limits::default()));
        sockets.bind(&program, near, 0);
        sockets.bind(&program, near, 1);
        // Two flows that the far end sends on different queues.
        let far = Far::open();
        sockets.until_something_comes(&far);
        let mut flows = [None; 2];
        for flow in 4000..4064 {
            far.send(&frame(0, flow, 100));
            flows[sockets.receive().0.queue as usize] = Some(flow);
        }
        for number in 0..500 {
            flows.iter().for_each(|flow| far.send(&frame(number, flow.expect("both queues are used"), 100)));
        }
        sockets.until(|sockets| sockets.fds().all(readable));
        let order: Vec<u32> = (0..1000).map(|_| sockets.receive().0.queue).collect();
        let longest = order.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
        assert!(longest <= Some(128), "{longest:?} in a row though the other waited");
        assert_eq!(order.iter().filter(|queue| **queue == 0).count(), 500);
    });
}

fn closed_pair(name: &str) {
    ip(&format!("link add name {name} type veth peer name {name}-far"));
    ip(&format!("link set dev {name} up"));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    with_link("", || {
        let near = index("near");
        let mut sockets = Sockets::new(Limits { sockets: 1, ..SMALL });
        assert!(matches!(sockets.bind(9999, 0), Err(XskError::NoInterface(9999))));
        assert!(matches!(sockets.bind(near, 7), Err(XskError::NoQueue { queue: 7, .. })));
        assert_eq!(sockets.receive(&mut [0; 100]), None);
        sockets.bind(near, 0).unwrap();
        closed_pair("other");
        assert!(matches!(sockets.bind(index("other"), 0), Err(XskError::TooMany(1))));
        let mut second = Sockets::new(SMALL);
        assert!(matches!(second.bind(near, 0), Err(XskError::Busy { queue: 0, .. })));
        drop(sockets);
        bed::bind(&mut second, near, 0);
    });
}
