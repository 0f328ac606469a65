//! Extension modules of the slow path.
//!
//! * [`filter`]: the rules of the policy, first match decides; limits of new connections.
//! * [`nat`]: destination translation; source translation, hairpinning included;
//!   inbound packets to a mapping.
//! * [`helpers`]: protocols whose payload announces connections to come.
//! * [`pcp`]: the server by which hosts ask for mappings (RFC 6887).
//!
//! Stateful inspection itself (connections, TCP windows) is the engine's and the forwarding function's work,
//! because every path has to do it; these modules decide what may become a connection and how it looks.
//!
//! Modules read the policy through [`Shared`], which the daemon replaces on reload; they never keep a copy.

pub mod filter;
pub mod helpers;
pub mod names;
pub mod nat;
pub mod pcp;
mod rates;
pub mod shared;

use flowhop_engine::Module;

pub use names::Names;
pub use nat::cookies::services as cookie_services;
pub use nat::{Asked, Bindings, Endpoint, Lease, Peers, PortChange, Published};
pub use shared::{Current, Reserved, Shared};

/// The modules of a firewall, sharing one policy and one set of bindings.
#[must_use]
pub fn standard(shared: &Shared, bindings: &Bindings) -> Vec<Box<dyn Module>> {
    vec![
        Box::new(nat::Destination::new(shared.clone())),
        Box::new(nat::Inbound::new(shared.clone(), bindings.clone())),
        Box::new(filter::Filter::new(shared.clone(), bindings.clone())),
        Box::new(nat::Source::new(shared.clone(), bindings.clone())),
        Box::new(pcp::Server::new(shared.clone(), bindings.clone())),
        // Last, because it asks which rule the filter has found when a policy changes.
        Box::new(helpers::Helpers::new(shared.clone(), bindings.clone())),
    ]
}
