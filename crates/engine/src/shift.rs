//! Sequence numbers of a direction whose payload is changed on the way.
//!
//! # What
//! A text that a helper replaces (an address in a command of FTP) becomes longer or shorter, and everything behind it has
//! other sequence numbers when it leaves than when it came. Every number has two forms: as its sender has *chosen* it, and
//! as it is *sent*. One is a monotone function of the other ([`sent`](Shift::sent)), which says of every byte of the
//! stream where it goes, inside replaced texts as well. So a segment that is repeated, cut otherwise or not, leaves with
//! the same bytes at the same numbers, whatever part of a replaced text it begins or ends in.
//!
//! Acknowledgments and selective ones come in the second form and are put back to the first
//! ([`acknowledged`](Shift::acknowledged), [`selected`](Shift::selected)): never to more than the receiver has.
//!
//! # Rules
//! Inside a text of which `old` bytes become `new` ones, byte `i` becomes byte `min(i, new)`; the last one brings what is
//! left. The texts are kept until they are acknowledged, and a few of them longer, at most [`MOST`]; behind them the sum of
//! their differences is left, which is all that is needed for new data.
//! What is repeated from before that has numbers which its receiver has acknowledged, and takes no notice of.

use std::collections::VecDeque;

/// Replaced texts that are remembered, of one direction.
pub const MOST: usize = WAITING + AT_ONCE + ACKNOWLEDGED;
/// Those that are not acknowledged; with more of them nothing new is looked at.
const WAITING: usize = 8;
/// Those that come together.
pub const AT_ONCE: usize = 4;
/// Acknowledged ones that are kept in case that they are repeated all the same.
const ACKNOWLEDGED: usize = 2;
/// A text so far behind is forgotten, before its number could be taken for one ahead.
const FAR: u32 = 1 << 30;

/// A replaced text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    /// Its first byte, as chosen.
    at: u32,
    /// Bytes that are replaced, at least one.
    old: u32,
    new: Vec<u8>,
    /// What is added to numbers in front of it.
    before: u32,
}

impl Edit {
    const fn len(&self) -> u32 {
        self.new.len() as u32
    }

    /// What is added to numbers behind it.
    const fn after(&self) -> u32 {
        self.before.wrapping_add(self.len()).wrapping_sub(self.old)
    }

    /// Its first byte, as sent.
    const fn sent_at(&self) -> u32 {
        self.at.wrapping_add(self.before)
    }

    /// Its receiver has it.
    const fn is_done(&self, acknowledged: u32) -> bool {
        at_most(self.at.wrapping_add(self.old), acknowledged)
    }

    /// The place in the new text of a place in the old one.
    fn place(&self, old: u32) -> u32 {
        if old >= self.old { self.len() } else { old.min(self.len()) }
    }
}

/// One direction's numbers. See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// What is added to numbers in front of all texts that are remembered.
    base: u32,
    /// In the order of the stream.
    edits: VecDeque<Edit>,
}

/// `a <= b` in sequence space (RFC 9293 section 3.4).
const fn at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 >= 0
}

impl Shift {
    /// Numbers to which so much is added throughout.
    #[must_use]
    pub const fn by(base: u32) -> Self {
        Self { base, edits: VecDeque::new() }
    }

    /// What is added to new data.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.edits.back().map_or(self.base, Edit::after)
    }

    /// Nothing was ever replaced, or nothing changes by what was.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.base == 0 && self.edits.is_empty()
    }

    /// A number as it is sent.
    #[must_use]
    pub fn sent(&self, chosen: u32) -> u32 {
        match self.edits.iter().rev().find(|edit| at_most(edit.at, chosen)) {
            None => chosen.wrapping_add(self.base),
            Some(edit) => edit.sent_at().wrapping_add(edit.place(chosen.wrapping_sub(edit.at))).wrapping_add(
                // Behind the text as many bytes further as it is behind it.
                chosen.wrapping_sub(edit.at).saturating_sub(edit.old),
            ),
        }
    }

    /// The number up to which the sender knows its bytes to have arrived, when they have up to this one as sent.
    #[must_use]
    pub fn acknowledged(&self, sent: u32) -> u32 {
        self.back(sent, |edit, place| place.min(edit.old - 1))
    }

    /// A block of bytes that have arrived, as the sender numbers them; `None` when none of its bytes are whole.
    #[must_use]
    pub fn selected(&self, sent: (u32, u32)) -> Option<(u32, u32)> {
        let first = self.back(sent.0, |edit, place| if place == 0 { 0 } else { place.min(edit.old) });
        let end = self.acknowledged(sent.1);
        (first != end && at_most(first, end)).then_some((first, end))
    }

    /// A number as chosen; `inside` says which place of an old text belongs to a place in the new one.
    fn back(&self, sent: u32, inside: impl Fn(&Edit, u32) -> u32) -> u32 {
        match self.edits.iter().rev().find(|edit| at_most(edit.sent_at(), sent)) {
            None => sent.wrapping_sub(self.base),
            Some(edit) => {
                let place = sent.wrapping_sub(edit.sent_at());
                if place >= edit.len() {
                    sent.wrapping_sub(edit.after())
                } else {
                    edit.at.wrapping_add(inside(edit, place))
                }
            }
        }
    }

    /// What is sent of payload that begins at `chosen`.
    #[must_use]
    pub fn splice(&self, chosen: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() + 32);
        let mut done = 0usize;
        for edit in &self.edits {
            // Both relative to the payload; texts behind or in front of it are out of reach either way.
            let first = i64::from(edit.at.wrapping_sub(chosen) as i32);
            let (from, to) = (first.max(done as i64), (first + i64::from(edit.old)).min(payload.len() as i64));
            if from >= to {
                continue;
            }
            out.extend_from_slice(payload.get(done..from as usize).unwrap_or_default());
            let [from, end] = [from, to].map(|at| edit.place((at - first) as u32) as usize);
            out.extend_from_slice(edit.new.get(from..end).unwrap_or_default());
            done = to as usize;
        }
        out.extend_from_slice(payload.get(done..).unwrap_or_default());
        out
    }

    /// Replaces `old` bytes from `at` on, which are behind all that was replaced before; false when too many texts are
    /// remembered. `acknowledged` is as far as the receiver has what was sent, as chosen.
    #[must_use]
    pub fn replace(&mut self, at: u32, old: u32, new: Vec<u8>, acknowledged: u32) -> bool {
        self.forget(at, acknowledged);
        if self.edits.len() >= MOST || old == 0 {
            return false;
        }
        self.edits.push_back(Edit { at, old, new, before: self.total() });
        true
    }

    /// Whether there is room for [`AT_ONCE`] more.
    #[must_use]
    pub fn has_room(&self, acknowledged: u32) -> bool {
        self.edits.iter().filter(|edit| !edit.is_done(acknowledged)).count() <= WAITING
    }

    /// Forgets texts that will not be repeated. `now` is the number of data that is sent now.
    pub fn forget(&mut self, now: u32, acknowledged: u32) {
        let is_done = |edit: &Edit| edit.is_done(acknowledged);
        while let Some(first) = self.edits.front() {
            let done = self.edits.iter().filter(|edit| is_done(edit)).count();
            let far = now.wrapping_sub(first.at) as i32 >= FAR as i32;
            if !(is_done(first) && (done > ACKNOWLEDGED || far)) {
                return;
            }
            self.base = first.after();
            self.edits.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `old` bytes of a stream of `stream` at `at` become `new`.
    fn shift(stream: u32, edits: &[(u32, u32, &str)]) -> Shift {
        let mut shift = Shift::default();
        for (at, old, new) in edits {
            assert!(shift.replace(stream.wrapping_add(*at), *old, new.as_bytes().to_vec(), stream));
        }
        shift
    }

    const TEXT: &[u8] = b"USER a\r\nPORT 10,1,0,2,1,2\r\nLIST\r\nPORT 10,1,0,2,100,200\r\nSTOR b\r\n";

    /// A longer text, then a shorter one.
    fn both(stream: u32) -> (Shift, Vec<u8>) {
        let all = shift(stream, &[(13, 12, "198,51,100,1,211,77"), (38, 16, "1,1,1,1,9,9")]);
        let sent = b"USER a\r\nPORT 198,51,100,1,211,77\r\nLIST\r\nPORT 1,1,1,1,9,9\r\nSTOR b\r\n".to_vec();
        (all, sent)
    }

    /// Streams that begin in the middle of the numbers and just before they begin anew.
    const STREAMS: [u32; 4] = [1000, u32::MAX - 20, u32::MAX - 50, 0x7fff_fff0];

    // A5, RFC 9293 section 3.4: however a stream is cut, and whatever is repeated, every byte has one place.
    #[test]
    fn every_segment_leaves_with_its_part_of_the_new_stream() {
        for stream in STREAMS {
            let (shift, sent) = both(stream);
            for first in 0..=TEXT.len() {
                for end in first..=TEXT.len() {
                    let place = |at: usize| shift.sent(stream.wrapping_add(at as u32)).wrapping_sub(stream) as usize;
                    let piece = shift.splice(stream.wrapping_add(first as u32), &TEXT[first..end]);
                    assert_eq!(piece, sent[place(first)..place(end)], "{stream} {first}..{end}");
                }
            }
            assert_eq!(shift.sent(stream.wrapping_sub(5)), stream.wrapping_sub(5));
        }
    }

    // RFC 9293 section 3.4, RFC 2018 section 3: a sender is never told that more has arrived than has.
    #[test]
    fn acknowledgments_never_cover_what_has_not_arrived() {
        for stream in STREAMS {
            let (shift, sent) = both(stream);
            for arrived in 0..=sent.len() as u32 {
                let chosen = shift.acknowledged(stream.wrapping_add(arrived)).wrapping_sub(stream);
                let place = |chosen: u32| shift.sent(stream.wrapping_add(chosen)).wrapping_sub(stream);
                assert!(place(chosen) <= arrived, "{stream} {arrived}");
                // All that has arrived whole is acknowledged, but for a text that is there in part.
                let next = place(chosen + 1);
                assert!(next > arrived || next == place(chosen), "{stream} {arrived}: {chosen}");
                for end in arrived + 1..=sent.len() as u32 {
                    let block = (stream.wrapping_add(arrived), stream.wrapping_add(end));
                    if let Some((first, last)) = shift.selected(block) {
                        assert!(place(first.wrapping_sub(stream)) >= arrived);
                        assert!(place(last.wrapping_sub(stream)) <= end);
                    }
                }
            }
            assert_eq!(
                shift.acknowledged(stream.wrapping_add(sent.len() as u32)),
                stream.wrapping_add(TEXT.len() as u32)
            );
        }
    }

    // What is forgotten may be repeated all the same: its receiver, which has acknowledged it, takes none of it for new
    // data (RFC 9293 section 3.10.7.4), and new data behind it has its place.
    #[test]
    fn repeats_of_what_is_forgotten_stay_behind_the_acknowledgment() {
        for stream in STREAMS {
            let place = |number: u32| stream.wrapping_add(number);
            let mut shift = Shift::default();
            for number in 0..6 {
                let new = [&b"1"[..], b"123456789", b"", b"12", b"1234567", b"12345"][number as usize];
                assert!(shift.replace(place(10 * number), 4, new.to_vec(), stream));
            }
            for acknowledged in 0..=70 {
                let mut later = shift.clone();
                later.forget(place(70), place(acknowledged));
                assert!(later.edits.len() >= shift.edits.len().min(ACKNOWLEDGED));
                let limit = shift.sent(place(acknowledged));
                for number in 0..=80 {
                    let [before, after] = [&shift, &later].map(|shift| shift.sent(place(number)));
                    if number >= acknowledged {
                        assert_eq!(before, after);
                    } else {
                        assert!(at_most(after, limit), "{stream} {acknowledged} {number}");
                    }
                }
            }
        }
    }

    // N13: bounded; what is acknowledged makes room, and new data is numbered as before.
    #[test]
    fn texts_are_forgotten_when_they_are_acknowledged() {
        let most = MOST as u32;
        let mut shift = Shift::default();
        for number in 0..most {
            assert_eq!(shift.has_room(0), number <= WAITING as u32);
            assert!(shift.replace(number * 10, 2, b"abc".to_vec(), 0));
        }
        assert!(!shift.replace(1000, 2, b"abc".to_vec(), 0));
        assert_eq!((shift.sent(500), shift.total()), (500 + most, most));
        let mut other = shift.clone();
        assert!(!shift.has_room(40) && shift.has_room(60));
        assert!(shift.replace(1000, 2, b"abc".to_vec(), 40));
        assert_eq!((shift.sent(500), shift.sent(2000), shift.total()), (500 + most, 2001 + most, most + 1));
        other.forget(FAR + 200, 200);
        assert!(other.edits.is_empty());
        assert_eq!((other.sent(500), other.acknowledged(500 + most)), (500 + most, 500));
        assert_eq!(Shift::by(most), other);
    }
}
