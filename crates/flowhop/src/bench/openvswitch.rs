//! Open vSwitch with its user-space datapath, as a router that translates: a rival.
//!
//! It has a database, a directory and a network namespace of its own and leaves alone whatever Open vSwitch the machine
//! runs, and the kernel's datapath.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::field::{Field, POOL, text};
use crate::lab::namespace::{find, run};
use crate::lab::{Bed, LabError, Tried};

/// Where Debian has the layout of the database.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// How long its database may take to appear.
const START: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// Longer than a run. Its own are shorter than a round.
const TIMEOUTS: [&str; 7] = [
    "udp_first=3600",
    "udp_single=3600",
    "udp_multiple=3600",
    "tcp_syn_sent=3600",
    "tcp_syn_recv=3600",
    "tcp_established=3600",
    "icmp_first=3600",
];

/// A running one. Dropping it ends it.
#[derive(Debug)]
pub(super) struct OpenVswitch {
    folder: PathBuf,
    processes: Vec<Child>,
    /// What it is, in words.
    pub(super) version: String,
    /// Its ports are sockets of AF_XDP, or else of AF_PACKET.
    pub(super) af_xdp: bool,
}

impl OpenVswitch {
    /// Whether it is installed.
    pub(super) fn is_installed() -> bool {
        find("ovs-vswitchd").is_some() && Path::new(SCHEMA).is_file()
    }

    /// Starts it in a field's router, with its files in `folder` and its packet thread on processor `processor`.
    pub(super) fn start(field: &Field, folder: &Path, processor: usize) -> Result<Self, LabError> {
        fs::create_dir(folder).tried(folder.display())?;
        let mut switch =
            Self { folder: folder.to_owned(), processes: Vec::new(), version: String::new(), af_xdp: false };
        let bed = &field.bed;
        switch.call(bed, "ovsdb-tool", &["create", &switch.file("conf.db"), SCHEMA], "")?;
        let remote = format!("--remote=punix:{}", switch.file("db.sock"));
        switch.spawn(bed, "ovsdb-server", &[&switch.file("conf.db"), &remote])?;
        switch.appears("db.sock")?;
        switch.vsctl(bed, &["--no-wait", "init"])?;
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64.checked_shl(processor as u32).unwrap_or(1));
        switch.vsctl(bed, &["--no-wait", "set", "Open_vSwitch", ".", &mask])?;
        switch.spawn(bed, "ovs-vswitchd", &[&switch.database(), "--disable-system"])?;
        switch.appears("switch.ctl")?;
        switch.configure(field)?;
        Ok(switch)
    }

    fn configure(&mut self, field: &Field) -> Result<(), LabError> {
        let bed = &field.bed;
        self.vsctl(bed, &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        let kinds = self.vsctl(bed, &["get", "Open_vSwitch", ".", "iface_types"])?;
        self.af_xdp = kinds.contains("afxdp");
        let version = self.call(bed, "ovs-vswitchd", &["--version"], "")?;
        self.version = version.lines().next().unwrap_or_default().replace("ovs-vswitchd (Open vSwitch) ", "");
        for port in ["lan0", "wan0"] {
            let kind: &[&str] = if self.af_xdp { &["--", "set", "interface", port, "type=afxdp"] } else { &[] };
            self.vsctl(bed, &[&["add-port", "br0", port], kind].concat())?;
        }
        let datapath = ["--", "--id=@m", "create", "Datapath", "datapath_version=0", "--"];
        self.vsctl(bed, &[&datapath[..], &["set", "Open_vSwitch", ".", "datapaths:netdev=@m"]].concat())?;
        self.vsctl(bed, &[&["add-zone-tp", "netdev", "zone=0"], &TIMEOUTS[..]].concat())?;
        let bridge = format!("unix:{}", self.file("br0.mgmt"));
        self.call(bed, "ovs-ofctl", &["add-flows", &bridge, "-"], &rules(field)).map(drop)
    }

    /// Connections that it knows.
    pub(super) fn connections(&self, bed: &Bed) -> Result<u64, LabError> {
        let text = self.call(bed, "ovs-appctl", &["-t", &self.file("switch.ctl"), "dpctl/ct-stats-show"], "")?;
        let total = text.lines().find_map(|line| line.trim().strip_prefix("Total:"));
        Ok(total.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
    }

    /// Lets it run, or stops it: its packet thread looks for packets without pause, and that would hit the others.
    pub(super) fn runs(&self, on: bool) -> Result<(), LabError> {
        let Some(switch) = self.processes.last() else { return Ok(()) };
        let id = i32::try_from(switch.id()).map_err(|_| LabError::Late("ovs-vswitchd".to_owned()))?;
        kill(Pid::from_raw(id), if on { Signal::SIGCONT } else { Signal::SIGSTOP }).tried("ovs-vswitchd")
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn database(&self) -> String {
        format!("unix:{}", self.file("db.sock"))
    }

    fn vsctl(&self, bed: &Bed, words: &[&str]) -> Result<String, LabError> {
        let database = format!("--db={}", self.database());
        self.call(bed, "ovs-vsctl", &[&["--timeout=15", "--retry", &database], words].concat(), "")
    }

    fn call(&self, bed: &Bed, program: &'static str, words: &[&str], input: &str) -> Result<String, LabError> {
        let mut command = self.command(bed, program)?;
        command.args(words);
        run(command, program, input)
    }

    fn command(&self, bed: &Bed, program: &'static str) -> Result<Command, LabError> {
        let path = find(program).ok_or(LabError::Missing { program, package: "openvswitch-switch" })?;
        let mut command = bed.router.command(path, &[]);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &self.folder);
        }
        Ok(command)
    }

    fn spawn(&mut self, bed: &Bed, program: &'static str, words: &[&str]) -> Result<(), LabError> {
        let name = if program == "ovs-vswitchd" { "switch" } else { "database" };
        let said = File::create(self.folder.join(format!("{name}.said"))).tried(program)?;
        let mut command = self.command(bed, program)?;
        command.args(words).args(["--no-chdir", "-vconsole:off"]);
        command.arg(format!("--unixctl={}", self.file(&format!("{name}.ctl"))));
        command.arg(format!("--pidfile={}", self.file(&format!("{name}.pid"))));
        command.arg(format!("--log-file={}", self.file(&format!("{name}.log"))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        self.processes.push(command.spawn().tried(program)?);
        Ok(())
    }

    fn appears(&self, name: &str) -> Result<(), LabError> {
        let end = Instant::now() + START;
        while !self.folder.join(name).exists() {
            if Instant::now() >= end {
                return Err(LabError::Late(format!("Open vSwitch's {name}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is well.
            let _ended = process.kill().and_then(|()| process.wait());
        }
    }
}

/// Connections from `lan0` are translated and followed; from `wan0` comes only what belongs to them.
fn rules(field: &Field) -> String {
    let send = |hop: super::frame::Hop, port| {
        format!("mod_dl_src:{},mod_dl_dst:{},dec_ttl,output:{port}", text(hop.from), text(hop.to))
    };
    let inward = super::frame::Hop { to: field.hop.from, from: field.hop.to };
    let (out, back) = (send(field.onward, "wan0"), send(inward, "lan0"));
    format!(
        "table=0,priority=0,actions=drop\n\
         table=0,priority=10,ip,actions=ct(table=1,nat)\n\
         table=1,priority=0,actions=drop\n\
         table=1,priority=10,in_port=lan0,ip,ct_state=+trk+new,actions=ct(commit,nat(src={POOL})),{out}\n\
         table=1,priority=10,in_port=lan0,ip,ct_state=+trk+est,actions={out}\n\
         table=1,priority=10,in_port=wan0,ip,ct_state=+trk+est,actions={back}\n"
    )
}
