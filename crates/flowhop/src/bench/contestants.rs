//! Who sends small packets through the box, each in a bed of its own.

use std::time::Duration;

use super::Bench;
use super::bpf::{Kind, Link};
use super::field::{Field, Known, PATIENCE, POOL, connections, conntrack_entries, conntrack_room};
use super::generator;
use super::load::{Load, Order, Shape};
use super::openvswitch::OpenVswitch;
use super::report::Section;
use crate::lab::daemon::Policy;
use crate::lab::{Bed, Daemon, LabError, Mode, Tried};

pub(super) const DRIVER_REDIRECT: &str = "bare XDP redirect";
pub(super) const DRIVER: &str = "flowhop driver, NAT";
pub(super) const REDIRECT: &str = "bare redirect";
pub(super) const SKB: &str = "flowhop skb, NAT";
pub(super) const PLAIN: &str = "kernel, plain";
pub(super) const NFTABLES: &str = "kernel, nftables NAT";
pub(super) const OPEN_VSWITCH: &str = "Open vSwitch, NAT";

/// How long a rival may take to learn of flows beside the time that it takes to send them once.
const RIVALS_PATIENCE: Duration = Duration::from_secs(20);

/// What makes a field a router.
#[derive(Debug)]
enum Router {
    /// A program that redirects everything.
    Redirect(#[expect(dead_code, reason = "holds the program")] Link),
    /// Flowhop, with its flows on this path.
    Flowhop(Daemon, Mode),
    /// The kernel without state.
    Plain,
    /// The kernel with state and translation.
    Nftables,
    OpenVswitch(OpenVswitch),
}

#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) who: &'static str,
    pub(super) field: Field,
    router: Router,
    /// It could not open as many flows as it was to.
    gave_up: bool,
}

/// Packets that flowhop has forwarded by an entry where it was to, and packets that took the way by user space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    pub(super) hits: u64,
    pub(super) slow: u64,
}

impl Contestant {
    /// All that there are on this machine; notes say who is missing, and why.
    pub(super) fn all(bench: &Bench<'_>, section: &mut Section) -> Result<Vec<Self>, LabError> {
        let mut all = Vec::new();
        for who in [DRIVER_REDIRECT, DRIVER, REDIRECT, SKB, PLAIN, NFTABLES, OPEN_VSWITCH] {
            let field = Field::new()?;
            match router(who, &field, bench, section) {
                Ok(Some(router)) => all.push(Self { who, field, router, gave_up: false }),
                Ok(None) => {}
                Err(error) if who == OPEN_VSWITCH => section.notes.push(format!("{who} left out: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Whether it is worth to measure this one with such packets.
    pub(super) fn sees(&self, load: Load) -> bool {
        match load.order {
            Order::InTurn => [DRIVER_REDIRECT, DRIVER, NFTABLES].contains(&self.who),
            // It makes no difference here. Nor does it to the redirects, but the others are held against them.
            Order::Random => load.shape == Shape::Udp || self.who != PLAIN,
        }
    }

    /// What drops the packets that came through with the least effort. It may be in the driver for socket buffers too,
    /// except for those of AF_XDP, which would have to be copied.
    pub(super) const fn sink(&self) -> Kind {
        if matches!(self.router, Router::OpenVswitch(_)) { Kind::Classifier } else { Kind::Xdp }
    }

    /// Opens flows. `false`, and a note, where that cannot be done.
    pub(super) fn open(&mut self, load: Load, section: &mut Section) -> Result<bool, LabError> {
        let Load { shape, flows, .. } = load;
        let Self { who, field, router, gave_up } = self;
        let known: Known<'_> = match router {
            Router::Flowhop(daemon, _) => &|bed: &Bed| connections(bed, daemon),
            Router::Nftables => &conntrack_entries,
            Router::OpenVswitch(switch) => &|bed: &Bed| switch.connections(bed),
            Router::Redirect(_) | Router::Plain => return Ok(true),
        };
        let wanted = u64::from(flows) * 2 + 1024;
        if *who == NFTABLES && conntrack_room() < wanted {
            section.note(format!(
                "{who} left out with {flows} flows: this machine allows {} entries; raise it with \
                 `sysctl -w net.netfilter.nf_conntrack_max={}` (for all namespaces, so not done here)",
                conntrack_room(),
                wanted.next_power_of_two()
            ));
            return Ok(false);
        }
        if *who != OPEN_VSWITCH {
            return field.open(shape, flows, PATIENCE, known).map(|()| true);
        }
        if *gave_up {
            return Ok(false);
        }
        match field.open(shape, flows, RIVALS_PATIENCE, known) {
            // A rival that does not manage is no reason to measure nobody.
            Err(error) => {
                *gave_up = true;
                section.notes.push(format!("{who} left out from {flows} flows of {} on: {error}", shape.name()));
                Ok(false)
            }
            Ok(()) => Ok(true),
        }
    }

    /// What came of packets up to now, if this is flowhop.
    pub(super) fn share(&self) -> Result<Option<Share>, LabError> {
        let Router::Flowhop(daemon, mode) = &self.router else { return Ok(None) };
        let path = if *mode == Mode::Driver { "driver" } else { "skb" };
        let paths = daemon.show(&self.field.bed, "paths")?;
        let paths = paths["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |name: &str, key: &str| {
            let path = paths.iter().find(|path| path["name"] == name);
            path.and_then(|path| path[key].as_u64()).unwrap_or(0)
        };
        Ok(Some(Share { hits: number(path, "hits"), slow: number("user", "packets") }))
    }

    /// Has it forward, or pause, if it would disturb the others.
    pub(super) fn runs(&self, on: bool) -> Result<(), LabError> {
        if let Router::OpenVswitch(switch) = &self.router { switch.runs(on) } else { Ok(()) }
    }

    pub(super) fn end(self) -> Result<(), LabError> {
        if let Router::Flowhop(daemon, _) = self.router { daemon.stop() } else { Ok(()) }
    }
}

/// `None`, and a note, where something is not installed.
fn router(
    who: &'static str,
    field: &Field,
    bench: &Bench<'_>,
    section: &mut Section,
) -> Result<Option<Router>, LabError> {
    field.bed.receive_by_polling()?;
    let (lan, wan) = (field.lan, field.wan);
    let redirect = |kind| {
        let link = field.bed.router.enter(|| generator::redirect(kind, wan)?.attach(lan))?;
        Ok::<_, LabError>(Router::Redirect(link.tried("the bare redirect")?))
    };
    let router = match who {
        DRIVER_REDIRECT => {
            field.bed.take_frames()?;
            redirect(Kind::Xdp)?
        }
        DRIVER => {
            field.bed.take_frames()?;
            let policy = Policy { mode: Mode::Driver, ..bench.many_flows("lines") };
            Router::Flowhop(Daemon::start(&field.bed, &bench.folder("rate-driver"), &policy)?, Mode::Driver)
        }
        REDIRECT => redirect(Kind::Classifier)?,
        SKB => {
            let daemon = Daemon::start(&field.bed, &bench.folder("rate-skb"), &bench.many_flows("lines"))?;
            Router::Flowhop(daemon, Mode::Chosen)
        }
        PLAIN => {
            field.bed.kernel_forwards(true)?;
            Router::Plain
        }
        NFTABLES => {
            if !field.bed.kernel_translates(&format!("snat ip to {POOL}"))? {
                section.notes.push("nft is not installed, so the kernel's own firewall is left out".to_owned());
                return Ok(None);
            }
            for key in ["udp_timeout", "udp_timeout_stream"] {
                field.bed.router.sysctl(&format!("net/netfilter/nf_conntrack_{key}"), "3600")?;
            }
            Router::Nftables
        }
        _ => return open_vswitch(field, bench, section),
    };
    Ok(Some(router))
}

fn open_vswitch(field: &Field, bench: &Bench<'_>, section: &mut Section) -> Result<Option<Router>, LabError> {
    if !OpenVswitch::is_installed() {
        let note = "openvswitch-switch (of Debian) is not installed, so Open vSwitch is left out";
        section.notes.push(note.to_owned());
        return Ok(None);
    }
    if super::last_processor() == 0 {
        section.notes.push(format!("{OPEN_VSWITCH} left out: its packet thread needs a processor of its own"));
        return Ok(None);
    }
    let switch = OpenVswitch::start(field, &bench.folder("openvswitch"), 0)?;
    let sockets = if switch.af_xdp { "AF_XDP" } else { "AF_PACKET, as it was built without AF_XDP" };
    section.notes.push(format!(
        "Open vSwitch {}, user-space datapath (`datapath_type=netdev`), ports on {sockets}; its packet thread had a \
         second processor, from receiving to the sink, while the packets were made on the first: so it did less and \
         had more than the others",
        switch.version
    ));
    Ok(Some(Router::OpenVswitch(switch)))
}

impl Bench<'_> {
    /// A policy for the generated flows.
    pub(super) fn many_flows(&self, index: &'static str) -> Policy {
        let most = self.sizes().last().copied().unwrap_or(1);
        Policy {
            inside: vec!["10.64.0.0/16".to_owned()],
            translate: Some(format!("\"{POOL}\"")),
            // UDP and TCP.
            connections: most * 2 + 65536,
            // All handshakes are begun before the first one is completed.
            half_open: Some(most + 65536),
            index,
            ..Policy::default()
        }
    }
}
