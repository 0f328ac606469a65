//! Every kind of fault: what is written, the line that is named, what is said about it.

use flowhop_policy::{Checked, Diagnostic, Severity, Source, parse};

/// Lines 1 to 5 of every case that does not begin with `#`.
const BASE: &str = "\
# Written with dots, so that `rule = [ … ]` may follow: below a header it would belong to that table.
interfaces.lan = { device = \"lan0\", zone = \"inside\" }
interfaces.wan = { device = \"wan0\", zone = \"outside\" }
interfaces.dmz = { device = \"dmz0\", zone = \"servers\" }

";

fn check(text: &str) -> Result<Checked, Vec<Diagnostic>> {
    parse(&[Source { name: "p.toml".to_owned(), text: text.to_owned() }])
}

fn whole(text: &str) -> String {
    if text.starts_with('#') { text.to_owned() } else { format!("{BASE}{text}") }
}

/// The text, and each fault in order: its line and a part of its message.
type Case = (&'static str, &'static [(u32, &'static str)]);

const FAULTS: &[Case] = &[
    // Who may ask for mappings.
    ("[pcp]\n", &[(6, "[pcp] has no \"from\""), (6, "[pcp] has no \"to\"")]),
    (
        "[pcp]\nfrom = \"any\"\nto = \"outsid\"\nlimt = 3\n",
        &[(7, "\"any\" in \"from\""), (8, "no interface has the zone \"outsid\""), (9, "did you mean \"limit\"?")],
    ),
    ("[pcp]\nfrom = \"inside\"\nto = [\"outside\", \"inside\"]\n", &[(8, "zone \"inside\" both in")]),
    ("[pcp]\nfrom = \"inside\"\nto = \"self\"\n", &[(8, "\"self\" in \"to\"")]),
    (
        "[pcp]\nfrom = \"inside\"\nto = \"outside\"\nlimit = 0\nmin_lifetime = \"2m\"\nmax_lifetime = \"60s\"\n",
        &[(9, "0 is out of range"), (10, "mappings that last 2m at least and 1m at most")],
    ),
    (
        "[pcp]\nfrom = \"inside\"\nto = \"outside\"\nsource = \"home\"\nmax_lifetime = 7\nports = \"http\"\n",
        &[(9, "\"home\""), (10, "\"max_lifetime\" is an integer"), (11, "\"http\" is no")],
    ),
    // SYN cookies: for published TCP services of a bounded number, whoever the client is.
    (
        "[[nat]]\nname = \"a\"\nto = \"outside\"\ntranslate.source = \"interface\"\nsyn_cookies = \"auto\"\n",
        &[(10, "\"syn_cookies\" for what is no published service")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\nservice = \"udp/53\"\n\
         translate.destination = \"10.1.0.80\"\nsyn_cookies = \"always\"\n",
        &[(11, "\"syn_cookies\" for what has no TCP port")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.0/28\"\nservice = \"tcp/1000-1099\"\n\
         translate.destination = \"10.1.0.80\"\nsyn_cookies = \"always\"\n",
        &[(11, "\"syn_cookies\" for 1600 addresses and ports, of which it can be 1024")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/80\"\nsource = \"203.0.113.0/24\"\n\
         translate.destination = \"10.1.0.80\"\nsyn_cookies = \"auto\"\n",
        &[(12, "\"syn_cookies\" for a service that is not published to all sources")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/80\"\n\
         translate.destination = \"10.1.0.80\"\nsyn_cookies = \"allways\"\n",
        &[(11, "\"allways\" is no use of SYN cookies")],
    ),
    // What is not TOML.
    ("x = \n[table]\nconnections = 5\n", &[(6, "there is no value"), (8, "5 is out of range")]),
    ("[table]\nconnections = 2048\nconnections = 2048\n", &[(8, "duplicate key")]),
    (
        "[[rule]]\nname = \"open\nfrom = \"nowhere\"\naction = \"alow\"\n",
        &[(7, "not TOML"), (8, "\"nowhere\""), (9, "\"alow\" is no action")],
    ),
    (
        "[addresses]\na = [\"10.0.0.1\"\nb = [\"x\"]\nc = [\"10.0.0.300\"]\n",
        &[(7, "never closed"), (8, "\"x\""), (9, "no address")],
    ),
    (
        "[addresses]\na = [\n  \"10.0.0.1\",\n  \"10.0.0.2\"\nc = [\"10.0.0.300\"]\n",
        &[(7, "never closed"), (10, "no address")],
    ),
    (
        "rule = [\n  { name = \"a\", action = \"alow\" },\n  { name = \"b\", action = allow },\n]\n",
        &[(7, "alow"), (8, "must be quoted")],
    ),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nto = inside\n", &[(9, "must be quoted")]),
    ("[interfaces]\n", &[(6, "duplicate key")]),
    ("# a\nx = [[[[\n", &[(2, "never closed")]),
    (
        "rule = [\n { name = \"a\", action = \"allow\" },\n { name = \"b\", action = \"allow\",\n { name = \"c\", action = \"alow\" },\n]\n",
        &[(8, "never closed"), (9, "alow")],
    ),
    (
        "rule = [\n { name = \"a\", action = \"allow\", source = [\"10.0.0.1\" },\n { name = \"c\", action = \"alow\" },\n]\n",
        &[(7, "not TOML"), (8, "alow")],
    ),
    (
        "[addresses]\noffice = \"10.0.0.1\nhome = 10.0.0.2\n[[rule]]\nname = \"a\"\naction = allow\nfrom = \"moon\"\nsource = [\"office\", \"home\", \"mars\"]\n",
        &[(7, "not TOML"), (8, "not TOML"), (11, "not TOML"), (12, "\"moon\""), (13, "\"mars\"")],
    ),
    ("[[rule]]\nname = \"a\"\nto = \"outsid\"\naction = \n", &[(8, "\"outsid\""), (9, "there is no value")]),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\n[addresses\noffice = \"10.0.0.1\"\n[timeouts]\nudp = \"9\"\n",
        &[(9, "not TOML"), (12, "no duration")],
    ),
    // Unknown keys.
    ("[tabel]\nconnections = 4096\n", &[(6, "unknown key \"tabel\" in the file; did you mean \"table\"?")]),
    ("[table]\nconections = 4096\n", &[(7, "did you mean \"connections\"?")]),
    (
        "[[rule]]\nname = \"a\"\nsorce = \"any\"\naction = \"allow\"\n",
        &[(8, "unknown key \"sorce\" in a rule; did you mean \"source\"?")],
    ),
    (
        "rule = [\n { name = \"a\", action = \"allow\" },\n { name = \"b\", action = \"drop\", zone = 1 },\n]\n",
        &[(8, "unknown key \"zone\"")],
    ),
    (
        "[interfaces.vpn]\ndevice = \"wg0\"\nzone = \"vpn\"\ncolour = 1\n",
        &[(9, "unknown key \"colour\" in an interface")],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.sorce = \"interface\"\n",
        &[(6, "has no \"translate\""), (8, "did you mean \"source\"?")],
    ),
    (
        "[paths]\nalowed = [\"user\"]\n[timeouts]\ntcp = \"300s\"\n",
        &[(7, "\"allowed\""), (9, "unknown key \"tcp\" in [timeouts]")],
    ),
    // Lists of tables below a header, which TOML takes for a part of that table.
    (
        "[timeouts]
udp = \"300s\"
rule = [ { name = \"a\" } ]
",
        &[(8, "\"rule\" stands below the header [timeouts]")],
    ),
    (
        "# a
[interfaces]
lan = { device = \"lan0\", zone = \"inside\" }
rule = [ { name = \"a\" } ]
nat = []
",
        &[(4, "below the header [interfaces]"), (5, "\"nat\"")],
    ),
    (
        "[addresses]
rule = [ { name = \"a\" } ]
[services]
nat = [ { name = \"a\" } ]
",
        &[(7, "below the header [addresses]"), (9, "below the header [services]")],
    ),
    // Missing keys.
    ("[[rule]]\naction = \"allow\"\n", &[(6, "a rule has no \"name\"")]),
    ("[[rule]]\nname = \"a\"\n", &[(6, "a rule has no \"action\"")]),
    ("# a\n[interfaces]\nlan = { }\n", &[(3, "an interface has no \"device\""), (3, "an interface has no \"zone\"")]),
    ("[[nat]]\nname = \"a\"\n", &[(6, "has no \"translate\"")]),
    ("[[nat]]\ntranslate.source = \"interface\"\n", &[(6, "has no \"name\"")]),
    // Wrong types.
    ("rule = 1\n", &[(6, "\"rule\" is an integer")]),
    ("[rule]\nname = \"a\"\n", &[(6, "\"rule\" is a table")]),
    ("rule = [1, { name = \"a\", action = \"allow\" }]\n", &[(6, "is an integer")]),
    ("addresses = [\"10.0.0.1\"]\n", &[(6, "\"addresses\" is a list")]),
    ("[addresses]\na = 1\nb = [true]\n", &[(7, "\"a\" is an integer"), (8, "\"b\" is a boolean")]),
    ("[services]\na = 1.5\n", &[(7, "\"a\" is a float")]),
    ("[timeouts]\nudp = 300\n", &[(7, "\"udp\" is an integer")]),
    ("[table]\nconnections = \"many\"\n", &[(7, "\"connections\" is a string")]),
    ("# a\n[interfaces]\nlan = \"lan0\"\n", &[(3, "\"lan\" is a string")]),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nlog = \"yes\"\naccelerate = 0\n",
        &[(9, "\"log\" is a string"), (10, "\"accelerate\" is an integer")],
    ),
    ("[[rule]]\nname = 5\naction = [\"allow\"]\n", &[(7, "\"name\" is an integer"), (8, "\"action\" is a list")]),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nfrom = 1\nto = [\"inside\", 2]\n",
        &[(9, "\"from\" is an integer"), (10, "\"to\" is an integer")],
    ),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nenabled = \"no\"\ncomment = 1\n",
        &[(9, "\"enabled\" is a string"), (10, "\"comment\" is an integer")],
    ),
    ("[[nat]]\nname = \"a\"\ntranslate = \"interface\"\n", &[(8, "\"translate\" is a string")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nsource_port = [1979-05-27]\n", &[(9, "\"source_port\" is a date")]),
    // Bad values.
    ("[[rule]]\nname = \"a\"\naction = \"accept\"\n", &[(8, "\"accept\" is no action")]),
    ("[[rule]]\nname = \"a\"\naction = \"droop\"\n", &[(8, "did you mean \"drop\"?")]),
    ("[[rule]]\nname = \"\"\naction = \"allow\"\n", &[(7, "is no name")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nlimit = \"100\"\n", &[(9, "\"100\" is no rate")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nsource_limit = 5\n", &[(9, "\"source_limit\" is an integer")]),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nsource_connections = 0\n",
        &[(9, "\"source_connections\" of 0 is out of range")],
    ),
    ("[table]\nconnections = 2048\nhalf_open = 4096\n", &[(8, "half_open = 4096 of 2048 connections")]),
    ("[table]\nconnections = 2048\nresting_ports = 2049\n", &[(8, "resting_ports = 2049 of 2048 connections")]),
    ("[paths]\nshadow = 0\n", &[(7, "\"shadow\" of 0 is out of range")]),
    ("[table]\nhalf_open = 0\n", &[(7, "\"half_open\" of 0 is out of range")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"10.1.0.300\"\n", &[(9, "\"10.1.0.300\" is no address")]),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = [\n  \"10.1.0.0/33\",\n  \"10.1.0.9-10.1.0.1\",\n  \"10.1.0.1-::1\",\n  \"::ffff:10.0.0.1\",\n]\n",
        &[
            (10, "no prefix"),
            (11, "first address is above its last"),
            (12, "different families"),
            (13, "seen on a wire"),
        ],
    ),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nservice = [\"tcp/https\", \"tcp/0\", \"udp/70000\", \"icmp/echo\", \"tpc/80\", 256, \"!tcp\"]\n",
        &[
            (9, "\"tcp/https\""),
            (9, "\"tcp/0\""),
            (9, "\"udp/70000\""),
            (9, "did you mean \"icmp/echo-request\"?"),
            (9, "did you mean \"tcp/80\"?"),
            (9, "\"256\" is no protocol number"),
            (9, "only addresses can be excluded"),
        ],
    ),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nsource_port = [0, \"x\", 65536, \"9-1\"]\n",
        &[(9, "\"0\" is no port"), (9, "\"x\""), (9, "\"65536\""), (9, "\"9-1\"")],
    ),
    (
        "[interfaces.vpn]\ndevice = \"a name that is too long\"\nzone = \"vpn\"\npath = \"fast\"\nrpf = \"on\"\nmartians = \"rfc1918\"\n",
        &[
            (7, "is no device name"),
            (9, "\"fast\" is no path"),
            (10, "reverse path"),
            (11, "martians; did you mean \"rfc1812\"?"),
        ],
    ),
    (
        "[timeouts]\nudp = \"5 parsecs\"\nicmp = \"0s\"\nother = \"15d\"\n",
        &[(7, "is no duration"), (8, "0s is out of range"), (9, "15d is out of range")],
    ),
    ("[table]\nconnections = 1023\nindex = \"hash\"\n", &[(7, "1023 is out of range"), (8, "\"hash\" is no index")]),
    ("[table]\nconnections = 8388609\n", &[(7, "out of range")]),
    ("[table]\nconnections = 99999999999999999999999999\n", &[(7, "out of range")]),
    (
        "[paths]\nallowed = [\"user\", \"stack\"]\norphan_grace = \"0s\"\n",
        &[(7, "\"stack\" is no path"), (8, "out of range")],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"outside address\"\nfamily = \"ip4\"\nmapping = \"x\"\nfiltering = \"none\"\n",
        &[(8, "no new source"), (9, "did you mean \"ipv4\"?"), (10, "no mapping"), (11, "no filtering")],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = [\"127.0.0.1\", \"224.0.0.1\", \"10.0.0.5/24\"]\n",
        &[(8, "127.0.0.1"), (8, "224.0.0.1"), (8, "10.0.0.5/24")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80:http\"\n",
        &[(9, "\"10.1.0.80:http\" is no new destination")],
    ),
    (
        "nat = [\n { name = \"a\", destination = \"192.0.2.1\", translate.destination = \"10.1.0.80:0\" },\n { name = \"b\", destination = \"192.0.2.1\", translate.destination = \"10.1.0.9-10.1.0.1\" },\n { name = \"c\", destination = \"192.0.2.1\", translate.destination = \"127.0.0.1\" },\n { name = \"d\", destination = \"192.0.2.1\", translate.destination = [\"10.1.0.1\"] },\n]\n",
        &[(7, "no new destination"), (8, "no new destination"), (9, "no new destination"), (10, "is a list")],
    ),
    (
        "[[nat]]\nname = \"a\"\nsource = \"10.0.0.1\"\none_to_one = \"yes\"\ntranslate.source = \"192.0.2.1\"\n",
        &[(9, "\"one_to_one\" is a string")],
    ),
    // Empty lists.
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nfrom = []\nsource = []\nservice = []\nsource_port = []\n",
        &[(9, "\"from\" is an empty list"), (10, "\"source\""), (11, "\"service\""), (12, "\"source_port\"")],
    ),
    (
        "[paths]\nallowed = []\n[[nat]]\nname = \"a\"\ntranslate.source = []\n",
        &[(7, "\"allowed\""), (10, "\"source\" is an empty list")],
    ),
    // Names that nothing has.
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nfrom = \"insde\"\nto = [\"inside\", \"moon\"]\n",
        &[(9, "no interface has the zone \"insde\"; did you mean \"inside\"?"), (10, "zone \"moon\"")],
    ),
    (
        "# a\n[[rule]]\nname = \"a\"\naction = \"allow\"\nfrom = \"inside\"\n",
        &[(5, "no interface has the zone \"inside\"")],
    ),
    (
        "[addresses]\noffice = [\"10.1.0.0/24\", \"hom\"]\nhome = \"10.2.0.0/24\"\n[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"!ofice\"\n",
        &[(7, "no address set is named \"hom\"; did you mean \"home\"?"), (12, "did you mean \"office\"?")],
    ),
    (
        "[services]\nweb = [\"tcp/80\", \"wbe\"]\n[[rule]]\nname = \"a\"\naction = \"allow\"\nservice = \"https\"\n",
        &[(7, "no service is named \"wbe\""), (11, "no service is named \"https\"")],
    ),
    (
        "[addresses]\nenabled = false\na = \"10.0.0.1\"\n[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"a\"\n",
        &[(12, "no address set is named \"a\"")],
    ),
    // Names that are there twice.
    (
        "rule = [\n { name = \"a\", action = \"allow\" },\n { name = \"a\", action = \"drop\", service = \"tcp\" },\n]\n",
        &[(8, "rule \"a\" is already defined at line 7")],
    ),
    (
        "[[nat]]\nname = \"a\"\nto = \"outside\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"a\"\nto = \"inside\"\ntranslate.source = \"interface\"\n",
        &[(11, "translation \"a\" is already defined at line 7")],
    ),
    (
        "[interfaces.lan2]\ndevice = \"lan0\"\nzone = \"inside\"\n",
        &[(7, "device \"lan0\" is already defined at line 2")],
    ),
    // Names that lead back to themselves.
    ("[addresses]\na = \"a\"\n", &[(7, "contains itself: a > a")]),
    (
        "[addresses]\nx = \"b\"\na = [\"10.0.0.1\", \"c\"]\nb = [\"!a\"]\nc = \"b\"\n[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"x\"\n",
        &[(8, "a > c > b > a")],
    ),
    ("[services]\na = \"b\"\nb = \"a\"\nc = \"d\"\nd = \"c\"\n", &[(7, "a > b > a"), (9, "c > d > c")]),
    // Names that would be read as something else.
    (
        "[addresses]\n\"10.0.0.1\" = \"10.0.0.2\"\nany = \"10.0.0.1\"\n",
        &[(7, "cannot name an address set"), (8, "cannot name an address set")],
    ),
    (
        "[services]\ntcp = \"udp\"\n\"tcp/80\" = \"tcp/81\"\n47 = \"esp\"\n",
        &[(7, "cannot name a service"), (8, "cannot name a service"), (9, "cannot name a service")],
    ),
    ("[interfaces.vpn]\ndevice = \"wg0\"\nzone = \"self\"\n", &[(8, "\"self\" cannot name a zone")]),
    // What contradicts itself.
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nto = [\"self\", \"inside\"]\n", &[(9, "\"self\" beside a zone")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nfrom = \"self\"\n", &[(9, "kernel's business")]),
    ("[[rule]]\nname = \"a\"\naction = \"allow\"\nservice = \"icmp\"\nsource_port = 53\n", &[(10, "has no ports")]),
    ("[[nat]]\nname = \"a\"\ntranslate.source = \"fd00::1\"\n", &[(8, "of the other family")]),
    ("[[nat]]\nname = \"a\"\nfamily = \"ipv6\"\ntranslate.source = \"198.51.100.7\"\n", &[(9, "of the other family")]),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = [\"interface\", \"198.51.100.7\"]\n",
        &[(8, "\"interface\" beside an address")],
    ),
    // Destination translation: what would take everything, or is about something that is not known yet.
    (
        "[[nat]]\nname = \"a\"\ntranslate.destination = \"10.1.0.80\"\n",
        &[(6, "a translation of destinations has no \"destination\"")],
    ),
    (
        "[[nat]]\nname = \"a\"\nto = \"outside\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80\"\nmapping = \"endpoint-independent\"\nfiltering = \"address-dependent\"\n",
        &[
            (8, "\"to\" beside translate.destination alone"),
            (11, "\"mapping\" beside translate.destination alone"),
            (12, "\"filtering\" beside translate.destination alone"),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\nto = \"inside\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80\"\ntranslate.source = \"interface\"\nfiltering = \"address-dependent\"\n",
        &[(12, "\"filtering\" beside translate.destination")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80:8443\"\n[[nat]]\nname = \"b\"\ndestination = \"198.51.100.1\"\nservice = [\"tcp/443\", \"icmp\"]\ntranslate.destination = \"10.1.0.80:8443\"\n",
        &[(9, "not all of \"service\" has ports"), (14, "not all of \"service\" has ports")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/443\"\ntranslate.destination = \"[fd00::80]:8443\"\n[[nat]]\nname = \"b\"\nfamily = \"ipv6\"\ndestination = \"2001:db8::1\"\ntranslate.destination = \"10.1.0.80\"\n",
        &[(10, "of the other family"), (15, "of the other family")],
    ),
    // How external ports are shared out.
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\ntranslate.ports = [\"1024-2047\", 9]\nparity = 1\nkeep_port = \"yes\"\npooling = \"random\"\nlimit.ports = 0\nlimit.sessions = 5\n",
        &[
            (9, "several ranges"),
            (10, "\"parity\" is an integer"),
            (11, "\"keep_port\" is a string"),
            (12, "\"random\" is no pooling"),
            (13, "\"ports\" of 0 is out of range"),
            (14, "unknown key \"sessions\" in \"limit\""),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\ntranslate.ports = \"2048-1024\"\nlimit = 5\n",
        &[(9, "\"2048-1024\""), (10, "\"limit\" is an integer")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80\"\ntranslate.ports = 80\nparity = true\nlimit.ports = 5\n[[nat]]\nname = \"b\"\none_to_one = true\nsource = \"10.1.0.1\"\ntranslate.source = \"198.51.100.1\"\nkeep_port = true\n",
        &[
            (10, "\"ports\" beside translate.destination alone"),
            (11, "\"parity\" beside translate.destination alone"),
            (12, "\"limit\" beside translate.destination alone"),
            (18, "\"keep_port\" beside one_to_one"),
        ],
    ),
    // Prefixes for prefixes.
    (
        "[[nat]]\nname = \"a\"\nsource = \"fd00:1::/48\"\ntranslate.prefix = \"2001:db8::/48\"\n[[nat]]\nname = \"b\"\nfamily = \"ipv6\"\nsource = [\"fd00:2::/56\", \"fd00:3::1\"]\ntranslate.prefix = \"2001:db8:2::/48\"\n[[nat]]\nname = \"c\"\nfamily = \"ipv6\"\nsource = \"fd00:3::/72\"\ntranslate.prefix = \"2001:db8:3::/72\"\n",
        &[(9, "without family"), (13, "not one prefix of at most 64 bits"), (19, "\"2001:db8:3::/72\" is no prefix")],
    ),
    (
        "[[nat]]\nname = \"a\"\nfamily = \"ipv6\"\ntranslate.prefix = \"2001:db8::/48\"\nparity = true\n[[nat]]\nname = \"b\"\nfamily = \"ipv6\"\nsource = \"fd00:2::/48\"\ntranslate.prefix = \"2001:db8:2::/48\"\ntranslate.source = \"interface\"\n",
        &[
            (6, "a translation of prefixes has no \"source\""),
            (10, "\"parity\" beside translate.prefix"),
            (16, "\"source\" beside translate.prefix"),
        ],
    ),
    // IPv6 to IPv4: a prefix of the six lengths, and IPv4 addresses for the sources.
    (
        "[[nat]]\nname = \"a\"\nprefix64 = \"64:ff9b::/95\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"b\"\nprefix64 = \"2001:db8:0:0:100::/96\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"c\"\nprefix64 = \"::ffff:0:0/96\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"d\"\nprefix64 = \"64:ff9b::/96\"\ntranslate.source = \"2001:db8::1\"\n[[nat]]\nname = \"e\"\nprefix64 = \"fe80::/64\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"f\"\nprefix64 = 96\ntranslate.source = \"interface\"\n",
        &[
            (8, "\"64:ff9b::/95\" is no prefix64"),
            (12, "\"2001:db8:0:0:100::/96\" is no prefix64"),
            (16, "\"::ffff:0:0/96\" is no prefix64"),
            (21, "\"2001:db8::1\" is of the other family"),
            (24, "\"fe80::/64\" is no prefix64"),
            (28, "\"prefix64\" is an integer"),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\nprefix64 = \"64:ff9b::/96\"\nfamily = \"ipv6\"\none_to_one = true\nallocation = \"deterministic\"\ntranslate.source = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80\"\n[[nat]]\nname = \"b\"\nprefix64 = \"64:ff9b::/96\"\ntranslate.ports = 80\n[[nat]]\nname = \"c\"\nprefix64 = \"64:ff9b::/96\"\nsource = \"fd00::/48\"\ntranslate.prefix = \"2001:db8::/48\"\n",
        &[
            (9, "\"family\" beside \"prefix64\""),
            (10, "\"one_to_one\" beside \"prefix64\""),
            (11, "\"allocation\" beside \"prefix64\""),
            (13, "\"destination\" beside \"prefix64\""),
            (14, "a translation with prefix64 has no \"translate.source\""),
            (22, "\"prefix\" beside \"prefix64\""),
        ],
    ),
    // What SYNs may announce.
    (
        "[[rule]]\nname = \"a\"\naction = \"drop\"\nmss_clamp = true\n[[rule]]\nname = \"b\"\naction = \"allow\"\nmss_clamp = 47\n[[rule]]\nname = \"c\"\nto = \"self\"\nservice = \"tcp/22\"\naction = \"allow\"\nmss_clamp = 1400\n[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\nmss_clamp = \"yes\"\n",
        &[
            (9, "a rule that forwards nothing"),
            (13, "\"mss_clamp\" of 47 is out of range"),
            (19, "a rule that forwards nothing"),
            (23, "\"mss_clamp\" is a string"),
        ],
    ),
    // Helpers: of what is forwarded, and of services that speak their protocol.
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nhelper = \"ftp\"\n[[rule]]\nname = \"b\"\nservice = [\"udp/69\", \"tcp/69\"]\naction = \"allow\"\nhelper = \"tftp\"\n[[rule]]\nname = \"c\"\nservice = \"tcp/21\"\naction = \"drop\"\nhelper = \"ftp\"\n[[rule]]\nname = \"d\"\nservice = \"tcp/5060\"\naction = \"allow\"\nhelper = \"sip\"\n[[rule]]\nname = \"e\"\nservice = \"tcp/21\"\naction = \"allow\"\nhelper = \"ftps\"\n[[rule]]\nname = \"f\"\nto = \"self\"\nservice = \"tcp/21\"\naction = \"allow\"\nhelper = \"ftp\"\n[[rule]]\nname = \"g\"\nservice = \"udp\"\naction = \"allow\"\nhelper = \"tftp\"\n",
        &[
            (9, "helper = \"ftp\" of a rule that is not for ports of TCP alone"),
            (14, "helper = \"tftp\" of a rule that is not for ports of UDP alone"),
            (19, "\"helper\" of a rule that forwards nothing"),
            (24, "helper = \"sip\" of a rule that is not for ports of UDP alone"),
            (29, "did you mean \"ftp\"?"),
            (35, "\"helper\" of a rule that forwards nothing"),
            (40, "helper = \"tftp\" of a rule that is not for ports of UDP alone"),
        ],
    ),
    // Ports for carriers: by blocks, or by the inside address.
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\nallocation = \"block\"\n[[nat]]\nname = \"b\"\nto = \"inside\"\ntranslate.source = \"interface\"\nblock = 512\n[[nat]]\nname = \"c\"\nto = \"servers\"\ntranslate.source = \"interface\"\nallocation = \"blocks\"\nblock = 8\n",
        &[
            (9, "did you mean \"blocks\"?"),
            (14, "\"block\" beside another allocation"),
            (20, "\"block\" of 8 is out of range"),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\nsource = \"100.64.0.0/22\"\ntranslate.source = \"interface\"\nallocation = \"deterministic\"\n[[nat]]\nname = \"b\"\nto = \"inside\"\ntranslate.source = \"198.51.100.1\"\nallocation = \"deterministic\"\n[[nat]]\nname = \"c\"\nto = \"servers\"\nsource = \"100.64.0.0/16\"\ntranslate.source = \"198.51.100.2\"\nallocation = \"deterministic\"\n",
        &[(10, "at the address of an interface"), (11, "has no \"source\""), (21, "less than 16 external ports")],
    ),
    (
        "[[nat]]\nname = \"a\"\nsource = \"100.64.0.0/22\"\ntranslate.source = \"198.51.100.0/28\"\nallocation = \"deterministic\"\npooling = \"paired\"\nlog = true\n[[nat]]\nname = \"b\"\nto = \"inside\"\ndestination = \"192.0.2.1\"\ntranslate.destination = \"10.0.0.1\"\ntranslate.source = \"198.51.100.1\"\nallocation = \"blocks\"\n",
        &[
            (11, "\"pooling\" beside allocation"),
            (12, "\"log\" beside allocation"),
            (19, "\"allocation\" beside translate.destination"),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\nsource = \"100.64.0.0/22\"\ntranslate.source = \"198.51.100.0/28\"\nallocation = \"deterministic\"\n[[nat]]\nname = \"b\"\nto = \"inside\"\ntranslate.source = \"198.51.100.15\"\n",
        &[(11, "translation \"b\" gives out external addresses of \"a\"")],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\ntranslate.ports = \"2000-2007\"\nallocation = \"blocks\"\n[[nat]]\nname = \"b\"\nto = \"inside\"\ntranslate.source = \"interface\"\ntranslate.ports = \"2000-2014\"\nallocation = \"blocks\"\nblock = 16\n",
        &[(10, "allocation = \"blocks\" of 8 ports"), (16, "allocation = \"blocks\" of 15 ports")],
    ),
    // One to one: as many of one as of the other.
    (
        "[[nat]]\nname = \"a\"\noverlap = true\ntranslate.source = \"198.51.100.1\"\n[[nat]]\nname = \"b\"\nprefix64 = \"64:ff9b::/96\"\noverlap = true\ntranslate.source = \"interface\"\n",
        &[(8, "\"overlap\" beside addresses that the entry says itself"), (13, "\"overlap\" beside \"prefix64\"")],
    ),
    (
        "[[nat]]\nname = \"a\"\none_to_one = true\nsource = \"10.1.0.16/28\"\ntranslate.source = \"198.51.100.16/29\"\n",
        &[(10, "16 source addresses and 8 to translate them to")],
    ),
    (
        "[[nat]]\nname = \"a\"\none_to_one = true\ntranslate.source = \"198.51.100.16\"\n",
        &[(6, "a one_to_one translation has no \"source\"")],
    ),
    (
        "[[nat]]\nname = \"a\"\none_to_one = true\nsource = [\"10.1.0.1\", \"10.1.0.3\"]\ntranslate.source = [\"198.51.100.1\", \"198.51.100.3\"]\n[[nat]]\nname = \"b\"\none_to_one = true\nsource = \"10.1.0.1\"\ntranslate.source = \"interface\"\n",
        &[(9, "more, or less, than one range"), (10, "several ranges"), (15, "to the address of an interface")],
    ),
    (
        "[[nat]]\nname = \"a\"\none_to_one = true\nsource = \"10.1.0.1\"\ndestination = \"192.0.2.1\"\nservice = \"tcp\"\nfiltering = \"endpoint-independent\"\ntranslate.source = \"198.51.100.1\"\n",
        &[(10, "\"destination\" beside one_to_one"), (11, "\"service\" beside"), (12, "\"filtering\" beside")],
    ),
    (
        "[[nat]]\nname = \"a\"\none_to_one = true\nsource = \"10.1.0.1\"\ntranslate.destination = \"198.51.100.1\"\n",
        &[(10, "beside translate.destination")],
    ),
    (
        "[interfaces.vpn]\ndevice = \"wg0\"\nzone = \"vpn\"\npath = \"skb\"\n[paths]\nallowed = [\"user\"]\n",
        &[(9, "not among those that [paths] allows")],
    ),
    (
        "[ip]\nrecord_route = \"process\"\nrouter_alerts = \"pass\"\nhop_by_hop = true\nsecurity = \"record\"\nredirects = \"off\"\nerrors_per_second = 0\n",
        &[
            (7, "\"process\" is no handling"),
            (8, "did you mean \"router_alert\"?"),
            (9, "\"hop_by_hop\" is a boolean"),
            (10, "\"record\" is no handling"),
            (11, "\"redirects\" is a string"),
            (12, "\"errors_per_second\" of 0 is out of range"),
        ],
    ),
    (
        "[[nat]]\nname = \"a\"\ntranslate.source = \"interface\"\nmapping = \"symmetric\"\nunsolicited = \"reject\"\n[[nat]]\nname = \"b\"\none_to_one = true\nsource = \"10.1.0.1\"\ntranslate.source = \"198.51.100.1\"\nmapping = \"address-dependent\"\n",
        &[
            (9, "\"symmetric\" is no mapping"),
            (10, "\"reject\" is no treatment"),
            (16, "\"mapping\" beside one_to_one"),
        ],
    ),
    // What is disabled is checked all the same, but its names are not looked up.
    (
        "[[rule]]\nname = \"a\"\nenabled = false\naction = \"alow\"\nfrom = \"moon\"\nsource = [\"mars\", \"10.0.0.300\"]\n",
        &[(9, "alow"), (11, "no address")],
    ),
];

#[test]
fn every_fault_names_its_line() {
    let mut wrong = Vec::new();
    for (text, expected) in FAULTS {
        let text = whole(text);
        let found = match check(&text) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().filter(|fault| fault.severity == Severity::Error).collect(),
        };
        let fits = found.len() == expected.len()
            && found
                .iter()
                .zip(*expected)
                .all(|(fault, (line, part))| fault.line == *line && fault.message.contains(part));
        if !fits {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            wrong.push(format!("{text}\nexpected {expected:#?}\nfound\n{}", found.join("\n")));
        }
        for fault in &found {
            let line = text.lines().nth(fault.line as usize - 1).unwrap_or("");
            assert_eq!(fault.line_text, line, "{fault}");
            assert!(fault.column >= 1 && fault.column as usize <= line.chars().count() + 1, "{fault}");
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), FAULTS.len(), wrong.join("\n\n"));
}

const DOUBTS: &[Case] = &[
    // Rules see a source before and a destination after translation: of two families where there is NAT64, else never.
    (
        "[[nat]]\nname = \"a\"\nprefix64 = \"64:ff9b::/96\"\ntranslate.source = \"interface\"\n[[rule]]\nname = \"b\"\nsource = \"fd00::/16\"\ndestination = \"198.51.100.1\"\naction = \"allow\"\n[[rule]]\nname = \"c\"\nsource = \"10.0.0.0/8\"\ndestination = \"fd00::/16\"\naction = \"allow\"\n",
        &[(15, "its source and its destination are of different families")],
    ),
    (
        "[[rule]]\nname = \"a\"\nsource = \"fd00::/16\"\ndestination = \"198.51.100.1\"\naction = \"allow\"\n[[nat]]\nname = \"b\"\nfamily = \"ipv6\"\ndestination = \"198.51.100.1\"\ntranslate.source = \"interface\"\n",
        &[(6, "different families"), (11, "no addresses of its family")],
    ),
    (
        "[[nat]]\nname = \"a\"\nprefix64 = \"64:ff9b::/96\"\nsource = \"10.0.0.0/8\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"b\"\nprefix64 = \"64:ff9b::/96\"\ndestination = \"2001:db8::/32\"\ntranslate.source = \"interface\"\n",
        &[(6, "no IPv6 sources"), (11, "no IPv4 destinations")],
    ),
    (
        "[[nat]]\nname = \"a\"\nprefix64 = \"64:ff9b::/96\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"b\"\nprefix64 = \"2001:db8:64::/96\"\ntranslate.source = \"interface\"\n[[nat]]\nname = \"c\"\nprefix64 = \"64:ff9b::/96\"\ntranslate.source = \"198.51.100.7\"\n",
        &[(14, "never reached")],
    ),
    (
        "[timeouts]\nudp = \"30s\"\ntcp_established = \"1h\"\ntcp_transitory = \"4m\"\nicmp = \"59s\"\nother = \"1s\"\n",
        &[(7, "RFC 4787"), (8, "below the 2h4m that RFC 5382"), (10, "RFC 5508")],
    ),
    (
        "[timeouts]\ntcp_opening = \"5s\"\ntcp_closing = \"3m\"\n",
        &[(7, "below the 6s that RFC 5382 REQ-4"), (8, "below the 4m that RFC 5382 REQ-5")],
    ),
    ("[timeouts]\ntcp_opening = \"30s\"\n", &[]),
    ("[addresses]\na = \"10.1.0.5/24\"\n", &[(7, "it is read as 10.1.0.0/24")]),
    // What hosts may ask for.
    (
        "[pcp]\nfrom = \"inside\"\nto = \"outside\"\nmin_lifetime = \"30s\"\n[[rule]]\nname = \"a\"\nsource = \"192.0.2.1\"\naction = \"drop\"\n[[rule]]\nname = \"b\"\naction = \"drop\"\n",
        &[(6, "rule \"b\" at line 14 forbids all of it"), (9, "below the 2m that RFC 6887 section 15")],
    ),
    (
        "[pcp]\nfrom = \"inside\"\nto = \"outside\"\n[[rule]]\nname = \"a\"\nto = \"inside\"\naction = \"allow\"\n[[rule]]\nname = \"b\"\nservice = \"tcp\"\naction = \"drop\"\n",
        &[],
    ),
    // Never reached.
    (
        "rule = [\n { name = \"a\", action = \"drop\" },\n { name = \"b\", from = \"inside\", action = \"allow\" },\n]\n",
        &[(8, "rule \"b\" is never reached: rule \"a\" at line 7")],
    ),
    (
        "rule = [\n { name = \"a\", from = [\"inside\", \"outside\", \"servers\"], source = \"10.0.0.0/8\", service = \"tcp\", action = \"drop\" },\n { name = \"b\", source = [\"10.1.0.0/16\", \"!10.1.0.9\"], service = \"tcp/80-90\", source_port = 53, action = \"allow\" },\n]\n",
        &[(8, "never reached")],
    ),
    (
        "nat = [\n { name = \"a\", translate.source = \"interface\" },\n { name = \"b\", to = \"outside\", translate.source = \"198.51.100.7\" },\n { name = \"c\", family = \"ipv6\", translate.source = \"fd00::1\" },\n]\n",
        &[(8, "translation \"b\" is never reached")],
    ),
    (
        "nat = [\n { name = \"a\", destination = \"198.51.100.0/24\", translate.destination = \"10.0.0.1\" },\n { name = \"b\", from = \"outside\", destination = \"198.51.100.1\", service = \"tcp/443\", translate.destination = \"10.0.0.2:80\" },\n { name = \"c\", to = \"inside\", destination = \"198.51.100.2\", translate.destination = \"10.0.0.2\", translate.source = \"interface\" },\n]\n",
        &[(8, "translation \"b\" is never reached"), (9, "translation \"c\" is never reached")],
    ),
    (
        "[[nat]]\nname = \"a\"\ndestination = \"2001:db8::1\"\ntranslate.destination = \"10.0.0.1\"\n",
        &[(6, "no addresses of its family")],
    ),
    // Reached.
    (
        "nat = [\n { name = \"a\", translate.source = \"interface\" },\n { name = \"b\", destination = \"198.51.100.1\", translate.destination = \"10.0.0.1\" },\n { name = \"c\", source = \"10.0.0.1\", translate.source = \"198.51.100.1\", one_to_one = true },\n]\n",
        &[],
    ),
    (
        "rule = [\n { name = \"a\", to = \"any\", action = \"drop\" },\n { name = \"b\", to = \"self\", service = \"tcp/22\", action = \"allow\" },\n]\n",
        &[],
    ),
    (
        "rule = [\n { name = \"a\", source_port = 53, action = \"allow\" },\n { name = \"b\", service = \"udp\", action = \"drop\" },\n]\n",
        &[],
    ),
    (
        "rule = [\n { name = \"a\", enabled = false, action = \"drop\" },\n { name = \"b\", from = \"inside\", action = \"allow\" },\n]\n",
        &[],
    ),
    (
        "rule = [\n { name = \"a\", source = \"::/0\", action = \"drop\" },\n { name = \"b\", source = \"10.0.0.1\", action = \"allow\" },\n]\n",
        &[],
    ),
    // What a limit refuses is dropped there.
    (
        "rule = [\n { name = \"a\", limit = \"9/s\", action = \"allow\" },\n { name = \"b\", action = \"drop\" },\n]\n",
        &[(8, "never reached")],
    ),
    // Nothing to reach.
    (
        "[addresses]\nnobody = []\n[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"nobody\"\n",
        &[(8, "matches nothing: its source is empty")],
    ),
    (
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nsource = \"10.0.0.1\"\ndestination = \"fd00::1\"\n",
        &[(6, "different families")],
    ),
    (
        "[[nat]]\nname = \"a\"\nsource = \"fd00::/8\"\ntranslate.source = \"interface\"\n",
        &[(6, "no addresses of its family")],
    ),
    // SSH.
    (
        "[[rule]]\nname = \"ping\"\nfrom = \"inside\"\nto = \"self\"\nservice = \"icmp\"\naction = \"allow\"\n",
        &[(6, "closes SSH to the box from \"inside\"")],
    ),
    ("[[rule]]\nname = \"none\"\nto = \"self\"\naction = \"drop\"\n", &[(6, "\"inside\", \"outside\", \"servers\"")]),
    (
        "rule = [\n { name = \"a\", from = \"inside\", to = \"self\", service = \"tcp/22\", action = \"allow\" },\n { name = \"b\", to = \"self\", action = \"drop\" },\n]\n",
        &[(8, "from \"outside\", \"servers\"")],
    ),
    (
        "rule = [\n { name = \"a\", to = \"self\", service = \"tcp/1-100\", action = \"drop\" },\n { name = \"b\", to = \"self\", service = \"tcp/20-30\", action = \"allow\" },\n]\n",
        &[(7, "closes SSH"), (8, "never reached")],
    ),
    (
        "[[rule]]\nname = \"admin\"\nfrom = \"any\"\nto = \"self\"\nsource = \"10.1.0.9\"\nservice = \"tcp/22\"\naction = \"allow\"\n",
        &[],
    ),
    ("# nothing\n", &[(1, "no interface is declared")]),
];

#[test]
fn every_doubt_names_its_line() {
    for (text, expected) in DOUBTS {
        let text = whole(text);
        let found = check(&text).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0])).warnings;
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{text}\n{}", shown.join("\n"));
        for (warning, (line, part)) in found.iter().zip(*expected) {
            assert!(warning.severity == Severity::Warning, "{warning}");
            assert!(warning.line == *line && warning.message.contains(part), "{text}\n{expected:?}\n{warning}");
        }
    }
}

#[test]
fn a_diagnostic_shows_the_line_with_a_marker() {
    let text = format!("{BASE}[[rule]]\n\tname = \"ü\"\n\taction = \"alow\" # ü\n");
    let faults = check(&text).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "p.toml:8:11: error: \"alow\" is no action; did you mean \"allow\"?\n    \taction = \"alow\" # ü\n    \t         ^^^^^^\n  expected: one of \"allow\", \"drop\", \"reject\""
    );
}

#[test]
fn files_are_checked_together() {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    let main = source(
        "main",
        &format!(
            "{BASE}[timeouts]\nudp = \"300s\"\n[[rule]]\nname = \"a\"\nfrom = \"vpn\"\nsource = \"home\"\naction = \"allow\"\n"
        ),
    );
    let good = source(
        "1",
        "[interfaces]\nvpn = { device = \"wg0\", zone = \"vpn\" }\n[addresses]\nhome = \"10.9.0.0/16\"\n[timeouts]\nicmp = \"90s\"\n",
    );
    let policy = parse(&[main.clone(), good.clone()]).unwrap().policy;
    assert_eq!(policy.zones, ["inside", "outside", "servers", "vpn"]);
    assert_eq!(policy.timeouts.icmp.as_secs(), 90);

    let bad = source(
        "2",
        "include = \"x\"\n[interfaces]\nwan = { device = \"wan0\", zone = \"outside\" }\n[addresses]\nhome = \"10.9.0.0/16\"\n[timeouts]\nudp = \"400s\"\n[[rule]]\nname = \"a\"\nto = \"vpn\"\naction = \"allow\"\n",
    );
    let faults = parse(&[main.clone(), good, bad]).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| (fault.file.as_str(), fault.line, fault.message.as_str())).collect();
    assert_eq!(
        found,
        [
            ("2", 1, "\"include\" in a file that is itself included"),
            ("2", 3, "interface \"wan\" is already defined at main:3"),
            ("2", 3, "device \"wan0\" is already defined at main:3"),
            ("2", 5, "address set \"home\" is already defined at 1:4"),
            ("2", 7, "setting \"timeouts.udp\" is already defined at main:7"),
            ("2", 9, "rule \"a\" is already defined at main:9"),
        ]
    );

    let off = source(
        "3",
        "enabled = false\n[interfaces]\nwan = { device = \"wan0\", zone = \"outside\" }\n[timeouts]\nudp = \"400s\"\n[[rule]]\nname = \"a\"\naction = \"allow\"\n",
    );
    let vpn =
        source("4", "[interfaces]\nvpn = { device = \"wg0\", zone = \"vpn\" }\n[addresses]\nhome = \"10.9.0.0/16\"\n");
    let policy = parse(&[main, off, vpn]).unwrap().policy;
    assert_eq!((policy.rules.len(), policy.timeouts.udp.as_secs()), (1, 300));
}
