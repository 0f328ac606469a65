//! Answers of a lookup.

use std::net::IpAddr;

use thiserror::Error;

use crate::AdjacencyIndex;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// To this machine.
    Local,
    /// To this machine and others on a link: limited or directed broadcast.
    Broadcast,
    /// To a multicast group.
    Multicast,
    /// To a neighbour.
    Via {
        /// Output interface index.
        ifindex: u32,
        /// The router, or the destination itself when it is directly connected.
        next_hop: IpAddr,
        /// What the frame looks like. It may still be unresolved: look at its state.
        adjacency: AdjacencyIndex,
    },
    /// Nowhere.
    Unreachable(UnreachableReason),
}

/// Why a packet can not be routed. Append only: variants are counted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum UnreachableReason {
    /// No route matches.
    #[error("no route")]
    NoRoute,
    /// A route says to drop silently.
    #[error("blackhole route")]
    Blackhole,
    /// A route says to refuse as administratively prohibited.
    #[error("prohibit route")]
    Prohibit,
    /// A route says to refuse as unreachable.
    #[error("unreachable route")]
    Refused,
    /// The only routes lead through links that are down or gone.
    #[error("output link is down")]
    LinkDown,
    /// An IPv6 link-local destination: it is never forwarded (RFC 4291 §2.5.6) and names no link by itself.
    #[error("link-local destination is not forwarded")]
    LinkLocal,
    /// The route or the output link is of a kind that only the kernel can serve.
    #[error("route or link of a kind that only the kernel serves")]
    Unsupported,
    /// All adjacencies are in use.
    #[error("adjacency table is full")]
    AdjacencyTableFull,
}
