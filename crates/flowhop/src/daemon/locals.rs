//! The box's own addresses, and what of them translations use, as the kernel programs are told: a bitmap of ports for
//! each address that is used, which holds what is published and what mappings have, and flags for the rest.

use std::collections::{HashMap, HashSet};

use flowhop_flow::cell::Cell64;
use flowhop_flow::key::Address;
use flowhop_flow::record::{PORT_MAPS, local_flags};
use flowhop_io::bpf::{Kernel, KernelError};
use flowhop_modules::{Bindings, Endpoint, PortChange, Published};
use flowhop_wire::protocol;

/// What the kernel programs know of the box's own addresses.
#[derive(Debug, Default)]
pub(super) struct Locals {
    /// Numbers of bitmaps of ports, by own address.
    port_maps: HashMap<Address, u32>,
    own: HashSet<Address>,
    published: Published,
}

/// What has no bitmap of its own, although it is used by translations.
const NO_MAP: u32 = 0xffff;

/// A row of a bitmap of ports.
struct Row {
    /// Protocols whose ports, or identifiers, it holds.
    protocols: &'static [u8],
    /// The one of them that services may be published by port of.
    published: Option<u8>,
}

const ROWS: [Row; 3] = [
    Row { protocols: &[protocol::TCP], published: Some(protocol::TCP) },
    Row { protocols: &[protocol::UDP], published: Some(protocol::UDP) },
    Row { protocols: &[protocol::ICMP, protocol::ICMPV6], published: None },
];

impl Row {
    /// What of an address bindings use; an address has one of the two ICMPs.
    fn bindings(&self, bindings: &Bindings, address: &Address) -> Option<Box<[u64; 1024]>> {
        self.protocols.iter().find_map(|protocol| bindings.ports_of(address, *protocol))
    }
}

impl Locals {
    /// What an earlier daemon told them.
    pub(super) fn adopt(kernel: &Kernel) -> Result<Self, KernelError> {
        let locals = kernel.locals()?.into_iter();
        let mapped = locals.filter(|(_, flags)| flags & local_flags::TRANSLATED != 0);
        let port_maps = mapped.map(|(address, flags)| (address, flags & 0xffff)).collect();
        Ok(Self { port_maps, ..Self::default() })
    }

    /// Tells the programs the box's own addresses, and what of them translations use.
    pub(super) fn set(
        &mut self,
        kernel: &mut Kernel,
        addresses: &HashSet<Address>,
        published: &Published,
        bindings: &Bindings,
    ) -> Result<(), KernelError> {
        self.own.clone_from(addresses);
        self.published = published.clone();
        self.port_maps.retain(|address, _| addresses.contains(address));
        let known: HashMap<Address, u32> = kernel.locals()?.into_iter().collect();
        for address in known.keys().filter(|address| !addresses.contains(*address)) {
            kernel.remove_local(address)?;
        }
        for address in addresses {
            if published.takes(address) || ROWS.iter().any(|row| row.bindings(bindings, address).is_some()) {
                self.take_port_map(address);
            }
            self.fill_port_map(kernel, address, bindings);
            let flags = self.flags(address);
            if known.get(address) != Some(&flags) {
                kernel.insert_local(address, flags)?;
            }
        }
        Ok(())
    }

    /// Marks ports of the box's own addresses that translations use, so that packets to them come here.
    pub(super) fn note_ports(&mut self, kernel: &mut Kernel, changes: &[PortChange]) -> Result<(), KernelError> {
        for change in changes {
            let Endpoint { protocol, address, port } = change.endpoint;
            let Some(row) = ROWS.iter().position(|row| row.protocols.contains(&protocol)) else { continue };
            if !self.own.contains(&address) {
                continue;
            }
            if !self.port_maps.contains_key(&address) {
                self.take_port_map(&address);
                if let Some(map) = self.port_map(kernel, &address) {
                    map.iter().flatten().for_each(|cell| cell.store(0));
                }
                kernel.insert_local(&address, self.flags(&address))?;
            }
            let used = change.used || self.published.has_port(&address, protocol, port);
            let Some(map) = self.port_map(kernel, &address) else { continue };
            let word = &map[row][usize::from(port >> 6)];
            let bit = 1u64 << (port & 63);
            // One writer: reading and storing the word is as good as an atomic change.
            word.store(if used { word.load() | bit } else { word.load() & !bit });
        }
        Ok(())
    }

    /// Gives an own address a bitmap, unless it has one. When all are taken it gets a number that none has, so that
    /// all packets to it which no flow knows come here.
    fn take_port_map(&mut self, address: &Address) {
        if self.port_maps.contains_key(address) {
            return;
        }
        let mut free = (0..PORT_MAPS as u32).filter(|slot| !self.port_maps.values().any(|taken| taken == slot));
        let slot = free.next().unwrap_or(NO_MAP);
        self.port_maps.insert(*address, slot);
    }

    fn port_map<'k>(&self, kernel: &'k Kernel, address: &Address) -> Option<&'k [[Cell64; 1024]; 3]> {
        let slot = *self.port_maps.get(address)?;
        kernel.shared().port_bits.get(slot as usize).map(|map| &map.0)
    }

    /// Brings the bitmap of an own address in line with what is in use, whatever it held before.
    fn fill_port_map(&self, kernel: &Kernel, address: &Address, bindings: &Bindings) {
        let Some(map) = self.port_map(kernel, address) else { return };
        for (cells, row) in map.iter().zip(&ROWS) {
            let mut words = row.bindings(bindings, address).unwrap_or_else(|| Box::new([0; 1024]));
            if let Some(protocol) = row.published {
                let published = self.published.port_bits(address, protocol);
                words.iter_mut().zip(published.iter()).for_each(|(word, more)| *word |= more);
            }
            cells.iter().zip(words.iter()).filter(|(cell, word)| cell.load() != **word).for_each(|(cell, word)| {
                cell.store(*word);
            });
        }
    }

    fn flags(&self, address: &Address) -> u32 {
        let Some(slot) = self.port_maps.get(address) else { return 0 };
        let echo = if self.published.has_echo(address) { local_flags::ECHO } else { 0 };
        let others = if self.published.others(address).is_empty() { 0 } else { local_flags::OTHERS };
        local_flags::TRANSLATED | slot | echo | others
    }
}
