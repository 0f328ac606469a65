//! Trivial file transfer (RFC 1350): a request, which is answered from another port.

/// Read and write requests (RFC 1350 section 5).
const REQUESTS: [u16; 2] = [1, 2];
const MODES: [&[u8]; 3] = [b"netascii", b"octet", b"mail"];

/// Whether a datagram is a request: operation, file name, mode, and options that come in pairs (RFC 2347).
#[must_use]
pub fn is_request(payload: &[u8]) -> bool {
    let Some((operation, [rest @ .., 0])) = payload.split_first_chunk::<2>() else { return false };
    if !REQUESTS.contains(&u16::from_be_bytes(*operation)) {
        return false;
    }
    let mut words = rest.split(|byte| *byte == 0);
    let (Some(file), Some(mode)) = (words.next(), words.next()) else { return false };
    let is_mode = MODES.iter().any(|known| known.eq_ignore_ascii_case(mode));
    !file.is_empty() && is_mode && words.count().is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::is_request;

    // RFC 1350 section 5, RFC 2347.
    #[test]
    fn requests_are_told_from_the_rest() {
        for yes in
            [&b"\0\x01boot.img\0octet\0"[..], b"\0\x02a\0NetASCII\0", b"\0\x01a\0octet\0blksize\x001432\0tsize\x000\0"]
        {
            assert!(is_request(yes), "{yes:?}");
        }
        for no in [
            &b""[..],
            b"\0\x01",
            b"\0\x01a\0octet",
            b"\0\x01\0octet\0",
            b"\0\x01a\0\0",
            b"\0\x01a\0raw\0",
            b"\0\x03a\0octet\0",
            b"\0\x01a\0octet\0blksize\0",
            b"\0\x04\0\x01",
        ] {
            assert!(!is_request(no), "{no:?}");
        }
    }
}
