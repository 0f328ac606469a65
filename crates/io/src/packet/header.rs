//! The virtio header of packet sockets (`struct virtio_net_hdr`, native byte order) as [`Offload`] and back.

use flowhop_engine::Offload;

/// Its length: without the count of buffers that TAP devices have behind it.
pub(super) const HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
/// Added to the kind where congestion marks concern the first segment only.
const ECN: u8 = 0x80;

/// What the header says of the frame.
pub(super) fn decode(header: [u8; HEADER], frame: &[u8]) -> Offload {
    let [flags, segmentation, a, b, c, d, e, f, g, h] = header;
    let mut offload = Offload {
        partial: flags & NEEDS_CHECKSUM != 0,
        verified: flags & CHECKSUM_VALID != 0,
        checksum_start: u16::from_ne_bytes([e, f]),
        checksum_offset: u16::from_ne_bytes([g, h]),
        segmentation,
        segment: u16::from_ne_bytes([c, d]),
        headers: u16::from_ne_bytes([a, b]),
    };
    // The kernel says here how much of the packet lies in one piece, up to all of it, and would lay out the packet
    // that is sent in the same way: an allocation of 64 KiB in one piece for each.
    if let Some(headers) = headers(&offload, frame) {
        offload.headers = headers;
    }
    offload
}

/// The length of the headers of a super-packet.
fn headers(offload: &Offload, frame: &[u8]) -> Option<u16> {
    if !offload.partial {
        return None;
    }
    let transport = match offload.segmentation & !ECN {
        TCP_V4 | TCP_V6 => u16::from(frame.get(usize::from(offload.checksum_start) + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let headers = offload.checksum_start.checked_add(transport)?;
    (usize::from(headers) <= frame.len()).then_some(headers)
}

pub(super) fn encode(offload: &Offload) -> [u8; HEADER] {
    // That it was verified is of no interest to a device that sends.
    let flags = if offload.partial { NEEDS_CHECKSUM } else { 0 };
    let [a, b] = offload.headers.to_ne_bytes();
    let [c, d] = offload.segment.to_ne_bytes();
    let [e, f] = offload.checksum_start.to_ne_bytes();
    let [g, h] = offload.checksum_offset.to_ne_bytes();
    [flags, offload.segmentation, a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn super_packet() -> Offload {
        Offload {
            partial: true,
            verified: false,
            checksum_start: 34,
            checksum_offset: 16,
            segmentation: TCP_V4 | ECN,
            segment: 1448,
            headers: 66,
        }
    }

    #[test]
    fn headers_round_trip() {
        let mut frame = [0; 2000];
        frame[46] = 0x80;
        assert_eq!(decode(encode(&super_packet()), &frame), super_packet());
        let whole = Offload { headers: 2000, ..super_packet() };
        assert_eq!(decode(encode(&whole), &frame), super_packet(), "the headers alone, not the first piece");
    }

    #[test]
    fn headers_that_make_no_sense_are_left_alone() {
        for length in 0..100 {
            let mut frame = vec![0xff; length];
            let offload = Offload { headers: 77, ..super_packet() };
            let decoded = decode(encode(&offload), &frame);
            assert!(decoded.headers == 77 || usize::from(decoded.headers) <= length);
            let far = Offload { checksum_start: u16::MAX, ..offload };
            assert_eq!(decode(encode(&far), &frame).headers, 77);
            frame.clear();
        }
    }
}
