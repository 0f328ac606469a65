//! What is kept of a TCP connection, as those read it who are not its check: the slow path, helpers, operators
//! (RFC 9293, RFC 7323, RFC 7413).
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is their report")]

use flowhop_flow::Reason;
use flowhop_flow::parse::Segment;
use flowhop_flow::record::TcpHalf;
use flowhop_flow::tcp::{MAX_SCALE, Offer, Phase, accepts, check, flag, in_flight, open, take_up};
use flowhop_wire::tcp_flags::{ACK, FIN, RST, SYN};

const NOTHING: Offer = Offer { scale: None, sack: false };
/// Where the numbers of both sides begin: far from the wrap, and so that they soon pass it.
const STARTS: [(u32, u32); 2] = [(1000, 5_000_000), (u32::MAX, u32::MAX - 100)];
/// The longest text of a SYN that its acknowledgment may leave out (RFC 7413 section 4.1.2): one segment.
const SYN_TEXT: u32 = 9216;

fn segment(flags: u8, sequence: u32, acknowledgment: u32, payload: u32, window: u16) -> Segment {
    Segment { sequence, acknowledgment, flags, window, header: 20, payload, vouched: false }
}

fn pass(halves: &[TcpHalf; 2], side: usize, segment: &Segment) -> Result<(), Reason> {
    check(&halves[side], &halves[side ^ 1], segment, || Some(NOTHING))
}

/// A connection after its handshake: side 0 has opened it, its numbers begin at `a`, those of side 1 at `b`.
fn established(a: u32, b: u32) -> [TcpHalf; 2] {
    let halves = <[TcpHalf; 2]>::default();
    open(&halves[0], &halves[1], &segment(SYN, a, 0, 0, 1000), NOTHING);
    pass(&halves, 1, &segment(SYN | ACK, b, a.wrapping_add(1), 0, 2000)).unwrap();
    pass(&halves, 0, &segment(ACK, a.wrapping_add(1), b.wrapping_add(1), 0, 1000)).unwrap();
    halves
}

#[test]
fn a_half_tells_what_its_side_has_sent_and_acknowledged() {
    for (a, b) in STARTS {
        let halves = <[TcpHalf; 2]>::default();
        open(&halves[0], &halves[1], &segment(SYN, a, 0, 0, 1000), NOTHING);
        // A SYN takes a number (RFC 9293 section 3.4), and one without ACK acknowledges nothing.
        assert_eq!((halves[0].end(), halves[0].acknowledged()), (a.wrapping_add(1), 0));

        let halves = established(a, b);
        let (at, peer_at) = (a.wrapping_add(1), b.wrapping_add(1));
        assert_eq!((halves[0].end(), halves[0].acknowledged()), (at, peer_at));
        assert_eq!((halves[1].end(), halves[1].acknowledged()), (peer_at, at));
        assert_eq!(pass(&halves, 0, &segment(ACK, at, peer_at, 500, 1000)), Ok(()));
        assert_eq!(pass(&halves, 1, &segment(ACK, peer_at, at.wrapping_add(200), 30, 2000)), Ok(()));
        assert_eq!((halves[0].end(), halves[0].acknowledged()), (at.wrapping_add(500), peer_at));
        assert_eq!((halves[1].end(), halves[1].acknowledged()), (peer_at.wrapping_add(30), at.wrapping_add(200)));
    }
}

// A stream whose text the slow path changes: it alone knows from which number on the shift counts, so that no other path may
// add it.
#[test]
fn a_shift_that_is_noted_is_the_slow_paths_business() {
    let halves = established(1000, 5000);
    let before = halves[1].flags();
    for shift in [7, 7u32.wrapping_neg(), 0] {
        halves[1].set_shift(shift);
        assert_eq!((halves[1].shift(), halves[1].constant_shift()), (shift, 0));
        assert!(!halves[1].has_constant_shift());
        assert_eq!(halves[1].flags(), before);
    }
    // What it acknowledges is not shifted in the check either.
    halves[1].set_shift(100_000);
    assert_eq!(pass(&halves, 0, &segment(ACK, 1001, 5001, 0, 1000)), Ok(()));
    assert_eq!(pass(&halves, 0, &segment(ACK, 1001, 105_001, 0, 1000)), Err(Reason::TcpWindow));
}

#[test]
fn a_constant_shift_is_every_paths_business_until_another_one_is_noted() {
    let halves = established(1000, 5000);
    let before = halves[1].flags();
    // Of nothing: the other side's numbers are the ones that change, and both are gone through.
    for shift in [0, 7, u32::MAX] {
        halves[1].set_constant_shift(shift);
        assert!(halves[1].has_constant_shift());
        assert_eq!((halves[1].shift(), halves[1].constant_shift()), (shift, shift));
        assert_eq!(halves[1].flags(), before);
    }
    halves[1].set_shift(9);
    assert!(!halves[1].has_constant_shift());
    assert_eq!((halves[1].shift(), halves[1].constant_shift()), (9, 0));
    assert_eq!(halves[1].flags(), before);
}

// What a handshake agreed on was not seen: windows may be as large as any can be (RFC 7323 section 2.3), and no larger.
#[test]
fn a_running_connection_is_taken_up_with_the_largest_windows() {
    let largest = 65_535u32 << 14;
    for (a, b) in STARTS {
        let taken_up = || {
            let halves = <[TcpHalf; 2]>::default();
            take_up(&halves[0], &halves[1], &segment(ACK, a, b, 100, 10));
            halves
        };
        let halves = taken_up();
        let own_end = a.wrapping_add(100);
        for half in &halves {
            assert_eq!(half.flags(), flag::SYN | flag::KNOWN | flag::GRANTED | flag::SCALE);
        }
        assert_eq!(Phase::of(halves[0].flags(), halves[1].flags()), Phase::Established);
        assert_eq!((halves[0].end(), halves[0].acknowledged()), (own_end, b));
        // What the other side has acknowledged is not known; this segment it has not.
        assert_eq!(halves[1].acknowledged(), a);

        // Each may send as far as the other one can have granted.
        for (side, edge, acknowledgment) in
            [(0, own_end.wrapping_add(largest), b), (1, b.wrapping_add(largest), own_end)]
        {
            assert_eq!(pass(&taken_up(), side, &segment(ACK, edge, acknowledgment, 0, 10)), Ok(()), "{side}");
            let beyond = segment(ACK, edge.wrapping_add(1), acknowledgment, 0, 10);
            assert_eq!(pass(&taken_up(), side, &beyond), Err(Reason::TcpWindow), "{side}");
        }
        // The other side may have sent all that it could, and has not acknowledged what this one has not sent.
        let all = b.wrapping_add(largest);
        assert_eq!(pass(&taken_up(), 0, &segment(ACK, own_end, all, 0, 10)), Ok(()));
        assert_eq!(pass(&taken_up(), 0, &segment(ACK, own_end, all.wrapping_add(1), 0, 10)), Err(Reason::TcpWindow));
        assert_eq!(pass(&taken_up(), 1, &segment(ACK, b, own_end.wrapping_add(1), 0, 10)), Err(Reason::TcpWindow));

        // From then on windows are scaled by the largest factor.
        assert_eq!(pass(&halves, 0, &segment(ACK, own_end, b.wrapping_add(5000), 0, u16::MAX)), Ok(()));
        let edge = b.wrapping_add(5000).wrapping_add(u32::from(u16::MAX) << MAX_SCALE);
        assert_eq!(pass(&halves, 1, &segment(ACK, edge.wrapping_add(1), own_end, 0, 10)), Err(Reason::TcpWindow));
        assert_eq!(pass(&halves, 1, &segment(ACK, edge, own_end, 0, 10)), Ok(()));
    }
}

// RFC 7413: a SYN may carry a segment's worth of text, and its receiver may leave all of that unacknowledged.
#[test]
fn all_text_of_a_syn_may_be_left_unacknowledged() {
    for (a, b) in STARTS {
        let opened = |text| {
            let halves = <[TcpHalf; 2]>::default();
            open(&halves[0], &halves[1], &segment(SYN, a, 0, text, 1000), NOTHING);
            halves
        };
        let answer = segment(SYN | ACK, b, a.wrapping_add(1), 0, 2000);
        assert_eq!(pass(&opened(SYN_TEXT), 1, &answer), Ok(()));
        assert_eq!(pass(&opened(SYN_TEXT + 1), 1, &answer), Err(Reason::TcpWindow));
        // Until then the SYN is under way, and nothing before it is (RFC 5927 section 4.1).
        let [own, peer] = &opened(SYN_TEXT);
        assert!(in_flight(own, peer, a));
        assert!(!in_flight(own, peer, a.wrapping_sub(1)));
    }
}

// Helpers are shown the text of segments that are accepted: that of a reset is for people (RFC 9293 section 3.5.3), and a
// SYN's comes before the connection is open.
#[test]
fn only_segments_of_an_open_connection_are_accepted() {
    let halves = established(1000, 5000);
    for flags in 0..16 {
        let flags = [FIN, SYN, RST, ACK].iter().enumerate().map(|(n, bit)| (flags >> n & 1) * bit).sum::<u8>();
        let accepted = accepts(&halves[0], &halves[1], &segment(flags, 1001, 5001, 10, 1000));
        assert_eq!(accepted, [ACK, FIN | ACK].contains(&flags), "{flags:#x}");
    }
}

#[test]
fn nothing_is_answered_after_resets_of_both_sides() {
    let halves = established(1000, 5000);
    let answer = segment(SYN | ACK, 5000, 1001, 0, 2000);
    assert_eq!(pass(&halves, 1, &answer), Ok(()), "a repeated one");
    assert_eq!(pass(&halves, 0, &segment(RST, 1001, 0, 0, 0)), Ok(()));
    assert_eq!(pass(&halves, 1, &answer), Err(Reason::TcpState));
    assert_eq!(pass(&halves, 1, &segment(RST, 5001, 0, 0, 0)), Ok(()));
    assert_eq!(halves.each_ref().map(|half| half.flags() & flag::RST), [flag::RST; 2]);
    assert_eq!(pass(&halves, 1, &answer), Err(Reason::TcpState));
    assert_eq!(Phase::of(halves[0].flags(), halves[1].flags()), Phase::Reset);
}

#[test]
fn a_phase_follows_from_what_both_sides_have_said() {
    const SYNS: u8 = flag::SYN | flag::KNOWN;
    const OPEN: u8 = SYNS | flag::GRANTED;
    const CLOSED: u8 = OPEN | flag::FIN | flag::FIN_ACKED;
    let phases = [
        (SYNS, 0, Phase::SynSent),
        (SYNS, SYNS, Phase::SynReceived),
        (SYNS, OPEN, Phase::SynReceived),
        (OPEN, OPEN, Phase::Established),
        (OPEN | flag::FIN, OPEN, Phase::Closing),
        (OPEN | flag::FIN, OPEN | flag::FIN_ACKED, Phase::Closing),
        (OPEN | flag::FIN, OPEN | flag::FIN, Phase::Closing),
        (OPEN | flag::FIN, CLOSED, Phase::Closing),
        (CLOSED, CLOSED, Phase::Closed),
        (SYNS, flag::RST, Phase::Reset),
        (OPEN | flag::RST, OPEN, Phase::Reset),
        (OPEN | flag::RST, OPEN | flag::RST, Phase::Reset),
        (CLOSED | flag::RST, CLOSED, Phase::Reset),
    ];
    for (forward, reverse, phase) in phases {
        assert_eq!(Phase::of(forward, reverse), phase, "{forward:#x} {reverse:#x}");
        if phase != Phase::SynSent {
            assert_eq!(Phase::of(reverse, forward), phase, "{reverse:#x} {forward:#x}");
        }
    }
}

// Operators select by these names, and scripts that read them outlive a release.
#[test]
fn phases_have_the_names_that_operators_know() {
    let names = [
        (Phase::SynSent, "syn_sent"),
        (Phase::SynReceived, "syn_received"),
        (Phase::Established, "established"),
        (Phase::Closing, "closing"),
        (Phase::Closed, "closed"),
        (Phase::Reset, "reset"),
    ];
    for (phase, name) in names {
        assert_eq!(phase.name(), name);
    }
}
