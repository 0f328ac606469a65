//! IPv4 options and IPv6 extension headers: what is dropped in any case, and what by policy (RFC 7126, RFC 7045).
//!
//! What passes is left as it is, but for routes and times where policy has them recorded; router alerts alert nobody.

use flowhop_flow::Reason;
use flowhop_wire::ipv6::{Chain, ChainError, UnknownAction};
use flowhop_wire::options::{Ipv4Options, ipv4_option};
use flowhop_wire::{Ipv4, Ipv6, icmp6, record};

use super::{Fault, Problem};

/// What becomes of packets with an option that routers record something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// They are dropped.
    Drop,
    /// They are forwarded, and the option stays as it is.
    Pass,
    /// They are forwarded, and this router is recorded.
    Record,
}

/// Options and extension headers that policy lets pass.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// IPv4 record route (RFC 791 section 3.1).
    pub record_route: Recording,
    /// IPv4 internet timestamp.
    pub timestamp: Recording,
    /// Router alert of both families (RFC 2113, RFC 2711).
    pub router_alert: bool,
    /// IPv4 security labels (RFC 1108, CIPSO).
    pub security: bool,
    /// IPv4 options that are of no use any more (`Ipv4Option::is_obsolete`).
    pub obsolete_options: bool,
    /// IPv4 options for experiments (RFC 4727 section 3.1).
    pub experimental_options: bool,
    /// All other IPv4 options.
    pub unknown_options: bool,
    /// IPv6 hop-by-hop options headers.
    pub hop_by_hop: bool,
    /// IPv6 routing headers with segments left, but for type 0: the destination that rules see is not the last one.
    pub routing_header: bool,
}

impl Default for Passing {
    fn default() -> Self {
        Self {
            record_route: Recording::Drop,
            timestamp: Recording::Drop,
            router_alert: true,
            security: true,
            obsolete_options: false,
            experimental_options: false,
            unknown_options: true,
            hop_by_hop: true,
            routing_header: true,
        }
    }
}

impl Passing {
    /// What becomes of packets with record route or a timestamp.
    pub(crate) const fn recording(&self, kind: u8) -> Recording {
        if kind == ipv4_option::RECORD_ROUTE { self.record_route } else { self.timestamp }
    }
}

/// Judges the options of an IPv4 header: its bytes after the first 20.
///
/// # Errors
/// The reason to drop the packet with, and what its sender is told.
pub(super) fn ipv4(options: &[u8], passing: &Passing) -> Result<(), Fault> {
    let bad = |at: usize| {
        let pointer = (Ipv4::LEN + at) as u32;
        Fault { reason: Reason::BadOption, problem: Some(Problem { code: icmp6::ERRONEOUS_FIELD, pointer }) }
    };
    for option in Ipv4Options::new(options) {
        let option = option.map_err(|error| bad(error.place()))?;
        if option.is_source_route() {
            return Err(Reason::SourceRoute.into());
        }
        let passes = match option.kind {
            ipv4_option::RECORD_ROUTE | ipv4_option::TIMESTAMP => match passing.recording(option.kind) {
                Recording::Drop => false,
                Recording::Pass => true,
                Recording::Record => {
                    record::check(&option).map_err(|at| bad(option.offset + at))?;
                    true
                }
            },
            ipv4_option::ROUTER_ALERT => passing.router_alert,
            ipv4_option::SECURITY | ipv4_option::EXTENDED_SECURITY | ipv4_option::COMMERCIAL_SECURITY => {
                passing.security
            }
            _ if option.is_obsolete() => passing.obsolete_options,
            _ if option.is_experimental() => passing.experimental_options,
            _ => passing.unknown_options,
        };
        if !passes {
            return Err(Reason::Options.into());
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
