//! What helpers read: lines of FTP, however they are cut, requests of TFTP, and messages of SIP; and control connections through the slow
//! path, whose two ends have to have one stream each way, whatever is repeated and replaced.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the bed has more than is used here")]

#[path = "../../crates/modules/tests/firewall/bed.rs"]
mod bed;

use std::collections::HashMap;
use std::net::SocketAddr;

use bed::{Bed, LAN, WAN, at, ends, is_sound};
use flowhop_flow::Kind;
use flowhop_modules::helpers::ftp::{Dialogue, Heard};
use flowhop_modules::helpers::{sip, tftp};
use flowhop_wire::Tcp;
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, SYN};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

const POLICY: &str = r#"
[[rule]]
name = "files"
from = "inside"
to = "outside"
service = "tcp/21"
action = "allow"
helper = "ftp"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
"#;
const TEXTS: [&[u8]; 12] = [
    b"PORT 10,1,0,2,200,1\r\n",
    b"EPRT |1|10.1.0.2|5000|\r\n",
    b"PASV\r\n",
    b"EPSV\r\n",
    b"NOOP\r\n",
    b"PORT ",
    b"10,1,0,2,4,4",
    b"\r\n",
    b"220 ready\r\n",
    b"227 (198,51,100,2,200,2)\r\n",
    b"229 (|||5001|)\r\n",
    b"x",
];

/// Ports that were announced, with where they stand in the stream.
fn heard(direction: usize, pieces: &[&[u8]]) -> Vec<(Option<u16>, isize)> {
    let mut dialogue = Dialogue::running();
    dialogue.hear(0, b"PASV\r\n");
    let (mut all, mut at) = (Vec::new(), 0);
    for piece in pieces {
        for heard in dialogue.hear(direction, piece) {
            match heard {
                Heard::Listens { port, place, gone, .. } => {
                    assert!(place.start < place.end && place.end <= piece.len() as isize);
                    assert!(gone.len() as isize <= place.end - place.start);
                    all.push((Some(port), place.start + at));
                }
                Heard::Refused | Heard::Declined => all.push((None, 0)),
            }
        }
        at += piece.len() as isize;
    }
    all
}

/// What is written in a message is in its places, in their order, and makes a message again.
fn rewritten(data: &[u8]) {
    let Some(message) = sip::read(data) else { return };
    let [own, known] = [at("10.1.0.2:5060"), at("198.51.100.1:40001")];
    let ports: Vec<_> = message.streams.iter().map(|stream| Some((stream.port ^ 2).max(1))).collect();
    let (mut out, mut done) = (Vec::new(), 0);
    for (place, new) in message.rewrite(&[(own, known), (known, own)], &ports) {
        assert!(done <= place.start && place.start < place.end && place.end <= data.len());
        out.extend_from_slice(&data[done..place.start]);
        out.extend_from_slice(&new);
        done = place.end;
    }
    out.extend_from_slice(&data[done..]);
    let again = sip::read(&out).expect("a message again");
    assert_eq!(again.streams.len(), message.streams.len());
}

/// One end's stream, and what the other end has got of it.
struct Side {
    port: u8,
    own: SocketAddr,
    peer: SocketAddr,
    first: u32,
    text: Vec<u8>,
    got: HashMap<u32, u8>,
    /// Up to where the other end has it in one piece, as it numbers it.
    whole: u32,
    /// Up to where it has said so: it does not look at what comes before that again.
    acknowledged: u32,
}

fn control(first: [u32; 2]) -> (Bed, [Side; 2]) {
    let mut bed = Bed::with(POLICY);
    let (client, server) = (at("10.1.0.2:40000"), at("198.51.100.2:21"));
    bed.send(LAN, &Spec::tcp(client, server, SYN, &[]).with_sequence(first[0], 0));
    let (_, frame) = bed.last();
    let (seen, _) = ends(&frame);
    bed.send(WAN, &Spec::tcp(server, seen, SYN | ACK, &[]).with_sequence(first[1], first[0].wrapping_add(1)));
    bed.last();
    let side = |port, own, peer, first: u32| Side {
        port,
        own,
        peer,
        first: first.wrapping_add(1),
        text: Vec::new(),
        got: HashMap::new(),
        whole: first.wrapping_add(1),
        acknowledged: first.wrapping_add(1),
    };
    (bed, [side(LAN, client, server, first[0]), side(WAN, server, seen, first[1])])
}

fn send(bed: &mut Bed, sides: &mut [Side; 2], who: usize, from: usize, length: usize) {
    let [own, peer] = [&sides[who], &sides[who ^ 1]];
    let payload = own.text.get(from..).unwrap_or_default();
    let payload = &payload[..length.min(payload.len())];
    let spec =
        Spec::tcp(own.own, own.peer, ACK, payload).with_sequence(own.first.wrapping_add(from as u32), peer.whole);
    let outcome = bed.send(own.port, &spec);
    let sent = std::mem::take(&mut bed.outside.sent);
    if !matches!(outcome.kind, Kind::Forward | Kind::Consume) {
        return;
    }
    sides[who ^ 1].acknowledged = sides[who ^ 1].whole;
    let side = &mut sides[who];
    for (_, frame) in sent {
        assert!(is_sound(&frame));
        let (header, _) = Tcp::read_from_prefix(&frame[34..]).expect("a TCP header");
        let total = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        for (place, byte) in frame[34 + header.header_len()..total].iter().enumerate() {
            let number = header.sequence.get().wrapping_add(place as u32);
            if number.wrapping_sub(side.acknowledged) as i32 >= 0 {
                let before = *side.got.entry(number).or_insert(*byte);
                assert_eq!(before, *byte, "what was repeated is another byte");
            }
        }
    }
    while side.got.contains_key(&side.whole) {
        side.whole = side.whole.wrapping_add(1);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    if *mode < 64 {
        let _ = tftp::is_request(data);
        rewritten(data);
        let cut = usize::from(*mode).min(data.len());
        let (head, tail) = data.split_at(cut);
        for direction in 0..2 {
            assert_eq!(heard(direction, &[data]), heard(direction, &[head, tail]));
        }
        return;
    }
    let (mut bed, mut sides) = control([u32::from(*mode).wrapping_sub(150), u32::MAX - u32::from(*mode)]);
    sides[1].text.extend_from_slice(TEXTS[8]);
    send(&mut bed, &mut sides, 0, 0, 0);
    send(&mut bed, &mut sides, 1, 0, 100);
    for step in data.chunks_exact(3) {
        let who = usize::from(step[0] >> 7);
        if step[0] & 0x40 == 0 {
            let text = TEXTS[usize::from(step[0] & 15) % TEXTS.len()];
            let from = sides[who].text.len();
            sides[who].text.extend_from_slice(text);
            send(&mut bed, &mut sides, who, from, text.len());
        } else {
            let from = usize::from(step[1]) * sides[who].text.len() / 255;
            send(&mut bed, &mut sides, who, from, usize::from(step[2]));
        }
    }
});
