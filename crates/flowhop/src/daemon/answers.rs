//! Answers to clients of the control socket.

use std::io;
use std::sync::{Arc, mpsc};

use flowhop_engine::{MoveError, Path};
use flowhop_flow::Reason;
use flowhop_io::bpf::{KernelError, Tallies};
use flowhop_io::clock::Clock;
use serde_json::json;

use super::plane::Plane;
use super::{Daemon, Stop};
use crate::control::{Answer, Handler, PathChoice, Peer, Request};
use crate::show::{Agent, ModuleInfo, PathCounts, View, What, moved};

impl Handler for Daemon {
    fn answer(&mut self, request: Request, _: Peer) -> Answer {
        match request {
            Request::Show { what } => match self.view(what) {
                Ok(view) => Answer::Later(Box::new(move |out| view.write(what, out))),
                Err(error) => Answer::Refused(error.to_string()),
            },
            Request::DeleteFlow { id } => {
                if self.engine.delete(id) {
                    Answer::Now(json!({ "deleted": id }))
                } else {
                    Answer::Refused(format!("there is no flow {id}"))
                }
            }
            Request::MoveFlow { id, path } => self.move_flow(id, path),
            Request::MoveFlows { path } => self.move_flows(path),
            Request::Down => {
                self.stop = Some(Stop::Down);
                Answer::Now(json!({ "pid": std::process::id() }))
            }
        }
    }
}

impl Daemon {
    fn move_flow(&mut self, id: u32, path: PathChoice) -> Answer {
        match self.engine.move_flow(id, path_of(path), Clock::now()) {
            Ok(paths) => Answer::Now(moved(1, Some(paths))),
            Err(MoveError::Unknown) => Answer::Refused(format!("there is no flow {id}")),
            Err(MoveError::Impossible) => {
                Answer::Refused(format!("flow {id} cannot take that path: its interfaces or its rule do not allow it"))
            }
        }
    }

    /// The answer is given when all are moved, by the client's own thread.
    fn move_flows(&mut self, path: PathChoice) -> Answer {
        let (count, counted) = mpsc::sync_channel(1);
        self.engine.move_flows(path_of(path));
        self.moving.push_back(count);
        Answer::Later(Box::new(move |out| {
            let ended = |_| io::Error::other("the daemon is ending");
            let value = moved(counted.recv().map_err(ended)?, None);
            out.write_all(value.to_string().as_bytes())
        }))
    }

    /// Tells those who have moved all flows how many these were.
    pub(super) fn answer_moves(&mut self) {
        while let Some(count) = self.engine.take_moved() {
            if let Some(client) = self.moving.pop_front() {
                let _gone = client.try_send(count);
            }
        }
    }

    fn view(&self, what: What) -> Result<View, KernelError> {
        let (rules, nats) = (Arc::new(self.outside.numbers.rules.clone()), Arc::new(self.outside.numbers.nats.clone()));
        let now = Clock::now();
        let mut view = View::of(&self.engine, &self.shared.current(), &rules, &nats, now, what);
        if let Plane::Kernel(plane) = &self.outside.plane
            && matches!(what, What::Paths | What::Drops | What::Status | What::Interfaces)
        {
            for port in self.engine.interfaces().iter().map(|interface| interface.port) {
                add(&mut view.accounts.driver, port, &plane.kernel.driver_counters(port)?);
                add(&mut view.accounts.skb, port, &plane.kernel.counters(port)?);
                add(&mut view.accounts.orders, port, &plane.kernel.tap_counters(port)?);
            }
        }
        for port in &mut view.ports {
            let refused = self.refused.iter().find(|(name, _)| *name == *port.interface.name);
            port.problem = refused.map(|(_, why)| why.clone());
        }
        if what == What::Nat {
            view.asked = self.outside.bindings.all_asked(now);
        }
        let routes = if what == What::Agents { self.engine.routing().routes().count() } else { 0 };
        view.agents = vec![Agent { name: "kernel", protocol: "rtnetlink", state: "running".into(), routes }];
        view.modules = self
            .engine
            .modules()
            .map(|module| ModuleInfo { name: module.name(), runs_after: module.runs_after().to_vec() })
            .collect();
        view.status.pid = std::process::id();
        view.status.uptime_s = self.started.elapsed().as_secs_f64();
        view.status.policy = self.options.config.display().to_string();
        Ok(view)
    }
}

const fn path_of(choice: PathChoice) -> Option<Path> {
    match choice {
        PathChoice::Driver => Some(Path::Driver),
        PathChoice::Skb => Some(Path::Skb),
        PathChoice::User => Some(Path::User),
        PathChoice::Default => None,
    }
}

fn add(counts: &mut PathCounts, port: u8, tallies: &Tallies) {
    for (reason, tally) in tallies.moved() {
        let reason: Reason = reason;
        counts.add(port, reason, tally.packets, tally.bytes);
    }
}
