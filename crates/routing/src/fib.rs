//! Routes, by longest prefix match.
//!
//! One trie for each family and table. Under a prefix stand the routes with that prefix, ordered by metric and, among
//! equals, by arrival: the first usable one is taken.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prefix_trie::{Prefix, PrefixMap};

use crate::IpPrefix;
use crate::event::{NextHop, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use crate::prefix::Key;

/// All routes that are looked up, and a count of those that are not.
#[derive(Debug, Default)]
pub(crate) struct Fib {
    local_v4: Table<Key<u32>>,
    local_v6: Table<Key<u128>>,
    main_v4: Table<Key<u32>>,
    main_v6: Table<Key<u128>>,
    /// Routes seen and not looked up, by table.
    ignored: BTreeMap<u32, u64>,
}

/// How an announced route joins those that have its prefix and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Beside them.
    Add,
    /// In the place of the first.
    Replace,
}

/// A route as the trie holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) metric: u32,
    pub(crate) kind: RouteKind,
    pub(crate) mtu: Option<u32>,
    pub(crate) next_hops: Box<[NextHop]>,
    epoch: u32,
}

/// What a lookup in one table found.
#[derive(Debug)]
pub(crate) enum Match<'a> {
    /// A usable route.
    Entry(u8, &'a Entry),
    /// Only routes through links that are down.
    LinkDown,
    /// No route.
    Nothing,
}

impl Fib {
    /// Returns whether lookups in the route's prefix may have another answer.
    pub(crate) fn insert(&mut self, route: &Route, join: Join, epoch: u32) -> bool {
        if route.restricted || !is_looked_up(route.table) {
            *self.ignored.entry(route.table).or_default() += 1;
            return false;
        }
        let entry = Entry::new(route, epoch);
        match (route.prefix.address(), route.table == TABLE_LOCAL) {
            (IpAddr::V4(_), local) => {
                let table = pick(local, &mut self.local_v4, &mut self.main_v4);
                table.insert(key_v4(route.prefix), entry, join, Extend::Never)
            }
            (IpAddr::V6(_), local) => {
                let table = pick(local, &mut self.local_v6, &mut self.main_v6);
                table.insert(key_v6(route.prefix), entry, join, Extend::Superset)
            }
        }
    }

    /// Returns whether lookups in the route's prefix may have another answer.
    pub(crate) fn remove(&mut self, route: &Route) -> bool {
        if route.restricted || !is_looked_up(route.table) {
            if let Some(ignored) = self.ignored.get_mut(&route.table) {
                *ignored = ignored.saturating_sub(1);
            }
            return false;
        }
        let entry = Entry::new(route, 0);
        match (route.prefix.address(), route.table == TABLE_LOCAL) {
            (IpAddr::V4(_), local) => {
                let table = pick(local, &mut self.local_v4, &mut self.main_v4);
                table.remove(key_v4(route.prefix), &entry, Extend::Never)
            }
            (IpAddr::V6(_), local) => {
                let table = pick(local, &mut self.local_v6, &mut self.main_v6);
                table.remove(key_v6(route.prefix), &entry, Extend::Superset)
            }
        }
    }

    /// Looks `destination` up in table *local* or *main*, skipping next hops through links that are not `up`.
    pub(crate) fn longest_match(&self, table: u32, destination: IpAddr, up: impl Fn(u32) -> bool) -> Match<'_> {
        let prefix = IpPrefix::host(destination);
        match (destination, table == TABLE_LOCAL) {
            (IpAddr::V4(_), true) => self.local_v4.longest_match(key_v4(prefix), up),
            (IpAddr::V4(_), false) => self.main_v4.longest_match(key_v4(prefix), up),
            (IpAddr::V6(_), true) => self.local_v6.longest_match(key_v6(prefix), up),
            (IpAddr::V6(_), false) => self.main_v6.longest_match(key_v6(prefix), up),
        }
    }

    /// All routes of *local* or *main* to the prefix of `length` bits that `destination` lies in, the best first.
    pub(crate) fn entries(&self, table: u32, destination: IpAddr, length: u8) -> &[Entry] {
        let Ok(prefix) = IpPrefix::new(destination, length) else { return &[] };
        match (destination, table == TABLE_LOCAL) {
            (IpAddr::V4(_), true) => self.local_v4.entries(key_v4(prefix)),
            (IpAddr::V4(_), false) => self.main_v4.entries(key_v4(prefix)),
            (IpAddr::V6(_), true) => self.local_v6.entries(key_v6(prefix)),
            (IpAddr::V6(_), false) => self.main_v6.entries(key_v6(prefix)),
        }
    }

    /// Drops the IPv4 routes that the kernel flushes without a word when links go down: those whose next hops all
    /// lead through links that are administratively down. Own addresses stay (the host is reachable by any link).
    pub(crate) fn flush_down(&mut self, admin_up: impl Fn(u32) -> bool) -> Vec<IpPrefix> {
        let keep = |entry: &mut Entry| {
            entry.kind == RouteKind::Local
                || entry.next_hops.is_empty()
                || entry.next_hops.iter().any(|hop| admin_up(hop.ifindex))
        };
        let mut changed = self.local_v4.retain(keep);
        changed.extend(self.main_v4.retain(keep));
        changed
    }

    /// Drops what leads through a link that is gone: IPv4 routes as a whole, as the kernel does, of IPv6 routes the
    /// next hops concerned.
    pub(crate) fn flush_gone(&mut self, ifindex: u32) -> Vec<IpPrefix> {
        let whole = |entry: &mut Entry| entry.next_hops.iter().all(|hop| hop.ifindex != ifindex);
        let in_part = |entry: &mut Entry| {
            let before = entry.next_hops.len();
            entry.drop_next_hops(|hop| hop.ifindex == ifindex);
            before == 0 || !entry.next_hops.is_empty()
        };
        let mut changed = self.local_v4.retain(whole);
        changed.extend(self.main_v4.retain(whole));
        changed.extend(self.local_v6.retain(in_part));
        changed.extend(self.main_v6.retain(in_part));
        changed
    }

    /// Drops what was not announced in `epoch`.
    pub(crate) fn sweep(&mut self, epoch: u32) -> Vec<IpPrefix> {
        let announced = |entry: &mut Entry| entry.epoch == epoch;
        let mut changed = self.local_v4.retain(announced);
        changed.extend(self.main_v4.retain(announced));
        changed.extend(self.local_v6.retain(announced));
        changed.extend(self.main_v6.retain(announced));
        changed
    }

    /// The count of ignored routes starts over: a dump announces them again.
    pub(crate) fn forget_ignored(&mut self) {
        self.ignored.clear();
    }

    pub(crate) fn ignored(&self) -> impl Iterator<Item = (u32, u64)> {
        let counts = self.ignored.iter().map(|(&table, &count)| (table, count));
        counts.filter(|&(_, count)| count > 0)
    }

    /// The prefixes with a unicast route through a link.
    pub(crate) fn prefixes_through(&self, ifindex: u32) -> Vec<IpPrefix> {
        self.iter()
            .filter(|(_, _, entry)| entry.next_hops.iter().any(|hop| hop.ifindex == ifindex))
            .map(|(_, prefix, _)| prefix)
            .collect()
    }

    /// Every route with its table and prefix: *local* before *main*, IPv4 before IPv6, in order of prefix.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, IpPrefix, &Entry)> {
        let local = self.local_v4.iter().chain(self.local_v6.iter());
        let main = self.main_v4.iter().chain(self.main_v6.iter());
        local
            .map(|(prefix, entry)| (TABLE_LOCAL, prefix, entry))
            .chain(main.map(|(prefix, entry)| (TABLE_MAIN, prefix, entry)))
    }
}

impl Entry {
    /// Next hops are sorted: announcements and dumps order those of an IPv6 route differently, and a flow's hash must
    /// go on choosing the same one.
    fn new(route: &Route, epoch: u32) -> Entry {
        let mut next_hops = route.next_hops.clone();
        next_hops.sort_unstable_by_key(|hop| (hop.ifindex, hop.gateway));
        Entry { metric: route.metric, kind: route.kind, mtu: route.mtu, next_hops: next_hops.into_boxed_slice(), epoch }
    }

    /// The route as it was announced.
    pub(crate) fn to_route(&self, table: u32, prefix: IpPrefix) -> Route {
        Route {
            prefix,
            metric: self.metric,
            kind: self.kind,
            table,
            next_hops: self.next_hops.to_vec(),
            mtu: self.mtu,
            restricted: false,
        }
    }

    fn is_usable(&self, up: impl Fn(u32) -> bool) -> bool {
        self.kind != RouteKind::Unicast || self.next_hops.iter().any(|hop| up(hop.ifindex))
    }

    fn drop_next_hops(&mut self, drop: impl Fn(&NextHop) -> bool) {
        if self.next_hops.iter().any(&drop) {
            self.next_hops = self.next_hops.iter().filter(|h| !drop(h)).copied().collect();
        }
    }

    /// Weights do not count: an announcement of a part of a multipath route leaves them out.
    fn has_next_hop(&self, wanted: &NextHop) -> bool {
        let mut hops = self.next_hops.iter();
        hops.any(|hop| hop.gateway == wanted.gateway && hop.ifindex == wanted.ifindex)
    }

    fn has_next_hops_of(&self, other: &Entry) -> bool {
        other.next_hops.iter().all(|hop| self.has_next_hop(hop))
    }

    fn is_same_route(&self, other: &Entry) -> bool {
        self.metric == other.metric
            && self.kind == other.kind
            && self.next_hops.len() == other.next_hops.len()
            && self.has_next_hops_of(other)
    }
}

/// Whether a route that has another's next hops and more is the same route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extend {
    /// IPv4: next hops are fixed with the route.
    Never,
    /// IPv6: next hops come and go one by one.
    Superset,
}

/// One routing table of one family.
#[derive(Debug)]
struct Table<K: Prefix> {
    by_prefix: PrefixMap<K, Vec<Entry>>,
}

impl<K: Prefix> Default for Table<K> {
    fn default() -> Table<K> {
        Table { by_prefix: PrefixMap::new() }
    }
}

impl<K: Prefix + Copy + Into<IpPrefix>> Table<K> {
    fn insert(&mut self, key: K, entry: Entry, join: Join, extend: Extend) -> bool {
        let Some(entries) = self.by_prefix.get_mut(&key) else {
            // Nearly all prefixes have one route; `vec!` allocates for exactly that.
            self.by_prefix.insert(key, vec![entry]);
            return true;
        };
        let same = entries.iter().position(|known| known.is_same_route(&entry));
        let replaced = same.or_else(|| {
            entries.iter().position(|known| {
                known.metric == entry.metric
                    && match join {
                        Join::Replace => true,
                        Join::Add => extend == Extend::Superset && entry.extends(known),
                    }
            })
        });
        if let Some(known) = replaced.and_then(|at| entries.get_mut(at)) {
            let changed = known.mtu != entry.mtu || known.kind != entry.kind || known.next_hops != entry.next_hops;
            *known = entry;
            return changed;
        }
        let behind = entries.partition_point(|known| known.metric <= entry.metric);
        entries.insert(behind, entry);
        true
    }

    fn remove(&mut self, key: K, gone: &Entry, extend: Extend) -> bool {
        let Some(entries) = self.by_prefix.get_mut(&key) else {
            return false;
        };
        if let Some(at) = entries.iter().position(|known| known.is_same_route(gone)) {
            entries.remove(at);
        } else if let Some(known) = entries.iter_mut().find(|known| extend == Extend::Superset && known.extends(gone)) {
            known.drop_next_hops(|hop| gone.has_next_hop(hop));
        } else {
            // Events that were queued before a dump speak of routes that the dump no longer had.
            return false;
        }
        if entries.is_empty() {
            self.by_prefix.remove(&key);
        }
        true
    }

    fn longest_match(&self, destination: K, up: impl Fn(u32) -> bool) -> Match<'_> {
        let mut wanted = destination;
        let mut skipped = false;
        while let Some((prefix, entries)) = self.by_prefix.get_lpm(&wanted) {
            let mut usable = entries.iter().filter(|entry| entry.is_usable(&up));
            if let Some(entry) = usable.next() {
                return Match::Entry(prefix.prefix_len(), entry);
            }
            skipped = true;
            let Some(shorter) = prefix.prefix_len().checked_sub(1) else {
                break;
            };
            wanted = K::from_repr_len(prefix.repr(), shorter);
        }
        if skipped { Match::LinkDown } else { Match::Nothing }
    }

    fn entries(&self, key: K) -> &[Entry] {
        self.by_prefix.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Keeps the entries that `keep` (which may change them) accepts; returns the prefixes whose entries changed.
    fn retain(&mut self, keep: impl Fn(&mut Entry) -> bool) -> Vec<IpPrefix> {
        let mut changed = Vec::new();
        let mut empty = Vec::new();
        for (key, entries) in self.by_prefix.iter_mut() {
            let before: usize = entries.iter().map(Entry::weight_in_comparison).sum();
            entries.retain_mut(|entry| keep(entry));
            let after: usize = entries.iter().map(Entry::weight_in_comparison).sum();
            if before != after {
                changed.push(key.into());
            }
            if entries.is_empty() {
                empty.push(key);
            }
        }
        for key in empty {
            self.by_prefix.remove(&key);
        }
        changed
    }

    fn iter(&self) -> impl Iterator<Item = (IpPrefix, &Entry)> {
        self.by_prefix.iter().flat_map(|(key, entries)| entries.iter().map(move |entry| (key.into(), entry)))
    }
}

impl Entry {
    /// Whether this is `part`, a route of its metric that forwards, with more next hops.
    fn extends(&self, part: &Entry) -> bool {
        self.metric == part.metric
            && self.kind == part.kind
            && !part.next_hops.is_empty()
            && self.has_next_hops_of(part)
    }

    /// Shrinks when the entry loses next hops: what [`Table::retain`] compares.
    fn weight_in_comparison(&self) -> usize {
        1 + self.next_hops.len()
    }
}

fn is_looked_up(table: u32) -> bool {
    table == TABLE_LOCAL || table == TABLE_MAIN
}

fn pick<'a, T>(local: bool, of_local: &'a mut T, of_main: &'a mut T) -> &'a mut T {
    if local { of_local } else { of_main }
}

/// Only for prefixes of IPv4; the callers have looked.
fn key_v4(prefix: IpPrefix) -> Key<u32> {
    let bits = match prefix.address() {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(_) => 0,
    };
    Key { bits, length: prefix.length().min(32) }
}

fn key_v6(prefix: IpPrefix) -> Key<u128> {
    let bits = match prefix.address() {
        IpAddr::V6(address) => address.to_bits(),
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
    };
    Key { bits, length: prefix.length() }
}
