//! Links and neighbours.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::event::{Link, NeighbourState};

/// The links, with the epoch each was last announced in.
#[derive(Debug, Default)]
pub(crate) struct Links {
    by_index: BTreeMap<u32, (u32, Link)>,
}

impl Links {
    pub(crate) fn get(&self, ifindex: u32) -> Option<&Link> {
        self.by_index.get(&ifindex).map(|(_, link)| link)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values().map(|(_, link)| link)
    }

    pub(crate) fn is_up(&self, ifindex: u32) -> bool {
        self.get(ifindex).is_some_and(|link| link.up)
    }

    /// Returns what was known of the link before.
    pub(crate) fn upsert(&mut self, link: Link, epoch: u32) -> Option<Link> {
        self.by_index.insert(link.ifindex, (epoch, link)).map(|(_, before)| before)
    }

    pub(crate) fn remove(&mut self, ifindex: u32) -> bool {
        self.by_index.remove(&ifindex).is_some()
    }

    /// The links that were not announced in `epoch`.
    pub(crate) fn outdated(&self, epoch: u32) -> Vec<u32> {
        let outdated = self.by_index.iter().filter(|(_, (seen, _))| *seen != epoch);
        outdated.map(|(&ifindex, _)| ifindex).collect()
    }
}

/// The neighbours whose address is known or whose resolution failed, by link, with the epoch each was last
/// announced in. The kernel bounds their number (`gc_thresh3`); entries under resolution, which anybody who scans a
/// prefix can make, are not kept.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    by_link: HashMap<u32, HashMap<IpAddr, (u32, NeighbourState)>>,
}

impl Neighbours {
    pub(crate) fn get(&self, ifindex: u32, address: IpAddr) -> Option<NeighbourState> {
        let (_, state) = self.by_link.get(&ifindex)?.get(&address)?;
        Some(*state)
    }

    pub(crate) fn set(&mut self, ifindex: u32, address: IpAddr, state: NeighbourState, epoch: u32) {
        match state {
            NeighbourState::Resolved(_) | NeighbourState::Stale(_) | NeighbourState::Failed => {
                let on_link = self.by_link.entry(ifindex).or_default();
                on_link.insert(address, (epoch, state));
            }
            NeighbourState::Probing | NeighbourState::Gone => {
                if let Some(on_link) = self.by_link.get_mut(&ifindex) {
                    on_link.remove(&address);
                }
            }
        }
    }

    pub(crate) fn remove_link(&mut self, ifindex: u32) {
        self.by_link.remove(&ifindex);
    }

    /// The neighbours that were not announced in `epoch`.
    pub(crate) fn outdated(&self, epoch: u32) -> Vec<(u32, IpAddr)> {
        let all = self
            .by_link
            .iter()
            .flat_map(|(&ifindex, on_link)| on_link.iter().map(move |(&address, &(seen, _))| (ifindex, address, seen)));
        all.filter(|&(_, _, seen)| seen != epoch).map(|(ifindex, address, _)| (ifindex, address)).collect()
    }
}
