//! `flowhop doctor`: what this machine has of what flowhop needs, which path each interface would take and why, and what
//! would make it faster. It changes nothing and asks no daemon.

use std::io::Write;
use std::path::{Path, PathBuf};

use flowhop_io::device::{Capabilities, DeviceQueries, XdpFeatures};
use flowhop_io::features;
use flowhop_io::netlink::Monitor;
use flowhop_policy::{Martians, Policy, ReversePath, ZoneId};
use flowhop_routing::{Event, Link};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::paths::{self, Facts};
use crate::show::lists::fast_path_name;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Worth,
    Missing,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Worth => "note",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, state: State::Good, detail: detail.into() }
    }

    fn note(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, state: State::Worth, detail: detail.into() }
    }

    fn missing(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, state: State::Missing, detail: detail.into() }
    }

    fn json(&self) -> Value {
        json!({ "check": self.what, "state": self.state.name(), "detail": self.detail })
    }
}

/// What would become of a device as an interface.
#[derive(Clone, Debug)]
struct Interface {
    name: Option<String>,
    device: String,
    kind: Option<String>,
    driver: Option<String>,
    queues: Option<u32>,
    redirect_target: Option<bool>,
    path: Option<&'static str>,
    reason: String,
    advice: Option<String>,
}

impl Interface {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "device": self.device,
            "kind": self.kind,
            "driver": self.driver,
            "queues": self.queues,
            "redirect_target": self.redirect_target,
            "path": self.path,
            "path_reason": self.reason,
            "advice": self.advice,
        })
    }
}

/// Looks at the machine and prints what was found. Refused when something that is needed is missing.
///
/// # Errors
/// When the output cannot be written.
pub fn doctor(config: Option<&Path>, as_json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut findings = system();
    let policy = read_policy(config, &mut findings);
    let interfaces = match interfaces(policy.as_ref()) {
        Ok(interfaces) => interfaces,
        Err(error) => {
            findings.push(Finding::missing("interfaces", error));
            Vec::new()
        }
    };
    let well = findings.iter().all(|finding| finding.state != State::Missing);
    if as_json {
        let checks: Vec<Value> = findings.iter().map(Finding::json).collect();
        let interfaces: Vec<Value> = interfaces.iter().map(Interface::json).collect();
        let value = json!({ "version": 1, "well": well, "checks": checks, "interfaces": interfaces });
        writeln!(out, "{value:#}").map_err(Failure::Output)?;
    } else {
        print(&findings, &interfaces, out).map_err(Failure::Output)?;
    }
    Ok(if well { Exit::Done } else { Exit::Refused })
}

/// The kernel and its programs.
fn system() -> Vec<Finding> {
    let (major, minor) = features::OLDEST;
    let release = features::kernel_version().map_or_else(|| "?".to_owned(), |(a, b)| format!("{a}.{b}"));
    let mut findings = Vec::new();
    findings.push(if features::is_new_enough() {
        Finding::good("kernel", format!("Linux {release}; {major}.{minor} or later is needed"))
    } else {
        Finding::missing("kernel", format!("Linux {release} is too old: {major}.{minor} or later is needed"))
    });
    findings.push(match features::load_programs() {
        Ok(programs) => {
            let most = programs.iter().filter_map(|program| program.verified).max();
            let verified = most.map_or_else(String::new, |most| format!("; the largest took {most} of 1000000 steps"));
            Finding::good("programs", format!("the kernel takes all {}{verified}", programs.len()))
        }
        Err(error) => Finding::missing("programs", format!("{error}; without them every packet takes the path `user`")),
    });
    findings.push(match features::is_jit_on() {
        Some(false) => Finding::note("jit", "programs are interpreted: sysctl -w net.core.bpf_jit_enable=1"),
        Some(true) => Finding::good("jit", "programs run as machine code"),
        None => Finding::note("jit", "the kernel does not tell whether programs run as machine code"),
    });
    findings.push(match features::af_xdp() {
        Ok(()) => Finding::good("af_xdp", "drivers hand packets down directly"),
        Err(error) => Finding::note(
            "af_xdp",
            format!("no AF_XDP sockets ({error}): what drivers hand down goes by the socket buffer, which is slower"),
        ),
    });
    findings.push(match features::tun() {
        Ok(()) => Finding::good("tun", "/dev/net/tun is there for the punt device"),
        Err(error) => Finding::missing("tun", format!("/dev/net/tun: {error} (modprobe tun)")),
    });
    for (what, family, key) in
        [("ipv4_forwarding", 4, "net.ipv4.ip_forward"), ("ipv6_forwarding", 6, "net.ipv6.conf.all.forwarding")]
    {
        findings.push(match features::forwards_by_itself(family) {
            Some(true) => Finding::note(
                what,
                format!("{key} is 1: when no program of flowhop's is on an interface, the kernel forwards unfiltered"),
            ),
            Some(false) => Finding::good(what, format!("{key} is 0: nothing is forwarded past flowhop")),
            None => Finding::note(what, format!("{key} cannot be read")),
        });
    }
    findings
}

/// The policy whose interfaces are looked at: the one named, or the usual one if it is there.
fn read_policy(config: Option<&Path>, findings: &mut Vec<Finding>) -> Option<Policy> {
    let usual = PathBuf::from(crate::cli::POLICY);
    let file = config.map_or(usual, Path::to_path_buf);
    if config.is_none() && !file.exists() {
        findings.push(Finding::note("policy", format!("{} is not there; all devices are looked at", file.display())));
        return None;
    }
    match flowhop_policy::load(&file).outcome {
        Ok(checked) => {
            findings.push(Finding::good("policy", file.display().to_string()));
            Some(checked.policy)
        }
        Err(faults) => {
            let detail = format!("{} has {} faults: flowhop check {0}", file.display(), faults.len());
            findings.push(Finding::missing("policy", detail));
            None
        }
    }
}

/// Each interface of the policy, or each device when there is none.
fn interfaces(policy: Option<&Policy>) -> Result<Vec<Interface>, String> {
    let mut monitor = Monitor::open().map_err(|error| error.to_string())?;
    let events = monitor.dump().map_err(|error| error.to_string())?;
    let links: Vec<Link> = events
        .into_iter()
        .filter_map(|event| if let Event::LinkUpsert(link) = event { Some(link) } else { None })
        .collect();
    let mut queries = DeviceQueries::open().map_err(|error| error.to_string())?;
    let Some(policy) = policy else {
        let policy = Policy::default();
        let devices = links.iter().filter(|link| !link.loopback && link.name != flowhop_io::tap::NAME);
        return Ok(devices.map(|link| judge(&policy, &plain(&link.name), None, &links, &mut queries)).collect());
    };
    let named = policy.interfaces.iter();
    Ok(named.map(|spec| judge(policy, spec, Some(&spec.name), &links, &mut queries)).collect())
}

/// A device as an interface without wishes.
fn plain(device: &str) -> flowhop_policy::Interface {
    flowhop_policy::Interface {
        name: device.to_owned(),
        device: device.to_owned(),
        zone: ZoneId(0),
        path: None,
        rpf: ReversePath::Off,
        martians: Martians::Off,
        line: 0,
    }
}

fn judge(
    policy: &Policy,
    spec: &flowhop_policy::Interface,
    name: Option<&str>,
    links: &[Link],
    queries: &mut DeviceQueries,
) -> Interface {
    let mut found = Interface {
        name: name.map(str::to_owned),
        device: spec.device.clone(),
        kind: None,
        driver: None,
        queues: None,
        redirect_target: None,
        path: None,
        reason: "absent".to_owned(),
        advice: None,
    };
    let Some(link) = links.iter().find(|link| link.name == spec.device) else { return found };
    found.kind.clone_from(&link.kind);
    if let Err(why) = paths::usable(link) {
        found.reason = "refused".to_owned();
        found.advice = Some(why);
        return found;
    }
    let lower = paths::lower(link).ifindex;
    let device: Option<Capabilities> = queries.capabilities(lower).ok();
    let below = links.iter().find(|link| link.ifindex == lower).unwrap_or(link);
    let choice = paths::choose(policy, spec, &Facts::of(link, below, device.as_ref()));
    found.path = Some(fast_path_name(choice.fast));
    found.reason = choice.reason.name().to_owned();
    found.advice = choice.doubt;
    if let Some(device) = device {
        found.driver = (!device.driver.is_empty()).then(|| device.driver.clone());
        found.queues = Some(device.queues);
        found.redirect_target = device.xdp.map(|features| features.contains(XdpFeatures::NDO_XMIT));
        if found.advice.is_none() && found.redirect_target == Some(false) && found.path == Some("driver") {
            let why = "packets of other drivers cannot be sent out of it directly and take the socket buffer";
            found.advice = Some(why.to_owned());
        }
    }
    found
}

fn print(findings: &[Finding], interfaces: &[Interface], out: &mut impl Write) -> std::io::Result<()> {
    for finding in findings {
        writeln!(out, "{:8}{:17}{}", finding.state.name(), finding.what, finding.detail)?;
    }
    for interface in interfaces {
        let name = interface.name.as_deref().unwrap_or(&interface.device);
        let device = match (&interface.driver, interface.queues) {
            (Some(driver), Some(queues)) => format!("{} ({driver}, {queues} queues)", interface.device),
            _ => interface.device.clone(),
        };
        let path = interface.path.unwrap_or("none");
        writeln!(out, "\n{name}: {device}\n    path {path} ({})", interface.reason)?;
        if let Some(advice) = &interface.advice {
            writeln!(out, "    {advice}")?;
        }
    }
    out.flush()
}
