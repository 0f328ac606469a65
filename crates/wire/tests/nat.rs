//! Address and port translation by deltas, compared with packets computed from scratch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; helpers outside of test functions too")]

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::{Checksum, L4, Spec, TcpFields};
use flowhop_wire::checksum::Delta;
use flowhop_wire::verify::{self, Verified};
use proptest::prelude::*;

/// One end of a flow: address and port, or identifier.
#[derive(Clone, Copy, Debug)]
struct End {
    address: IpAddr,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tcp,
    Udp,
    Icmp,
}

/// The packet of a flow without Ethernet header.
fn packet<'a>(kind: Kind, source: End, destination: End, payload: &'a [u8], checksum: Checksum) -> Spec<'a> {
    let (source_port, destination_port) = (source.port, destination.port);
    let [a, b] = source.port.to_be_bytes();
    let l4 = match kind {
        Kind::Tcp => L4::Tcp(TcpFields { source_port, destination_port, ..TcpFields::default() }),
        Kind::Udp => L4::Udp { source_port, destination_port },
        Kind::Icmp => L4::Icmp { kind: 128, code: 0, rest: [a, b, 0, 1] },
    };
    Spec::new(source.address, destination.address, l4, payload).without_link().with_checksum(checksum)
}

fn write(spec: &Spec<'_>) -> Vec<u8> {
    let mut buffer = vec![0xa5; spec.len()];
    spec.write(&mut buffer).unwrap();
    buffer
}

fn field(kind: Kind) -> usize {
    match kind {
        Kind::Tcp => 16,
        Kind::Udp => 6,
        Kind::Icmp => 2,
    }
}

fn checksum(spec: &Spec<'_>, bytes: &[u8], kind: Kind) -> u16 {
    let place = spec.l4_offset() + field(kind);
    u16::from_be_bytes([bytes[place], bytes[place + 1]])
}

fn addresses(delta: Delta, old: IpAddr, new: IpAddr) -> Delta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace32(old.to_bits(), new.to_bits()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace128(old.to_bits(), new.to_bits()),
        _ => unreachable!("families differ"),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::Icmp])
}

/// Both ends before and after, of one family. Words of all zeros and all ones are frequent: the two forms of zero.
fn ends() -> impl Strategy<Value = [End; 4]> {
    let word = || prop_oneof![Just(0u16), Just(0xffff), any::<u16>()];
    (any::<bool>(), prop::array::uniform4((prop::array::uniform8(word()), word()))).prop_map(|(v6, ends)| {
        ends.map(|(words, port)| {
            let wide = IpAddr::from(words);
            let narrow = IpAddr::from((u32::from(words[0]) << 16 | u32::from(words[1])).to_be_bytes());
            End { address: if v6 { wide } else { narrow }, port }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn translation_is_recomputation(
        kind in kinds(),
        [source, destination, new_source, new_destination] in ends(),
        payload in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..40),
    ) {
        let old = packet(kind, source, destination, &payload, Checksum::Full);
        let new = packet(kind, new_source, new_destination, &payload, Checksum::Full);
        let (old_bytes, new_bytes) = (write(&old), write(&new));

        // RFC 792: an ICMP checksum over IPv4 covers no address.
        let has_pseudo_header = kind != Kind::Icmp || source.address.is_ipv6();
        let pseudo = if has_pseudo_header {
            addresses(addresses(Delta::ZERO, source.address, new_source.address), destination.address, new_destination.address)
        } else {
            Delta::ZERO
        };
        let ports = match kind {
            Kind::Icmp => Delta::ZERO.replace16(source.port, new_source.port),
            _ => Delta::ZERO
                .replace16(source.port, new_source.port)
                .replace16(destination.port, new_destination.port),
        };

        // A complete checksum.
        let (before, after) = (checksum(&old, &old_bytes, kind), checksum(&new, &new_bytes, kind));
        let delta = pseudo.and(ports);
        let apply = |delta: Delta, value| if kind == Kind::Udp { delta.apply_udp(value) } else { delta.apply(value) };
        prop_assert_eq!(apply(delta, before), after);
        prop_assert_eq!(apply(delta.inverse(), after), before);

        // A partial checksum: translated, then completed by the device over the translated packet.
        let partial_old = old.with_checksum(Checksum::Partial);
        let partial_new = new.with_checksum(Checksum::Partial);
        let mut bytes = write(&partial_new);
        let updated = pseudo.apply_partial(checksum(&partial_old, &write(&partial_old), kind));
        prop_assert_eq!(updated, checksum(&partial_new, &bytes, kind));
        let place = new.l4_offset() + field(kind);
        bytes[place..place + 2].copy_from_slice(&updated.to_be_bytes());
        let completed = verify::complete_partial(&mut bytes, new.l4_offset(), field(kind)).unwrap();
        prop_assert!(completed == after || (completed, after) == (0xffff, 0));
        prop_assert_eq!(verify::transport(&bytes), Verified::Valid);

        // What the translated packet gives when its completed checksum is translated again; a sum of zero that was
        // completed in its other form may come back in that.
        let back = apply(delta.inverse(), completed);
        prop_assert!(back == before || completed != after && back % 0xffff == before % 0xffff);

        // The header checksum of IPv4 (RFC 1624).
        if source.address.is_ipv4() {
            let header = |bytes: &[u8]| u16::from_be_bytes([bytes[10], bytes[11]]);
            let delta = addresses(addresses(Delta::ZERO, source.address, new_source.address), destination.address, new_destination.address);
            prop_assert_eq!(delta.apply(header(&old_bytes)), header(&new_bytes));
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong([source, destination, new_source, _] in ends(), error in 1u16..0xffff) {
        let old = packet(Kind::Tcp, source, destination, b"data", Checksum::Full);
        let wrong = Delta::ZERO.replace16(0, error).apply(checksum(&old, &write(&old), Kind::Tcp));
        let delta = addresses(Delta::ZERO, source.address, new_source.address).replace16(source.port, new_source.port);
        let new = packet(Kind::Tcp, new_source, destination, b"data", Checksum::Value(delta.apply(wrong)));
        prop_assert_eq!(verify::transport(&write(&new)), Verified::Invalid);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    // RFC 768: zero means that the sender generated none.
    let ends: [SocketAddr; 2] = ["10.0.0.1:4000".parse().unwrap(), "192.0.2.1:53".parse().unwrap()];
    let spec = Spec::udp(ends[0], ends[1], b"x").without_link().with_checksum(Checksum::Value(0));
    let bytes = write(&spec);
    let delta = Delta::ZERO.replace32(0x0a00_0001, 0xc633_6401).replace16(4000, 50_000);
    assert_eq!(delta.apply_udp(checksum(&spec, &bytes, Kind::Udp)), 0);
}
