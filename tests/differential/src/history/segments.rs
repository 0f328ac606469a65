//! What two TCP peers say, and some of what they should not.

use flowhop_flow::record::Steer;

use super::frames::ports;
use super::{Episode, Random, Step};
use crate::reference::Tuple;
use crate::reference::tcp::{Segment, offers};

/// One TCP peer, as far as its packets can be made up.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) next: u32,
    pub(super) received: u32,
    pub(super) window: u16,
    pub(super) largest: u32,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) granted: u32,
    pub(super) open: bool,
    pub(super) finished: bool,
    pub(super) sent: Vec<(u32, u32, u8)>,
    pub(super) late: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) keys: [Tuple; 2],
    pub(super) steers: [Steer; 2],
    pub(super) peers: [Peer; 2],
    pub(super) number: usize,
    pub(super) tcp_packets: u32,
    /// What is added to the second side's numbers, once that is settled.
    pub(super) shift: Option<u32>,
}

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;
pub(super) const URG: u8 = 32;
pub(super) const ECE: u8 = 64;
pub(super) const CWR: u8 = 128;

impl Episode {
    /// The next TCP segment of a connection: mostly what two peers would say, some at the edges of the rules.
    pub(super) fn segment(&mut self, talk: &mut Talk, direction: usize) -> (usize, Vec<u8>, String) {
        talk.tcp_packets += 1;
        if !talk.peers[1].open
            && let Some(answer) = self.answer(talk)
        {
            return answer;
        }
        if talk.shift.is_none() && talk.peers[1].open {
            let start = talk.peers[1].next;
            let shift = [0, start.wrapping_mul(0x9e37_79b1), 0, 1 + (start & 1), 0, u32::MAX - (start & 0xfff)];
            let shift = shift[talk.number % shift.len()];
            if shift != 0 {
                self.steps.push(Step::Shift(talk.number, shift));
            }
            talk.shift = Some(shift);
        }
        let (mine, other) = (talk.peers[direction].clone(), talk.peers[direction ^ 1].clone());
        let random = &mut self.random;
        let mut sequence = mine.next;
        let mut acknowledgment = other.next;
        let mut flags = ACK;
        let mut payload = 0;
        let mut window = mine.window;
        let mut valid = true;
        let about = match random.below(40) {
            0..=13 => {
                payload = random.pick(&[1, 100, 536, 1448, 1460, random.clone().below(1400)]);
                flags |= random.pick(&[0, PSH, PSH | URG, ECE, CWR]);
                "data"
            }
            14..=17 => "acknowledgment",
            18 => {
                acknowledgment = other.next.wrapping_sub(random.below(3000));
                "delayed acknowledgment"
            }
            19..=20 => {
                let again = mine.sent.get(random.below(mine.sent.len().max(1) as u32) as usize);
                (sequence, payload, flags) = again.map_or((sequence, 0, ACK), |&(s, p, f)| (s, p, f));
                "retransmission"
            }
            21 => {
                sequence = mine.next.wrapping_sub(1);
                payload = random.below(2);
                "keepalive"
            }
            22 if random.chance(30) => {
                window = 0;
                "zero window"
            }
            23 => {
                window = random.bits() as u16;
                "window"
            }
            24 if talk.tcp_packets > 20 => {
                flags |= FIN;
                "FIN"
            }
            25 => {
                flags = FIN | if random.chance(50) { 0 } else { PSH | URG };
                valid = false;
                "FIN without ACK"
            }
            26 if talk.tcp_packets > 40 => {
                flags = RST | random.pick(&[0, ACK]);
                sequence = random.pick(&[mine.next, other.received, other.granted]);
                "RST"
            }
            27 => {
                flags = RST | random.pick(&[0, ACK]);
                let some = random.below(20_000);
                sequence = random.pick(&[
                    mine.next.wrapping_add(1),
                    mine.next.wrapping_add(some),
                    other.granted.wrapping_add(1),
                    mine.next.wrapping_sub(some),
                    random.clone().bits() as u32,
                ]);
                valid = false;
                "inexact RST"
            }
            28..=30 => {
                // Rules 1 and 2 at their edges.
                payload = random.below(3);
                let edge = random.below(3).wrapping_sub(1);
                sequence = random.pick(&[
                    other.granted.wrapping_add(edge),
                    mine.next.wrapping_sub(other.largest).wrapping_sub(payload).wrapping_add(edge),
                    mine.next.wrapping_add(1 << 31).wrapping_add(edge),
                ]);
                valid = false;
                "sequence at an edge"
            }
            31..=33 => {
                // Rules 3 and 4 at their edges.
                let edge = random.below(3).wrapping_sub(1);
                acknowledgment = random.pick(&[
                    other.next.wrapping_add(edge),
                    other.next.wrapping_sub(66_000).wrapping_add(edge),
                    other.next.wrapping_sub(mine.largest).wrapping_add(edge),
                    other.next.wrapping_add(1 << 31),
                ]);
                valid = false;
                "acknowledgment at an edge"
            }
            34 => {
                flags = random.bits() as u8;
                valid = false;
                "random flags"
            }
            35 => {
                flags = SYN | if random.chance(50) { ACK } else { 0 };
                sequence = random.pick(&[mine.next.wrapping_sub(1), mine.next, random.clone().bits() as u32]);
                valid = false;
                "late SYN"
            }
            36 => {
                sequence = random.bits() as u32;
                acknowledgment = random.bits() as u32;
                valid = false;
                "random numbers"
            }
            37 if random.chance(15) => {
                payload = 1600 + random.below(20_000);
                "super-packet"
            }
            38 => {
                // A hole: what was sent before was lost in front of the box.
                sequence = mine.next.wrapping_add(random.pick(&[100, 1460]));
                payload = 100;
                "gap"
            }
            _ => {
                payload = random.below(300);
                "data"
            }
        };
        let options = match random.below(4) {
            0 => vec![],
            1 => vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            _ => vec![1, 1, 1, 0],
        };
        let options = if flags & SYN != 0 { syn_options(random) } else { options };
        // Peers keep to the window that they were granted, mostly.
        let end = sequence.wrapping_add(payload);
        if valid && payload < 1600 && other.granted.wrapping_sub(end) >= 1 << 31 && random.chance(95) {
            (sequence, payload) = (mine.next, 0);
            flags &= !FIN;
        }
        if valid {
            let peer = &mut talk.peers[direction];
            let scale = if other.scale.is_some() { peer.scale.unwrap_or(0) } else { 0 };
            let offered = u32::from(window) << scale;
            let end = sequence.wrapping_add(payload).wrapping_add(u32::from(flags & FIN != 0));
            if end.wrapping_sub(peer.next) < 1 << 30 {
                peer.next = end;
                peer.sent.push((sequence, payload, flags));
                if peer.sent.len() > 6 {
                    peer.sent.remove(0);
                }
            }
            peer.largest = peer.largest.max(offered);
            peer.received = acknowledgment;
            peer.granted = acknowledgment.wrapping_add(offered);
            peer.finished |= flags & FIN != 0;
        }
        let key = talk.keys[direction];
        // The first side knows the other's numbers as they arrive.
        let shift = if direction == 0 { talk.shift.unwrap_or(0) } else { 0 };
        let acknowledgment = acknowledgment.wrapping_add(shift);
        let segment = Segment { sequence, acknowledgment, flags, window, options, payload };
        let about = describe(about, direction, &segment);
        (direction, self.tcp_bytes(&key, &segment), about)
    }

    /// The other side's answer to the SYN.
    pub(super) fn answer(&mut self, talk: &mut Talk) -> Option<(usize, Vec<u8>, String)> {
        let expected = talk.peers[0].next;
        let (about, direction, segment) = match self.random.below(16) {
            0..=7 => {
                let mut segment = self.open(talk, 1, 0).segment;
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected.wrapping_sub(if self.random.chance(5) { 100 } else { 0 });
                let peer = &mut talk.peers[1];
                peer.received = expected;
                peer.granted = expected.wrapping_add(u32::from(peer.window));
                if offers(&segment.options).is_none() {
                    // It will not be taken; another one follows.
                    peer.open = false;
                }
                ("SYN-ACK", 1, segment)
            }
            8 => {
                let flags = RST | self.random.pick(&[0, ACK]);
                let acknowledgment = expected.wrapping_add(self.random.pick(&[0, 0, 1, u32::MAX, 20_000]));
                let sequence = self.random.pick(&[0, 77]);
                let segment = Segment { sequence, acknowledgment, flags, window: 0, options: vec![], payload: 0 };
                ("refusal", 1, segment)
            }
            9 => {
                let mut segment = self.open(talk, 1, 0).segment;
                talk.peers[1].open = false;
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected.wrapping_add(self.random.pick(&[1, 50_000, 1 << 31]));
                ("wrong SYN-ACK", 1, segment)
            }
            10 => {
                let opening = self.open(talk, 1, 0);
                let mut segment = opening.segment.clone();
                self.steps.push(Step::SecondSyn(talk.number, Box::new(opening)));
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected;
                ("second SYN, then SYN-ACK", 1, segment)
            }
            11 => {
                let flags = self.random.pick(&[SYN, ACK, RST, FIN | ACK, SYN | ACK]);
                let sequence = expected.wrapping_sub(u32::from(flags == SYN));
                let options = vec![2, 4, 5, 180];
                ("early", 0, Segment { sequence, acknowledgment: 0, flags, window: 1000, options, payload: 0 })
            }
            _ => return None,
        };
        let key = talk.keys[direction];
        Some((direction, self.tcp_bytes(&key, &segment), describe(about, direction, &segment)))
    }

    pub(super) fn tcp_bytes(&mut self, key: &Tuple, segment: &Segment) -> Vec<u8> {
        let mut l4 = Vec::with_capacity(20 + segment.options.len() + segment.payload as usize);
        l4.extend(ports(key));
        l4.extend(segment.sequence.to_be_bytes());
        l4.extend(segment.acknowledgment.to_be_bytes());
        l4.push(((20 + segment.options.len() as u8) / 4) << 4);
        l4.push(segment.flags);
        l4.extend(segment.window.to_be_bytes());
        l4.extend([0, 0, 0, 0]);
        l4.extend(&segment.options);
        let payload = self.payload(segment.payload as usize);
        l4.extend(payload);
        l4
    }
}

pub(super) fn describe(about: &str, direction: usize, s: &Segment) -> String {
    let Segment { sequence, acknowledgment, flags, window, payload, .. } = s;
    format!(
        "TCP {about}, side {direction}: seq {sequence} ack {acknowledgment} flags {flags:#04x} window {window} payload {payload}"
    )
}
/// Options of a SYN, good and bad.
pub(super) fn syn_options(random: &mut Random) -> Vec<u8> {
    let scale = random.pick(&[0, 2, 7, 14, 15, 255]);
    match random.below(12) {
        0 => vec![],
        1..=2 => vec![2, 4, 5, 180],
        3 => vec![2, 4, 5, 180, 1, 3, 3, scale],
        4..=6 => vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, scale],
        // RFC 7413: a cookie.
        7 => vec![2, 4, 5, 180, 4, 2, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, scale],
        8 => vec![3, 3, scale, 0, 3, 3, 9, 9],
        9 => vec![3, 3, scale, 2],
        10 => random.pick(&[[3, 1, 0, 0], [1, 1, 1, 8], [2, 40, 0, 0], [1, 1, 4, 3]]).to_vec(),
        // As many steps as are taken, and more.
        _ => [vec![1; random.pick(&[8, 9, 12])], vec![3, 3, scale], vec![0; 1]].concat(),
    }
}
