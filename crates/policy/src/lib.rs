//! The policy file: language, diagnostics, compilation.
//!
//! [`load`] reads a file with its drop-ins, [`parse`] takes text that was read elsewhere. Both go on after every fault
//! and return all of them, each with its line; or a [`Policy`], which is what the slow path matches new connections
//! against: zones are numbers, sets are sorted ranges, and no name is looked up.
//!
//! # The file
//!
//! TOML 1.1. A table array may be written long (`[[rule]]`) or one line each (`rule = [ { … }, … ]`). A value that may
//! be a list may also stand alone. Every table takes `comment = "…"` and `enabled = false`; a disabled table is checked
//! for its spelling, but takes no part, and names in it are not looked up.
//!
//! ```toml
//! include = ["conf.d/*.toml"]       # drop-ins, sorted; they do not include others
//!
//! [interfaces]
//! NAME = { device = "lan0", zone = "inside" }   # path = "driver"|"skb"|"user"
//! # rpf = "strict"|"feasible"|"loose"|"off", martians = "rfc1812"|"registry"|"off"
//!
//! [addresses]
//! NAME = ["10.1.0.0/24", "10.1.0.1-10.1.0.9", "fd00::/8", "OTHER NAME", "!10.1.0.66"]
//!
//! [services]
//! NAME = ["tcp/443", "udp/1024-2047", "tcp", "icmp/echo-request", "icmp", "esp", "ah", "gre", 47, "OTHER NAME"]
//!
//! [[rule]]                          # first match decides; what no rule allows is dropped
//! name = "…"                        # unique
//! from = "ZONE"                     # or a list, or "any", which is also what nothing means
//! to = "ZONE"                       # the same; or "self", the box itself, which "any" does not include
//! source = "ADDRESSES"              # a name, address, prefix, range, or list; "!" excludes; nothing means all
//! destination = "ADDRESSES"
//! service = "SERVICE"               # a name, a service, or list
//! source_port = [53, "1024-65535"]
//! action = "allow"                  # or "drop", "reject"
//! log = true
//! limit = "100/s"                   # new connections that it allows; or /min, /h, /d; more are dropped
//! source_limit = "10/s"             # new connections of one source that it allows; more are dropped
//! source_connections = 200          # a source that has so many gets no more by this rule
//! accelerate = false                # stay on the user path
//! take_up = true                    # TCP connections that were there before flowhop go on
//! helper = "ftp"                    # connections that its payload announces are allowed with it; "tftp", "sip" as well
//! mss_clamp = true                  # or 1400: what SYNs may announce as the largest segment
//!
//! [[nat]]
//! name = "…"                        # unique among these; from, to, source, destination and service as above
//! translate.source = "interface"    # or an address, prefix, range, or list of them
//! translate.destination = "10.1.0.80"           # or "10.1.0.80:8443", "[fd00::80]:8443", a prefix, a range
//! translate.prefix = "2001:db8::/48"            # IPv6, both ways: another prefix for that of `source`
//! prefix64 = "64:ff9b::/96"         # NAT64: IPv6 to IPv4, with translate.source
//! one_to_one = true                 # with translate.source: equally many addresses, both ways
//! mapping = "endpoint-independent"  # or "address-dependent", "address-and-port-dependent"
//! filtering = "address-and-port-dependent"      # or "address-dependent", "endpoint-independent"
//! syn_cookies = "auto"              # or "always", "off": SYNs to a published service, answered while a flood presses
//! unsolicited = "answer"            # or "drop": SYNs to a mapping that does not admit their sender
//! translate.ports = "1024-65535"    # external ports
//! parity = true                     # even ports become even ones, odd ports odd ones
//! overlap = true                    # although inside and outside networks have addresses in common
//! keep_port = true                  # a port stays as it is where it is free
//! pooling = "paired"                # or "arbitrary": which of several external addresses
//! allocation = "ports"              # or "blocks", "deterministic": how inside addresses come by external ports
//! block = 512                       # ports at a time, with "blocks"
//! log = true                        # mappings, or blocks
//! limit.ports = 1000                # what one inside address may have
//! limit.connections = 2000
//! mss_clamp = true                  # as in a rule
//! family = "ipv4"                   # or "ipv6"
//!
//! [paths]
//! allowed = ["driver", "skb", "user"]
//! shadow = 1024                     # one fast packet in so many is judged once more; nothing said: none
//! orphan_grace = "120s"             # a duration: s, m, h, d; from "1s" to "14d"
//!
//! [table]
//! connections = 1048576             # from 1024 to 8388608
//! half_open = 262144                # TCP whose handshake is not complete; a quarter of them if not said
//! resting_ports = 524288            # external ports that nobody else gets for a while; half of them if not said
//! index = "lines"                   # or "kernel-hash"
//!
//! [timeouts]
//! udp = "300s"
//! tcp_established = "7440s"
//! tcp_transitory = "240s"           # while a connection opens or closes, and after a reset
//! tcp_opening = "240s"              # while it opens; nothing said: tcp_transitory
//! tcp_closing = "240s"              # while it closes, and after a reset; nothing said: tcp_transitory
//! icmp = "60s"
//! other = "600s"
//! port_rest = "120s"               # how long such ports rest
//!
//! [ip]                              # each "drop" or "pass", which leaves them as they are
//! record_route = "drop"             # IPv4 options; "record" for this one and the next
//! timestamp = "drop"
//! security = "pass"
//! obsolete_options = "drop"
//! experimental_options = "drop"
//! unknown_options = "pass"          # all others; source routes are always dropped
//! router_alert = "pass"             # both families
//! hop_by_hop = "pass"               # IPv6 hop-by-hop options
//! redirects = false                 # tell hosts of IPv4 of a better first hop
//! errors_per_second = 200           # own ICMP errors, redirects and resets
//! routing_header = "pass"           # IPv6 routing headers with segments left; type 0 is always dropped
//!
//! [pcp]                             # hosts may ask for mappings themselves (RFC 6887); without it nobody may
//! from = "ZONE"                     # or a list: whose hosts may ask, on addresses of the box there
//! to = "ZONE"                       # or a list: from where the mappings can be reached
//! source = "ADDRESSES"              # hosts that may ask; nothing said: all of these zones
//! ports = "1024-65535"              # external ports that they may have; or a list; nothing said: all
//! min_lifetime = "120s"             # what a mapping lasts at least and at most
//! max_lifetime = "1d"
//! limit = 64                        # mappings that one host may have; of IPv6 one prefix of 64 bits
//! ```
//!
//! A list of addresses holds what one of its entries holds and no entry with `!` does; if all entries have `!`, it
//! holds everything else. An IPv6 prefix holds no IPv4. Names may be defined in any order and in any of the files.
//!
//! Warnings are about rules that match nothing or are never reached because one earlier rule matches all that they
//! match, timeouts below what the RFCs demand, prefixes with bits beyond their length, and rules with `to = "self"`
//! that would close SSH.

mod diagnostic;
mod load;
mod model;
mod read;

pub use diagnostic::{Diagnostic, Severity};
pub use load::{Loaded, load};
pub use model::address::{AddressSet, address_key, key_address};
pub use model::deterministic::Deterministic;
pub use model::ip::{Handling, IpSettings};
pub use model::pcp::PcpSettings;
pub use model::pool::{Allocation, NatLimits, Pooling, PortPool};
pub use model::prefix::PrefixPair;
pub use model::prefix64::{NoPrefix64, Prefix64};
pub use model::rule::{
    Action, Dependence, DestinationTranslation, Family, Helper, MssClamp, NatRule, NewConnection, RateLimit, Rule,
    SourceTranslation, SynCookies,
};
pub use model::service::{ICMP, ICMPV6, PortSet, ServiceSet, TCP, UDP};
pub use model::zone::{Destination, RuleTarget, ZoneId, ZoneMatch, ZoneSet};
pub use model::{
    ForwardingPath, Interface, Martians, PathSettings, Policy, ReversePath, TableIndex, TableSettings, Timeouts,
};

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in diagnostics.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// A policy without faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The policy.
    pub policy: Policy,
    /// What works, but hardly as it was meant.
    pub warnings: Vec<Diagnostic>,
}

/// Checks a policy. The first source is the policy file, the others are its drop-ins. Reads no file.
///
/// ```
/// use flowhop_policy::{Source, parse};
///
/// let text = "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\", pth = \"skb\" }\n".to_owned();
/// let faults = parse(&[Source { name: "policy.toml".to_owned(), text }]).unwrap_err();
/// assert_eq!((faults[0].line, faults[0].column), (2, 43));
/// assert!(faults[0].to_string().contains("did you mean \"path\"?"));
/// ```
///
/// # Errors
///
/// Every fault of every source, and the warnings that hold in spite of them, in the order of the sources and lines.
pub fn parse(sources: &[Source]) -> Result<Checked, Vec<Diagnostic>> {
    read::check(sources, &[])
}
