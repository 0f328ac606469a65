//! Frames in fragments.

use flowhop_wire::{checksum, protocol};

/// Puts `[from, to)` of a frame's payload in a fragment.
pub(crate) fn piece(frame: &[u8], identification: u16, from: usize, to: usize) -> Vec<u8> {
    let v4 = frame[12..14] == [8, 0];
    let start = if v4 { 34 } else { 54 };
    let end = to.min(frame.len() - start);
    let more = end < frame.len() - start;
    let mut out = frame[..start].to_vec();
    if v4 {
        out[16..18].copy_from_slice(&((20 + end - from) as u16).to_be_bytes());
        out[18..20].copy_from_slice(&identification.to_be_bytes());
        let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
        out[20..22].copy_from_slice(&field.to_be_bytes());
        out[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&out[14..34]));
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        let next = std::mem::replace(&mut out[20], protocol::FRAGMENT);
        out[18..20].copy_from_slice(&((8 + end - from) as u16).to_be_bytes());
        out.extend_from_slice(&[next, 0]);
        out.extend_from_slice(&(from as u16 | u16::from(more)).to_be_bytes());
        out.extend_from_slice(&u32::from(identification).to_be_bytes());
    }
    out.extend_from_slice(&frame[start + from..start + end]);
    out
}

/// The whole frame in fragments of so many bytes.
pub(crate) fn split(frame: &[u8], identification: u16, size: usize) -> Vec<Vec<u8>> {
    let start = if frame[12..14] == [8, 0] { 34 } else { 54 };
    (0..frame.len() - start).step_by(size).map(|from| piece(frame, identification, from, from + size)).collect()
}
