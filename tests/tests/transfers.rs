//! File transfers and calls by servers and clients of others, vsftpd, tftpd-hpa, curl and SIPp, through helpers: in every
//! mode, both ways, in both families, translated.
//!
//! The tests need root, the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`) and Debian's packages `vsftpd`,
//! `tftpd-hpa`, `curl` and `sip-tester`; a test whose tool is not installed says so and does nothing.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowhop_tests::bed::endpoint;
use flowhop_tests::namespace::unique;
use flowhop_tests::{Bed, Daemon, Family, Namespace, Policy, Process, alone, tools, until};

/// Paths that are forced in turn.
const PATHS: [&str; 3] = ["driver", "skb", "user"];
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of each transfer by FTP.
const BYTES: usize = 3_000_000;
/// Of each by TFTP, which waits for every block.
const FEW: usize = 300_000;
/// How curl is told to use each mode: where the address of the data connection comes from, and in which words.
const MODES: [(&str, &[&str]); 4] = [
    ("EPRT", &["--ftp-port", "-"]),
    ("PORT", &["--ftp-port", "-", "--disable-eprt"]),
    ("EPSV", &[]),
    ("PASV", &["--disable-epsv", "--no-ftp-skip-pasv-ip"]),
];

/// A folder that everybody may read and write in, with a file of so many bytes; removed with this.
struct Folder {
    path: PathBuf,
    body: Vec<u8>,
}

impl Folder {
    fn new(bytes: usize) -> Self {
        let path = std::env::temp_dir().join(unique("transfer"));
        let body = tools::body().get(..bytes).expect("a body of that length").to_vec();
        for (folder, mode) in [(path.clone(), 0o755), (path.join("in"), 0o777), (path.join("empty"), 0o755)] {
            fs::create_dir(&folder).expect("a folder");
            fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).expect("permissions");
        }
        fs::write(path.join("body"), &body).expect("a file");
        fs::set_permissions(path.join("body"), PermissionsExt::from_mode(0o644)).expect("permissions");
        Self { path, body }
    }

    fn name(&self, file: &str) -> String {
        self.path.join(file).to_str().expect("a plain name").to_owned()
    }

    #[track_caller]
    fn has(&self, file: &Path, what: &str) {
        let found = fs::read(file).unwrap_or_default();
        let differs = found.iter().zip(&self.body).position(|(a, b)| a != b);
        assert!(
            found.len() == self.body.len() && differs.is_none(),
            "{what}: {} bytes of {}, first difference at {differs:?}",
            found.len(),
            self.body.len()
        );
    }

    /// Fetches the file, and sends it back under another name, with curl.
    #[track_caller]
    fn there_and_back(&self, client: &Namespace, scheme: &str, server: IpAddr, options: &[&str], what: &str) {
        let url = |file: &str| {
            format!("{scheme}://{}/{file}", if server.is_ipv6() { format!("[{server}]") } else { server.to_string() })
        };
        let fetched = self.path.join("fetched");
        let common = ["-gsS", "--noproxy", "*", "--max-time", "30", "--connect-timeout", "10"];
        let (from, to, whole) = (url("body"), url("in/back"), self.name("body"));
        let fetch = ["-o", &self.name("fetched"), &from].map(str::to_owned);
        let send = ["-T", &whole, &to].map(str::to_owned);
        for request in [fetch, send] {
            let arguments: Vec<&str> =
                common.iter().chain(options).copied().chain(request.iter().map(String::as_str)).collect();
            let output = client.run_within(LIMIT, "curl", &arguments);
            assert!(output.status.success(), "{what}: {output:?}");
        }
        self.has(&fetched, what);
        self.has(&self.path.join("in/back"), what);
        for file in [fetched, self.path.join("in/back")] {
            fs::remove_file(file).expect("a file that is there");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn has(tools_needed: &[&str]) -> bool {
    let missing: Vec<&&str> = tools_needed.iter().filter(|tool| tools::find(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("not run: {missing:?} not installed");
    }
    missing.is_empty()
}

fn listens(namespace: &Namespace, kind: &str, port: u16) {
    until("the server to listen", LIMIT, || {
        let sockets = namespace.run("ss", &[kind]).stdout;
        sockets.contains(&format!(":{port} ")).then_some(())
    });
}

/// vsftpd for anonymous users, in both families, which sends so many bytes a second; 0: as many as it can.
fn ftp_server(host: &Arc<Namespace>, folder: &Folder, rate: usize) -> Process {
    let settings = format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\n\
         anon_upload_enable=YES\nno_anon_password=YES\nanon_root={}\nanon_world_readable_only=NO\nanon_umask=022\n\
         nopriv_user=nobody\nsecure_chroot_dir={}\nseccomp_sandbox=NO\nconnect_from_port_20=YES\n\
         xferlog_enable=NO\nanon_max_rate={rate}\n",
        folder.name(""),
        folder.name("empty"),
    );
    let file = folder.name("empty/../vsftpd.conf");
    fs::write(&file, settings).expect("a configuration");
    let server = host.spawn("vsftpd", &[&file]);
    listens(host, "-ltnH", 21);
    server
}

/// The flows that helpers let in, which must all have taken this path, and how many there are.
#[track_caller]
fn data_flows(daemon: &Daemon, path: &str, helper: &str) -> usize {
    let flows = daemon.json("show flows");
    let flows = flows["flows"].as_array().expect("a list").clone();
    for control in flows.iter().filter(|flow| flow["helper"] == helper) {
        assert_eq!((&control["forward"]["path"], &control["reverse"]["path"]), (&"user".into(), &"user".into()));
        assert_eq!(control["forward"]["path_reason"], "helper");
    }
    let data: Vec<_> = flows.iter().filter(|flow| !flow["parent"].is_null()).collect();
    for flow in &data {
        assert_eq!((&flow["forward"]["path"], &flow["reverse"]["path"]), (&path.into(), &path.into()), "{flow}");
        let parent = flows.iter().find(|other| other["id"] == flow["parent"]).expect("its parent is there");
        assert_eq!((&parent["helper"], &parent["rule"]), (&helper.into(), &flow["rule"]));
    }
    for reason in ["helper_refused", "helper_limit", "tcp_window", "bad_checksum"] {
        assert_eq!(daemon.drops(Some(reason)), 0, "{path}: {}", daemon.json("show drops"));
    }
    // SIPp writes its IPv6 address in brackets where a description has none (RFC 8866 section 9).
    let declined = u64::from(helper == "sip");
    assert_eq!(daemon.json("show status")["status"]["helpers"]["declined"], declined, "{path}");
    data.len()
}

/// Inside behind the outside address, and pings.
fn masquerading(path: &str) -> Policy {
    Policy::new().path(path).masquerade(true).services(&["icmp/echo-request"])
}

/// A rule with a helper for what inside hosts begin.
fn outgoing(name: &str, service: &str, helper: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nfrom = \"inside\"\nto = \"outside\"\nservice = \"{service}\"\n\
         action = \"allow\"\nhelper = \"{helper}\"\n"
    )
}

/// Transfers both ways, in every mode that a family has; how many.
#[track_caller]
fn in_every_mode(folder: &Folder, client: &Namespace, server: fn(Family) -> IpAddr, path: &str) -> usize {
    let mut transfers = 0;
    for family in Family::BOTH {
        for (mode, options) in MODES {
            if family == Family::V6 && ["PORT", "PASV"].contains(&mode) {
                continue;
            }
            let what = format!("{path}, {mode}, {family:?}");
            folder.there_and_back(client, "ftp", server(family), options, &what);
            transfers += 2;
        }
    }
    transfers
}

// RFC 959, RFC 2428: a client behind a masquerade, in every mode that its family has.
#[test]
fn ftp_passes_a_masquerade_in_every_mode() {
    if !has(&["vsftpd", "curl"]) {
        return;
    }
    let _turn = alone();
    let folder = Folder::new(BYTES);
    for path in PATHS {
        let bed = Bed::for_path("ftp", path);
        let _server = ftp_server(&bed.outside, &folder, 0);
        let rule = outgoing("files", "tcp/21", "ftp");
        let open = masquerading(path);
        let daemon = Daemon::start(&bed.router, &open.clone().extra(&rule));
        let transfers = in_every_mode(&folder, &bed.inside, Family::outside_host, path);
        assert_eq!(data_flows(&daemon, path, "ftp"), transfers, "{path}");
        // Without the helper there is no data connection.
        daemon.reload(&open.extra(&rule.replace("helper = \"ftp\"", "")));
        until("transfers to fail without the helper", LIMIT, || {
            let limits = ["--connect-timeout", "1", "--max-time", "2"];
            let request = ["-gsS", "--noproxy", "*", "-o", "/dev/null", "ftp://198.51.100.2/body"];
            let output = bed.inside.run_within(LIMIT, "curl", &[&limits[..], &request].concat());
            (!output.status.success()).then_some(())
        });
    }
}

// interface.md: a new start adopts everything. Two transfers by one control connection whose numbers are shifted by the
// first; the daemon is killed and started again in the middle of that.
#[test]
fn ftp_goes_on_through_a_restart() {
    if !has(&["vsftpd", "curl"]) {
        return;
    }
    let _turn = alone();
    let folder = Folder::new(BYTES);
    for path in PATHS {
        let bed = Bed::for_path("ftpr", path);
        let _server = ftp_server(&bed.outside, &folder, BYTES / 4);
        let rule = outgoing("files", "tcp/21", "ftp");
        let policy = masquerading(path).extra(&rule);
        let mut daemon = Daemon::start(&bed.router, &policy);
        let files = ["first", "second"].map(|name| folder.name(name));
        let url = "ftp://198.51.100.2/body";
        let active = ["-gsS", "--noproxy", "*", "--max-time", "40", "--ftp-port", "-"];
        let both = ["-o", &files[0], url, "-o", &files[1], url];
        let client = bed.inside.spawn("curl", &[&active[..], &both].concat());
        let related = |daemon: &Daemon| {
            let flows = daemon.json("show flows");
            flows["flows"].as_array().map_or(0, |flows| flows.iter().filter(|flow| !flow["parent"].is_null()).count())
        };
        until("the first transfer to begin", LIMIT, || (related(&daemon) == 1).then_some(()));
        daemon.kill9();
        daemon.start_again();
        assert!(related(&daemon) >= 1, "{path}: adopted");
        let output = client.finish(LIMIT + LIMIT);
        assert!(output.status.success(), "{path}: {output:?}");
        files.iter().for_each(|file| folder.has(Path::new(file), path));
        assert_eq!(data_flows(&daemon, path, "ftp"), 2, "{path}");
    }
}

// A server that is published by destination translation, which says where it listens itself.
#[test]
fn ftp_passes_to_a_published_server() {
    if !has(&["vsftpd", "curl"]) {
        return;
    }
    let _turn = alone();
    let folder = Folder::new(BYTES);
    for path in PATHS {
        let bed = Bed::for_path("ftpd", path);
        let _server = ftp_server(&bed.inside, &folder, 0);
        let publish = "[[rule]]\nname = \"our files\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/21\"\n\
                       action = \"allow\"\nhelper = \"ftp\"\n\
                       [[nat]]\nname = \"publish\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/21\"\n\
                       translate.destination = \"10.1.0.2\"\n\
                       [[nat]]\nname = \"publish, IPv6\"\ndestination = \"2001:db8:0:2::1\"\nservice = \"tcp/21\"\n\
                       family = \"ipv6\"\ntranslate.destination = \"[fd00:0:0:1::2]:21\"\n";
        let policy = Policy::new().path(path).services(&["icmp/echo-request"]).extra(publish);
        let daemon = Daemon::start(&bed.router, &policy);
        let transfers = in_every_mode(&folder, &bed.outside, Family::outside_router, path);
        assert_eq!(data_flows(&daemon, path, "ftp"), transfers, "{path}");
    }
}

// RFC 1350: the server answers from a port of its own.
#[test]
fn tftp_passes_a_masquerade() {
    if !has(&["in.tftpd", "curl"]) {
        return;
    }
    let _turn = alone();
    let folder = Folder::new(FEW);
    for path in PATHS {
        let bed = Bed::for_path("tftp", path);
        let rule = outgoing("boot images", "udp/69", "tftp");
        let policy = masquerading(path).extra(&rule);
        let daemon = Daemon::start(&bed.router, &policy);
        for family in Family::BOTH {
            let address = endpoint(family.outside_host(), 69);
            let root = folder.name("");
            let server =
                bed.outside.spawn("in.tftpd", &["--foreground", "--create", "--address", &address, "--secure", &root]);
            listens(&bed.outside, "-lunH", 69);
            let what = format!("{path}, {family:?}");
            folder.there_and_back(&bed.inside, "tftp", family.outside_host(), &["--tftp-blksize", "1400"], &what);
            drop(server);
        }
        assert_eq!(data_flows(&daemon, path, "tftp"), 4, "{path}");
    }
}

// RFC 3261, RFC 3264: calls of SIPp through the masquerade. The telephone sends recorded media, of which no rule knows,
// and the far end echoes it.
#[test]
fn calls_pass_a_masquerade() {
    if !has(&["sipp"]) {
        return;
    }
    let _turn = alone();
    let folder = Folder::new(0);
    // Where SIPp looks for recordings.
    std::os::unix::fs::symlink("/usr/share/sip-tester", folder.path.join("pcap")).expect("a link");
    for path in PATHS {
        let bed = Bed::for_path("sip", path);
        let rule = outgoing("telephones", "udp/5060", "sip");
        let policy = masquerading(path).extra(&rule);
        let daemon = Daemon::start(&bed.router, &policy);
        let calls = Family::BOTH.map(|family| {
            let [own, far] = [family.inside_host(), family.outside_host()].map(|address| match address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            });
            let [own_media, far_media] =
                [family.inside_host(), family.outside_host()].map(|address| address.to_string());
            let far_end =
                ["-sn", "uas", "-i", &far, "-mi", &far_media, "-p", "5060", "-mp", "6000", "-rtp_echo", "-nostdin"];
            let answers = bed.outside.spawn("sipp", &far_end);
            let listening = format!("{far}:5060 ");
            until("the far end to listen", LIMIT, || {
                bed.outside.run("ss", &["-lunH"]).stdout.contains(&listening).then_some(())
            });
            let command = format!(
                "cd {} && exec sipp -sn uac_pcap {far}:5060 -i {own} -mi {own_media} -p 5060 -mp 7000 -m 1 -nostdin",
                folder.name("")
            );
            (answers, bed.inside.spawn("sh", &["-c", &command]))
        });
        let _answers = calls.map(|(answers, caller)| {
            let output = caller.finish(LIMIT);
            assert!(output.status.success(), "{path}: {output:?}");
            answers
        });
        assert_eq!(data_flows(&daemon, path, "sip"), 2, "{path}");
        let flows = daemon.json("show flows");
        for media in flows["flows"].as_array().expect("a list").iter().filter(|flow| !flow["parent"].is_null()) {
            let [out, back] = ["forward", "reverse"].map(|way| media[way]["packets"].as_u64());
            assert!(out > Some(200) && back >= out.map(|out| out - 5), "{path}: {media}");
        }
    }
}
