//! Tools of others as judges: STUN behaviour discovery (RFC 5780) by coturn, scans by nmap, traceroute, large pings,
//! curl and iperf3 through a narrow hop; libtorrent and natpmpc that ask for mappings.
//!
//! The tests need root, the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`) and Debian's packages `coturn`, `nmap`,
//! `traceroute`, `natpmpc` and `python3-libtorrent`; a test whose tool is not installed says so and does nothing.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, Process, alone, until};

/// Paths that are forced in turn.
const PATHS: [&str; 3] = ["driver", "skb", "user"];
const LIMIT: Duration = Duration::from_secs(30);
/// What the hops let through.
const MTU: u32 = 1280;

/// Whether a tool is there; says so if not.
fn has(tool: &str) -> bool {
    let found = tools::find(tool).is_some();
    if !found {
        eprintln!("not run: {tool} is not installed");
    }
    found
}

/// The addresses of the STUN server.
const STUN: [&str; 2] = ["198.51.100.2", "198.51.100.3"];

/// coturn's server on two addresses with two ports each.
fn stun_server(bed: &Bed) -> Process {
    bed.outside.ip(&format!("addr add {}/24 dev eth0", STUN[1]));
    let mut options = vec!["-n", "-S", "--no-tls", "--no-dtls", "--no-cli", "--no-tcp", "--log-file=stdout"];
    options.extend(["--pidfile=/dev/null", "--userdb=/dev/null", "-L", STUN[0], "-L", STUN[1]]);
    let server = bed.outside.spawn("turnserver", &options);
    until("the STUN server to listen", LIMIT, || {
        let sockets = bed.outside.run("ss", &["-lunH"]).stdout;
        let all =
            STUN.iter().all(|address| [3478, 3479].iter().all(|port| sockets.contains(&format!("{address}:{port} "))));
        all.then_some(())
    });
    server
}

// RFC 5780 section 4: what the translation is set to is what its user finds.
#[test]
fn stun_behaviour_discovery_finds_what_is_configured() {
    if !has("turnserver") || !has("turnutils_natdiscovery") {
        return;
    }
    let _turn = alone();
    for (path, more, mapping, filtering, hairpin) in [
        ("driver", "", "Endpoint Independent Mapping", "Address and Port Dependent Filtering", false),
        (
            "skb",
            "filtering = \"endpoint-independent\"\n",
            "Endpoint Independent Mapping",
            "Endpoint Independent Filtering",
            true,
        ),
        (
            "user",
            "mapping = \"address-and-port-dependent\"\nfiltering = \"address-dependent\"\n",
            "Address and Port Dependent Mapping",
            "Address Dependent Filtering",
            false,
        ),
    ] {
        let bed = Bed::for_path("stun", path);
        let _server = stun_server(&bed);
        let policy = Policy::new().path(path).extra(&format!(
            "[[nat]]\nname = \"hide\"\nto = \"outside\"\nsource = \"10.1.0.0/24\"\ntranslate.source = \"interface\"\n{more}\n\
             [[rule]]\nname = \"hairpin\"\nfrom = \"inside\"\nto = \"inside\"\naction = \"allow\"\n"
        ));
        let _daemon = Daemon::start(&bed.router, &policy);
        let tests = ["-m", "-f", "-H"]
            .map(|test| bed.inside.spawn("turnutils_natdiscovery", &[test, "-L", "10.1.0.2", STUN[0]]));
        let [found_mapping, found_filtering, found_hairpin] = tests.map(|test| test.finish(LIMIT).stdout);
        assert!(found_mapping.contains(&format!("NAT with {mapping}!")), "{path}: {found_mapping}");
        assert!(found_filtering.contains(&format!("NAT with {filtering}!")), "{path}: {found_filtering}");
        let hairpins = found_hairpin.contains("Received a request");
        assert_eq!(hairpins, hairpin, "{path}: {found_hairpin}");
    }
}

/// What a scan of the inside host says: of each port that is not like the others, and of these.
fn scan(bed: &Bed, kind: &str, ports: &str) -> (String, String) {
    let target = Family::V4.inside_host().to_string();
    // Nothing comes back from most ports: no time is to be lost by waiting for it.
    let fast = ["-n", "-Pn", "-T5", "--max-retries", "1", "--min-rate", "500", "--host-timeout", "30s", "-oG", "-"];
    let options = [&fast[..], &[kind, "-p", ports, &target]].concat();
    let output = bed.outside.run_within(LIMIT, "nmap", &options).ok().stdout;
    let line = output.lines().find(|line| line.contains("Ports:") || line.contains("Ignored State:"));
    let line = line.expect("what nmap says of the host").to_owned();
    let part = |name: &str| line.split('\t').find_map(|part| part.strip_prefix(name)).unwrap_or_default().to_owned();
    (part("Ports: "), part("Ignored State: "))
}

// RFC 9293 section 3.10: what no rule allows is silent, whatever flags a segment has; segments of no connection find out
// nothing about the port that is open, either.
#[test]
fn scans_from_outside_see_the_one_port_that_is_allowed() {
    if !has("nmap") {
        return;
    }
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("scan", path);
        let policy = Policy::new().path(path).extra(
            "[[rule]]\nname = \"web\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/80\"\naction = \"allow\"\n",
        );
        let daemon = Daemon::start(&bed.router, &policy);
        let _listeners = bed.inside.enter(|| {
            let listen = |port| TcpListener::bind((Family::V4.inside_host(), port)).expect("listen");
            // What is open behind the box and not allowed must not show, either.
            [80, 22, 110].map(listen)
        });
        assert_eq!(scan(&bed, "-sS", "1-200"), ("80/open/tcp//http///".into(), "filtered (199)".into()), "{path}");
        for (kind, state) in [
            ("-sA", "filtered"),
            ("-sF", "open|filtered"),
            ("-sX", "open|filtered"),
            ("-sN", "open|filtered"),
            ("-sU", "open|filtered"),
        ] {
            assert_eq!(scan(&bed, kind, "1-200"), (String::new(), format!("{state} (200)")), "{path}: {kind}");
        }
        assert!(daemon.drops(Some("no_rule")) > 0, "{path}: {}", daemon.json("show drops"));
    }
}

/// The hops that traceroute finds on its way; `*` for one that is silent.
fn hops(from: &Namespace, kind: &str, to: IpAddr) -> Vec<String> {
    let to = to.to_string();
    let options = [kind, "-n", "-q", "1", "-w", "3", "-m", "6", &to];
    let output = from.run_within(LIMIT, "traceroute", &options).ok().stdout;
    let lines = output.lines().skip(1);
    lines.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

/// Both ways, nothing translated.
fn open(path: &str) -> Policy {
    Policy::new()
        .path(path)
        .extra("[[rule]]\nname = \"outside to inside\"\nfrom = \"outside\"\nto = \"inside\"\naction = \"allow\"\n")
}

// RFC 1812 section 5.3.1, RFC 4443 section 3.3: every hop shows, flowhop's among them.
#[test]
fn traceroute_shows_every_hop_in_both_directions() {
    if !has("traceroute") {
        return;
    }
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::with_hops("trace", path);
        let _daemon = Daemon::start(&bed.router, &open(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            let out = [family.deep_router(), family.inside_router(), family.outside_host(), family.far_host()];
            let back = [family.far_router(), family.outside_router(), family.inside_host(), family.deep_host()];
            for kind in ["--udp", "--icmp"] {
                let [out, back] = [out, back].map(|hops| hops.map(|hop| hop.to_string()));
                assert_eq!(hops(deep, kind, family.far_host()), out, "{path}: {kind}");
                assert_eq!(hops(far, kind, family.deep_host()), back, "{path}: {kind}");
            }
        }
    }
}

// RFC 791 section 3.2, RFC 8200 section 4.5: datagrams of 41 fragments pass, and so do their answers.
#[test]
fn large_pings_pass_both_ways() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("large", path);
        let _daemon = Daemon::start(&bed.router, &open(path));
        for family in Family::BOTH {
            for (from, to) in [(&bed.inside, family.outside_host()), (&bed.outside, family.inside_host())] {
                let to = to.to_string();
                let output = from.run("ping", &["-n", "-q", "-c", "3", "-i", "0.2", "-W", "5", "-s", "60000", &to]);
                assert!(output.stdout.contains("3 received"), "{path}: {output:?}");
            }
        }
    }
}

// RFC 1191, RFC 8201: the far link is narrower than all others, and its errors find the way back.
#[test]
fn downloads_and_bulk_transfers_pass_a_narrow_hop() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::with_hops("narrow", path);
        bed.narrow(MTU);
        let _daemon = Daemon::start(&bed.router, &open(path));
        let [deep, far] = bed.behind();
        for family in Family::BOTH {
            // The server's segments are too big for the way to the client.
            let server = HttpServer::start(far, family.far_host());
            tools::assert_download(deep, &server);
            let bulk = tools::iperf3(deep, far, family.far_host(), 1);
            assert!(bulk.bits_per_second > 0.0, "{path}: {bulk:?}");
        }
    }
}
/// A session of libtorrent that listens, and asks its router to be reached.
const TORRENT: &str = r#"
import sys, time
import libtorrent
session = libtorrent.session({"enable_natpmp": True, "enable_upnp": False, "enable_lsd": False, "enable_dht": False,
    "listen_interfaces": sys.argv[1]})
time.sleep(120)
"#;

// RFC 6887 by a client of others: BitTorrent's libtorrent, which speaks PCP before it falls back to NAT-PMP, is granted the
// port that it listens at, and is reached there.
#[test]
fn libtorrent_is_granted_its_port() {
    const PYTHON: &str = "/usr/bin/python3";
    let knows = |module: &str| {
        let import = format!("import {module}");
        std::process::Command::new(PYTHON).args(["-c", &import]).output().is_ok_and(|output| output.status.success())
    };
    if !knows("libtorrent") {
        eprintln!("not run: python3-libtorrent is not installed");
        return;
    }
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("torrent", path);
        let policy = Policy::new().path(path).extra(
            "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n\
             [pcp]\nfrom = \"inside\"\nto = \"outside\"\n",
        );
        let daemon = Daemon::start(&bed.router, &policy);
        let _client = bed.inside.spawn(PYTHON, &["-c", TORRENT, "10.1.0.2:6881"]);
        let mapped = until("both mappings", LIMIT, || {
            let shown = daemon.json("show nat");
            let all = shown["nat"].as_array()?;
            let asked: Vec<_> = all.iter().filter(|entry| entry["kind"] == "pcp").cloned().collect();
            (asked.len() >= 2).then_some(asked)
        });
        for mapping in &mapped {
            assert_eq!(mapping["translated_destination"], "10.1.0.2:6881", "{path}: {mapping}");
            assert_eq!(mapping["destination"], "198.51.100.1:6881", "{path}: {mapping}");
        }
        let address = "198.51.100.1:6881".parse().expect("an endpoint");
        bed.outside
            .enter(|| std::net::TcpStream::connect_timeout(&address, LIMIT))
            .expect("libtorrent accepts the connection");
        assert_eq!(daemon.flows_to("198.51.100.1:6881")[0]["rule"], "pcp");
    }
}

// RFC 6886 section 3.5: a client of NAT-PMP is told that its version is not spoken.
#[test]
fn a_client_of_nat_pmp_is_told_so() {
    if !has("natpmpc") {
        return;
    }
    let _turn = alone();
    let bed = Bed::for_path("natpmp", "skb");
    let policy = Policy::new().path("skb").extra("[pcp]\nfrom = \"inside\"\nto = \"outside\"\n");
    let _daemon = Daemon::start(&bed.router, &policy);
    let output = bed.inside.run("natpmpc", &["-g", "10.1.0.1"]);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(said.contains("-14") || said.to_lowercase().contains("version"), "{said}");
}
