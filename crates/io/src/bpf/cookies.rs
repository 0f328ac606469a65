//! What the programs are told about published services and about where sources may come in, for SYN cookies.

use std::collections::{HashMap, HashSet};

use aya::maps::lpm_trie;
use flowhop_flow::cookie::ServiceKey;
use flowhop_flow::key::Address;

use super::{Kernel, KernelError, absent_is_fine};

/// A published service as the programs see it: the word of a [`Service`](flowhop_flow::cookie::Service), and the ports
/// that it is published to, one bit each.
pub type ServiceValue = (u32, [u64; 4]);

impl Kernel {
    /// Has the programs know exactly these services.
    ///
    /// # Errors
    /// When the map is full, or what else the kernel says; services that cannot be told any more are gone in any case.
    pub fn set_services(&mut self, wanted: &HashMap<ServiceKey, ServiceValue>) -> Result<(), KernelError> {
        let failed = |error| KernelError::Map { name: "SERVICES", error };
        let wanted: HashMap<[u32; 5], [u64; 5]> =
            wanted.iter().map(|(key, value)| (words(key), value_of(value))).collect();
        let known: HashMap<[u32; 5], [u64; 5]> = self.services.iter().collect::<Result<_, _>>().map_err(failed)?;
        for key in known.keys().filter(|key| !wanted.contains_key(*key)) {
            absent_is_fine("SERVICES", self.services.remove(key))?;
        }
        for (key, value) in wanted.iter().filter(|(key, value)| known.get(*key) != Some(*value)) {
            self.services.insert(key, value, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Has the programs know exactly these prefixes of sources: address, length in bits, and what
    /// [`origin`](flowhop_flow::cookie::origin) says.
    ///
    /// # Errors
    /// When the map is full, or what else the kernel says.
    pub fn set_origins(&mut self, wanted: &HashMap<(Address, u32), u32>) -> Result<(), KernelError> {
        let failed = |error| KernelError::Map { name: "ORIGINS", error };
        let mut known = HashMap::new();
        for entry in self.origins.iter() {
            let (key, value) = entry.map_err(failed)?;
            known.insert((key.data(), key.prefix_len()), value);
        }
        for ((address, length), value) in wanted {
            if known.get(&(*address, *length)) != Some(value) {
                self.origins.insert(&lpm_trie::Key::new(*length, *address), value, 0).map_err(failed)?;
            }
        }
        let stale: HashSet<_> = known.into_keys().filter(|prefix| !wanted.contains_key(prefix)).collect();
        for (address, length) in stale {
            absent_is_fine("ORIGINS", self.origins.remove(&lpm_trie::Key::new(length, address)))?;
        }
        Ok(())
    }
}

const fn words(key: &ServiceKey) -> [u32; 5] {
    let [a, b, c, d] = key.address;
    [a, b, c, d, key.endpoint]
}

const fn value_of((word, ports): &ServiceValue) -> [u64; 5] {
    let [a, b, c, d] = *ports;
    [*word as u64, a, b, c, d]
}
