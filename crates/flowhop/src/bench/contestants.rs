//! Who sends small packets through the box, each in a bed of its own.

use std::time::Duration;

use flowhop_policy::TableSettings;

use super::bpf::{Kind, Link};
use super::field::{Field, Known, PATIENCE, POOL, connections, conntrack_entries, conntrack_room};
use super::generator;
use super::load::{Load, Order, Shape};
use super::openvswitch::OpenVswitch;
use super::report::Section;
use super::{Bench, keep_process};
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

/// Room beside that for the flows.
const SPARE: u32 = 65536;

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
    /// Those of `wanted` that there are on this machine; notes say who is missing, and why. The rest is as in
    /// [`new`](Self::new).
    pub(super) fn all(
        wanted: &[&'static str],
        bench: &Bench<'_>,
        folder: &str,
        flows: u32,
        section: &mut Section,
    ) -> Result<Vec<Self>, LabError> {
        let mut all = Vec::new();
        for &who in wanted {
            match Self::new(who, bench, folder, flows, section) {
                Ok(contestant) => all.extend(contestant),
                Err(error) if who == OPEN_VSWITCH => section.notes.push(format!("{who} left out: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// One in a bed of its own, with room for so many flows of each protocol. `folder` is the beginning of the name of its
    /// folder, if it needs one. `None`, and a note, where it is not installed.
    pub(super) fn new(
        who: &'static str,
        bench: &Bench<'_>,
        folder: &str,
        flows: u32,
        section: &mut Section,
    ) -> Result<Option<Self>, LabError> {
        let field = Field::new()?;
        let router = router(who, &field, bench, folder, flows, section)?;
        Ok(router.map(|router| Self { who, field, router, gave_up: false }))
    }

    /// Keeps what forwards beside the kernel on a processor.
    pub(super) fn keep_on(&self, processor: usize) -> Result<(), LabError> {
        match &self.router {
            Router::Flowhop(daemon, _) => keep_process(daemon.id(), processor).tried("keep flowhop on a processor"),
            _ => Ok(()),
        }
    }

    /// Connections that it knows; `None` if it has no such thing.
    pub(super) fn connections(&self) -> Result<Option<u64>, LabError> {
        let bed = &self.field.bed;
        match &self.router {
            Router::Flowhop(daemon, _) => connections(bed, daemon).map(Some),
            Router::Nftables => conntrack_entries(bed).map(Some),
            Router::OpenVswitch(switch) => switch.connections(bed).map(Some),
            Router::Redirect(_) | Router::Plain => Ok(None),
        }
    }

    /// Whether it is worth to measure this one with such packets.
    pub(super) fn sees(&self, load: Load) -> bool {
        match load.order {
            Order::InTurn => [DRIVER_REDIRECT, DRIVER, NFTABLES].contains(&self.who),
            // It makes no difference here. Nor does it to the redirects, but the others are held against them.
            Order::Random => load.form.shape == Shape::Udp || self.who != PLAIN,
        }
    }

    /// What drops the packets that came through with the least effort. It may be in the driver for socket buffers too,
    /// except for those of AF_XDP, which would have to be copied.
    pub(super) const fn sink(&self) -> Kind {
        if matches!(self.router, Router::OpenVswitch(_)) { Kind::Classifier } else { Kind::Xdp }
    }

    /// Opens flows. `false`, and a note, where that cannot be done.
    pub(super) fn open(&mut self, load: Load, section: &mut Section) -> Result<bool, LabError> {
        let Load { form, flows, .. } = load;
        if !self.has_room(u64::from(flows) * 2 + 1024, flows, section) {
            return Ok(false);
        }
        let Self { who, field, router, gave_up } = self;
        let known: Known<'_> = match router {
            Router::Flowhop(daemon, _) => &|bed: &Bed| connections(bed, daemon),
            Router::Nftables => &conntrack_entries,
            Router::OpenVswitch(switch) => &|bed: &Bed| switch.connections(bed),
            Router::Redirect(_) | Router::Plain => return Ok(true),
        };
        if *who != OPEN_VSWITCH {
            return field.open(form, flows, PATIENCE, known).map(|()| true);
        }
        if *gave_up {
            return Ok(false);
        }
        match field.open(form, flows, RIVALS_PATIENCE, known) {
            // A rival that does not manage is no reason to measure nobody.
            Err(error) => {
                *gave_up = true;
                section.notes.push(format!("{who} left out from {flows} flows of {} on: {error}", form.shape.name()));
                Ok(false)
            }
            Ok(()) => Ok(true),
        }
    }

    /// Whether so many entries are allowed for so many flows; a note where not.
    pub(super) fn has_room(&self, entries: u64, flows: u32, section: &mut Section) -> bool {
        let room = conntrack_room();
        if self.who != NFTABLES || room >= entries {
            return true;
        }
        section.note(format!(
            "{} left out with {flows} flows: this machine allows {room} entries; raise it with \
             `sysctl -w net.netfilter.nf_conntrack_max={}` (for all namespaces, so not done here)",
            self.who,
            entries.next_power_of_two()
        ));
        false
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
    folder: &str,
    flows: u32,
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
            let policy = Policy { mode: Mode::Driver, ..many_flows("lines", flows) };
            Router::Flowhop(
                Daemon::start(&field.bed, &bench.folder(&format!("{folder}-driver")), &policy)?,
                Mode::Driver,
            )
        }
        REDIRECT => redirect(Kind::Classifier)?,
        SKB => {
            let daemon =
                Daemon::start(&field.bed, &bench.folder(&format!("{folder}-skb")), &many_flows("lines", flows))?;
            Router::Flowhop(daemon, Mode::Chosen)
        }
        PLAIN => {
            field.bed.kernel_forwards(true)?;
            Router::Plain
        }
        NFTABLES => {
            if !field.bed.kernel_translates(&format!("snat ip to {POOL}"))? {
                section.note("nft is not installed, so the kernel's own firewall is left out".to_owned());
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

/// A policy for so many generated flows of UDP, and as many of TCP.
pub(super) fn many_flows(index: &'static str, flows: u32) -> Policy {
    Policy {
        inside: vec!["10.64.0.0/16".to_owned()],
        translate: Some(format!("\"{POOL}\"")),
        connections: (flows * 2 + SPARE).min(TableSettings::MAX_CONNECTIONS),
        // All handshakes are begun before the first one is completed.
        half_open: Some(flows + SPARE),
        index,
        // As the rivals have it: on a busy machine the flows of one protocol wait long while the other's are opened.
        idle: Some(3600),
        ..Policy::default()
    }
}
