//! The TCP context of a connection: the four window rules (van Rooij, "Real stateful TCP packet filtering in
//! IP Filter"), resets by RFC 5961 section 3.2, window scaling by RFC 7323 section 2.

use flowhop_flow::Reason;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Flag byte.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Options.
    pub options: Vec<u8>,
    /// Bytes of payload.
    pub payload: u32,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What one side of a connection has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// It sent a SYN, whose numbers are known.
    pub syn: bool,
    /// It acknowledged, and thus granted a window.
    pub granting: bool,
    /// It sent a FIN.
    pub fin: bool,
    /// It acknowledged the peer's FIN.
    pub fin_acked: bool,
    /// It sent a reset that counts.
    pub rst: bool,
    /// Window scale that it offered.
    pub scale: Option<u8>,
    /// It offered selective acknowledgments.
    pub sack: bool,
    /// Highest sequence number that it sent, exclusive.
    pub end: u32,
    /// Largest window that it advertised.
    pub window: u32,
    /// Highest acknowledgment that it sent.
    pub acknowledged: u32,
    /// Up to where it lets its peer send.
    pub granted: u32,
    /// What is added to its numbers on the way, where that is a constant (RFC 4987 section 3.6, of a server whose client
    /// was answered with a cookie).
    pub shift: Option<u32>,
}

impl Half {
    /// The three words of the record of this half: `sent`, `allowed`, `state`.
    #[must_use]
    pub fn words(&self) -> [u64; 3] {
        let pair = |low: u32, high: u32| u64::from(low) + (u64::from(high) << 32);
        // SYN 1, granted 2, FIN 4, FIN acknowledged 8, RST 16, scale 32, SACK 64, known 128.
        let bits =
            [self.syn, self.granting, self.fin, self.fin_acked, self.rst, self.scale.is_some(), self.sack, self.syn];
        let flags = bits.iter().enumerate().map(|(bit, set)| u64::from(*set) << bit).sum::<u64>();
        let scale = u64::from(self.scale.unwrap_or(0)) * 256;
        let shift = self.shift.map_or(0, |shift| (1 << 16) + (u64::from(shift) << 32));
        [pair(self.end, self.window), pair(self.acknowledged, self.granted), flags + scale + shift]
    }

    /// The half of a side that opens with this SYN.
    #[must_use]
    pub fn opening(segment: &Segment, scale: Option<u8>, sack: bool) -> Self {
        let window = u32::from(segment.window).max(1);
        Self { syn: true, scale, sack, end: end_of(segment), window, ..Self::default() }
    }
}

/// How far `b` is ahead of `a` around the circle of sequence numbers.
fn ahead(a: u32, b: u32) -> i64 {
    let distance = (i64::from(b) - i64::from(a)).rem_euclid(1 << 32);
    if distance < 1 << 31 { distance } else { distance - (1 << 32) }
}

fn later(a: u32, b: u32) -> u32 {
    if ahead(a, b) >= 0 { b } else { a }
}

fn end_of(segment: &Segment) -> u32 {
    let length = segment.payload + u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    ((u64::from(segment.sequence) + u64::from(length)) % (1 << 32)) as u32
}

/// Window scale and SACK of a SYN; `None` for options that are malformed or more than six.
#[must_use]
pub fn offers(options: &[u8]) -> Option<(Option<u8>, bool)> {
    let (mut scale, mut sack) = (None, false);
    let mut rest = options;
    for _ in 0..6 {
        match rest {
            [] | [0, ..] => return Some((scale, sack)),
            [1, more @ ..] => rest = more,
            [_] => return None,
            [kind, length, ..] => {
                let length = usize::from(*length);
                if length < 2 || length > rest.len() {
                    return None;
                }
                match (kind, length) {
                    (3, 3) => scale = Some(rest[2].min(14)),
                    (4, 2) => sack = true,
                    _ => {}
                }
                rest = &rest[length..];
            }
        }
    }
    rest.is_empty().then_some((scale, sack))
}

/// Judges a segment of `own` and moves its half on.
///
/// # Errors
/// The reason to hand it down; nothing has changed then.
pub fn check(own: &mut Half, peer: &Half, segment: &Segment) -> Result<(), Reason> {
    // All is in the numbers that their sender has chosen.
    let acknowledgment = segment.acknowledgment.wrapping_sub(peer.shift.unwrap_or(0));
    let segment = &Segment { acknowledgment, ..segment.clone() };
    // Push, urgent and the bits of ECN are free (RFC 3168, RFC 9768).
    match segment.flags & (SYN | ACK | FIN | RST) {
        SYN => return Err(Reason::TcpSyn),
        f if f == SYN | ACK => return answer(own, peer, segment),
        f if f & RST != 0 && f & (SYN | FIN) == 0 => return reset(own, peer, segment),
        f if f & ACK != 0 && f & (SYN | RST) == 0 => {}
        _ => return Err(Reason::TcpFlags),
    }
    if !own.syn || !peer.syn {
        return Err(Reason::TcpState);
    }
    let end = end_of(segment);
    if !sequence_fits(own, peer, segment) || !acknowledgment_fits(own, peer, segment) {
        return Err(Reason::TcpWindow);
    }
    // RFC 7323 section 2.2: both must have offered it.
    let scale = match (own.scale, peer.scale) {
        (Some(scale), Some(_)) => scale,
        _ => 0,
    };
    let window = u32::from(segment.window) * (1 << scale);
    let granted = ((u64::from(segment.acknowledgment) + u64::from(window)) % (1 << 32)) as u32;
    own.end = later(own.end, end);
    own.window = own.window.max(window);
    (own.acknowledged, own.granted) = if own.granting {
        (later(own.acknowledged, segment.acknowledgment), later(own.granted, granted))
    } else {
        (segment.acknowledgment, granted)
    };
    own.granting = true;
    own.fin |= segment.flags & FIN != 0;
    own.fin_acked |= peer.fin && segment.acknowledgment == peer.end;
    Ok(())
}

/// Rules 1 and 2: not beyond what the peer allowed, not older than what it may still want.
fn sequence_fits(own: &Half, peer: &Half, segment: &Segment) -> bool {
    let limit = if peer.granting { peer.granted } else { own.end };
    let oldest = ((i64::from(own.end) - i64::from(peer.window)).rem_euclid(1 << 32)) as u32;
    ahead(segment.sequence, limit) >= 0 && ahead(oldest, end_of(segment)) >= 0
}

/// Rules 3 and 4: nothing that was not sent, nothing absurdly old.
fn acknowledgment_fits(own: &Half, peer: &Half, segment: &Segment) -> bool {
    let behind = ahead(segment.acknowledgment, peer.end);
    behind >= 0 && behind <= i64::from(own.window).max(66_000)
}

/// A SYN|ACK, first or repeated.
fn answer(own: &mut Half, peer: &Half, segment: &Segment) -> Result<(), Reason> {
    if !peer.syn || own.rst || peer.rst {
        return Err(Reason::TcpState);
    }
    let unacknowledged = (i64::from(peer.end) - i64::from(segment.acknowledgment)).rem_euclid(1 << 32);
    let end = end_of(segment);
    if own.syn {
        let behind = (i64::from(own.end) - i64::from(end)).rem_euclid(1 << 32);
        let fits = behind <= i64::from(own.window).max(66_000) && unacknowledged <= 66_000;
        return if fits { Ok(()) } else { Err(Reason::TcpWindow) };
    }
    // Of a SYN with data (RFC 7413) the answer may acknowledge just the SYN.
    if unacknowledged > 9216 {
        return Err(Reason::TcpWindow);
    }
    let (scale, sack) = offers(&segment.options).ok_or(Reason::TcpSyn)?;
    // RFC 7323 section 2.2: the window of a SYN is never scaled.
    let granted = ((u64::from(segment.acknowledgment) + u64::from(segment.window)) % (1 << 32)) as u32;
    *own =
        Half { granting: true, acknowledged: segment.acknowledgment, granted, ..Half::opening(segment, scale, sack) };
    Ok(())
}

/// A reset ends the connection only when it is exactly where the receiver waits (RFC 5961 section 3.2).
fn reset(own: &mut Half, peer: &Half, segment: &Segment) -> Result<(), Reason> {
    if !peer.syn {
        return Err(Reason::TcpState);
    }
    let acknowledges = segment.flags & ACK != 0;
    if !own.syn {
        // RFC 9293 section 3.10.7.1: the answer to a SYN for a closed port acknowledges it.
        let unacknowledged = (i64::from(peer.end) - i64::from(segment.acknowledgment)).rem_euclid(1 << 32);
        if !acknowledges || unacknowledged > 9216 {
            return Err(Reason::TcpWindow);
        }
        own.rst = true;
        return Ok(());
    }
    if !sequence_fits(own, peer, segment) || acknowledges && !acknowledgment_fits(own, peer, segment) {
        return Err(Reason::TcpWindow);
    }
    let exact = peer.granting && segment.sequence == peer.acknowledged || segment.sequence == own.end;
    own.rst |= exact;
    Ok(())
}
