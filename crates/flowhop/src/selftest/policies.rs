//! The policies under which clauses are tried.

/// A policy, without what is about interfaces.
#[derive(Debug)]
pub struct Policy {
    /// Its name, unique.
    pub name: &'static str,
    /// Rules and translations.
    pub rules: &'static str,
    /// More about each interface, such as `, rpf = "strict"`.
    pub interfaces: &'static str,
    /// More about the table, such as `, half_open = 64`.
    pub table: &'static str,
    /// The outside interface's MTU, if it is not Ethernet's.
    pub mtu: Option<u16>,
    /// Whether the outside network may be reached at all.
    pub outside: bool,
}

impl Policy {
    const fn new(name: &'static str, rules: &'static str) -> Self {
        Self { name, rules, interfaces: "", table: "", mtu: None, outside: true }
    }

    /// The text of the policy, with all interfaces on a path.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        let (more, table) = (self.interfaces, self.table);
        format!(
            "interfaces.lan = {{ device = \"lan0\", zone = \"inside\", path = \"{path}\"{more} }}\n\
             interfaces.wan = {{ device = \"wan0\", zone = \"outside\", path = \"{path}\"{more} }}\n\n\
             table = {{ connections = 4096{table} }}\n\n{}",
            self.rules
        )
    }
}

/// The inside may go out, and to the inside; with what else there is.
macro_rules! outgoing {
    ($more:literal) => {
        concat!(
            "[[rule]]\nname = \"inside may go out\"\nfrom = \"inside\"\nto = [\"outside\", \"inside\"]\n",
            "action = \"allow\"\n",
            $more
        )
    };
}

/// The inside may go out and is hidden behind other addresses; with what is said about that.
macro_rules! hidden {
    ($more:literal) => {
        concat!(outgoing!("[[nat]]\nname = \"hide\"\nto = \"outside\"\nsource = \"10.1.0.0/24\"\n"), $more)
    };
}

/// The inside may go out; from outside, TCP and UDP port 80 of the inside may be reached. No translation.
pub static PLAIN: Policy = Policy::new(
    "plain",
    r#"
[[rule]]
name = "inside may go out"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "telnet is rejected"
from = "outside"
to = "inside"
service = ["tcp/23", "udp/23"]
action = "reject"
[[rule]]
name = "web"
from = "outside"
to = "inside"
service = ["tcp/80", "udp/80", "icmp/echo-request"]
action = "allow"
"#,
);

/// A service is published in both families, and its SYNs are answered with cookies.
pub static COOKIES: Policy = Policy::new(
    "cookies",
    outgoing!(
        "[[rule]]\nname = \"web\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/80\"\naction = \"allow\"\n\
         [[nat]]\nname = \"publish\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/8080\"\n\
         translate.destination = \"10.1.0.50:80\"\nsyn_cookies = \"always\"\n\
         [[nat]]\nname = \"publish IPv6\"\nfamily = \"ipv6\"\ndestination = \"2001:db8:0:2::1\"\n\
         service = \"tcp/8080\"\ntranslate.destination = \"[fd00:0:0:1::50]:80\"\nsyn_cookies = \"always\"\n"
    ),
);

/// The inside may go out and is hidden behind the router's address.
pub static MASQUERADE: Policy = Policy::new("masquerade", hidden!("translate.source = \"interface\"\n"));

/// As [`MASQUERADE`], with mappings that are open for all.
pub static OPEN: Policy =
    Policy::new("open", hidden!("translate.source = \"interface\"\nfiltering = \"endpoint-independent\"\n"));

/// As [`MASQUERADE`], with mappings that are open for hosts that were sent to; the parity of ports stays.
pub static ADDRESS: Policy = Policy::new(
    "address",
    hidden!("translate.source = \"interface\"\nfiltering = \"address-dependent\"\nparity = true\n"),
);

/// As [`MASQUERADE`], and the inside may ask for mappings; one service is published.
pub static PCP: Policy = Policy::new(
    "pcp",
    hidden!(
        "translate.source = \"interface\"\n\
         [[nat]]\nname = \"published\"\ndestination = \"198.51.100.1\"\nservice = \"udp/2053\"\n\
         translate.destination = \"10.1.0.53:8053\"\n\
         [pcp]\nfrom = \"inside\"\nto = \"outside\"\nmax_lifetime = \"1h\"\nlimit = 8\n"
    ),
);

/// Hidden behind four addresses, with few ports for each inside host; not towards one outside host.
pub static POOL: Policy = Policy::new(
    "pool",
    hidden!(
        "destination = [\"any\", \"!198.51.100.53\"]\ntranslate.source = \"198.51.100.128/30\"\n\
         translate.ports = \"10000-10063\"\nlimit.ports = 8\nlimit.connections = 16\n"
    ),
);

/// Hidden behind few ports of one address, and everything is forgotten soon; with more timeouts.
macro_rules! quick {
    ($more:literal) => {
        concat!(
            hidden!(
                "translate.source = \"198.51.100.128\"\ntranslate.ports = \"10000-10063\"\n\
                 filtering = \"endpoint-independent\"\n[timeouts]\nudp = \"2s\"\nicmp = \"2s\"\ntcp_transitory = \"2s\"\n\
                 tcp_established = \"3s\"\n"
            ),
            $more
        )
    };
}

/// Hidden behind few ports of one address, and everything is forgotten soon.
pub static QUICK: Policy = Policy::new("quick", quick!(""));

/// The same, with ports that rest for a moment.
pub static RESTLESS: Policy = Policy::new("restless", quick!("port_rest = \"1s\"\n"));

/// The same, with one port that rests at a time.
pub static ONE_RESTS: Policy = Policy { table: ", resting_ports = 1", ..Policy::new("one rests", quick!("")) };

/// As [`MASQUERADE`], and everything of TCP is forgotten soon.
pub static TIMEOUTS: Policy = Policy::new(
    "timeouts",
    hidden!(
        "translate.source = \"interface\"\n[timeouts]\ntcp_opening = \"2s\"\ntcp_closing = \"3s\"\n\
         tcp_established = \"4s\"\n"
    ),
);

/// As [`MASQUERADE`], and strangers are told nothing.
pub static SILENT: Policy =
    Policy::new("silent", hidden!("translate.source = \"interface\"\nunsolicited = \"drop\"\n"));

/// Hidden behind four addresses that are not next to each other, with eight ports each; few new connections in a second.
pub static SCATTERED: Policy = Policy::new(
    "scattered",
    concat!(
        "[[rule]]\nname = \"inside may go out\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n\
         service = [\"udp\", \"icmp/echo-request\"]\n\
         [[rule]]\nname = \"slowly\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n\
         service = \"tcp\"\nsource_limit = \"4/s\"\n",
        "[[nat]]\nname = \"hide\"\nto = \"outside\"\nsource = \"10.1.0.0/24\"\n\
         translate.source = [\"198.51.100.128\", \"198.51.100.131\", \"198.51.100.140-198.51.100.141\"]\n\
         translate.ports = \"10000-10007\"\n"
    ),
);

/// Inside and external addresses in pairs (Basic NAT).
pub static PAIRS: Policy = Policy::new(
    "pairs",
    outgoing!(
        "[[nat]]\nname = \"pairs\"\nto = \"outside\"\nsource = \"10.1.0.48/29\"\n\
         translate.source = \"198.51.100.128/29\"\none_to_one = true\n"
    ),
);

/// As [`MASQUERADE`], with an outside link of the smallest MTU.
pub static NARROW: Policy =
    Policy { mtu: Some(1280), ..Policy::new("narrow", hidden!("translate.source = \"interface\"\n")) };

/// External address and ports follow from the inside address (RFC 7422).
pub static DETERMINISTIC: Policy =
    Policy::new("deterministic", hidden!("translate.source = \"198.51.100.128/30\"\nallocation = \"deterministic\"\n"));

/// Ports in blocks.
pub static BLOCKS: Policy = Policy::new(
    "blocks",
    hidden!(
        "translate.source = \"198.51.100.128/30\"\nallocation = \"blocks\"\nblock = 16\n\
         translate.ports = \"10000-10063\"\nlog = true\n"
    ),
);

/// The inside prefix becomes another one (RFC 6296), and one may be reached by it.
pub static PREFIX: Policy = Policy::new(
    "prefix",
    outgoing!(
        "[[rule]]\nname = \"web\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"udp/80\"\naction = \"allow\"\n\
         [[nat]]\nname = \"other prefix\"\nfamily = \"ipv6\"\nto = \"outside\"\nsource = \"fd00:0:0:1::/64\"\n\
         translate.prefix = \"2001:db8:77:1::/64\"\n"
    ),
);

/// The same with prefixes of 48 bits.
pub static SHORT_PREFIX: Policy = Policy::new(
    "short-prefix",
    outgoing!(
        "[[nat]]\nname = \"other prefix\"\nfamily = \"ipv6\"\nto = \"outside\"\nsource = \"fd00::/48\"\n\
         translate.prefix = \"2001:db8:77::/48\"\n"
    ),
);

/// Another prefix of other length.
pub static UNEVEN_PREFIX: Policy = Policy::new(
    "uneven-prefix",
    outgoing!(
        "[[nat]]\nname = \"other prefix\"\nfamily = \"ipv6\"\nto = \"outside\"\nsource = \"fd00:0:0:1::/64\"\n\
         translate.prefix = \"2001:db8:77::/48\"\n"
    ),
);

/// The inside may reach IPv4 hosts, by the well-known prefix and by prefixes of all lengths, and mappings are open.
macro_rules! crossing {
    () => {
        outgoing!(
            "[[nat]]\nname = \"well-known\"\nto = \"outside\"\nprefix64 = \"64:ff9b::/96\"\n\
             translate.source = \"interface\"\nfiltering = \"endpoint-independent\"\n\
             [[nat]]\nname = \"32\"\nprefix64 = \"2001:db9::/32\"\ntranslate.source = \"interface\"\n\
             [[nat]]\nname = \"40\"\nprefix64 = \"2001:dba:100::/40\"\ntranslate.source = \"interface\"\n\
             [[nat]]\nname = \"48\"\nprefix64 = \"2001:dbe:122::/48\"\ntranslate.source = \"interface\"\n\
             [[nat]]\nname = \"56\"\nprefix64 = \"2001:dbb:122:300::/56\"\ntranslate.source = \"interface\"\n\
             [[nat]]\nname = \"64\"\nprefix64 = \"2001:dbc:122:344::/64\"\ntranslate.source = \"interface\"\n\
             [[nat]]\nname = \"96\"\nprefix64 = \"2001:dbd:122:344::/96\"\ntranslate.source = \"interface\"\n"
        )
    };
}

/// IPv6 to IPv4 (RFC 6146).
pub static NAT64: Policy = Policy::new("nat64", crossing!());

/// The same, with an outside link of the smallest MTU of IPv6.
pub static NAT64_NARROW: Policy = Policy { mtu: Some(1280), ..Policy::new("nat64 narrow", crossing!()) };

/// As [`PLAIN`] for what goes out, with other choices about options and extension headers.
pub static OPTIONS: Policy = Policy::new(
    "options",
    outgoing!(
        "[ip]\nrecord_route = \"pass\"\ntimestamp = \"pass\"\nobsolete_options = \"pass\"\nexperimental_options = \"pass\"\n\
         unknown_options = \"drop\"\nrouter_alert = \"drop\"\nrouting_header = \"drop\"\n"
    ),
);

/// The same, with routes and times recorded, and more to be said to hosts.
pub static RECORDING: Policy = Policy::new(
    "recording",
    outgoing!("[ip]\nrecord_route = \"record\"\ntimestamp = \"record\"\nredirects = true\nerrors_per_second = 20\n"),
);

/// The way back to a source has to be the one that it came by.
pub static STRICT: Policy = Policy { interfaces: ", rpf = \"strict\"", ..Policy::new("strict", outgoing!("")) };

/// Some way back to a source has to be the one that it came by.
pub static FEASIBLE: Policy = Policy { interfaces: ", rpf = \"feasible\"", ..Policy::new("feasible", outgoing!("")) };

/// There has to be a way back to a source.
pub static LOOSE: Policy = Policy { interfaces: ", rpf = \"loose\"", ..Policy::new("loose", outgoing!("")) };

/// What the registries call not forwardable is not forwarded, which the outside network is, too.
pub static REGISTRY: Policy =
    Policy { interfaces: ", martians = \"registry\"", outside: false, ..Policy::new("registry", outgoing!("")) };
