//! The TCP context: each rule at its edges, resets, scaling, wrap-around (RFC 9293, RFC 5961, RFC 7323).
#![expect(clippy::panic, reason = "helpers of tests: a panic is their report")]

use flowhop_flow::Reason;
use flowhop_flow::parse::Segment;
use flowhop_flow::record::TcpHalf;
use flowhop_flow::tcp::{
    MAX_ACK_DISTANCE, MAX_SCALE, Offer, Phase, accepts, check, flag, in_flight, offer, open, open_too, repeats,
};
use flowhop_wire::SliceFrame;
use flowhop_wire::tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use proptest::prelude::*;

const NOTHING: Offer = Offer { scale: None, sack: false };

fn segment(flags: u8, sequence: u32, acknowledgment: u32, payload: u32, window: u16) -> Segment {
    Segment { sequence, acknowledgment, flags, window, header: 20, payload, vouched: false }
}

/// Two sides: 0 the initiator, whose numbers start at `a`; 1 the other, whose numbers start at `b`.
struct Wire {
    halves: [TcpHalf; 2],
    a: u32,
    b: u32,
    /// What is added to side 1's numbers before side 0 sees them.
    shift: u32,
}

impl Wire {
    fn opened(a: u32, offered: Offer, window: u16) -> Self {
        let wire = Self { halves: <[TcpHalf; 2]>::default(), a, b: 0, shift: 0 };
        open(&wire.halves[0], &wire.halves[1], &segment(SYN, a, 0, 0, window), offered);
        wire
    }

    /// After the handshake: side 0 has window 1000, side 1 has window 2000; neither scales.
    fn established(a: u32, b: u32) -> Self {
        let mut wire = Self::opened(a, NOTHING, 1000);
        wire.b = b;
        assert_eq!(wire.answer(b, NOTHING, 2000), Ok(()));
        assert_eq!(wire.send(0, ACK, 1, 1, 0, 1000), Ok(()));
        assert_eq!(wire.phase(), Phase::Established);
        wire
    }

    /// The same with a constant between side 1's numbers and what side 0 sees of them.
    fn shifted(a: u32, b: u32, shift: u32) -> Self {
        let mut wire = Self::opened(a, NOTHING, 1000);
        (wire.b, wire.shift) = (b, shift);
        assert_eq!(wire.answer(b, NOTHING, 2000), Ok(()));
        wire.halves[0].set_constant_shift(0);
        wire.halves[1].set_constant_shift(shift);
        assert_eq!(wire.send(0, ACK, 1, 1, 0, 1000), Ok(()));
        wire
    }

    fn answer(&self, b: u32, offered: Offer, window: u16) -> Result<(), Reason> {
        let answer = segment(SYN | ACK, b, self.a.wrapping_add(1), 0, window);
        check(&self.halves[1], &self.halves[0], &answer, || Some(offered))
    }

    /// Sends with numbers relative to the initial ones of the side and of its peer.
    fn send(&self, side: usize, flags: u8, seq: i64, ack: i64, payload: u32, window: u16) -> Result<(), Reason> {
        let (own, peer) = if side == 0 { (self.a, self.b) } else { (self.b, self.a) };
        let at = |base: u32, offset: i64| base.wrapping_add(offset as u32);
        let seen = if side == 0 { at(peer, ack).wrapping_add(self.shift) } else { at(peer, ack) };
        let segment = segment(flags, at(own, seq), seen, payload, window);
        let before = self.words();
        let accepted = accepts(&self.halves[side], &self.halves[side ^ 1], &segment);
        assert_eq!(self.words(), before, "a question changed the context");
        let result = check(&self.halves[side], &self.halves[side ^ 1], &segment, || {
            panic!("options are read of a SYN|ACK only")
        });
        if result.is_err() {
            assert_eq!(self.words(), before, "a refused segment changed the context");
        }
        if segment.flags & (SYN | RST) == 0 && segment.flags & ACK != 0 {
            assert_eq!(accepted, result.is_ok(), "what is accepted passes, and the reverse");
        }
        let other = side ^ 1;
        assert_eq!(self.words()[other], before[other], "a segment changed its peer's half");
        result
    }

    fn words(&self) -> [[u64; 3]; 2] {
        [0, 1].map(|n| {
            [&self.halves[n].sent, &self.halves[n].allowed, &self.halves[n].state].map(flowhop_flow::cell::Cell64::load)
        })
    }

    fn phase(&self) -> Phase {
        Phase::of(self.halves[0].flags(), self.halves[1].flags())
    }
}

const WINDOW: Result<(), Reason> = Err(Reason::TcpWindow);

/// Initial numbers: plain ones, and such that every edge below lies across the wrap.
const STARTS: [(u32, u32); 4] =
    [(1000, 5_000_000), (u32::MAX, u32::MAX - 1), (u32::MAX - 500, u32::MAX - 66_000), (0x7fff_ffff, 0x8000_0000)];

#[test]
fn rule_1_not_beyond_what_the_peer_allowed() {
    for (a, b) in STARTS {
        // Side 1 has granted 2000 bytes from 1 on.
        let edge = 1 + 2000;
        assert_eq!(Wire::established(a, b).send(0, ACK, edge, 1, 0, 1000), Ok(()));
        assert_eq!(Wire::established(a, b).send(0, ACK, edge + 1, 1, 0, 1000), WINDOW);
        // A probe of a zero window starts at the edge (RFC 9293 section 3.8.6.1).
        assert_eq!(Wire::established(a, b).send(0, ACK, edge, 1, 1, 1000), Ok(()));
        // An acknowledgment moves the edge.
        let wire = Wire::established(a, b);
        assert_eq!(wire.send(0, ACK, 1, 1, 2000, 1000), Ok(()));
        assert_eq!(wire.send(1, ACK, 1, 2001, 0, 2000), Ok(()));
        assert_eq!(wire.send(0, ACK, 4001, 1, 0, 1000), Ok(()));
        assert_eq!(wire.send(0, ACK, 4002, 1, 0, 1000), WINDOW);
        // An old acknowledgment and a smaller window take nothing back.
        assert_eq!(wire.send(1, ACK, 1, 1, 0, 10), Ok(()));
        assert_eq!(wire.send(0, ACK, 4001, 1, 0, 1000), Ok(()));
    }
}

#[test]
fn rule_2_not_older_than_what_the_peer_may_want() {
    for (a, b) in STARTS {
        let wire = Wire::established(a, b);
        assert_eq!(wire.send(0, ACK, 1, 1, 1500, 1000), Ok(()));
        assert_eq!(wire.send(1, ACK, 1, 1501, 0, 2000), Ok(()));
        assert_eq!(wire.send(0, ACK, 1501, 1, 1500, 1000), Ok(()));
        // Own end is 3001, the peer's largest window 2000: the end of a segment must reach 1001.
        assert_eq!(wire.send(0, ACK, 1001, 1, 0, 1000), Ok(()));
        assert_eq!(wire.send(0, ACK, 1000, 1, 0, 1000), WINDOW);
        assert_eq!(wire.send(0, ACK, 901, 1, 100, 1000), Ok(()));
        assert_eq!(wire.send(0, ACK, 900, 1, 100, 1000), WINDOW);
        // A keepalive is one behind (RFC 9293 section 3.8.4).
        assert_eq!(wire.send(0, ACK, 3000, 1, 0, 1000), Ok(()));
    }
}

#[test]
fn rule_3_nothing_is_acknowledged_that_was_not_sent() {
    for (a, b) in STARTS {
        let wire = Wire::established(a, b);
        assert_eq!(wire.send(1, ACK, 1, 1, 500, 2000), Ok(()));
        assert_eq!(wire.send(0, ACK, 1, 502, 0, 1000), WINDOW);
        assert_eq!(wire.send(0, ACK, 1, 501, 0, 1000), Ok(()));
    }
}

#[test]
fn rule_4_no_acknowledgment_is_absurdly_old() {
    for (a, b) in STARTS {
        let wire = Wire::established(a, b);
        // RFC 5961 section 5.2 allows the largest window; ours never asks for less than 66000.
        let behind = i64::from(MAX_ACK_DISTANCE);
        assert_eq!(wire.send(0, ACK, 1, 1 - behind, 0, 1000), Ok(()));
        assert_eq!(wire.send(0, ACK, 1, -behind, 0, 1000), WINDOW);
    }
    // A larger scaled window lets acknowledgments be older.
    let wire = Wire::opened(1000, Offer { scale: Some(7), sack: false }, 1000);
    wire.answer(0, Offer { scale: Some(7), sack: false }, 1000).unwrap();
    assert_eq!(wire.send(0, ACK, 1, 1, 0, 1000), Ok(()));
    assert_eq!(wire.send(0, ACK, 1, 1 - 128_000, 0, 1000), Ok(()));
    assert_eq!(wire.send(0, ACK, 1, -128_000, 0, 1000), WINDOW);
}

// RFC 5961 section 3.2: only a reset exactly at RCV.NXT ends the connection; others in the window pass, so that
// the receiver's challenge and its answer can do their work; the rest does not pass.
#[test]
fn a_reset_counts_only_when_it_is_exact() {
    for (a, b) in STARTS {
        for flags in [RST, RST | ACK] {
            let wire = || Wire::established(a, b);
            let exact = wire();
            assert_eq!(exact.send(0, flags, 1, 1, 0, 0), Ok(()));
            assert_eq!(exact.phase(), Phase::Reset);
            for offset in [2, 1000, 2001] {
                let inexact = wire();
                assert_eq!(inexact.send(0, flags, offset, 1, 0, 0), Ok(()), "{offset}");
                assert_eq!(inexact.phase(), Phase::Established, "{offset}");
                // The challenge ACK and the reset that answers it.
                assert_eq!(inexact.send(1, ACK, 1, 1, 0, 2000), Ok(()));
                assert_eq!(inexact.send(0, flags, 1, 1, 0, 0), Ok(()));
                assert_eq!(inexact.phase(), Phase::Reset);
            }
            for offset in [2002, 1_000_000, -1_000_000, -2000] {
                assert_eq!(wire().send(0, flags, offset, 1, 0, 0), WINDOW, "{offset}");
            }
        }
        // The acknowledgment of a reset must fit as well.
        assert_eq!(Wire::established(a, b).send(0, RST | ACK, 1, 2, 0, 0), WINDOW);
        // Data on its way: both what the peer has acknowledged and what was sent last are places to wait at.
        for exact in [1, 501] {
            let wire = Wire::established(a, b);
            wire.send(0, ACK, 1, 1, 500, 1000).unwrap();
            assert_eq!(wire.send(0, RST, exact, 1, 0, 0), Ok(()));
            assert_eq!(wire.phase(), Phase::Reset);
        }
        let between = Wire::established(a, b);
        between.send(0, ACK, 1, 1, 500, 1000).unwrap();
        assert_eq!(between.send(0, RST, 200, 1, 0, 0), Ok(()));
        assert_eq!(between.phase(), Phase::Established);
    }
}

// RFC 9293 section 3.10.7.1: a closed port answers a SYN with a reset that acknowledges it.
#[test]
fn a_refusal_must_acknowledge_the_syn() {
    let wire = || Wire::opened(7, NOTHING, 1000);
    let refused = wire();
    assert_eq!(refused.send(1, RST | ACK, 0, 1, 0, 0), Ok(()));
    assert_eq!(refused.phase(), Phase::Reset);
    assert_eq!(wire().send(1, RST, 0, 1, 0, 0), WINDOW);
    assert_eq!(wire().send(1, RST | ACK, 0, 2, 0, 0), WINDOW);
    assert_eq!(wire().send(1, RST | ACK, 0, 1 - 9217, 0, 0), WINDOW);
    // The initiator's own reset is not judged here: its peer has said nothing yet.
    assert_eq!(wire().send(0, RST, 1, 0, 0, 0), Err(Reason::TcpState));
    // Nothing is opened after it.
    let segment = segment(SYN | ACK, 9, 8, 0, 100);
    let answer = check(&refused.halves[1], &refused.halves[0], &segment, || Some(NOTHING));
    assert_eq!(answer, Err(Reason::TcpState));
}

#[test]
fn a_syn_ack_answers_a_syn() {
    let wire = Wire::opened(u32::MAX, Offer { scale: Some(3), sack: true }, 1000);
    assert_eq!(wire.phase(), Phase::SynSent);
    // Of nobody's SYN.
    let nobody = <[TcpHalf; 2]>::default();
    let answer = segment(SYN | ACK, 50, 0, 0, 500);
    assert_eq!(check(&nobody[1], &nobody[0], &answer, || Some(NOTHING)), Err(Reason::TcpState));
    // Of another number; with options that cannot be read; then the right one.
    let wrong = segment(SYN | ACK, 50, 1, 0, 500);
    assert_eq!(check(&wire.halves[1], &wire.halves[0], &wrong, || Some(NOTHING)), WINDOW);
    assert_eq!(check(&wire.halves[1], &wire.halves[0], &answer, || None), Err(Reason::TcpSyn));
    assert_eq!(wire.halves[1].flags(), 0);
    assert_eq!(
        check(&wire.halves[1], &wire.halves[0], &answer, || Some(Offer { scale: Some(14), sack: true })),
        Ok(())
    );
    assert_eq!(wire.phase(), Phase::SynReceived);
    assert_eq!(wire.halves[1].flags(), flag::SYN | flag::GRANTED | flag::KNOWN | flag::SCALE | flag::SACK);
    // RFC 7323 section 2.2: the window in a SYN is not scaled. It grants 500 bytes from 0 on.
    assert_eq!(wire.words()[1][1], 500 << 32);
    // Repeated: passes and changes nothing; with other numbers it does not pass.
    let before = wire.words();
    let repeat = check(&wire.halves[1], &wire.halves[0], &answer, || panic!("read again"));
    assert_eq!((repeat, wire.words()), (Ok(()), before));
    let other = segment(SYN | ACK, 51, 0, 0, 500);
    assert_eq!(check(&wire.halves[1], &wire.halves[0], &other, || panic!("read again")), WINDOW);
    // A SYN of the initiator's is the slow path's business, always.
    assert_eq!(wire.send(0, SYN, 0, 0, 0, 1000), Err(Reason::TcpSyn));
    assert!(repeats(&wire.halves[0], &segment(SYN, u32::MAX, 0, 0, 1000)));
    assert!(!repeats(&wire.halves[0], &segment(SYN, 0, 0, 0, 1000)));
}

// RFC 7413: a SYN with data may be acknowledged with or without it.
#[test]
fn data_in_a_syn_need_not_be_acknowledged() {
    for acknowledgment in [101, 501, 1001] {
        let halves = <[TcpHalf; 2]>::default();
        open(&halves[0], &halves[1], &segment(SYN, 100, 0, 900, 1000), NOTHING);
        let answer = segment(SYN | ACK, 5, acknowledgment, 0, 1000);
        assert_eq!(check(&halves[1], &halves[0], &answer, || Some(NOTHING)), Ok(()), "{acknowledgment}");
    }
}

// RFC 9293 section 3.5, figure 8.
#[test]
fn simultaneous_open() {
    let mut wire = Wire::opened(100, NOTHING, 1000);
    wire.b = 300;
    assert_eq!(wire.send(1, SYN, 0, 0, 0, 2000), Err(Reason::TcpSyn));
    open_too(&wire.halves[1], &segment(SYN, 300, 0, 0, 2000), NOTHING);
    assert_eq!(wire.phase(), Phase::SynReceived);
    assert_eq!(wire.send(0, SYN | ACK, 0, 1, 0, 1000), Ok(()));
    assert_eq!(wire.send(1, SYN | ACK, 0, 1, 0, 2000), Ok(()));
    assert_eq!(wire.send(0, ACK, 1, 1, 100, 1000), Ok(()));
    assert_eq!(wire.send(1, ACK, 1, 101, 100, 2000), Ok(()));
    assert_eq!(wire.phase(), Phase::Established);
}

// RFC 7323 section 2.2: scaled only when both sides offered it; section 2.3: by 14 at most.
#[test]
fn windows_scale_when_both_sides_offered_it() {
    let some = |scale| Offer { scale, sack: false };
    for (ours, theirs, factor) in [
        (Some(7), Some(2), 128),
        (Some(7), None, 1),
        (None, Some(7), 1),
        (Some(14), Some(0), 16384),
        (Some(0), Some(14), 1),
    ] {
        let mut wire = Wire::opened(u32::MAX - 5, some(ours), 1000);
        wire.b = 77;
        wire.answer(77, some(theirs), 1000).unwrap();
        assert_eq!(wire.send(0, ACK, 1, 1, 0, 1000), Ok(()));
        let edge = 1 + 1000 * factor;
        assert_eq!(wire.send(1, ACK, edge + 1, 1, 0, 1000), WINDOW, "{ours:?} {theirs:?}");
        assert_eq!(wire.send(1, ACK, edge, 1, 0, 1000), Ok(()), "{ours:?} {theirs:?}");
    }
}

#[test]
fn closing_takes_both_fins_and_both_acknowledgments() {
    for (a, b) in STARTS {
        let wire = Wire::established(a, b);
        assert_eq!(wire.send(0, FIN | ACK, 1, 1, 10, 1000), Ok(()));
        assert_eq!(wire.phase(), Phase::Closing);
        // Acknowledges the data, not the FIN (RFC 9293 section 3.4: a FIN takes a number).
        assert_eq!(wire.send(1, ACK, 1, 11, 0, 2000), Ok(()));
        assert_eq!(wire.send(1, FIN | ACK, 1, 12, 0, 2000), Ok(()));
        assert_eq!(wire.phase(), Phase::Closing);
        assert_eq!(wire.send(0, ACK, 12, 2, 0, 1000), Ok(()));
        assert_eq!(wire.phase(), Phase::Closed);
    }
}

// Section 4.3 of the standards: flag sets that no valid segment has; push, urgent and ECN bits are free.
#[test]
fn flags_that_make_no_sense() {
    for flags in 0..=255u8 {
        let known = flags & (SYN | ACK | FIN | RST);
        let result = Wire::established(1, 1).send(0, flags, 1, 1, 0, 1000);
        if known == SYN {
            assert_eq!(result, Err(Reason::TcpSyn), "{flags:#x}");
        } else if [ACK, FIN | ACK, RST, RST | ACK].contains(&known) {
            assert_eq!(result, Ok(()), "{flags:#x}");
        } else if known == SYN | ACK {
            // One beyond the handshake: not in what this side has sent before.
            assert_eq!(result, WINDOW, "{flags:#x}");
        } else {
            assert_eq!(result, Err(Reason::TcpFlags), "{flags:#x}");
        }
        let _free = PSH | URG | ECE | CWR;
    }
}

#[test]
fn nothing_but_a_handshake_before_the_answer() {
    let wire = Wire::opened(1, NOTHING, 1000);
    for flags in [ACK, FIN | ACK, ACK | PSH] {
        assert_eq!(wire.send(0, flags, 1, 0, 0, 1000), Err(Reason::TcpState));
        assert_eq!(wire.send(1, flags, 1, 1, 0, 1000), Err(Reason::TcpState));
    }
    // Data right behind the last handshake segment, before any acknowledgment of ours: up to the window of the SYN|ACK.
    wire.answer(0, NOTHING, 500).unwrap();
    assert_eq!(wire.send(0, ACK, 501, 1, 0, 1000), Ok(()));
    assert_eq!(wire.send(0, ACK, 502, 1, 0, 1000), WINDOW);
}

/// The offer in a TCP header with these options.
fn read(options: &[u8], turns: usize) -> Option<Offer> {
    let mut bytes = vec![0; 20];
    bytes.extend(options);
    let segment = Segment { header: bytes.len() as u8, ..segment(SYN | ACK, 0, 0, 0, 0) };
    offer(&SliceFrame::new(&mut bytes), 0, &segment, turns)
}

#[test]
fn options_of_a_syn() {
    let some = |scale, sack| Some(Offer { scale, sack });
    assert_eq!(read(&[], 10), some(None, false));
    // What Linux, Windows and macOS send.
    assert_eq!(read(&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7], 10), some(Some(7), true));
    assert_eq!(read(&[2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2], 10), some(Some(8), true));
    let macos = [2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0, 0];
    assert_eq!(read(&macos, 10), some(Some(6), true));
    assert_eq!(read(&[3, 3, 15, 0], 10), some(Some(MAX_SCALE), false), "RFC 7323 section 2.3");
    assert_eq!(read(&[0, 3, 3, 7], 10), some(None, false), "nothing is read behind the end");
    assert_eq!(read(&[3, 4, 7, 7], 10), some(None, false), "a scale of another length is none");
    assert_eq!(read(&[1; 10], 10), some(None, false));
    assert_eq!(read(&[1; 12], 10), None, "more than is looked at");
    for bad in [&[3, 1, 0, 0][..], &[3, 0, 0, 0], &[1, 1, 1, 3], &[2, 5, 0, 0], &[8, 10, 0, 0]] {
        assert_eq!(read(bad, 10), None, "{bad:?}");
    }
}

proptest! {
    // Edges and windows never move back, whatever comes, and a refused segment changes nothing.
    #[test]
    fn edges_only_move_forward(
        a: u32,
        b: u32,
        segments in prop::collection::vec((0..2usize, any::<u8>(), -5000..5000i64, -5000..5000i64, 0..3000u32, any::<u16>()), 1..60),
    ) {
        let wire = Wire::established(a, b);
        for (side, flags, seq, ack, payload, window) in segments {
            let before = wire.words()[side];
            let _either = wire.send(side, flags, seq, ack, payload, window);
            let after = wire.words()[side];
            prop_assert!((after[0] as u32).wrapping_sub(before[0] as u32) < 1 << 31, "end");
            prop_assert!(after[0] >> 32 >= before[0] >> 32, "largest window");
            prop_assert!((after[1] as u32).wrapping_sub(before[1] as u32) < 1 << 31, "acknowledged");
            prop_assert!(((after[1] >> 32) as u32).wrapping_sub((before[1] >> 32) as u32) < 1 << 31, "granted");
            prop_assert_eq!(after[2] & before[2], before[2], "flags");
        }
    }

    // All is relative: the same exchange at other initial numbers goes the same way.
    #[test]
    fn initial_numbers_do_not_matter(
        a: u32,
        b: u32,
        segments in prop::collection::vec((0..2usize, prop::sample::select(vec![ACK, ACK | PSH, FIN | ACK, RST, RST | ACK]), -3000..6000i64, -3000..6000i64, 0..1500u32, 0..3000u16), 1..60),
    ) {
        let (one, other) = (Wire::established(1_000_000, 2_000_000), Wire::established(a, b));
        for (side, flags, seq, ack, payload, window) in segments {
            let results = [&one, &other].map(|wire| wire.send(side, flags, seq, ack, payload, window));
            prop_assert_eq!(results[0], results[1]);
            prop_assert_eq!(one.phase(), other.phase());
        }
    }

    // Nor does a constant that is added to one side's numbers on the way, and it stays what it is.
    #[test]
    fn a_constant_between_the_sides_does_not_matter(
        a: u32,
        b: u32,
        shift: u32,
        segments in prop::collection::vec((0..2usize, prop::sample::select(vec![ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK]), -3000..6000i64, -3000..6000i64, 0..1500u32, 0..3000u16), 1..60),
    ) {
        let (one, other) = (Wire::established(a, b), Wire::shifted(a, b, shift));
        for (side, flags, seq, ack, payload, window) in segments {
            let results = [&one, &other].map(|wire| wire.send(side, flags, seq, ack, payload, window));
            prop_assert_eq!(results[0], results[1]);
            prop_assert_eq!(one.phase(), other.phase());
            prop_assert_eq!(other.halves[1].constant_shift(), shift);
            let [plain, shifted] = [one.words(), other.words()];
            for side in 0..2 {
                prop_assert_eq!(&plain[side][..2], &shifted[side][..2], "all else is as its sender has chosen");
            }
        }
    }
}

// RFC 5927 section 4.1: SND.UNA <= SEG.SEQ <= SND.NXT, also across the wrap; the SYN alone before an answer.
#[test]
fn what_an_error_quotes_is_in_flight() {
    for (a, b) in STARTS {
        let wire = Wire::opened(a, NOTHING, 1000);
        let [own, peer] = &wire.halves;
        let at = |offset: u32| a.wrapping_add(offset);
        for (sequence, expected) in [(at(0), true), (at(1), true), (at(2), false), (a.wrapping_sub(70_000), false)] {
            assert_eq!(in_flight(own, peer, sequence), expected, "{a}: {sequence}");
        }
        assert!(!in_flight(peer, own, 0), "nothing is known of the other side");

        let wire = Wire::established(a, b);
        assert_eq!(wire.send(0, ACK, 1, 1, 500, 1000), Ok(()));
        assert_eq!(wire.send(1, ACK, 1, 201, 0, 2000), Ok(()));
        let [own, peer] = &wire.halves;
        for (offset, expected) in [(200, false), (201, true), (501, true), (502, false), (1 << 31, false)] {
            assert_eq!(in_flight(own, peer, at(offset)), expected, "{a}: {offset}");
        }
    }
}

// A6: two cores with the same answer to a SYN: the later one goes down, and what the earlier one wrote stays.
#[test]
fn an_answer_that_another_core_has_entered_meanwhile_is_handed_down() {
    let wire = Wire::opened(7000, NOTHING, 1000);
    let answer = segment(SYN | ACK, 90_000, 7001, 0, 2000);
    let mut entered = None;
    let result = check(&wire.halves[1], &wire.halves[0], &answer, || {
        assert_eq!(wire.answer(90_000, NOTHING, 2000), Ok(()));
        entered = Some(wire.words());
        Some(NOTHING)
    });
    assert_eq!(result, Err(Reason::Contention));
    assert_eq!(Some(wire.words()), entered);
}
