//! Changes under connections that exist: another policy, another address, another path (checklist A5, B17, C9; issue
//! 3, item 6).

use std::net::SocketAddr;

use flowhop_engine::{Arrived, Buffer, FastPath, Interface, Offload, Path, PathReason, Revalidated};
use flowhop_flow::record::{Action, Steer};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, Link};
use flowhop_table::is_live;
use flowhop_wire::build::Spec;

use crate::bed::{Bed, INSIDE_MAC, LAN, LAN_MAC, WAN, WAN_MAC, at, ends, ip};

const HIDE: &str = r#"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
"#;

/// Inside to outside, these services, translated.
fn allowing(services: &str) -> String {
    ruled(&format!("service = [{services}]"))
}

/// Inside to outside by a rule with this in it, translated.
fn ruled(more: &str) -> String {
    format!("[[rule]]\nname = \"out\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n{more}\n{HIDE}")
}

impl Bed {
    /// A packet from inside; its connection, or why there is none.
    fn out(&mut self, port: u16, service: u16) -> Result<(u32, u32), Reason> {
        let source = SocketAddr::new(ip("10.1.0.2"), port);
        let outcome = self.send(LAN, &Spec::udp(source, SocketAddr::new(ip("198.51.100.2"), service), b"x"));
        match outcome.kind {
            Kind::Forward => Ok(outcome.session.unwrap()),
            _ => Err(outcome.reason),
        }
    }

    /// The external port of the packet sent last.
    fn external(&mut self) -> u16 {
        let (_, frame) = self.last();
        u16::from_be_bytes([frame[34], frame[35]])
    }

    fn steers(&self, block: u32) -> [Steer; 2] {
        [0, 1].map(|direction| Steer::unpack(self.engine.table().block(block).unwrap().hot[direction].steer.load()))
    }

    fn in_force(&self) -> u16 {
        self.engine.table().config().policy_generation.load() as u16
    }

    /// No live entry is of a generation before the one in force.
    fn assert_none_behind(&self) {
        let live = self.engine.table().live_blocks().flat_map(|block| self.steers(block));
        for steer in live {
            assert!((steer.policy_generation.wrapping_sub(self.in_force()) as i16) >= 0, "{steer:?}");
        }
    }
}

/// A connection of the kept service and one of the other, by source port.
const KEPT: u16 = 53;
const CUT: u16 = 123;

// What stays keeps connection and translation and never sees a stale entry; what is forbidden goes on until all have
// been asked about, is cut then, and gives its ports back.
#[test]
fn a_reload_cuts_exactly_what_it_forbids_and_all_at_once() {
    let mut bed = Bed::sized(&allowing("\"udp/53\", \"udp/123\""), 4096, false);
    let connections: Vec<u16> = (1000..2600).collect();
    let mut before = Vec::new();
    for &port in &connections {
        for service in [KEPT, CUT] {
            let session = bed.out(port + if service == CUT { 10_000 } else { 0 }, service).unwrap();
            before.push((session, bed.external()));
        }
    }
    let bindings = bed.bindings.len();
    assert_eq!((bed.engine.table().live(), bindings), (3200, 3200));

    let generation = bed.in_force();
    bed.begin_reload(&allowing("\"udp/53\""));
    let mut turns = 0;
    while bed.in_force() == generation {
        turns += 1;
        for &port in connections.iter().step_by(97) {
            assert!(bed.out(port, KEPT).is_ok(), "turn {turns}");
            assert!(bed.out(port + 10_000, CUT).is_ok(), "turn {turns}: before the new policy is in force for all");
        }
        assert_eq!(bed.out(9, CUT), Err(Reason::NoRule), "a new connection, by the new policy");
        bed.turn();
    }
    assert!(turns > 3, "{turns} turns are no slices");
    bed.assert_cut_and_kept(&connections);

    let done = bed.judged();
    assert_eq!(done, Revalidated { live: 1600, ended: 1600 });
    bed.pass(1000);
    assert_eq!((bed.engine.table().live() - bed.engine.refusals(), bed.bindings.len()), (1600, 1600));
    for (place, &port) in connections.iter().enumerate() {
        let session = bed.out(port, KEPT).unwrap();
        assert_eq!((session, bed.external()), before[2 * place], "the same connection, translated as before");
    }
    bed.assert_none_behind();
}

impl Bed {
    /// Every tenth connection: the kept ones go on, the others are cut.
    fn assert_cut_and_kept(&mut self, connections: &[u16]) {
        for &port in connections.iter().step_by(10) {
            assert!(self.out(port, KEPT).is_ok());
            assert_eq!(self.out(port + 10_000, CUT), Err(Reason::NoRule));
        }
    }
}

// Connections that are made while others are being asked about are of the new policy already.
#[test]
fn connections_made_during_a_reload_stay() {
    let mut bed = Bed::sized(&allowing("\"udp/53\""), 4096, false);
    for port in 1000..2600 {
        bed.out(port, KEPT).unwrap();
    }
    bed.begin_reload(&allowing("\"udp/53\", \"udp/123\""));
    bed.turn();
    let made: Vec<_> = (0..100).map(|port| bed.out(5000 + port, CUT).unwrap()).collect();
    assert_eq!(bed.judged(), Revalidated { live: 1700, ended: 0 });
    let after: Vec<_> = (0..100).map(|port| bed.out(5000 + port, CUT).unwrap()).collect();
    assert_eq!(made, after);
}

// A reload during a reload begins anew; what both allow stays, what the last one forbids is cut.
#[test]
fn the_last_of_many_reloads_counts() {
    let mut bed = Bed::sized(&allowing("\"udp/53\", \"udp/123\""), 4096, false);
    for port in 1000..2600 {
        bed.out(port, KEPT).unwrap();
        bed.out(port + 10_000, CUT).unwrap();
    }
    let first = bed.out(1000, KEPT).unwrap();
    for round in 0..100 {
        bed.begin_reload(&allowing(if round % 2 == 0 { "\"udp/53\"" } else { "\"udp/123\", \"udp/53\"" }));
        for _ in 0..round % 5 {
            bed.turn();
        }
    }
    bed.begin_reload(&allowing("\"udp/53\""));
    let done = bed.judged();
    assert_eq!((done.live, bed.engine.table().live()), (1600, 1600));
    assert_eq!(bed.out(1000, KEPT).unwrap(), first);
    assert_eq!(bed.out(11_000, CUT), Err(Reason::NoRule));
    bed.assert_none_behind();
}

// Generations have 16 bits: connections outlive any number of reloads, complete or not.
#[test]
fn generations_wrap_around_safely() {
    let policy = allowing("\"udp/53\"");
    let mut bed = Bed::sized(&policy, 64, false);
    let session = bed.out(1000, KEPT).unwrap();
    for round in 0..70_000u32 {
        bed.engine.policy_changed(bed.now);
        if round % 16 == 0 {
            bed.turn();
        }
        if round % 512 == 0 {
            assert_eq!(bed.out(1000, KEPT), Ok(session), "round {round}");
        }
    }
    assert_eq!(bed.judged().live, 1);
    assert_eq!(bed.out(1000, KEPT), Ok(session));
    // None of them complete: the difference stays below half the range.
    for round in 0..70_000u32 {
        bed.engine.policy_changed(bed.now);
        let ahead = bed.steers(session.0)[0].policy_generation.wrapping_sub(bed.in_force()) as i16;
        assert!((0..=1 << 14).contains(&ahead), "round {round}: {ahead}");
    }
    assert_eq!(bed.judged(), Revalidated { live: 1, ended: 0 });
    assert_eq!(bed.out(1000, KEPT), Ok(session));
    bed.assert_none_behind();
}

// A connection that was idle, was being removed during the reload, and woke up is asked about as well.
#[test]
fn a_connection_that_is_taken_back_is_judged() {
    for (service, expected) in [(KEPT, true), (CUT, false)] {
        let policy = allowing("\"udp/53\", \"udp/123\"");
        let mut bed = Bed::sized(&policy, 64, true);
        let (block, _) = bed.out(1000, service).unwrap();
        bed.now += 301 * 954;
        bed.turn();
        assert_eq!(bed.engine.table().live(), 0, "it was idle");
        // A kernel program that still saw it forwards one more packet.
        bed.engine.table().block(block).unwrap().hot[0].last_seen.store(bed.now);
        bed.begin_reload(&allowing("\"udp/53\""));
        assert_eq!(bed.judged(), Revalidated { live: 0, ended: 0 });
        let grace = bed.engine.begin_grace().unwrap();
        bed.engine.grace_passed(grace, bed.now);
        assert_eq!(bed.engine.table().live() == 1, expected, "{service}");
        bed.assert_none_behind();
        assert_eq!(bed.out(1000, service).is_ok(), expected);
    }
}

// An entry that was cut and is allowed again before it was removed: what is on its way here is not overtaken.
#[test]
fn what_was_cut_and_is_allowed_again_waits_for_its_packets() {
    let policy = allowing("\"udp/53\", \"udp/123\"");
    let mut bed = Bed::sized(&policy, 64, true);
    let (block, _) = bed.out(1000, CUT).unwrap();
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| !steer.pending && steer.action == Action::Forward));
    let generation = bed.in_force();
    bed.begin_reload(&allowing("\"udp/53\""));
    while bed.in_force() == generation {
        bed.turn();
    }
    assert!(is_live(bed.engine.table().block(block).unwrap()), "cut, and not removed yet");
    bed.begin_reload(&policy);
    assert!(bed.out(1000, CUT).is_ok());
    assert!(bed.steers(block).iter().all(|steer| steer.pending));
}

// A6, RFC 5508 REQ-8: who gets no connection is told, unless there is room in a moment: an error would end the attempt that
// the sender's repetition makes succeed.
#[test]
fn a_full_table_is_told_unless_there_is_room_in_a_moment() {
    let mut bed = Bed::sized(&allowing("\"udp/53\""), 64, true);
    let answered = |bed: &mut Bed, port: u16| {
        let session = bed.out(port, KEPT).unwrap();
        let (source, destination) = ends(&bed.last().1);
        assert_eq!(bed.send(WAN, &Spec::udp(destination, source, b"y")).kind, Kind::Forward);
        session
    };
    let sessions: Vec<(u32, u32)> = (1000..1064).map(|port| answered(&mut bed, port)).collect();
    bed.settle();
    let sent = bed.outside.sent.len();
    assert_eq!(bed.out(2000, KEPT), Err(Reason::TableFull));
    assert_eq!(bed.outside.sent.len(), sent + 1, "administratively prohibited");
    bed.pass(2000);

    let (_, serial) = sessions[5];
    assert!(bed.engine.delete(serial));
    let sent = bed.outside.sent.len();
    assert_eq!(bed.out(2000, KEPT), Err(Reason::TableFull));
    assert_eq!(bed.outside.sent.len(), sent, "nothing is said");
    bed.settle();
    assert!(bed.out(2000, KEPT).is_ok());
}

impl Bed {
    pub(crate) fn paths(&self, block: u32) -> [Path; 2] {
        self.steers(block).map(Path::of)
    }
}

// A reload applies `accelerate` to connections that exist; an operator's choice stays where the rule leaves one.
#[test]
fn a_reload_applies_acceleration_to_live_connections() {
    let (fast, slow) = (ruled(""), ruled("accelerate = false"));
    let mut bed = Bed::sized(&fast, 64, true);
    let change = |bed: &mut Bed, policy: &str| {
        bed.begin_reload(policy);
        bed.judged();
        while bed.turn() {}
        bed.settle();
    };
    let (block, serial) = bed.out(1000, KEPT).unwrap();
    bed.settle();
    assert_eq!(bed.paths(block), [Path::Skb; 2]);
    change(&mut bed, &slow);
    assert_eq!(bed.paths(block), [Path::User; 2]);
    assert_eq!(bed.reasons(block), [PathReason::Rule; 2]);
    // No command accelerates what the policy keeps on the user path.
    assert!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now).is_err());
    assert_eq!(bed.engine.move_flow(serial, Some(Path::User), bed.now), Ok([Path::User; 2]));
    assert_eq!(bed.engine.move_flow(serial, None, bed.now), Ok([Path::User; 2]));
    change(&mut bed, &fast);
    assert_eq!(bed.paths(block), [Path::Skb; 2]);
    assert_eq!(bed.reasons(block), [PathReason::Default; 2]);

    assert_eq!(bed.engine.move_flow(serial, Some(Path::User), bed.now), Ok([Path::User; 2]));
    change(&mut bed, &fast);
    assert_eq!((bed.paths(block), bed.reasons(block)), ([Path::User; 2], [PathReason::Moved; 2]));
    change(&mut bed, &slow);
    change(&mut bed, &fast);
    assert_eq!((bed.paths(block), bed.reasons(block)), ([Path::Skb; 2], [PathReason::Default; 2]));
    assert!(bed.steers(block).iter().all(|steer| !steer.pending));
}

impl Bed {
    pub(crate) fn reasons(&self, block: u32) -> [PathReason; 2] {
        let flags = self.engine.table().block(block).unwrap().owner.flags.load();
        [0, 8].map(|shift| PathReason::from_number((flags >> shift) as u8))
    }
}

// A daemon that was killed in the middle of a reload leaves entries ahead of the generation in force, and some behind;
// its successor judges them all by the policy that it reads.
#[test]
fn what_another_process_left_half_judged_is_judged_by_the_next() {
    let both = allowing("\"udp/53\", \"udp/123\"");
    let mut bed = Bed::sized(&both, 4096, false);
    // Close to the end of the range, as after many reloads.
    for _ in 0..4 {
        for _ in 0..16_383 {
            bed.engine.policy_changed(bed.now);
        }
        bed.judged();
    }
    let mut sessions = Vec::new();
    for port in 1000..2600 {
        sessions.push(bed.out(port, KEPT).unwrap());
        bed.out(port + 10_000, CUT).unwrap();
    }
    let external = {
        bed.out(1000, KEPT).unwrap();
        bed.external()
    };
    for _ in 0..3 {
        bed.begin_reload(&both);
        bed.turn();
        bed.turn();
    }
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (3200, 0));
    bed.begin_reload(&allowing("\"udp/53\""));
    assert_eq!(bed.engine.policy_adopted(bed.now), Revalidated { live: 1600, ended: 1600 });
    bed.assert_none_behind();
    for (place, port) in (1000..2600).enumerate() {
        assert_eq!(bed.out(port, KEPT), Ok(sessions[place]));
    }
    bed.out(1000, KEPT).unwrap();
    assert_eq!(bed.external(), external);
    assert_eq!(bed.out(11_000, CUT), Err(Reason::NoRule));
}

impl Bed {
    fn loses_address(&mut self, address: &str, length: u8) {
        let ifindex = if address.starts_with("10.") { 11 } else { 12 };
        self.event(Event::AddressGone { ifindex, address: ip(address), prefix_len: length });
    }

    fn sweeps(&mut self) {
        self.turn();
        while self.turn() {}
    }

    /// Sends a packet; its connection and the ends of what was sent.
    fn through(&mut self, port: u8, from: &str, to: &str) -> ((u32, u32), (SocketAddr, SocketAddr)) {
        let outcome = self.send(port, &Spec::udp(at(from), at(to), b"x"));
        assert_eq!(outcome.reason, Reason::Forwarded, "{from} {to}");
        (outcome.session.unwrap(), ends(&self.last().1))
    }

    fn is_live(&self, session: (u32, u32)) -> bool {
        let block = self.engine.table().block(session.0).unwrap();
        is_live(block) && block.owner.serial.load() == session.1
    }
}

const OPEN: &str = r#"
[[rule]]
name = "all"
action = "allow"
[[nat]]
name = "a pool, of the box's own addresses too"
source = "10.2.0.0/24"
to = "outside"
translate.source = "198.51.100.1"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
filtering = "endpoint-independent"
[[nat]]
name = "publish"
destination = "198.51.100.1"
service = "udp/80"
translate.destination = "10.1.0.80"
[[nat]]
name = "publish elsewhere"
destination = "198.51.100.9"
service = "udp/80"
translate.destination = "10.1.0.80"
"#;

// Issue 3 item 6: an interface address that goes away ends the connections that are translated to or from it, and no
// others; one that comes ends none.
#[test]
fn an_address_that_goes_away_ends_exactly_what_uses_it() {
    let mut bed = Bed::with(OPEN);
    let server = "198.51.100.2:53";
    let (hidden, (seen, _)) = bed.through(LAN, "10.1.0.2:1000", server);
    assert_eq!(seen.ip(), ip("198.51.100.1"));
    let (mapped, _) = bed.through(WAN, "198.51.100.3:9", &seen.to_string());
    let (published, _) = bed.through(WAN, "198.51.100.3:9", "198.51.100.1:80");
    let (published_elsewhere, _) = bed.through(WAN, "198.51.100.3:10", "198.51.100.9:80");
    let (pooled, (pool, _)) = bed.through(LAN, "10.2.0.2:1000", server);
    assert_eq!(pool.ip(), ip("198.51.100.1"));
    let (plain, _) = bed.through(LAN, "[fd00:0:0:1::2]:1000", "[2001:db8:0:2::2]:53");
    let (inside, _) = bed.through(LAN, "10.1.0.2:1000", "10.2.0.2:9");
    bed.sweeps();
    bed.add_address(12, "198.51.100.7", 24);
    bed.sweeps();
    let all = [hidden, mapped, published, published_elsewhere, pooled, plain, inside];
    assert_eq!(all.map(|session| bed.is_live(session)), [true; 7], "an address more");

    bed.loses_address("198.51.100.1", 24);
    bed.add_address(12, "198.51.100.1", 24);
    bed.sweeps();
    assert_eq!(all.map(|session| bed.is_live(session)), [true; 7], "it was changed, and is there");

    bed.loses_address("198.51.100.1", 24);
    bed.sweeps();
    assert_eq!(all.map(|session| bed.is_live(session)), [false, false, false, true, true, true, true]);
    let (again, (seen, _)) = bed.through(LAN, "10.1.0.2:1000", server);
    assert_eq!(seen.ip(), ip("198.51.100.9"));
    bed.add_address(12, "198.51.100.1", 24);
    bed.sweeps();
    let rest = [again, published_elsewhere, pooled, plain, inside];
    assert_eq!(rest.map(|session| bed.is_live(session)), [true; 5]);
    bed.pass(2000);
    assert_eq!(bed.bindings.len(), 2, "the mapping at the address that went is given back");
}

// The same when it went while no daemon ran.
#[test]
fn an_address_that_went_while_no_daemon_ran_ends_what_uses_it() {
    let mut bed = Bed::with(OPEN);
    let (hidden, _) = bed.through(LAN, "10.1.0.2:1000", "198.51.100.2:53");
    let (plain, _) = bed.through(LAN, "[fd00:0:0:1::2]:1000", "[2001:db8:0:2::2]:53");
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (2, 0));
    bed.loses_address("198.51.100.1", 24);
    bed.engine
        .inherit_addresses(["198.51.100.1", "198.51.100.9"].map(|address| flowhop_flow::key::address(ip(address))));
    bed.sweeps();
    assert_eq!([hidden, plain].map(|session| bed.is_live(session)), [false, true]);
}

// A4, A5: all connections are moved by one order, and given back by another.
#[test]
fn all_connections_are_moved_in_slices() {
    let mut bed = Bed::sized(&ruled(""), 4096, true);
    let blocks: Vec<u32> = (1000..3000).map(|port| bed.out(port, KEPT).unwrap().0).collect();
    bed.settle();
    for (order, expected) in
        [(Some(Path::User), Path::User), (Some(Path::Skb), Path::Skb), (Some(Path::User), Path::User)]
    {
        bed.engine.move_flows(order);
        assert_eq!(bed.engine.take_moved(), None);
        bed.turn();
        assert_ne!(bed.paths(blocks[1999]), [expected; 2], "one slice is not all");
        bed.sweeps();
        assert_eq!(bed.engine.take_moved(), Some(2000));
        assert!(blocks.iter().all(|block| bed.paths(*block) == [expected; 2]), "{expected:?}");
        bed.settle();
        assert!(blocks.iter().all(|block| bed.steers(*block).iter().all(|steer| !steer.pending)));
    }
    bed.engine.move_flows(None);
    bed.engine.move_flows(Some(Path::Driver));
    bed.sweeps();
    bed.sweeps();
    assert_eq!((bed.engine.take_moved(), bed.engine.take_moved()), (Some(2000), Some(0)), "no driver takes any");
    assert!(blocks.iter().all(|block| bed.reasons(*block) == [PathReason::Default; 2]));
}

impl Bed {
    /// A numbered packet from inside, handed down by the one level or the other; tells whether it left.
    fn handed_down(&mut self, driver: bool, number: u8) -> Reason {
        let payload = [number];
        let packet = Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &payload).with_link(INSIDE_MAC, LAN_MAC);
        let arrived = Arrived { port: LAN, gate: 0, driver, now: self.now };
        let mut frame = packet.to_vec().unwrap();
        self.engine.receive(&arrived, &mut Buffer::new(&mut frame, Offload::default()), &mut self.outside).reason
    }
}

// A5: what was sent and has not left yet would be overtaken by packets that the kernel forwards.
#[test]
fn an_entry_waits_for_packets_that_have_not_left() {
    let mut bed = Bed::sized(&ruled(""), 64, true);
    assert_eq!(bed.handed_down(false, 0), Reason::Forwarded);
    let block = bed.engine.table().live_blocks().next().unwrap();
    bed.outside.busy = true;
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| steer.pending));
    bed.outside.busy = false;
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| !steer.pending));
}

// One output that takes less than it is given does not keep the flows of all others from their path.
#[test]
fn a_device_that_stays_busy_is_not_waited_for() {
    let mut bed = Bed::sized(&ruled(""), 64, true);
    bed.outside.busy = true;
    assert_eq!(bed.handed_down(false, 0), Reason::Forwarded);
    let block = bed.engine.table().live_blocks().next().unwrap();
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| steer.pending));
    bed.pass(1000);
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| !steer.pending));
    assert_eq!(bed.engine.pending(), 0);
}

// A5: packets that the program in the driver passed on before an entry became pending come by the socket buffer's queue,
// later ones by the driver's; a second change waits until they are told apart.
#[test]
fn packets_of_the_socket_buffer_go_before_those_of_the_driver() {
    let mut bed = Bed::sized(&ruled(""), 64, true);
    for port in [LAN, WAN] {
        let interface = bed.engine.interfaces().port(port).unwrap().clone();
        bed.engine.interfaces_mut().set(Interface { fast: FastPath::Driver, takes_frames: true, ..interface });
    }
    bed.engine.interfaces_changed();
    assert_eq!(bed.handed_down(true, 0), Reason::Forwarded);
    let block = bed.engine.table().live_blocks().next().unwrap();
    let serial = bed.engine.table().block(block).unwrap().owner.serial.load();
    bed.settle();
    assert_eq!(bed.paths(block), [Path::Driver; 2]);
    // On the way to the socket buffer all come by the driver's queue still.
    assert_eq!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now), Ok([Path::Skb; 2]));
    assert_eq!(bed.handed_down(true, 1), Reason::Forwarded);
    bed.pass_grace();
    bed.settle();
    assert!(bed.steers(block).iter().all(|steer| !steer.pending && steer.skb));

    assert_eq!(bed.engine.move_flow(serial, Some(Path::Driver), bed.now), Ok([Path::Driver; 2]));
    assert_eq!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now), Ok([Path::Skb; 2]));
    assert_eq!(bed.handed_down(true, 3), Reason::HeldMove);
    assert_eq!(bed.handed_down(false, 2), Reason::Forwarded);
    assert_eq!(bed.paths(block), [Path::Driver; 2], "the first change is not complete");
    bed.pass_grace();
    let numbers = |bed: &Bed| bed.outside.sent.iter().map(|(_, frame)| frame[42]).collect::<Vec<_>>();
    assert_eq!(numbers(&bed), [0, 1, 2, 3]);
    assert_eq!(bed.paths(block), [Path::Skb; 2], "the second change began");
    assert_eq!(bed.handed_down(true, 4), Reason::Forwarded);
    bed.settle();
    assert_eq!(numbers(&bed), [0, 1, 2, 3, 4]);
    assert!(bed.steers(block).iter().all(|steer| !steer.pending));

    // The same without another level: what the daemon forwarded came by the socket buffer's queue.
    assert_eq!(bed.engine.move_flow(serial, Some(Path::User), bed.now), Ok([Path::User; 2]));
    assert_eq!(bed.handed_down(false, 5), Reason::Forwarded);
    assert_eq!(bed.engine.move_flow(serial, Some(Path::Skb), bed.now), Ok([Path::Skb; 2]));
    assert_eq!(bed.handed_down(true, 7), Reason::HeldMove);
    assert_eq!(bed.handed_down(false, 6), Reason::Forwarded);
    bed.pass_grace();
    bed.settle();
    assert_eq!(numbers(&bed), [0, 1, 2, 3, 4, 5, 6, 7]);
}

impl Bed {
    /// One grace period of the kernel programs; the queues from them are empty.
    fn pass_grace(&mut self) {
        let grace = self.engine.begin_grace().unwrap();
        self.engine.grace_passed(grace, self.now);
        self.engine.settle(self.now, true, &mut self.outside);
    }
}

// A5: an entry that led nowhere has packets on their way to user space when it leads somewhere again.
#[test]
fn an_entry_that_leads_somewhere_again_waits_for_its_packets() {
    let mut bed = Bed::sized(&ruled(""), 64, true);
    let (block, _) = bed.out(1000, KEPT).unwrap();
    bed.settle();
    let up = Link::ethernet(12, "wan0", WAN_MAC);
    bed.event(Event::LinkUpsert(Link { up: false, ..up.clone() }));
    assert_eq!(bed.out(1000, KEPT), Err(Reason::LinkDown));
    bed.sweeps();
    bed.event(Event::LinkUpsert(up));
    bed.neighbours();
    bed.sweeps();
    assert!(bed.steers(block)[0].pending && !bed.steers(block)[1].pending);
    assert_eq!(bed.out(1000, KEPT).unwrap().0, block);
    bed.settle();
    assert!(!bed.steers(block)[0].pending);
}
