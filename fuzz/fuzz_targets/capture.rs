//! Whatever a capture file holds, it is read to its end or refused, in bounded memory.
#![no_main]

use flowhop::replay::capture::Capture;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut capture) = Capture::open(bytes) else { return };
    let mut packet = Vec::new();
    while let Ok(Some(_)) = capture.next(&mut packet) {
        assert!(packet.len() <= bytes.len());
    }
});
