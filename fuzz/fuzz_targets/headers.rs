//! Whatever a packet holds, reading it neither panics nor reads differently on two paths.
#![no_main]

use flowhop_engine::{Buffer, Offload};
use flowhop_flow::parse::{self, ETHERNET, Transport};
use flowhop_flow::tcp;
use flowhop_wire::{SliceFrame, ipv6, verify};
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
    }
});
