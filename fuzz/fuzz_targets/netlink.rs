//! Whatever the kernel announces is read without a panic, and leaves routes, neighbours and adjacencies that agree.
#![no_main]

use std::net::IpAddr;

use flowhop_io::netlink::decode_datagram;
use flowhop_routing::{Resolution, Routing};
use libfuzzer_sys::fuzz_target;

/// Few, so that they run out.
const ADJACENCIES: u16 = 4;

fuzz_target!(|bytes: &[u8]| {
    let mut events = Vec::new();
    let _not_understood = decode_datagram(bytes, &mut events);
    let (mut routing, mut changes) = (Routing::new(ADJACENCIES), Vec::new());
    for event in events {
        routing.apply(event, &mut changes);
    }
    let routes: Vec<_> = routing.routes().take(16).map(|route| route.prefix.address()).collect();
    for destination in routes.into_iter().chain([IpAddr::from([198, 51, 100, 1]), IpAddr::from([1; 16])]) {
        if let Resolution::Via { adjacency, .. } = routing.lookup(destination, 1) {
            assert!(routing.adjacency(adjacency).is_some(), "{destination} leads to an adjacency that is not there");
        }
    }
    assert!(routing.adjacencies().count() <= usize::from(ADJACENCIES));
    routing.retain_adjacencies(|_| false);
    assert_eq!(routing.adjacencies().count(), 0);
});
