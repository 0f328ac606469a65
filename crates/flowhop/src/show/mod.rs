//! What is there now, as JSON and as tables for people.
//!
//! # What
//! A [`View`] holds clones of what is shared (the decision table, names) and copies of the rest. The daemon takes one
//! in a moment; everything that takes long (walking a million connections) is then done from the view, on whatever
//! thread, by [`View::write`]. Values are streamed one by one, in the form that docs/json/ describes. Tables for
//! people are made from these values, by the client ([`text`]).

pub mod accounts;
pub mod connection;
mod fib;
mod flows;
pub(crate) mod lists;
mod nat;
mod status;
pub mod text;

use std::io::{self, Write};
use std::sync::Arc;

use clap::ValueEnum;
use flowhop_engine::{Engine, Interface, Path, Timeouts};
use flowhop_flow::record::Tick;
use flowhop_modules::{Asked, Current, Names};
use flowhop_policy::ZoneId;
use flowhop_routing::{Adjacency, Route};
use flowhop_table::Regions;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use accounts::{Accounts, PathCounts, Totals};
pub use status::Status;

/// Version of the JSON output.
pub const JSON_VERSION: u32 = 1;

/// What `move flow` answers: how many flows were moved, and of a single one the path that each direction takes.
#[must_use]
pub fn moved(count: u32, paths: Option<[Path; 2]>) -> Value {
    json!({ "version": JSON_VERSION, "moved": count, "paths": paths.map(|paths| paths.map(Path::name)) })
}

/// What can be shown.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Connections with both directions, translations, paths, counters
    Flows,
    /// What each forwarding path carried
    Paths,
    /// The forwarding table: route entries and flow entries
    Fib,
    /// The rules in order, with the connections that each has allowed
    Rules,
    /// Published services, mappings that hosts have asked for, and the translations of live connections
    Nat,
    /// What was dropped, and why
    Drops,
    /// The interfaces of the policy
    Interfaces,
    /// Who feeds the forwarding table
    Agents,
    /// The modules that judge new connections, in order
    Modules,
    /// The daemon as a whole
    Status,
}

impl What {
    /// The name on the command line, in requests, and the key of the JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Paths => "paths",
            Self::Fib => "fib",
            Self::Rules => "rules",
            Self::Nat => "nat",
            Self::Drops => "drops",
            Self::Interfaces => "interfaces",
            Self::Agents => "agents",
            Self::Modules => "modules",
            Self::Status => "status",
        }
    }
}

/// Sources that the status names.
const TOP_SOURCES: usize = 10;

/// An interface with what routing knows of its device.
#[derive(Clone, Debug)]
pub struct Port {
    /// As the engine has it.
    pub interface: Interface,
    /// Name of its zone.
    pub zone: String,
    /// The device is there and can be used for output.
    pub up: bool,
    /// MTU in bytes; `None` while the device is absent.
    pub mtu: Option<u32>,
    /// Why the device that is there is not taken into use.
    pub problem: Option<String>,
}

/// Something that feeds the forwarding table.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// Its name.
    pub name: &'static str,
    /// What it speaks.
    pub protocol: &'static str,
    /// `running`, or what keeps it from it.
    pub state: String,
    /// Routes that it has brought.
    pub routes: usize,
}

/// A module that judges new connections.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleInfo {
    /// Its name.
    pub name: &'static str,
    /// What is asked before it, by its own declaration.
    pub runs_after: Vec<&'static str>,
}

/// What was there at one moment, in parts that are cheap to take.
#[derive(Clone, Debug)]
pub struct View {
    /// The decision table, shared.
    pub regions: Regions,
    /// The time.
    pub now: Tick,
    /// Timeouts in force.
    pub timeouts: Timeouts,
    /// The policy in force.
    pub policy: Arc<Current>,
    /// Names of rules by identity.
    pub rules: Arc<Names>,
    /// Names of translations by identity.
    pub nats: Arc<Names>,
    /// The interfaces of the policy, by port number.
    pub ports: Vec<Port>,
    /// What was counted.
    pub accounts: Accounts,
    /// Routes; taken for [`What::Fib`] only.
    pub routes: Vec<Route>,
    /// Adjacencies; taken for [`What::Fib`] only.
    pub adjacencies: Vec<Adjacency>,
    /// Mappings that hosts have asked for; the caller's to add, for [`What::Nat`] only.
    pub asked: Vec<Asked>,
    /// What feeds the forwarding table.
    pub agents: Vec<Agent>,
    /// The modules in the order in which they are asked.
    pub modules: Vec<ModuleInfo>,
    /// The daemon.
    pub status: Status,
}

impl View {
    /// A view of what an engine has, for one purpose. Accounts of the kernel paths, agents, modules, mappings that were
    /// asked for and status are the caller's to add.
    #[must_use]
    pub fn of(
        engine: &Engine,
        policy: &Arc<Current>,
        rules: &Arc<Names>,
        nats: &Arc<Names>,
        now: Tick,
        what: What,
    ) -> Self {
        let routing = engine.routing();
        let ports: Vec<Port> = engine
            .interfaces()
            .iter()
            .map(|interface| {
                let link = routing.link(interface.ifindex).filter(|_| interface.ifindex != 0);
                Port {
                    interface: interface.clone(),
                    zone: policy.policy.zone_name(ZoneId(interface.zone)).to_owned(),
                    up: link.is_some_and(|link| link.up),
                    mtu: link.map(|link| link.mtu),
                    problem: None,
                }
            })
            .collect();
        let user = PathCounts::of_user(engine.counters());
        let fib = what == What::Fib;
        let table = engine.table();
        Self {
            regions: table.regions().clone(),
            now,
            timeouts: *engine.timeouts(),
            policy: Arc::clone(policy),
            rules: Arc::clone(rules),
            nats: Arc::clone(nats),
            ports,
            accounts: Accounts { user, ..Accounts::default() },
            routes: if fib { routing.routes().collect() } else { Vec::new() },
            adjacencies: if fib { routing.adjacencies().cloned().collect() } else { Vec::new() },
            asked: Vec::new(),
            agents: Vec::new(),
            modules: Vec::new(),
            status: Status {
                connections: table.live().saturating_sub(engine.refusals()),
                refusals: engine.refusals(),
                refused: engine.refusals_made(),
                size: table.regions().blocks.len(),
                free: table.free(),
                pending: engine.pending(),
                held: engine.held(),
                pressure: engine.pressure(if what == What::Status { TOP_SOURCES } else { 0 }),
                cookies: engine.cookies(),
                shadow: engine.shadow(),
                generation: table.config().policy_generation.load(),
                ..Status::default()
            },
        }
    }

    /// Writes the JSON object for `what`.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, what: What, out: &mut dyn Write) -> io::Result<()> {
        if what == What::Status {
            return serde_json::to_writer(out, &json!({ "version": JSON_VERSION, "status": self.status() }))
                .map_err(Into::into);
        }
        write!(out, "{{\"version\":{JSON_VERSION},\"{}\":[", what.name())?;
        let mut first = true;
        self.each(what, &mut |value| {
            if !std::mem::take(&mut first) {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *out, &value).map_err(io::Error::from)
        })?;
        out.write_all(b"]}")
    }

    /// The JSON object for `what`, all at once.
    ///
    /// # Errors
    /// Never in practice: what was just written is read again.
    pub fn value(&self, what: What) -> io::Result<Value> {
        let mut text = Vec::new();
        self.write(what, &mut text)?;
        serde_json::from_slice(&text).map_err(Into::into)
    }

    /// Hands the elements of the list for `what` to `emit`, one by one.
    ///
    /// # Errors
    /// When `emit` says so.
    pub fn each(&self, what: What, emit: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
        match what {
            What::Flows => self.flows(emit),
            What::Fib => self.fib(emit),
            What::Nat => self.nat(emit),
            What::Paths => self.paths().into_iter().try_for_each(emit),
            What::Rules => self.rules().into_iter().try_for_each(emit),
            What::Drops => self.drops().into_iter().try_for_each(emit),
            What::Interfaces => self.interfaces().into_iter().try_for_each(emit),
            What::Agents => self.agents.iter().map(|agent| json!(agent)).try_for_each(emit),
            What::Modules => self.modules.iter().map(|module| json!(module)).try_for_each(emit),
            What::Status => emit(self.status()),
        }
    }

    /// The policy's name for a port.
    #[must_use]
    pub fn port_name(&self, port: u8) -> Option<&str> {
        let found = self.ports.iter().find(|candidate| candidate.interface.port == port)?;
        Some(&found.interface.name)
    }
}
