//! IPv4 options and IPv6 extension headers: what is dropped in any case, and what by policy (RFC 7126, RFC 7045).
//!
//! What passes is left as it is: no route or time is recorded, and router alerts alert nobody.

use flowhop_flow::Reason;
use flowhop_wire::ipv6::{Chain, ChainError, UnknownAction};
use flowhop_wire::options::{Ipv4Options, ipv4_option};
use flowhop_wire::{Ipv6, icmp6};

use super::{Fault, Problem};

/// Options and extension headers that policy lets pass.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// IPv4 record route (RFC 791 section 3.1).
    pub record_route: bool,
    /// IPv4 internet timestamp.
    pub timestamp: bool,
    /// Router alert of both families (RFC 2113, RFC 2711).
    pub router_alert: bool,
    /// IPv4 security labels (RFC 1108, CIPSO).
    pub security: bool,
    /// All other IPv4 options.
    pub unknown_options: bool,
    /// IPv6 hop-by-hop options headers.
    pub hop_by_hop: bool,
    /// IPv6 routing headers with segments left: the destination that rules see is not the last one.
    pub routing_header: bool,
}

impl Default for Passing {
    fn default() -> Self {
        Self {
            record_route: false,
            timestamp: false,
            router_alert: true,
            security: true,
            unknown_options: false,
            hop_by_hop: true,
            routing_header: false,
        }
    }
}

/// Judges the options of an IPv4 header: its bytes after the first 20.
///
/// # Errors
/// The reason to drop the packet with.
pub(super) fn ipv4(options: &[u8], passing: &Passing) -> Result<(), Reason> {
    for option in Ipv4Options::new(options) {
        let option = option.map_err(|_| Reason::BadOption)?;
        if option.is_source_route() {
            return Err(Reason::SourceRoute);
        }
        let passes = match option.kind {
            ipv4_option::RECORD_ROUTE => passing.record_route,
            ipv4_option::TIMESTAMP => passing.timestamp,
            ipv4_option::ROUTER_ALERT => passing.router_alert,
            ipv4_option::SECURITY | ipv4_option::EXTENDED_SECURITY | ipv4_option::COMMERCIAL_SECURITY => {
                passing.security
            }
            _ => passing.unknown_options,
        };
        if !passes {
            return Err(Reason::Options);
        }
    }
    Ok(())
}

/// Judges a chain of extension headers.
///
/// # Errors
/// The reason to drop the packet with, and what its sender is told.
pub(super) fn ipv6(chain: &Chain, passing: &Passing) -> Result<(), Fault> {
    if chain.routing_type0 {
        return Err(Reason::RoutingHeader0.into());
    }
    if let Some(options) = chain.hop_by_hop {
        if options.jumbo.is_some() {
            return Err(Reason::Jumbogram.into());
        }
        if let Some(unknown) = options.unknown {
            let tells = matches!(unknown.action(), UnknownAction::DiscardReport | UnknownAction::DiscardReportUnicast);
            let pointer = (Ipv6::LEN + unknown.offset) as u32;
            let problem = tells.then_some(Problem { code: icmp6::UNKNOWN_OPTION, pointer });
            return Err(Fault { reason: Reason::UnknownOption, problem });
        }
        if !passing.hop_by_hop || options.router_alert.is_some() && !passing.router_alert {
            return Err(Reason::ExtensionHeader.into());
        }
    }
    let goes_on = chain.routing.is_some_and(|routing| routing.segments_left > 0);
    if goes_on && !passing.routing_header { Err(Reason::ExtensionHeader.into()) } else { Ok(()) }
}

/// Why a chain that cannot be followed is dropped.
pub(super) const fn reason(error: &ChainError) -> Reason {
    match error {
        ChainError::SplitAcrossFragments { .. } => Reason::TinyFragment,
        ChainError::HopByHopNotFirst { .. } => Reason::HopByHopOrder,
        ChainError::Option { .. } | ChainError::TooManyOptions => Reason::BadOption,
        ChainError::Truncated { .. } | ChainError::RepeatedFragment { .. } | ChainError::TooManyHeaders => {
            Reason::BadExtensionHeader
        }
    }
}
