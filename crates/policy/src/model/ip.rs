//! `[ip]`: what happens to packets with IP options and extension headers.

/// What happens to packets that carry something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    /// They are dropped.
    Drop,
    /// They are forwarded as if it were not there; it stays as it is.
    Pass,
}

/// `[ip]`. Source routes and routing headers of type 0 are dropped whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpSettings {
    /// IPv4 record route (RFC 7126 section 4.5).
    pub record_route: Handling,
    /// IPv4 internet timestamp (RFC 7126 section 4.7).
    pub timestamp: Handling,
    /// Router alert of both families (RFC 7126 section 4.8, RFC 6398).
    pub router_alert: Handling,
    /// IPv4 security labels: basic, extended, commercial (RFC 7126 sections 4.12 to 4.14).
    pub security: Handling,
    /// All other IPv4 options (RFC 7126 section 4.23).
    pub unknown_options: Handling,
    /// IPv6 hop-by-hop options headers.
    pub hop_by_hop: Handling,
    /// IPv6 routing headers with segments left.
    pub routing_header: Handling,
}

impl Default for IpSettings {
    fn default() -> Self {
        Self {
            record_route: Handling::Drop,
            timestamp: Handling::Drop,
            router_alert: Handling::Pass,
            security: Handling::Pass,
            unknown_options: Handling::Drop,
            hop_by_hop: Handling::Pass,
            routing_header: Handling::Drop,
        }
    }
}
