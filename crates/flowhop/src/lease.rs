//! What is written of mappings and blocks of ports where a translation asks for it.

use flowhop_flow::key;
use flowhop_modules::{Endpoint, Lease, Names};

/// The line about one, without an end; `nats`: the names of translations.
#[must_use]
pub fn line(lease: &Lease, nats: &Names) -> String {
    let nat = nats.name(lease.nat).unwrap_or("?");
    let event = if lease.begun { "begin" } else { "end" };
    let (inside, external) = (key::ip(&lease.inside.address), key::ip(&lease.external));
    let (first, last) = lease.ports;
    if lease.block {
        return format!(
            "flowhop: nat={nat:?} block={event} inside={inside} external={external} external_ports={first}-{last}"
        );
    }
    let Endpoint { protocol, port, .. } = lease.inside;
    format!(
        "flowhop: nat={nat:?} mapping={event} protocol={protocol} inside={inside} inside_port={port} \
         external={external} external_port={first}"
    )
}
