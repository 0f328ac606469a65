//! The kernel programs against the same forwarding function run natively, on the same memory.
//!
//! Needs root, a kernel with tcx, and nothing else: each test works in network and mount namespaces of its own.

#[path = "kernel/common.rs"]
mod common;
#[path = "kernel/cookies.rs"]
mod cookies;
#[path = "kernel/cores.rs"]
mod cores;
#[path = "kernel/driver.rs"]
mod driver;

use common::{Bed, FORWARD, Flow, Wire, compare, frames, in_namespaces, tick};
use flowhop_flow::record::{NextHop, local_flags};
use flowhop_flow::{Reason, key};
use flowhop_io::bpf::{Attachment, Context, Geometry, IndexKind, Kernel, KernelError, Program};
use flowhop_io::tap::metadata::{Order, Punt, TO_STACK, TRANSMIT};
use flowhop_wire::build::{L4, Spec};

const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

#[test]
fn hits_are_rewritten_as_the_native_function_does() {
    for index in [IndexKind::Lines, IndexKind::KernelHash] {
        in_namespaces(move || {
            let mut bed = Bed::new(index);
            for flow in [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6(), Flow::echo4(), Flow::echo6()] {
                bed.insert(&flow, FORWARD);
                let frame = flow.frame();
                let run = compare(&mut bed, &frame, 0);
                assert_eq!(run.verdict.reason, Reason::Forwarded, "{flow:?} {index:?}");
                assert_eq!(run.kernel.action, REDIRECT);
                assert_ne!(run.kernel.frame, frame);
                assert!(common::checksums_are_right(&run.kernel.frame), "{flow:?}");
                bed.remove_all();
            }
            let counted = bed.kernel.counters(1).unwrap().of(Reason::Forwarded);
            assert_eq!(counted.packets, 6);
        });
    }
}

// A2: nothing of what a peer may send is judged otherwise in the kernel than in user space.
#[test]
fn altered_packets_are_judged_alike() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        for flow in [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6(), Flow::echo4(), Flow::echo6()] {
            bed.insert(&flow, FORWARD);
        }
        let mut reasons = std::collections::BTreeMap::<Reason, usize>::new();
        for (frame, segment) in frames(8_000) {
            let run = compare(&mut bed, &frame, segment);
            *reasons.entry(run.verdict.reason).or_default() += 1;
        }
        println!("{reasons:?}");
        for wanted in [Reason::Forwarded, Reason::Miss, Reason::TcpWindow, Reason::Truncated, Reason::BadIpChecksum] {
            assert!(reasons.contains_key(&wanted), "{wanted:?} never came up: {reasons:?}");
        }
    });
}

#[test]
fn a_miss_goes_to_the_punt_device_with_port_reason_and_gate() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let flow = Flow::udp4();
        let frame = flow.frame();
        let run = compare(&mut bed, &frame, 0);
        assert_eq!((run.verdict.reason, run.kernel.action), (Reason::Miss, REDIRECT));
        let address: [u8; 6] = *run.kernel.frame.first_chunk().unwrap();
        let punt = Punt::parse(address).unwrap();
        assert_eq!((punt.port, punt.reason), (1, Reason::Miss.number()));
        assert_ne!(punt.gate, 0);
        assert_eq!(run.kernel.frame[6..], frame[6..], "the rest came as it was");

        // Without a punt device there is nobody to hand to, and the gate does not wait for the packet.
        let gate = usize::from(punt.gate) - 1;
        bed.kernel.shared().config[0].punt_ifindex.store(0);
        let before = bed.kernel.shared().gates[gate].read();
        let run = bed.run(Program::Ingress, &frame, Context { ifindex: bed.lan, ..Context::default() });
        assert_eq!(run.action, DROP);
        assert_eq!(bed.kernel.shared().gates[gate].read(), before);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::PuntFailed).packets, 1);

        // Without a daemon neither.
        bed.kernel.shared().config[0].heartbeat.store(tick().wrapping_sub(1_000_000));
        let run = bed.run(Program::Ingress, &frame, Context { ifindex: bed.lan, ..Context::default() });
        assert_eq!(run.action, DROP);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::NoDaemon).packets, 1);
    });
}

#[test]
fn own_packets_and_foreign_interfaces_are_left_to_the_stack() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let flow = Flow::udp4();
        let frame = flow.frame();
        let arrival = Context { ifindex: bed.lan, ..Context::default() };

        bed.kernel.insert_local(&flow.key.destination, 0).unwrap();
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, NEXT);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::Local).packets, 1);

        // An address that translations use: by port.
        bed.kernel.insert_local(&flow.key.destination, local_flags::TRANSLATED | 3).unwrap();
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, NEXT);
        let port = usize::from(flow.key.destination_port());
        bed.kernel.shared().port_bits[3].0[1][port >> 6].add(1 << (port & 63));
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, REDIRECT);
        // Without a bitmap of its own: all of it.
        bed.kernel.insert_local(&flow.key.destination, local_flags::TRANSLATED | 0xffff).unwrap();
        bed.kernel.shared().port_bits[3].0[1][port >> 6].store(0);
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, REDIRECT);

        // Echo requests, and what has no ports, by flags of their own.
        let [from, to] = [key::ip(&flow.key.source), key::ip(&flow.key.destination)];
        let on_link = |spec: Spec<'_>| {
            let mut bytes = spec.to_vec().unwrap();
            bytes[..12].copy_from_slice(&frame[..12]);
            bytes
        };
        let echo = on_link(Spec::echo_request(from, to, 7, 1, b"x"));
        let gre = on_link(Spec::new(from, to, L4::Raw { protocol: 47 }, &[0; 8]));
        for (frame, flag) in [(echo, local_flags::ECHO), (gre, local_flags::OTHERS)] {
            bed.kernel.insert_local(&flow.key.destination, local_flags::TRANSLATED | 3).unwrap();
            assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, NEXT);
            bed.kernel.insert_local(&flow.key.destination, local_flags::TRANSLATED | 3 | flag).unwrap();
            assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, REDIRECT);
        }
        bed.kernel.remove_local(&flow.key.destination).unwrap();
        bed.kernel.remove_local(&flow.key.destination).unwrap();

        // Not a port: never counted.
        let before = bed.kernel.counters(0).unwrap();
        assert_eq!(bed.run(Program::Ingress, &frame, Context { ifindex: bed.tap.ifindex(), ..arrival }).action, NEXT);
        assert_eq!(bed.kernel.counters(0).unwrap(), before);

        // What user space gave to the stack passes, once, and the mark is gone.
        bed.kernel.shared().config[0].reinject_mark.store(0x4600_0001);
        let run = bed.run(Program::Ingress, &frame, Context { mark: 0x4600_0001, ..arrival });
        assert_eq!((run.action, run.mark), (NEXT, 0));
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::Reinjected).packets, 1);
    });
}

#[test]
fn the_punt_device_obeys_orders_and_drops_the_rest() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        bed.kernel.shared().config[0].reinject_mark.store(0x4600_0001);
        let mut frame = Flow::udp4().frame();
        let arrival = Context { ifindex: bed.tap.ifindex(), ..Context::default() };

        frame[6..12].copy_from_slice(&Order { action: TRANSMIT, port: 2 }.address());
        let run = bed.run(Program::Tap, &frame, arrival);
        assert_eq!(run.action, REDIRECT);
        assert_eq!(run.frame[..6], frame[..6]);
        assert_eq!(run.frame[6..12], bed.wan_mac);

        frame[6..12].copy_from_slice(&Order { action: TO_STACK, port: 1 }.address());
        let run = bed.run(Program::Tap, &frame, arrival);
        assert_eq!((run.action, run.mark), (REDIRECT, 0x4600_0001));
        assert_eq!(run.frame[..6], bed.lan_mac);
        assert_ne!(run.frame[6..12], bed.lan_mac);

        frame[6..12].copy_from_slice(&Order { action: TRANSMIT, port: 9 }.address());
        assert_eq!(bed.run(Program::Tap, &frame, arrival).action, DROP);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        assert_eq!(bed.run(Program::Tap, &frame, arrival).action, DROP);

        assert_eq!(bed.kernel.tap_counters(2).unwrap().of(Reason::Forwarded).packets, 1);
        assert_eq!(bed.kernel.tap_counters(1).unwrap().of(Reason::Reinjected).packets, 1);
        assert_eq!(bed.kernel.tap_counters(9).unwrap().of(Reason::Device).packets, 1);
        assert_eq!(bed.kernel.tap_counters(0).unwrap().of(Reason::BadHeader).packets, 1);
    });
}

// A16: tables and programs outlive the daemon; what does not fit is refused and left alone.
#[test]
fn tables_are_adopted_or_refused() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let flow = Flow::udp4();
        bed.insert(&flow, FORWARD);
        let frame = flow.frame();
        let arrival = Context { ifindex: bed.lan, ..Context::default() };
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, REDIRECT);
        let geometry = bed.kernel.geometry();
        let secret = bed.kernel.shared().config[0].secret();
        assert!(!bed.kernel.adopted());
        assert_eq!(bed.kernel.attached().unwrap(), {
            let mut all = vec![bed.lan, bed.wan, bed.tap.ifindex()];
            all.sort_unstable();
            all
        });

        // As after a kill: nothing is taken down, the descriptors are gone.
        bed.replace_kernel(|state| Kernel::load(state, geometry).unwrap());
        assert!(bed.kernel.adopted());
        assert_eq!(bed.kernel.shared().config[0].secret(), secret);
        let counted = bed.kernel.counters(1).unwrap().of(Reason::Forwarded).packets;
        assert_eq!(bed.run(Program::Ingress, &frame, arrival).action, REDIRECT);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::Forwarded).packets, counted + 1);
        let (lan, mac) = (bed.lan, bed.lan_mac);
        bed.kernel.attach(&Attachment::skb(lan, 1, mac)).unwrap();
        bed.kernel.attach(&Attachment::skb(lan, 1, mac)).unwrap();

        let other = Geometry { blocks: geometry.blocks * 2, ..geometry };
        assert!(matches!(Kernel::load(&bed.state, other), Err(KernelError::OtherGeometry { .. })));
        bed.kernel.shared().config[0].layout.store(99);
        assert!(matches!(Kernel::load(&bed.state, geometry), Err(KernelError::OtherLayout { found: 99, .. })));
        bed.kernel.shared().config[0].magic.store(1);
        assert!(matches!(Kernel::load(&bed.state, geometry), Err(KernelError::Foreign(_))));
        assert_eq!(bed.kernel.attached().unwrap().len(), 3, "nothing was touched");
        // Unfinished: made anew.
        bed.kernel.shared().config[0].magic.store(0);
        let fresh = Kernel::load(&bed.state, geometry).unwrap();
        assert!(!fresh.adopted());
        assert!(fresh.attached().unwrap().is_empty());
        assert_eq!(fresh.counters(1).unwrap().of(Reason::Forwarded).packets, 0);
    });
}

#[test]
fn taking_down_leaves_nothing() {
    in_namespaces(|| {
        let bed = Bed::new(IndexKind::Lines);
        let state = bed.state.clone();
        drop(bed);
        Kernel::take_down(&state).unwrap();
        assert!(!state.join("bpf").exists());
        assert!(!common::has_link(flowhop_io::tap::NAME));
        Kernel::take_down(&state).unwrap();
    });
}

#[test]
fn a_device_that_is_gone_makes_room_for_another_of_its_index() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let (lan, mac) = (bed.lan, bed.lan_mac);
        common::ip("link del lan");
        assert!(matches!(bed.kernel.attach(&Attachment::skb(lan, 1, mac)), Err(KernelError::NoInterface(_))));
        common::ip(&format!("link add lan index {lan} type veth peer name lan-peer"));
        bed.kernel.attach(&Attachment::skb(lan, 1, mac)).unwrap();
        bed.kernel.detach(lan).unwrap();
        bed.kernel.detach(lan).unwrap();
        assert!(!bed.kernel.attached().unwrap().contains(&lan));
    });
}

#[test]
fn adjacency_and_daemon_are_asked_each_time() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let flow = Flow::tcp4();
        bed.insert(&flow, FORWARD);
        let frame = flow.frame();
        let hop = bed.kernel.shared().adjacencies[common::ADJACENCY].read().unwrap();
        for (other, reason) in [
            (NextHop { generation: hop.generation + 1, ..hop }, Reason::StaleAdjacency),
            (NextHop { flags: 0, ..hop }, Reason::NeighbourUnresolved),
            (NextHop { mtu: 40, ..hop }, Reason::TooBig),
            (hop, Reason::Forwarded),
        ] {
            bed.kernel.shared().adjacencies[common::ADJACENCY].write(&other);
            assert_eq!(compare(&mut bed, &frame, 0).verdict.reason, reason);
        }
        bed.kernel.shared().config[0].heartbeat.store(tick().wrapping_sub(50_000_000));
        assert_eq!(compare(&mut bed, &frame, 0).verdict.reason, Reason::Orphaned);
        assert_eq!(key::ip(&flow.key.source).to_string(), "10.0.0.2");
    });
}

// A5: the same on real devices, with a capture running, so that the programs meet buffers that are shared.
#[test]
fn packets_go_through_devices_while_a_capture_runs() {
    in_namespaces(|| {
        let mut bed = Bed::new(IndexKind::Lines);
        let capture = Wire::open("lan");
        let (sender, receiver) = (Wire::open("lan-peer"), Wire::open("wan-peer"));
        for flow in [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6(), Flow::echo4(), Flow::echo6()] {
            bed.insert(&flow, FORWARD);
            let frame = flow.frame();
            sender.send(&frame);
            let arrived = receiver.expect(|got| got[..6] == common::NEIGHBOUR);
            assert!(common::checksums_are_right(&arrived), "{flow:?}");
            assert_ne!(arrived[14..], frame[14..]);
            assert_eq!(capture.expect(|got| got[6..12] == frame[6..12]), frame, "the capture sees what arrived");
            bed.remove_all();

            // The same packet of an unknown flow goes to the daemon and, on its order, out of the other port.
            sender.send(&frame);
            assert_eq!(capture.expect(|got| got[6..12] == frame[6..12]), frame);
            let (header, punted) = common::punted(&bed.tap);
            assert_eq!(Punt::parse(*punted.first_chunk().unwrap()).unwrap().reason, Reason::Miss.number());
            assert_eq!(punted[6..], frame[6..]);
            let order = Order { action: TRANSMIT, port: 2 }.address();
            let parts = [&common::NEIGHBOUR[..], &order[..], &punted[12..]].map(std::io::IoSlice::new);
            bed.tap.write(header, &parts).unwrap();
            let arrived = receiver.expect(|got| got[..6] == common::NEIGHBOUR);
            assert_eq!((&arrived[6..12], &arrived[12..]), (&bed.wan_mac[..], &frame[12..]));
        }
        assert!(flowhop_io::tap::Tap::open(flowhop_io::tap::NAME).is_err(), "one process at a time");
    });
}

// A17: what the daemon leaves to the stack reaches it: a box's own address behind the punt device answers.
#[test]
fn the_stack_gets_what_the_daemon_leaves_to_it() {
    in_namespaces(|| {
        let bed = Bed::new(IndexKind::Lines);
        bed.kernel.shared().config[0].reinject_mark.store(0x4600_0001);
        common::ip("addr add 192.0.2.1/24 dev lan");
        common::ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:11 dev lan");
        common::ip("route add 10.0.0.0/24 dev lan");
        let sender = Wire::open("lan-peer");
        sender.send(&Flow::echo4().frame());
        let (header, punted) = common::punted(&bed.tap);
        let order = Order { action: TO_STACK, port: 1 }.address();
        let parts = [&punted[..6], &order[..], &punted[12..]].map(std::io::IoSlice::new);
        bed.tap.write(header, &parts).unwrap();
        let answer = sender.expect(|got| got[12..14] == [8, 0] && got[23] == 1 && got[34] == 0);
        assert_eq!(answer[26..30], [192, 0, 2, 1]);
        assert_eq!(bed.kernel.counters(1).unwrap().of(Reason::Reinjected).packets, 1);
        assert_eq!(bed.kernel.tap_counters(1).unwrap().of(Reason::Reinjected).packets, 1);
    });
}

/// Figures, not a test: `cargo test -p flowhop-io --release --test kernel -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_packet() {
    for index in [IndexKind::Lines, IndexKind::KernelHash] {
        in_namespaces(move || {
            let mut bed = Bed::new(index);
            let program = Program::ingress(index);
            for program in [Program::ingress(index), Program::Tap] {
                let info = bed.kernel.program_info(program).unwrap();
                println!(
                    "{}: {:?} bytes translated, {:?} instructions verified",
                    program.name(),
                    info.size_translated(),
                    info.verified_instruction_count()
                );
            }
            for flow in [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6()] {
                println!(
                    "{index:?} {:?} hit: {} ns",
                    flow.key.identity & 0xffff,
                    common::measure_hits(&mut bed, &flow)
                );
                bed.remove_all();
            }
            println!("{index:?} miss: {} ns", common::measure(&mut bed, program, &Flow::udp4().frame(), 1));
            println!("floor: {} ns", common::measure(&mut bed, Program::Tap, &Flow::udp4().frame(), 60));
        });
    }
}
