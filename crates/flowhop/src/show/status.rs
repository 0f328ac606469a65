//! `show status`.

use serde_json::{Value, json};

use flowhop_engine::{CookieStatus, Pressure, ShadowStatus};

use crate::show::View;

/// The daemon as a whole.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Process id; 0 where there is no daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// The policy file.
    pub policy: String,
    /// Generation of the policy.
    pub generation: u32,
    /// Live connections.
    pub connections: u32,
    /// Refused connections that are remembered.
    pub refusals: u32,
    /// Refused connections that were remembered so far.
    pub refused: u64,
    /// Connections that there is memory for.
    pub size: usize,
    /// Connections that there is room for; ended ones take room until nobody reads them any more.
    pub free: usize,
    /// Entries that wait to become active.
    pub pending: usize,
    /// Packets that wait for neighbours.
    pub held: usize,
    /// What the table is full of.
    pub pressure: Pressure,
    /// How SYN cookies are doing.
    pub cookies: CookieStatus,
    /// How shadow mode is doing.
    pub shadow: ShadowStatus,
}

impl View {
    pub(super) fn status(&self) -> Value {
        let status = &self.status;
        let totals = self.accounts.totals();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": status.pid,
            "uptime_s": status.uptime_s,
            "policy": status.policy,
            "generation": status.generation,
            "table": {
                "connections": status.connections,
                "refusals": status.refusals,
                "size": status.size,
                "free": status.free,
            },
            "pending": status.pending,
            "held": status.held,
            "pressure": pressure(&status.pressure, status.connections),
            "syn_cookies": self.syn_cookies(),
            "shadow": {
                "one_in": status.shadow.one_in,
                "same": status.shadow.same,
                "different": status.shadow.different,
                "unjudged": status.shadow.unjudged,
            },
            "helpers": {
                "declined": self.accounts.helper_declined(),
            },
            "packets": {
                "received": totals.received,
                "forwarded": totals.forwarded,
                "stack": totals.stack,
                "consumed": totals.consumed,
                "held": totals.held,
                "dropped": totals.dropped,
            },
        })
    }
}

impl View {
    fn syn_cookies(&self) -> Value {
        let CookieStatus { answering, services, accepted, opening } = self.status.cookies;
        let [sent, refused] = self.accounts.syn_cookies();
        json!({
            "answering": answering,
            "services": services,
            "sent": sent,
            "accepted": accepted,
            "refused": refused,
            "opening": opening,
        })
    }
}

fn pressure(pressure: &Pressure, connections: u32) -> Value {
    let top = pressure.top.iter().map(|share| {
        json!({
            "source": share.source.to_string(),
            "connections": share.connections,
            "share": f64::from(share.connections) / f64::from(connections.max(share.connections)),
        })
    });
    json!({
        "half_open": pressure.half_open,
        "half_open_limit": pressure.half_open_limit,
        "evicted": pressure.evicted,
        "sources": pressure.sources,
        "top_sources": top.collect::<Vec<_>>(),
    })
}
