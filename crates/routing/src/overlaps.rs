//! Links whose connected prefixes have addresses in common.
//!
//! Any number of links may have one and the same prefix, so that there may be as many pairs as the square of it: only what
//! is asked for is found out, for one link in time by the number of addresses, and kept until addresses change.

use std::collections::HashMap;

use crate::IpPrefix;

/// What has been found out.
#[derive(Debug, Default)]
pub(crate) struct Overlaps {
    /// All prefixes in order, with their links; those in another one stand behind it.
    prefixes: Option<Vec<(IpPrefix, u32)>>,
    found: HashMap<(u32, bool), Vec<u32>>,
}

impl Overlaps {
    /// The other links with a prefix of a family that has addresses in common with one of a link, in order. `prefixes` is
    /// asked for those of all links.
    pub(crate) fn of(&mut self, link: u32, is_v4: bool, prefixes: impl FnOnce() -> Vec<(IpPrefix, u32)>) -> &[u32] {
        let prefixes = self.prefixes.get_or_insert_with(|| {
            let mut all = prefixes();
            all.sort_unstable();
            all.dedup();
            all
        });
        self.found.entry((link, is_v4)).or_insert_with(|| find(prefixes, link, is_v4))
    }
}

fn find(prefixes: &[(IpPrefix, u32)], link: u32, is_v4: bool) -> Vec<u32> {
    let mut found = Vec::new();
    // The prefixes that the one at hand is in; two that have addresses in common are in one another.
    let mut around: Vec<(IpPrefix, u32)> = Vec::new();
    // So many of them have been found, and so many are of the link.
    let (mut seen, mut own) = (0, 0);
    for (prefix, of) in prefixes.iter().filter(|(prefix, _)| prefix.address().is_ipv4() == is_v4) {
        while let Some((outer, outside)) = around.last()
            && !outer.contains(prefix.address())
        {
            own -= usize::from(*outside == link);
            around.pop();
        }
        seen = seen.min(around.len());
        if *of == link {
            found.extend(around.iter().skip(seen).map(|(_, other)| *other));
            seen = around.len();
            own += 1;
        } else if own > 0 {
            found.push(*of);
        }
        around.push((*prefix, *of));
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|other| *other != link);
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn naive(prefixes: &[(IpPrefix, u32)], link: u32) -> Vec<u32> {
        let overlap = |a: &IpPrefix, b: &IpPrefix| a.contains(b.address()) || b.contains(a.address());
        let own = prefixes.iter().filter(|(_, of)| *of == link);
        let others = own.flat_map(|(a, _)| prefixes.iter().filter(move |(b, of)| *of != link && overlap(a, b)));
        others.map(|(_, of)| *of).collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn all_that_overlap_are_found_whatever_the_order() {
        let lengths = [0, 8, 16, 24, 24, 32];
        for seed in 0..500_u32 {
            let random =
                |n: u32| (seed.wrapping_mul(0x9e37_79b9) ^ n.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35) >> 9;
            let prefix = |n: u32| {
                let length = lengths[random(2 * n) as usize % lengths.len()];
                let bits = (random(2 * n + 1) & 0x0101_0101).checked_shr(32 - length).unwrap_or(0);
                let bits = bits.checked_shl(32 - length).unwrap_or(0);
                (IpPrefix::new(bits.to_be_bytes().into(), length as u8).unwrap(), random(3 * n) % 5)
            };
            let prefixes: Vec<_> = (0..12).map(prefix).collect();
            let mut overlaps = Overlaps::default();
            for link in 0..5 {
                assert_eq!(overlaps.of(link, true, || prefixes.clone()), naive(&prefixes, link), "{prefixes:?} {link}");
            }
        }
    }

    // A gateway of many links with one address: no pair of them is written down that nobody asks for.
    #[test]
    fn many_links_with_one_prefix_are_no_burden() {
        let prefix = IpPrefix::new("10.0.0.1".parse().unwrap(), 32).unwrap();
        let mut overlaps = Overlaps::default();
        let all = || (0..100_000).map(|link| (prefix, link)).collect();
        assert_eq!(overlaps.of(7, true, all).len(), 99_999);
        assert_eq!(overlaps.found.len(), 1);
    }
}
