//! Shadow mode: what the slow path makes of packets that a kernel program says it has forwarded (checklist A14).

use flowhop_engine::{Differing, Path};
use flowhop_flow::Kind;
use flowhop_flow::record::Steer;
use flowhop_flow::shadow::{HEAD, Sample};
use flowhop_wire::build::{Ip, Spec};
use flowhop_wire::tcp_flags;
use zerocopy::FromZeros;

use crate::bed::{Bed, LAN, at, framed};

const POLICY: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n\
    [[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"198.51.100.20\"\n";

/// What a program would let be seen of a packet from inside that it forwards as the slow path does.
fn sample(bed: &mut Bed, spec: &Spec<'_>) -> Sample {
    let frame = framed(LAN, spec);
    let mut sample = Sample::new_zeroed();
    let block = bed.engine.table().live_blocks().next().map(|number| bed.engine.table().block(number).unwrap());
    let halves = block.map(|block| {
        [&block.tcp[0], &block.tcp[1]].map(|half| [half.sent.load(), half.allowed.load(), half.state.load()])
    });
    sample.tcp.copy_from_slice(halves.unwrap_or_default().as_flattened());
    assert_eq!(bed.receive(LAN, frame.clone()).kind, Kind::Forward);
    let (_, sent) = bed.outside.sent.pop().unwrap();
    let number = bed.engine.table().live_blocks().next().unwrap();
    sample.steer = bed.engine.table().block(number).unwrap().hot[0].steer.load();
    sample.length = frame.len() as u32;
    sample.ifindex = 12;
    (sample.port, sample.network) = (LAN, 14);
    sample.kept = frame.len().min(HEAD) as u16;
    let kept = usize::from(sample.kept);
    sample.before[..kept].copy_from_slice(&frame[..kept]);
    sample.after[..kept].copy_from_slice(&sent[..kept]);
    sample
}

fn bed() -> Bed {
    let mut bed = Bed::sized(POLICY, 1024, true);
    bed.engine.set_shadow(1);
    bed
}

fn udp(df: bool) -> Spec<'static> {
    let mut spec = Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &[7; 200]);
    if let Ip::V4(ip) = &mut spec.ip {
        ip.df = df;
    }
    spec
}

#[test]
fn the_same_is_no_difference() {
    for df in [true, false] {
        let mut bed = bed();
        sample(&mut bed, &udp(df));
        bed.settle();
        for _ in 0..3 {
            let sample = sample(&mut bed, &udp(df));
            assert_eq!(bed.engine.compare(&sample, bed.now), None, "identifications are the program's own");
        }
        let status = bed.engine.shadow();
        assert_eq!((status.one_in, status.same, status.different, status.unjudged), (1, 3, 0, 0));
    }
}

/// Makes something of a sample that no program would.
type Spoil = fn(&mut Sample);

#[test]
fn whatever_differs_is_found_and_the_flow_is_demoted() {
    let spoil: [(&str, Spoil, Differing); 6] = [
        ("a port", |sample| sample.after[34] ^= 1, Differing::Bytes),
        ("an address", |sample| sample.after[29] ^= 1, Differing::Bytes),
        ("a checksum", |sample| sample.after[41] ^= 1, Differing::Bytes),
        ("the time to live", |sample| sample.after[22] ^= 1, Differing::Bytes),
        ("payload", |sample| sample.after[100] ^= 1, Differing::Bytes),
        ("the output", |sample| sample.ifindex = 11, Differing::Output(12)),
    ];
    for (what, spoil, expected) in spoil {
        let mut bed = bed();
        sample(&mut bed, &udp(true));
        bed.settle();
        let mut sample = sample(&mut bed, &udp(true));
        spoil(&mut sample);
        let found = bed.engine.compare(&sample, bed.now).unwrap_or_else(|| panic!("{what} was not found"));
        assert_eq!((found.what, found.session.1, found.expected.len()), (expected, 0, HEAD), "{what}");
        let number = bed.engine.table().live_blocks().next().unwrap();
        let block = bed.engine.table().block(number).unwrap();
        assert!(block.hot.iter().all(|hot| Path::of(Steer::unpack(hot.steer.load())) == Path::User), "{what}");
        // Nobody moves it back.
        let serial = block.owner.serial.load();
        assert!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now).is_err(), "{what}");
    }
}

#[test]
fn what_the_window_does_not_allow_is_found() {
    let mut bed = bed();
    let (client, server) = (at("10.1.0.2:1000"), at("198.51.100.2:80"));
    sample(&mut bed, &Spec::tcp(client, server, tcp_flags::SYN, &[]).with_sequence(1000, 0));
    bed.settle();
    let far = Spec::tcp(client, server, tcp_flags::ACK, b"x").with_sequence(900_000_000, 1);
    let mut sample = sample(&mut bed, &Spec::tcp(client, server, tcp_flags::SYN, &[]).with_sequence(1000, 0));
    let frame = framed(LAN, &far);
    sample.before[..frame.len()].copy_from_slice(&frame);
    (sample.length, sample.kept) = (frame.len() as u32, frame.len() as u16);
    let found = bed.engine.compare(&sample, bed.now).expect("a difference");
    assert!(matches!(found.what, Differing::Verdict(_)), "{found:?}");
}

// An entry that fell over is right again.
#[test]
fn an_entry_is_mended() {
    let mut bed = bed();
    sample(&mut bed, &udp(true));
    bed.settle();
    let number = bed.engine.table().live_blocks().next().unwrap();
    let ports = bed.engine.table().block(number).unwrap().hot[0].new_ports.load();
    bed.engine.table().block(number).unwrap().hot[0].new_ports.store(ports ^ 0x100);
    // The program goes by the entry as it is.
    let sample = sample(&mut bed, &udp(true));
    assert_eq!(bed.engine.compare(&sample, bed.now).map(|found| found.what), Some(Differing::Bytes));
    assert_eq!(bed.engine.table().block(number).unwrap().hot[0].new_ports.load(), ports);
}

// What has changed meanwhile is no difference; what no policy allows is one.
#[test]
fn what_changed_meanwhile_is_not_judged() {
    let mut bed = bed();
    sample(&mut bed, &udp(true));
    bed.settle();
    let before = sample(&mut bed, &udp(true));
    let number = bed.engine.table().live_blocks().next().unwrap();
    let serial = bed.engine.table().block(number).unwrap().owner.serial.load();
    bed.engine.move_flow(serial, Some(Path::User), bed.now).unwrap();
    assert_eq!(bed.engine.compare(&before, bed.now), None);
    assert!(bed.engine.delete(serial));
    assert_eq!(bed.engine.compare(&before, bed.now), None);
    // Bytes of nothing, and lengths that cannot be.
    let mut nothing = Sample::new_zeroed();
    (nothing.kept, nothing.network, nothing.length) = (u16::MAX, 255, u32::MAX);
    assert_eq!(bed.engine.compare(&nothing, bed.now), None);
    assert_eq!(bed.engine.shadow().unjudged, 3);
}
