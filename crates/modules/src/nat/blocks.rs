//! Blocks of external ports that inside addresses have to themselves: one line of a log says whose many ports are.

use std::collections::{BTreeMap, HashMap};

use flowhop_flow::key::Address;
use rand_core::RngCore;

use super::port_set::PortSet;

/// Blocks that are tried at random before all are looked through in order.
const RANDOM_TRIES: usize = 16;

/// Inside address and identity of the translation.
pub(super) type Owner = (Address, u16);

/// How the ports of an external address are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) size: u16,
}

impl Cut {
    /// How many whole blocks there are.
    const fn number(self) -> u32 {
        (self.last as u32 + 1 - self.first as u32) / self.size as u32
    }

    const fn block(self, place: u32) -> (u16, u16) {
        let first = self.first + place as u16 * self.size;
        (first, first + (self.size - 1))
    }

    /// The block that a port is in.
    fn block_of(self, port: u16) -> Option<(u16, u16)> {
        let place = u32::from(port.checked_sub(self.first)? / self.size);
        (place < self.number()).then(|| self.block(place))
    }
}

#[derive(Debug)]
struct Block {
    last: u16,
    owner: Owner,
    mappings: u32,
}

/// The blocks that are in use.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// By external address and first port. They do not overlap, also where the cut has changed since.
    used: BTreeMap<(Address, u16), Block>,
    by_owner: HashMap<Owner, Vec<(Address, u16)>>,
    ports: HashMap<Address, PortSet>,
}

impl Blocks {
    /// First and last ports of what an owner has at an external address.
    pub(super) fn of(&self, owner: &Owner, address: &Address) -> Vec<(u16, u16)> {
        let places = self.by_owner.get(owner).into_iter().flatten().filter(|(at, _)| at == address);
        places.filter_map(|place| Some((place.1, self.used.get(place)?.last))).collect()
    }

    /// A random block; `is_free`: whether it can be given out.
    pub(super) fn free(
        cut: Cut,
        random: &mut dyn RngCore,
        is_free: impl Fn(&(u16, u16)) -> bool,
    ) -> Option<(u16, u16)> {
        let number = cut.number();
        if number == 0 {
            return None;
        }
        let mut place = || ((u64::from(random.next_u32()) * u64::from(number)) >> 32) as u32;
        if let Some(block) = (0..RANDOM_TRIES).map(|_| cut.block(place())).find(&is_free) {
            return Some(block);
        }
        let start = place();
        (start..number).chain(0..start).map(|place| cut.block(place)).find(&is_free)
    }

    /// The ports of an external address that are in blocks in use.
    pub(super) fn ports(&self, address: &Address) -> Option<&PortSet> {
        self.ports.get(address)
    }

    /// The block in use that shares ports with one.
    fn meeting(&self, address: &Address, (first, last): (u16, u16)) -> Option<(u16, &Block)> {
        let below = self.used.range((*address, 0)..=(*address, last)).next_back();
        below.filter(|(_, block)| block.last >= first).map(|((_, start), block)| (*start, block))
    }

    /// An owner has a mapping at a port; its block's first port, and the last one if it came into use by that. None if
    /// the port is in no block that is the owner's or can be.
    pub(super) fn bound(&mut self, owner: Owner, address: Address, port: u16, cut: Cut) -> Option<(u16, Option<u16>)> {
        if let Some((first, block)) = self.meeting(&address, (port, port)) {
            if block.owner != owner {
                return None;
            }
            if let Some(block) = self.used.get_mut(&(address, first)) {
                block.mappings += 1;
            }
            return Some((first, None));
        }
        let (first, last) = cut.block_of(port)?;
        if self.meeting(&address, (first, last)).is_some() {
            return None;
        }
        self.used.insert((address, first), Block { last, owner, mappings: 1 });
        self.by_owner.entry(owner).or_default().push((address, first));
        self.ports.entry(address).or_default().set_all((first, last), true);
        Some((first, Some(last)))
    }

    /// A mapping of a block has ended; the last port of the block if it was the last one.
    pub(super) fn unbound(&mut self, address: Address, first: u16) -> Option<u16> {
        let block = self.used.get_mut(&(address, first))?;
        block.mappings = block.mappings.saturating_sub(1);
        if block.mappings > 0 {
            return None;
        }
        let block = self.used.remove(&(address, first))?;
        if let Some(ports) = self.ports.get_mut(&address) {
            ports.set_all((first, block.last), false);
            if ports.is_empty() {
                self.ports.remove(&address);
            }
        }
        if let Some(places) = self.by_owner.get_mut(&block.owner) {
            places.retain(|place| *place != (address, first));
            if places.is_empty() {
                self.by_owner.remove(&block.owner);
            }
        }
        Some(block.last)
    }
}
