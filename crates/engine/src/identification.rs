//! Identifications of IPv4 packets whose addresses are translated (RFC 6864 section 5.3.1). Those of packets that may be cut
//! are chosen where packets are rewritten; here are those of datagrams that came in fragments, which all have the same, and of
//! packets that are written anew.

use flowhop_flow::parse::Parsed;
use flowhop_flow::record::Config;
use flowhop_flow::{Key, rewrite};
use flowhop_wire::{Ipv4, checksum};

use crate::buffer::Buffer;
use crate::engine::Engine;

/// The identification of the datagram whose fragments are being forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// There is none.
    #[default]
    None,
    /// It has none yet.
    Unnamed,
    /// It has this one.
    Named(u16),
}

impl Engine {
    /// Gives a fragment the new identification of its datagram, if the addresses that it leaves with, by the key of what
    /// answers it, are others than those it came with. Fragments that are kept for a while are collected anew when they go on,
    /// and get it then.
    pub(crate) fn identify_fragment(&self, parsed: &Parsed, answers: &Key, packet: &mut Buffer<'_>) {
        let datagram = self.datagram.get();
        let both_v4 = (parsed.key.family(), answers.family()) == (4, 4);
        if datagram == Datagram::None || !both_v4 || !moves(&parsed.key, answers) {
            return;
        }
        if let Some(header) = header(parsed, packet)
            && rewrite::is_fragment(header)
        {
            let identification = match datagram {
                Datagram::Named(identification) => identification,
                _ => identify(self.table.config(), answers, 1),
            };
            self.datagram.set(Datagram::Named(identification));
            set(header, identification);
        }
    }

    /// Gives a message that was translated, and may be cut, an identification of its own.
    pub(crate) fn identify_message(&self, parsed: &Parsed, answers: &Key, packet: &mut Buffer<'_>) {
        if parsed.key.family() == 4
            && moves(&parsed.key, answers)
            && let Some(header) = header(parsed, packet)
            && rewrite::may_be_cut(header)
        {
            set(header, identify(self.table.config(), answers, 1));
        }
    }
}

fn header<'a>(parsed: &Parsed, packet: &'a mut Buffer<'_>) -> Option<&'a mut [u8; Ipv4::LEN]> {
    packet.bytes_mut().get_mut(parsed.network..)?.first_chunk_mut()
}

/// Whether what a key answers leaves with other addresses than these.
fn moves(key: &Key, answers: &Key) -> bool {
    (key.source, key.destination) != (answers.destination, answers.source)
}

/// A new identification for what a key answers.
pub(crate) fn identify(config: &Config, answers: &Key, packets: u32) -> u16 {
    config.identify(&answers.destination, &answers.source, answers.identity, packets)
}

/// Changes the identification of a header, and its checksum by the difference.
pub(crate) fn set(header: &mut [u8; Ipv4::LEN], identification: u16) {
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let sum = checksum::update16(word(10), word(4), identification);
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}
