//! Answers to clients of the control socket.

use std::sync::Arc;

use flowhop_flow::Reason;
use flowhop_io::bpf::{KernelError, Tallies};
use flowhop_io::clock::Clock;

use super::plane::Plane;
use super::{Daemon, Stop};
use crate::control::{Answer, Handler, Peer, Request};
use crate::show::{Agent, ModuleInfo, PathCounts, View, What};

impl Handler for Daemon {
    fn answer(&mut self, request: Request, _: Peer) -> Answer {
        match request {
            Request::Show { what } => match self.view(what) {
                Ok(view) => Answer::Later(Box::new(move |out| view.write(what, out))),
                Err(error) => Answer::Refused(error.to_string()),
            },
            Request::DeleteFlow { id } => {
                if self.engine.delete(id) {
                    Answer::Now(serde_json::json!({ "deleted": id }))
                } else {
                    Answer::Refused(format!("there is no flow {id}"))
                }
            }
            Request::Down => {
                self.stop = Some(Stop::Down);
                Answer::Now(serde_json::json!({ "pid": std::process::id() }))
            }
        }
    }
}

impl Daemon {
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

fn add(counts: &mut PathCounts, port: u8, tallies: &Tallies) {
    for (reason, tally) in tallies.moved() {
        let reason: Reason = reason;
        counts.add(port, reason, tally.packets, tally.bytes);
    }
}
