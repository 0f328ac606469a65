//! Whatever a packet holds, reading it neither panics nor reads differently on two paths.
#![no_main]

use flowhop_engine::{Buffer, Offload};
use flowhop_flow::parse::{self, ETHERNET, Transport};
use flowhop_flow::tcp;
use flowhop_wire::siit::{self, Ends, Mtus};
use flowhop_wire::{SliceFrame, checksum, ipv6, pcp, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut frame = bytes.to_vec();
    let mut copy = frame.clone();
    let buffer = Buffer::new(&mut copy, Offload::default());
    let slice = SliceFrame::new(&mut frame);
    for network in [0, ETHERNET, ETHERNET + 4] {
        let (a, b) = (parse::ipv4(&slice, network, 0), parse::ipv4(&buffer, network, 0));
        assert_eq!(a, b);
        let (c, d) = (parse::ipv6(&slice, network, 0), parse::ipv6(&buffer, network, 0));
        assert_eq!(c, d);
        for parsed in [a, c].into_iter().flatten() {
            assert!(network + parsed.length as usize <= bytes.len());
            if let Transport::Tcp(segment) = &parsed.transport {
                let few = tcp::offer(&slice, parsed.transport_offset, segment, 6);
                let many = tcp::offer(&slice, parsed.transport_offset, segment, 40);
                assert!(few.is_none() || few == many);
            }
        }
    }
    if let Some((next, rest)) = bytes.split_first() {
        let _chain = ipv6::walk(rest, *next);
        let _verified = (verify::ipv4_header(rest), verify::transport(rest), verify::lost_partial(rest));
        translate(rest, *next & 1 != 0);
    }
    request(bytes);
});

/// A request for a mapping is read or refused, and its options are all of its rest.
fn request(message: &[u8]) {
    let said = pcp::Said { result: pcp::ResultCode::MalformedRequest, lifetime: 30, epoch: 1 };
    let mut out = [0; pcp::MAX_LEN];
    let length = pcp::refuse(message, said, false, &mut out);
    assert!(length <= message.len().next_multiple_of(4).max(24));
    if let Ok(request) = pcp::request(message) {
        let head = if request.operation == pcp::Operation::Announce { 24 } else { 60 };
        assert_eq!(head + request.options.map(|option| option.whole.len()).sum::<usize>(), message.len());
    }
}

/// What can be translated from one family to the other has a sound header, and the right checksum if it had that before.
fn translate(packet: &[u8], partial: bool) {
    let four = Ends { source: [198, 51, 100, 1], destination: [198, 51, 100, 2], ports: [1, 2, 3, 4] };
    let six = Ends { source: [0x20; 16], destination: [0xfd; 16], ports: [1, 2, 3, 4] };
    let mtus = Mtus { v4: 1500, v6: 1500 };
    let mut out = vec![0; packet.len() + 400];
    let sound = !partial && verify::transport(packet).is_acceptable();
    if let Ok(translated) = siit::to_v4(packet, &four, 7, partial, &mut out) {
        assert_eq!(checksum::finish(checksum::sum(&out[..20])), 0);
        assert!(!sound || verify::transport(&out[..translated.length]).is_acceptable());
    }
    if let Ok(translated) = siit::to_v6(packet, &six, partial, &mut out) {
        assert!(!sound || verify::transport(&out[..translated.length]).is_acceptable());
    }
    if let Ok(length) = siit::error_to_v4(packet, (&four.source, &four.destination), &four, mtus, 1500, &mut out) {
        assert!(length <= 1500 && verify::transport(&out[..length]).is_acceptable());
    }
    if let Ok(length) = siit::error_to_v6(packet, (&six.source, &six.destination), &six, mtus, 1500, &mut out) {
        assert!(length <= 1280 && verify::transport(&out[..length]).is_acceptable());
    }
}
