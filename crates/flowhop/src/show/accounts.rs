//! `show paths`, `show drops`, and the sums that must come out: what was counted where.
//!
//! # The account
//! Every packet that comes in through an interface of the policy moves one counter of the path that judged it. A
//! kernel path's hand-downs are no fate: the packet is counted again by the user-level path, unless the queue
//! between them was full, which is the drop reason `punt_queue`. A packet that user space gave to the stack passes
//! the kernel program once more (`reinjected`), which is not counted as another packet. What the punt device's
//! program could not send although the user-level path had counted it as forwarded is `device`. Hence, once nothing
//! is on its way:
//!
//! received = forwarded + stack + consumed + held + dropped
//!
//! where `forwarded + stack` is the sum of the packets of all paths, and `dropped` that of all drops. Packets that
//! were cut into fragments count as forwarded, each as the one packet that it was.

use flowhop_engine::{Counters, FastPath};
use flowhop_flow::reason::REASON_SLOTS;
use flowhop_flow::record::{PORTS, PortCounters};
use flowhop_flow::{Kind, Reason};
use serde_json::{Value, json};

use crate::show::View;

/// Packets and bytes.
pub type Amount = (u64, u64);

/// What one path counted, by port and reason.
#[derive(Clone, Debug, Default)]
pub struct PathCounts {
    ports: Vec<Option<Box<[Amount; REASON_SLOTS]>>>,
}

impl PathCounts {
    /// Adds what was counted on a port under a reason, as on one processor.
    pub fn add(&mut self, port: u8, reason: Reason, packets: u64, bytes: u64) {
        if packets == 0 && bytes == 0 {
            return;
        }
        let place = usize::from(port);
        if self.ports.len() <= place {
            self.ports.resize(place + 1, None);
        }
        let amounts = self.ports[place].get_or_insert_with(|| Box::new([(0, 0); REASON_SLOTS]));
        let amount = &mut amounts[usize::from(reason.number())];
        amount.0 = amount.0.wrapping_add(packets);
        amount.1 = amount.1.wrapping_add(bytes);
    }

    /// Adds all that was counted on a port.
    pub fn add_port(&mut self, port: u8, counters: &PortCounters) {
        for &reason in Reason::ALL {
            let count = &counters.0[usize::from(reason.number())];
            self.add(port, reason, count.packets.load(), count.bytes.load());
        }
    }

    /// What the user-level path has counted.
    #[must_use]
    pub fn of_user(counters: &Counters) -> Self {
        let mut counts = Self::default();
        for port in 0..PORTS {
            for &reason in Reason::ALL {
                let (packets, bytes) = counters.get(port as u8, reason);
                counts.add(port as u8, reason, packets, bytes);
            }
        }
        counts
    }

    /// What was counted on a port under a reason.
    #[must_use]
    pub fn get(&self, port: u8, reason: Reason) -> Amount {
        let amounts = self.ports.get(usize::from(port)).and_then(Option::as_deref);
        amounts.map_or((0, 0), |amounts| amounts[usize::from(reason.number())])
    }

    /// The sum over all reasons that are wanted on a port.
    fn on_port(&self, port: u8, wanted: impl Fn(Reason) -> bool) -> Amount {
        let reasons = Reason::ALL.iter().filter(|reason| wanted(**reason));
        reasons.fold((0, 0), |sum, reason| plus(sum, self.get(port, *reason)))
    }

    /// The sum over all ports and all reasons that are wanted.
    fn sum(&self, wanted: impl Fn(Reason) -> bool) -> Amount {
        self.numbers().fold((0, 0), |sum, port| plus(sum, self.on_port(port, &wanted)))
    }

    fn numbers(&self) -> impl Iterator<Item = u8> {
        (0..self.ports.len()).map(|port| port as u8)
    }
}

/// What all paths counted, taken as close together as can be: the kernel's first.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The `driver` path.
    pub driver: PathCounts,
    /// The `skb` path.
    pub skb: PathCounts,
    /// What the punt device's program did with the orders of the user-level path.
    pub orders: PathCounts,
    /// The user-level path.
    pub user: PathCounts,
}

/// One packet in, one packet accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Came in.
    pub received: u64,
    /// Sent on.
    pub forwarded: u64,
    /// Left or given to the kernel's stack.
    pub stack: u64,
    /// Taken in by flowhop itself.
    pub consumed: u64,
    /// Waiting.
    pub held: u64,
    /// Discarded.
    pub dropped: u64,
}

/// A line of `show drops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Name of the reason.
    pub reason: &'static str,
    /// The path that dropped.
    pub path: &'static str,
    /// The port.
    pub port: u8,
    /// Packets and bytes.
    pub amount: Amount,
}

/// Reasons that an order can fail with after its packet was counted as forwarded.
const FAILED_ORDERS: [Reason; 2] = [Reason::Device, Reason::BadHeader];

impl Accounts {
    /// The sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let stack = plus(self.skb.sum(to_stack), self.user.sum(|reason| reason.slow_kind() == Kind::Stack));
        let fast = plus(self.driver.sum(is_forwarded), self.skb.sum(is_forwarded));
        let kept = self.user.sum(|reason| reason.slow_kind() == Kind::Hold);
        let consumed = self.user.sum(|reason| reason.slow_kind() == Kind::Consume && reason != Reason::Fragmented);
        let dropped: u64 = self.drops().iter().map(|drop| drop.amount.0).sum();
        let received: u64 = (0..PORTS).map(|port| self.received(port as u8)).sum();
        let forwarded = plus(fast, self.user_forwarded());
        Totals { received, forwarded: forwarded.0, stack: stack.0, consumed: consumed.0, held: kept.0, dropped }
    }

    /// What the user-level path sent, without what the device then refused.
    fn user_forwarded(&self) -> Amount {
        minus(self.user.sum(is_sent), self.orders.sum(|reason| FAILED_ORDERS.contains(&reason)))
    }

    fn received(&self, port: u8) -> u64 {
        let counted = |reason| reason != Reason::Reinjected;
        let all = plus(self.driver.on_port(port, counted), self.skb.on_port(port, counted)).0;
        let handed = self.handed(port).0;
        let arrived = self.user.on_port(port, |_| true).0;
        (all - handed) + handed.max(arrived)
    }

    /// What the kernel paths handed down.
    fn handed(&self, port: u8) -> Amount {
        plus(self.driver.on_port(port, is_handed), self.skb.on_port(port, is_handed))
    }

    /// Packets that were forwarded though a helper would not act on what they announce.
    #[must_use]
    pub fn helper_declined(&self) -> u64 {
        self.user.sum(|reason| reason == Reason::HelperDeclined).0
    }

    /// SYNs that were answered with cookies, and segments that acknowledge none, on all paths.
    #[must_use]
    pub fn syn_cookies(&self) -> [u64; 2] {
        [Reason::SynCookie, Reason::CookieRefused].map(|wanted| {
            let paths = [&self.driver, &self.skb, &self.user];
            paths.into_iter().map(|path| path.sum(|reason| reason == wanted).0).sum()
        })
    }

    /// Everything that was dropped, with packets to it.
    #[must_use]
    pub fn drops(&self) -> Vec<Drop> {
        let mut drops = Vec::new();
        let mut push = |reason: &'static str, path, port, amount: Amount| {
            if amount.0 != 0 {
                drops.push(Drop { reason, path, port, amount });
            }
        };
        for port in (0..PORTS).map(|port| port as u8) {
            for &reason in Reason::ALL {
                if reason.fast_kind() == Kind::Drop {
                    push(reason.name(), "driver", port, self.driver.get(port, reason));
                    push(reason.name(), "skb", port, self.skb.get(port, reason));
                }
                if reason.slow_kind() == Kind::Drop {
                    let refused = if reason == Reason::Device {
                        self.orders.on_port(port, |reason| FAILED_ORDERS.contains(&reason))
                    } else {
                        (0, 0)
                    };
                    push(reason.name(), "user", port, plus(self.user.get(port, reason), refused));
                }
            }
            let lost = minus(self.handed(port), self.user.on_port(port, |_| true));
            push("punt_queue", "user", port, lost);
        }
        drops
    }
}

impl View {
    pub(super) fn drops(&self) -> Vec<Value> {
        self.accounts
            .drops()
            .into_iter()
            .map(|drop| {
                json!({
                    "reason": drop.reason,
                    "path": drop.path,
                    "interface": self.port_name(drop.port),
                    "packets": drop.amount.0,
                    "bytes": drop.amount.1,
                })
            })
            .collect()
    }

    /// What each path delivered, how many packets met an entry, and how many met none.
    ///
    /// On the user-level path a miss is an attempt to begin a connection, made or refused; it is worked out from the
    /// serial numbers of connections and the reasons of refusals.
    pub(super) fn paths(&self) -> Vec<Value> {
        let accounts = &self.accounts;
        let with = |fast: FastPath| -> Vec<&str> {
            let ports = self.ports.iter().filter(|port| port.interface.fast == fast);
            ports.map(|port| &*port.interface.name).collect()
        };
        let skb = accounts.skb.sum(is_forwarded);
        let driver = accounts.driver.sum(is_forwarded);
        let stack = plus(accounts.skb.sum(to_stack), accounts.user.sum(|reason| reason.slow_kind() == Kind::Stack));
        let user = accounts.user_forwarded();
        let opened = self.regions.blocks.iter().map(|block| block.owner.serial.load()).max().map_or(0, u64::from);
        // Refusals that are remembered have serial numbers as well.
        let opened = opened.saturating_sub(self.status.refused);
        let refused = accounts.user.sum(refuses_connection).0;
        let known = accounts.user.sum(|reason| is_sent(reason) || meets_entry(reason)).0;
        let line = |name, level, interfaces: Vec<&str>, amount: Amount, hits: u64, misses: u64| {
            json!({
                "name": name,
                "level": level,
                "interfaces": interfaces,
                "packets": amount.0,
                "bytes": amount.1,
                "hits": hits,
                "misses": misses,
            })
        };
        let entries = |reason| matches!(reason, Reason::Forwarded | Reason::StackFlow) || meets_entry(reason);
        let missed = |counts: &PathCounts| counts.sum(|reason| reason == Reason::Miss).0;
        let (driver_hits, skb_hits) = (accounts.driver.sum(entries).0, accounts.skb.sum(entries).0);
        let stack_flows = accounts.skb.sum(|reason| reason == Reason::StackFlow).0;
        vec![
            line(
                "driver",
                "NAPI softirq, native XDP",
                with(FastPath::Driver),
                driver,
                driver_hits,
                missed(&accounts.driver),
            ),
            line("skb", "softirq, tc ingress", with(FastPath::Skb), skb, skb_hits, missed(&accounts.skb)),
            line("stack", "kernel IP stack", Vec::new(), stack, stack_flows, 0),
            line(
                "user",
                "user-level process",
                with(FastPath::None),
                user,
                known.saturating_sub(opened),
                refused + opened,
            ),
        ]
    }
}

/// Sent on by a kernel path.
fn is_forwarded(reason: Reason) -> bool {
    reason == Reason::Forwarded
}

/// Sent by the user-level path.
fn is_sent(reason: Reason) -> bool {
    matches!(reason, Reason::Forwarded | Reason::Fragmented | Reason::PartialChecksum | Reason::HelperDeclined)
}

/// Handed down by a kernel path.
fn is_handed(reason: Reason) -> bool {
    reason.fast_kind() == Kind::HandDown
}

/// Left to the stack by a kernel path, and not put there by user space.
fn to_stack(reason: Reason) -> bool {
    reason.fast_kind() == Kind::Stack && reason != Reason::Reinjected
}

/// A packet that met the entry of its flow, but was not forwarded by it at once.
const fn meets_entry(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Pending
            | Reason::SlowPath
            | Reason::WrongInterface
            | Reason::StalePolicy
            | Reason::StaleAdjacency
            | Reason::NeighbourUnresolved
            | Reason::HeldNeighbour
            | Reason::HeldMove
            | Reason::OutputLevel
            | Reason::TtlExceeded
            | Reason::TooBig
            | Reason::TcpSyn
            | Reason::TcpFlags
            | Reason::TcpWindow
            | Reason::TcpState
            | Reason::Contention
            | Reason::Torn
            | Reason::BadRecord
            | Reason::Orphaned
            | Reason::FlowDropped
    )
}

/// A packet that no connection was made for.
const fn refuses_connection(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoRule
            | Reason::RuleDrop
            | Reason::RuleReject
            | Reason::RuleLimit
            | Reason::SourceLimit
            | Reason::TableFull
            | Reason::NatExhausted
            | Reason::NatUnsupported
            | Reason::NatFiltered
            | Reason::NatLimit
            | Reason::NoRoute
            | Reason::RouteRefused
            | Reason::LinkDown
            | Reason::NoZone
            | Reason::NotNew
            | Reason::SpoofedSource
            | Reason::SpoofedConnected
            | Reason::ReversePath
            | Reason::LinkLocalTransit
            | Reason::DirectedBroadcast
    )
}

const fn plus(a: Amount, b: Amount) -> Amount {
    (a.0 + b.0, a.1 + b.1)
}

/// Counters are read one after the other while packets go on; what would be negative is on its way.
const fn minus(a: Amount, b: Amount) -> Amount {
    (a.0.saturating_sub(b.0), a.1.saturating_sub(b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    // F2: every packet in is accounted for.
    #[test]
    fn every_packet_is_accounted_for() {
        let mut accounts = Accounts::default();
        for (reason, packets) in [
            (Reason::Forwarded, 1000),
            (Reason::Miss, 30),
            (Reason::Pending, 20),
            (Reason::Local, 7),
            (Reason::Reinjected, 4),
            (Reason::Orphaned, 3),
        ] {
            accounts.skb.add(1, reason, packets, packets * 100);
        }
        for (reason, packets) in [
            (Reason::Forwarded, 30),
            (Reason::Fragmented, 1),
            (Reason::NoRule, 8),
            (Reason::Local, 4),
            (Reason::HeldNeighbour, 2),
        ] {
            accounts.user.add(1, reason, packets, packets * 100);
        }
        accounts.orders.add(2, Reason::Device, 1, 100);
        // A port without kernel programs.
        accounts.user.add(2, Reason::Forwarded, 6, 600);

        let totals = accounts.totals();
        assert_eq!(
            totals,
            Totals { received: 1066, forwarded: 1036, stack: 11, consumed: 0, held: 2, dropped: 3 + 8 + 5 + 1 }
        );
        assert_eq!(totals.received, totals.forwarded + totals.stack + totals.consumed + totals.held + totals.dropped);
        let drops = accounts.drops();
        let of =
            |reason| drops.iter().find(|drop| drop.reason == reason).map(|drop| (drop.path, drop.port, drop.amount.0));
        assert_eq!(of("punt_queue"), Some(("user", 1, 5)));
        assert_eq!(of("device"), Some(("user", 2, 1)));
        assert_eq!(of("orphaned"), Some(("skb", 1, 3)));
        assert_eq!(of("miss"), None);
    }
}
