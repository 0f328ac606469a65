//! Clauses about fragments.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use flowhop_wire::build::{Extension, Ip, L4, Spec};
use flowhop_wire::tcp_flags::SYN;
use flowhop_wire::{icmp6, protocol};

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PLAIN};
use super::seen::Part;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(791, "3.2", &PLAIN, |field| any_order(field, false), "forwards fragments that come in any order"),
    must(8200, "4.5", &PLAIN, |field| any_order(field, true), "forwards fragments that come in any order"),
    must(4787, "REQ-14", &MASQUERADE, translated, "translates fragments in order and out of order, both ways"),
    must(
        4787,
        "REQ-14 a",
        &MASQUERADE,
        flood,
        "passes whole packets and fragments in order while many fragments never become whole",
    ),
    should(1858, "3.2", &PLAIN, tiny, "drops first fragments that do not hold the whole transport header"),
    should(3128, "3", &PLAIN, into_header, "drops fragments that reach into the TCP header"),
    must(5722, "4", &PLAIN, |field| overlap(field, true), "drops all fragments of a datagram that overlaps itself"),
    must(
        8200,
        "4.5, overlap",
        &PLAIN,
        |field| overlap(field, true),
        "drops all fragments of a datagram that overlaps itself",
    ),
    should(
        1858,
        "4.2",
        &PLAIN,
        |field| overlap(field, false),
        "drops all fragments of a datagram that overlaps itself, more than those alone that reach into a header",
    ),
    must(
        1812,
        "5.2.6",
        &PLAIN,
        as_they_came,
        "forwards fragments as they came, though none before all are here, and never what they make",
    ),
    must(6946, "4", &PLAIN, atomic, "takes a packet that is whole in spite of its fragment header as whole"),
    may(7112, "5", &PLAIN, chain, "drops first fragments that do not hold the whole chain of headers"),
    must(8200, "4.5, lengths", &PLAIN, odd_length, "answers fragments of impossible length with Parameter Problem"),
    must(
        6864,
        "5.3.1",
        &MASQUERADE,
        new_identification,
        "chooses the identification of what it translates and may be cut, or is in fragments, so that none is repeated soon",
    ),
    should(7857, "10", &MASQUERADE, new_identification, "handles the identification as RFC 6864 section 5.3.1 says"),
    must(6864, "4.1", &MASQUERADE, same_identification, "passes atomic datagrams whatever their identification is"),
];

/// A part of a datagram: offset, whether more follow, and its bytes.
pub(super) type Piece<'a> = (usize, bool, &'a [u8]);

/// Addresses, protocol and identification of a datagram in fragments.
#[derive(Clone, Copy)]
pub(super) struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    id: u16,
}

impl Datagram {
    /// Sends one fragment of it.
    pub(super) fn send(&self, field: &Field, side: Side, (offset, more, data): Piece<'_>) -> Result<(), Fault> {
        let mut spec = Spec::new(self.from.ip(), self.to.ip(), L4::Raw { protocol: self.protocol }, data);
        let place = ((offset as u16) | u16::from(more)).to_be_bytes();
        let id = self.id.to_be_bytes();
        let header = [0, 0, place[0], place[1], 0, 0, id[0], id[1]];
        let extensions = [Extension { protocol: protocol::FRAGMENT, bytes: &header }];
        match &mut spec.ip {
            Ip::V4(ip) => (ip.df, ip.more, ip.offset, ip.id) = (false, more, offset, self.id),
            Ip::V6(ip) => ip.extensions = &extensions,
        }
        let frame = field.frame(side, &spec)?;
        field.send_frame(side, frame)
    }

    /// That all of it arrives between these endpoints, in whatever fragments; those of IPv4 all with one identification,
    /// which is another one where addresses are translated.
    fn arrives(&self, field: &Field, side: Side, to: SocketAddr, payload: &[u8]) -> Result<SocketAddr, Fault> {
        let mut whole = vec![None; payload.len() + 8];
        let mut source = to;
        let mut id = to.is_ipv6().then_some(self.id);
        while whole.iter().any(Option::is_none) {
            let is = |seen: &Seen| {
                let part = seen.part().filter(|part| part.more || part.offset != 0 || to.is_ipv6());
                // What is not translated keeps its own.
                let stays = seen.source == self.from.ip() && seen.destination == self.to.ip();
                let id = id.or(stays.then_some(self.id));
                let known = part.is_some_and(|part| id.is_none_or(|id| id == part.id));
                known && seen.destination == to.ip() && (to.is_ipv6() || seen.protocol == self.protocol)
            };
            let seen = field.expect(side, "a fragment", is)?;
            let Some(part) = seen.part() else { continue };
            id = Some(part.id);
            for (to, from) in whole.iter_mut().skip(part.offset).zip(part.data) {
                *to = Some(*from);
            }
            source.set_ip(seen.source);
        }
        let whole: Vec<u8> = whole.into_iter().flatten().collect();
        let port = |at: usize| u16::from_be_bytes([whole[at], whole[at + 1]]);
        holds(whole.ends_with(payload), || "its data was changed".to_owned())?;
        holds(port(2) == to.port(), || format!("it came to port {} instead of {}", port(2), to.port()))?;
        source.set_port(port(0));
        Ok(source)
    }

    /// That nothing of it arrives on a side.
    fn does_not(&self, field: &Field, side: Side) -> Result<(), Fault> {
        field.nothing(side, "a fragment", |seen| {
            seen.source == self.from.ip() && seen.part().is_some_and(|part| part.id == self.id)
        })
    }
}

/// All of a datagram from a source behind its IP header, which arrives whole, or in order in fragments of at most so many
/// bytes from the IP header on.
pub(super) fn gathered(field: &Field, side: Side, most: usize, source: IpAddr) -> Result<Vec<u8>, Fault> {
    let mut data = Vec::new();
    loop {
        let is = |seen: &Seen| seen.source == source && [protocol::UDP, protocol::FRAGMENT].contains(&seen.protocol);
        // A fragment has no checksum of its own to be looked at.
        let seen = field.expect(side, "a fragment", is)?;
        let whole = Part { id: 0, offset: 0, more: false, data: seen.l4() };
        let part = seen.part().unwrap_or(whole);
        holds(seen.frame.len() <= 14 + most, || format!("{} bytes", seen.frame.len() - 14))?;
        holds(part.offset == data.len(), || format!("offset {} after {} bytes", part.offset, data.len()))?;
        holds(!part.more || part.data.len().is_multiple_of(8), || format!("a fragment of {} bytes", part.data.len()))?;
        data.extend_from_slice(part.data);
        if !part.more {
            return Ok(data);
        }
    }
}

/// A datagram between endpoints with that payload: its name, and all behind its IP header.
pub(super) fn datagram(
    field: &Field,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Result<(Datagram, Vec<u8>), Fault> {
    let spec = Spec::udp(from, to, payload).without_link();
    let packet = spec.to_vec().map_err(|error| Fault(error.to_string()))?;
    Ok((Datagram { from, to, protocol: protocol::UDP, id: field.fresh() }, packet[spec.l4_offset()..].to_vec()))
}

/// A payload in three parts.
const LONG: [u8; 2400] = [0x5a; 2400];
/// Where they are cut.
const CUTS: [(usize, usize); 3] = [(0, 800), (800, 1600), (1600, 2408)];
/// All orders but the first.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn send_in(field: &Field, side: Side, datagram: &Datagram, data: &[u8], order: [usize; 3]) -> Result<(), Fault> {
    for (start, end) in order.map(|number| CUTS[number]) {
        datagram.send(field, side, (start, end < data.len(), &data[start..end]))?;
    }
    Ok(())
}

fn any_order(field: &Field, six: bool) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    for order in ORDERS {
        let (datagram, data) = datagram(field, from, to, &LONG)?;
        send_in(field, Side::Inside, &datagram, &data, order)?;
        let source = datagram.arrives(field, Side::Outside, to, &LONG)?;
        holds(source == from, || format!("it came from {source}"))?;
    }
    Ok(())
}

fn as_they_came(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        let (datagram, data) = datagram(field, from, to, &LONG)?;
        send_in(field, Side::Inside, &datagram, &data, [2, 0, 1])?;
        for (start, end) in CUTS {
            let is =
                |seen: &Seen| seen.destination == to.ip() && seen.part().is_some_and(|part| part.id == datagram.id);
            let seen = field.expect(Side::Outside, "a fragment", is)?;
            let found = seen.part().map(|part| (part.offset, part.offset + part.data.len()));
            holds(found == Some((start, end)), || format!("bytes {found:?} instead of {start} to {end}"))?;
        }
    }
    Ok(())
}

fn translated(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    for order in ORDERS {
        let (out, data) = datagram(field, from, to, &LONG)?;
        send_in(field, Side::Inside, &out, &data, order)?;
        let source = out.arrives(field, Side::Outside, to, &LONG)?;
        holds(source == mapped, || format!("it came from {source} instead of {mapped}"))?;
        let (back, data) = datagram(field, to, mapped, &LONG)?;
        send_in(field, Side::Outside, &back, &data, order)?;
        let source = back.arrives(field, Side::Inside, from, &LONG)?;
        holds(source == to, || format!("it came from {source} instead of {to}"))?;
    }
    Ok(())
}

/// Fragments that never become whole.
const FLOOD: u16 = 6000;

fn flood(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    let attacker = SocketAddr::new(Side::Outside.host(false, 3), 9);
    for id in 0..FLOOD {
        let never = Datagram { from: attacker, to: mapped, protocol: protocol::UDP, id };
        never.send(field, Side::Outside, (800, true, &[0; 800]))?;
    }
    field.admits(to, mapped, from)?;
    // What the slow path has not seen yet waits in a queue that may be full.
    sleep(Duration::from_millis(1500));
    for order in [[0, 1, 2], [2, 1, 0]] {
        let (back, data) = datagram(field, to, mapped, &LONG)?;
        send_in(field, Side::Outside, &back, &data, order)?;
        back.arrives(field, Side::Inside, from, &LONG)?;
    }
    Ok(())
}

fn tiny(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (from, to) = (field.at(Side::Outside, six), SocketAddr::new(Side::Inside.host(six, 0), 80));
        let spec = Spec::tcp(from, to, SYN, &[7; 64]).with_sequence(1, 0).without_link();
        let packet = spec.to_vec().map_err(|error| Fault(error.to_string()))?;
        let data = &packet[spec.l4_offset()..];
        for cut in [8, 16] {
            let datagram = Datagram { from, to, protocol: protocol::TCP, id: field.fresh() };
            datagram.send(field, Side::Outside, (0, true, &data[..cut]))?;
            datagram.send(field, Side::Outside, (cut, false, &data[cut..]))?;
            datagram.does_not(field, Side::Inside)?;
        }
        // The same with a longer one passes.
        let datagram = Datagram { from, to, protocol: protocol::TCP, id: field.fresh() };
        datagram.send(field, Side::Outside, (0, true, &data[..32]))?;
        datagram.send(field, Side::Outside, (32, false, &data[32..]))?;
        field.expect(Side::Inside, "a SYN in fragments", |seen| seen.source == from.ip() && seen.part().is_some())?;
    }
    Ok(())
}

fn into_header(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Outside, false), SocketAddr::new(Side::Inside.host(false, 0), 80));
    let datagram = Datagram { from, to, protocol: protocol::TCP, id: field.fresh() };
    datagram.send(field, Side::Outside, (8, false, &[0x5a; 64]))?;
    datagram.does_not(field, Side::Inside)
}

fn overlap(field: &Field, six: bool) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    let before = field.drops("overlapping_fragment")?;
    for second in [792, 8] {
        let (datagram, data) = datagram(field, from, to, &LONG)?;
        datagram.send(field, Side::Inside, (0, true, &data[..800]))?;
        datagram.send(field, Side::Inside, (second, true, &data[second..second + 808]))?;
        datagram.send(field, Side::Inside, (1600, false, &data[1600..]))?;
        // What would make it whole after all.
        datagram.send(field, Side::Inside, (800, true, &data[800..1600]))?;
        datagram.does_not(field, Side::Outside)?;
    }
    let counted = field.drops("overlapping_fragment")? - before;
    holds(counted >= 6, || format!("{counted} of 8 fragments counted as overlapping_fragment"))
}

fn atomic(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let (datagram, data) = datagram(field, from, to, b"whole")?;
    // Beside a datagram in fragments with the same identification, which it is no part of.
    datagram.send(field, Side::Inside, (0, true, &data[..8]))?;
    for _ in 0..2 {
        datagram.send(field, Side::Inside, (0, false, &data))?;
        datagram.arrives(field, Side::Outside, to, b"whole")?;
    }
    Ok(())
}

fn chain(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let (datagram, data) = datagram(field, from, to, &[0x5a; 64])?;
    let options = [&[protocol::UDP, 1, 1, 12][..], &[0; 12]].concat();
    let data = [options, data].concat();
    let datagram = Datagram { protocol: protocol::DESTINATION_OPTIONS, ..datagram };
    // The chain ends in the second one.
    datagram.send(field, Side::Inside, (0, true, &data[..8]))?;
    datagram.send(field, Side::Inside, (8, false, &data[8..]))?;
    datagram.does_not(field, Side::Outside)
}

fn odd_length(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let (datagram, data) = datagram(field, from, to, &LONG)?;
    datagram.send(field, Side::Inside, (0, true, &data[..801]))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp6::PARAMETER_PROBLEM, 0)) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "Parameter Problem", is)?;
    holds(error.long(4) == 4, || format!("it points to byte {} instead of the payload length", error.long(4)))?;
    datagram.does_not(field, Side::Outside)
}

/// Of two hosts that number their packets alike.
fn new_identification(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, false);
    let hosts = [0, 1].map(|host| SocketAddr::new(Side::Inside.host(false, host), field.fresh()));
    let mut ids = Vec::new();
    for id in 0..100 {
        for from in hosts {
            let mut spec = Spec::udp(from, to, b"x");
            if let Ip::V4(ip) = &mut spec.ip {
                (ip.df, ip.id) = (false, id);
            }
            let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == to)?;
            ids.push(u16::from_be_bytes([seen.frame[18], seen.frame[19]]));
        }
    }
    for from in hosts {
        let (out, data) = datagram(field, from, to, &LONG)?;
        let out = Datagram { id: 7, ..out };
        out.send(field, Side::Inside, (0, true, &data[..1200]))?;
        out.send(field, Side::Inside, (1200, false, &data[1200..]))?;
        let is =
            |seen: &Seen| seen.destination == to.ip() && seen.part().is_some_and(|part| part.more || part.offset != 0);
        let [first, second] = [(); 2].map(|()| {
            let seen = field.expect(Side::Outside, "a fragment", is)?;
            Ok::<_, Fault>(u16::from_be_bytes([seen.frame[18], seen.frame[19]]))
        });
        let (first, second) = (first?, second?);
        holds(first == second, || format!("fragments of a datagram are of {first} and {second}"))?;
        ids.push(first);
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    holds(ids.len() == all, || format!("{} identifications of {all} packets", ids.len()))
}

fn same_identification(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for id in [0, 0, 7, 7] {
        let mut spec = Spec::udp(from, to, b"x");
        if let Ip::V4(ip) = &mut spec.ip {
            ip.id = id;
        }
        field.crosses(Side::Inside, &spec, |seen| seen.to() == to)?;
    }
    Ok(())
}
