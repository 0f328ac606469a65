//! SYN cookies: what they prove, for how long, and what a SYN becomes (RFC 4987 section 3.6).
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

mod common;

use flowhop_flow::Transport;
use flowhop_flow::cookie::{self, Cookies, Due, LIFE, SIZES, Worth};
use flowhop_flow::key::{self, Key};
use flowhop_flow::parse::ETHERNET;
use flowhop_wire::build::{Checksum, Spec};
use flowhop_wire::checksum::{self, Delta};
use flowhop_wire::verify::Verified;
use flowhop_wire::{protocol, tcp_flags, verify};
use proptest::prelude::*;

use common::{Buffer, parsed};

/// A slot of time, in ticks.
const SLOT: u32 = LIFE / 2;
/// Ticks by which clocks may differ, which a cookie's life is shorter by.
const LEEWAY: u32 = 128;
/// Ticks of a generation of secrets.
const GENERATION: u32 = 64 * SLOT;

fn cookies(now: u32) -> Cookies {
    let cookies = Cookies::default();
    tend(&cookies, now, 1);
    cookies
}

/// Makes the secrets that are due.
fn tend(cookies: &Cookies, now: u32, seed: u64) {
    let next: &[bool] = match cookies.due(now) {
        Due::Nothing => &[],
        Due::Next => &[true],
        Due::Both => &[false, true],
    };
    for (number, next) in next.iter().enumerate() {
        let word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64) | 1;
        cookies.set_secret(now, *next, [word, word.rotate_left(17)]);
    }
}

fn key(v6: bool, [source, destination]: [u32; 2], ports: u32) -> Key {
    let [source, destination] = [source, destination]
        .map(|word| if v6 { [0x20, word.rotate_left(9), !word, word] } else { key::mapped(word.to_ne_bytes()) });
    Key { source, destination, ports, identity: Key::identity(protocol::TCP, if v6 { 6 } else { 4 }, 0) }
}

fn worth(cookies: &Cookies, key: &Key, initial: u32, cookie: u32, now: u32) -> Worth {
    cookie::worth(cookies, key, initial.wrapping_add(1), cookie.wrapping_add(1), now)
}

fn keys() -> impl Strategy<Value = Key> {
    (any::<bool>(), any::<[u32; 2]>(), any::<u32>()).prop_map(|(v6, addresses, ports)| key(v6, addresses, ports))
}

proptest! {
    // RFC 4987 section 3.6: a cookie brings back what was put in, while it is good, across the change of secrets.
    #[test]
    fn a_cookie_is_good_for_its_life(key in keys(), initial: u32, size in 0u32..8, start: u32, later in 0..SLOT - LEEWAY) {
        let cookies = cookies(start);
        let cookie = cookie::seal(&cookies, &key, initial, size, start);
        let mut now = start;
        while now.wrapping_sub(start) < later {
            tend(&cookies, now, 7);
            now = now.wrapping_add(997);
        }
        tend(&cookies, start.wrapping_add(later), 7);
        let found = worth(&cookies, &key, initial, cookie, start.wrapping_add(later));
        prop_assert_eq!(found, Worth::Whole { size: size as u8 });
        // Segments that follow: the sequence number is another.
        let part = worth(&cookies, &key, initial.wrapping_add(1 + later), cookie, start.wrapping_add(later));
        prop_assert!(matches!(part, Worth::Part | Worth::Whole { .. }), "{:?}", part);
    }

    // It expires, at the latest with the slot after its own.
    #[test]
    fn a_cookie_expires(key in keys(), initial: u32, start: u32, slots in 2u32..1000) {
        let cookies = cookies(start);
        let cookie = cookie::seal(&cookies, &key, initial, 3, start);
        let found = worth(&cookies, &key, initial, cookie, start.wrapping_add(slots * SLOT));
        prop_assert!(!matches!(found, Worth::Whole { .. }), "{:?}", found);
    }

    // A clock that lags a little behind that of whoever made it finds it good.
    #[test]
    fn clocks_need_not_agree_to_the_tick(key in keys(), initial: u32, slot in 1u32..100_000, lag in 0u32..64) {
        let now = slot * SLOT;
        let cookies = cookies(now);
        let cookie = cookie::seal(&cookies, &key, initial, 3, now);
        prop_assert_eq!(worth(&cookies, &key, initial, cookie, now - lag), Worth::Whole { size: 3 });
    }
}

/// Every single change of what a cookie covers: of 64 changed bits each, none finds the cookie good. Chance would do so once
/// in 2^27 tries; the seed is fixed.
#[test]
fn no_other_connection_has_the_cookie() {
    let cookies = cookies(5);
    let (mut tried, mut parts) = (0u32, 0u32);
    for v6 in [false, true] {
        let right = key(v6, [0x0a00_0001, 0xc633_6401], key::ports(40_000, 443));
        for initial in [0, 1, 77, u32::MAX] {
            let cookie = cookie::seal(&cookies, &right, initial, 5, 5);
            let mut others = Vec::new();
            for bit in 0..32 {
                others.push((Key { ports: right.ports ^ 1 << bit, ..right }, initial, cookie));
                for word in 0..4 {
                    let mut other = right;
                    other.source[word] ^= 1 << bit;
                    others.push((other, initial, cookie));
                    let mut other = right;
                    other.destination[word] ^= 1 << bit;
                    others.push((other, initial, cookie));
                }
                others.push((right, initial ^ 1 << bit, cookie));
                others.push((right, initial, cookie ^ 1 << bit));
            }
            // Of the other family, and another protocol.
            others.push((Key { identity: right.identity ^ 0x200, ..right }, initial, cookie));
            others.push((Key { identity: right.identity ^ 1, ..right }, initial, cookie));
            for (other, initial, cookie) in others {
                // The upper words of IPv4 addresses are the same for all and not in the cookie.
                if !v6 && (other.source[..3] != right.source[..3] || other.destination[..3] != right.destination[..3]) {
                    continue;
                }
                let found = worth(&cookies, &other, initial, cookie, 5);
                assert!(!matches!(found, Worth::Whole { .. }), "{other:?} {initial} {cookie}");
                tried += 1;
                parts += u32::from(found == Worth::Part);
            }
        }
    }
    // Those with another sequence number only, or with other bits of the second digest, are parts.
    let expected = 2 * 4 * (32 + 13);
    assert!((expected..expected + 4).contains(&parts), "{parts} of {tried}");
}

/// Guessing: of a million numbers few pass the first digest (2^-14), none both.
#[test]
fn guessing_finds_as_few_as_the_digests_have_bits() {
    let cookies = cookies(5);
    let right = key(false, [1, 2], 3);
    let mut parts = 0;
    for number in 0..1_000_000u32 {
        match worth(&cookies, &right, 1000, number.wrapping_mul(0x9e37_79b1), 5) {
            Worth::Whole { .. } => panic!("guessed {number}"),
            Worth::Part => parts += 1,
            Worth::Nothing => {}
        }
    }
    // Half of all numbers name a slot that is good; 2^-14 of these are 30.
    assert!((10..70).contains(&parts), "{parts}");
}

// The secrets of two generations are never made anew while a cookie under them is good.
#[test]
fn secrets_change_where_nobody_uses_them() {
    let start = u32::MAX - 3 * GENERATION;
    let cookies = cookies(start);
    let right = key(true, [1, 2], 3);
    let mut seed = 100;
    let mut kept: Vec<(u32, u32)> = Vec::new();
    let mut changes = 0;
    for step in 0..4 * 64 * 8 {
        let now = start.wrapping_add(step * (SLOT / 8));
        if cookies.due(now) != Due::Nothing {
            changes += 1;
            seed += 1;
            assert_eq!(cookies.due(now), Due::Next, "none is missed");
            tend(&cookies, now, seed);
            assert_eq!(cookies.due(now), Due::Nothing);
        }
        kept.retain(|(_, made)| now.wrapping_sub(*made) < SLOT);
        for (cookie, _) in &kept {
            assert_eq!(worth(&cookies, &right, 9, *cookie, now), Worth::Whole { size: 2 });
        }
        kept.push((cookie::seal(&cookies, &right, 9, 2, now), now));
    }
    assert!((3..=5).contains(&changes), "{changes}");
    // A daemon that was away for long begins anew.
    let later = start.wrapping_add(5 * GENERATION + 3 * GENERATION);
    assert_eq!(cookies.due(later), Due::Both);
    // A table that was never used has none.
    assert_eq!(Cookies::default().due(0), Due::Both);
}

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn syn(v6: bool, options: &[u8], payload: &[u8], flags: u8) -> Vec<u8> {
    syn_with(v6, options, payload, flags, Checksum::Full)
}

fn syn_with(v6: bool, options: &[u8], payload: &[u8], flags: u8, checksum: Checksum) -> Vec<u8> {
    let ends =
        if v6 { ["[2001:db8::9]:40000", "[2001:db8::1]:443"] } else { ["198.51.100.9:40000", "198.51.100.1:443"] };
    let [from, to] = ends.map(|end| end.parse().unwrap());
    Spec::tcp(from, to, tcp_flags::SYN | flags, payload)
        .with_sequence(0x1234_5678, 0)
        .with_tcp_options(options)
        .with_ttl(47)
        .with_link(THEIRS, OURS)
        .with_checksum(checksum)
        .to_vec()
        .unwrap()
}

/// Linux's options: segment size, selective acknowledgments, timestamps, scaling.
const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

// RFC 9293 section 3.10.7.2 (the answer to a SYN), RFC 4987 section 3.6, RFC 3168 section 6.1.1 (no ECE in it).
#[test]
fn a_syn_becomes_its_answer() {
    let cookies = cookies(5);
    for v6 in [false, true] {
        for (options, size) in
            [(&LINUX[..], 6), (&[2, 4, 4, 196][..], 2), (&[1, 1, 1, 2, 4, 2, 24, 0][..], 1), (&[], 1 + u8::from(v6))]
        {
            for flags in [0, tcp_flags::ECE | tcp_flags::CWR] {
                let bytes = syn(v6, options, &[], flags);
                let before = bytes.len();
                let mut frame = Buffer { bytes, partial: false };
                let asked = parsed(&frame);
                let Transport::Tcp(segment) = asked.transport else { panic!("TCP") };
                cookie::answer(&cookies, &mut frame, &asked, &segment, 1400, Delta::ZERO, 5).expect("an answer");
                assert!(frame.bytes.len() <= before, "nothing grows");
                assert_eq!(frame.bytes[..6], THEIRS);
                assert_eq!(frame.bytes[6..12], OURS);
                assert_eq!(verify::transport(&frame.bytes[ETHERNET..]), Verified::Valid, "checksums");
                let answer = parsed(&frame);
                let Transport::Tcp(reply) = answer.transport else { panic!("TCP") };
                assert_eq!((answer.key.source, answer.key.destination), (asked.key.destination, asked.key.source));
                assert_eq!((answer.key.source_port(), answer.key.destination_port()), (443, 40_000));
                let said = frame.bytes[answer.transport_offset + 13];
                assert_eq!(said, tcp_flags::SYN | tcp_flags::ACK, "and neither ECE nor CWR");
                assert_eq!((reply.acknowledgment, reply.window, reply.payload), (0x1234_5679, cookie::WINDOW, 0));
                assert_eq!(answer.ttl, 64);
                let said = &frame.bytes[answer.transport_offset + 20..];
                let expected: &[u8] = if options.is_empty() { &[] } else { &[2, 4, 5, 120] };
                assert_eq!(said, expected, "the segment size and nothing else");
                let found = worth(&cookies, &asked.key, segment.sequence, reply.sequence, 5);
                assert_eq!(found, Worth::Whole { size }, "{options:?}");
                assert!(
                    SIZES[usize::from(size)] <= if options.is_empty() { [536, 1220][usize::from(v6)] } else { 1460 }
                );
            }
        }
    }
}

// RFC 9293 section 3.10.7.2: data with a SYN need not be taken. What it was worth is taken off the checksum.
#[test]
fn data_of_a_syn_is_cut_off() {
    let cookies = cookies(5);
    for v6 in [false, true] {
        for payload in [&b"x"[..], b"hello", &[0xff; 700]] {
            let mut frame = Buffer { bytes: syn(v6, &LINUX, payload, 0), partial: false };
            let asked = parsed(&frame);
            let Transport::Tcp(segment) = asked.transport else { panic!("TCP") };
            let sum = checksum::sum(payload) as u16;
            let removed = Delta(!u16::from_ne_bytes(sum.to_be_bytes()));
            cookie::answer(&cookies, &mut frame, &asked, &segment, 1460, removed, 5).expect("an answer");
            assert_eq!(verify::transport(&frame.bytes[ETHERNET..]), Verified::Valid, "{}", payload.len());
            let Transport::Tcp(reply) = parsed(&frame).transport else { panic!("TCP") };
            assert_eq!((reply.payload, reply.acknowledgment), (0, 0x1234_5679), "its data is not acknowledged");
        }
    }
}

// A SYN whose checksum the device was to complete: the answer's is completed the same way.
#[test]
fn partial_checksums_stay_partial() {
    let cookies = cookies(5);
    for v6 in [false, true] {
        let bytes = syn_with(v6, &LINUX, &[], 0, Checksum::Partial);
        let at = if v6 { 54 } else { 34 };
        let mut frame = Buffer { bytes, partial: true };
        let asked = parsed(&frame);
        let Transport::Tcp(segment) = asked.transport else { panic!("TCP") };
        cookie::answer(&cookies, &mut frame, &asked, &segment, 1460, Delta::ZERO, 5).expect("an answer");
        verify::complete_partial(&mut frame.bytes, at, 16).expect("completed");
        assert_eq!(verify::transport(&frame.bytes[ETHERNET..]), Verified::Valid);
    }
}

// The shortest life, found by a random input: made at the end of a slot, and judged by a clock that is ahead.
#[test]
fn a_cookie_that_was_made_at_the_end_of_its_slot_is_good_for_another() {
    let key = key(false, [1, 2], 3);
    for start in [2_641_330_086u32, SLOT - 1, SLOT - LEEWAY, SLOT, 63 * SLOT - 1, 64 * SLOT - 1] {
        let cookies = cookies(start);
        let cookie = cookie::seal(&cookies, &key, 0, 0, start);
        let later = start.wrapping_add(SLOT - LEEWAY - 1);
        tend(&cookies, later, 7);
        assert_eq!(worth(&cookies, &key, 0, cookie, later), Worth::Whole { size: 0 }, "{start}");
    }
}
