//! `[ip]`: what happens to packets with IP options and extension headers.

/// What happens to packets that carry something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    /// They are dropped.
    Drop,
    /// They are forwarded as if it were not there; it stays as it is.
    Pass,
    /// They are forwarded, and this router is recorded in it: a choice for `record_route` and `timestamp` alone.
    Record,
}

/// `[ip]`: what becomes of odd packets, and which answers of the router's own there are. Source routes and routing headers of type 0 are dropped whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpSettings {
    /// IPv4 record route (RFC 7126 section 4.5, RFC 1812 section 5.3.13.5).
    pub record_route: Handling,
    /// IPv4 internet timestamp (RFC 7126 section 4.7, RFC 1812 section 5.3.13.6).
    pub timestamp: Handling,
    /// Router alert of both families (RFC 7126 section 4.8, RFC 6398).
    pub router_alert: Handling,
    /// IPv4 security labels: basic, extended, commercial (RFC 7126 sections 4.12 to 4.14).
    pub security: Handling,
    /// IPv4 options of no use any more (RFC 7126 sections 4.6, 4.9 to 4.11, 4.15 to 4.20).
    pub obsolete_options: Handling,
    /// IPv4 options for experiments (RFC 7126 section 4.22).
    pub experimental_options: Handling,
    /// All other IPv4 options (RFC 7126 section 4.23; RFC 1812 section 5.3.13.1 has them pass).
    pub unknown_options: Handling,
    /// IPv6 hop-by-hop options headers.
    pub hop_by_hop: Handling,
    /// IPv6 routing headers with segments left (RFC 5095 section 4.2 has them pass).
    pub routing_header: Handling,
    /// Hosts of IPv4 are told of a better first hop (RFC 1812 section 5.2.7.2).
    pub redirects: bool,
    /// ICMP errors, redirects and resets of the router's own in a second (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
    pub errors_per_second: u32,
}

impl IpSettings {
    /// As many errors in a second as may be asked for.
    pub const MAX_ERRORS: u32 = 100_000;
}

impl Default for IpSettings {
    fn default() -> Self {
        Self {
            record_route: Handling::Drop,
            timestamp: Handling::Drop,
            router_alert: Handling::Pass,
            security: Handling::Pass,
            obsolete_options: Handling::Drop,
            experimental_options: Handling::Drop,
            unknown_options: Handling::Pass,
            hop_by_hop: Handling::Pass,
            routing_header: Handling::Pass,
            redirects: false,
            errors_per_second: 200,
        }
    }
}
