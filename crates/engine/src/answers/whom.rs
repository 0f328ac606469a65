//! Who is answered, and about what (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e).

use std::net::IpAddr;

use flowhop_flow::parse::ETHERNET;
use flowhop_wire::{Ethernet, Frame};
use zerocopy::transmute_ref;

use crate::buffer::Buffer;
use crate::errors::Headers;

/// A packet from its IP header on, and its headers; `None` if they cannot be read.
pub(super) fn headers<'a>(packet: &'a Buffer<'_>) -> Option<(&'a [u8], Headers)> {
    let ip = packet.bytes().get(ETHERNET..)?;
    Some((ip, Headers::read(ip)?))
}

/// The single host that sent a packet to a single host, in a frame for one station: whom an answer goes to.
pub(super) fn sender(packet: &Buffer<'_>, headers: &Headers) -> Option<IpAddr> {
    let link: &Ethernet = transmute_ref!(packet.read::<ETHERNET>(0)?);
    let (source, destination) = (flowhop_flow::key::ip(&headers.source), flowhop_flow::key::ip(&headers.destination));
    let one_station = link.destination[0] & 1 == 0;
    (one_station && is_single_host(source) && is_single_host(destination)).then_some(source)
}

/// Whether an address is one host's; directed broadcasts only routing knows. A source that must not be on the wire is
/// nobody's (RFC 1812 section 5.3.7).
const fn is_single_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            !matches!(first, 0 | 127 | 224..=255)
        }
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast() && !address.is_loopback(),
    }
}
