//! Whom the host of a mapping sends to, by address: asked where filtering depends on that (RFC 4787 section 5).
//!
//! Kept whatever filtering is, since another policy may ask.

use std::collections::HashMap;

use flowhop_flow::key::Address;

/// Connections by remote address. One address is the rule, and takes no memory of its own.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    first: Option<(Address, u32)>,
    more: Option<HashMap<Address, u32>>,
}

impl Remotes {
    pub(super) fn contains(&self, address: &Address) -> bool {
        self.first.is_some_and(|(first, _)| first == *address)
            || self.more.as_ref().is_some_and(|more| more.contains_key(address))
    }

    pub(super) fn add(&mut self, address: Address) {
        if let Some((first, count)) = &mut self.first
            && *first == address
        {
            *count += 1;
        } else if let Some(count) = self.more.as_mut().and_then(|more| more.get_mut(&address)) {
            *count += 1;
        } else if self.first.is_none() {
            self.first = Some((address, 1));
        } else {
            self.more.get_or_insert_default().insert(address, 1);
        }
    }

    pub(super) fn remove(&mut self, address: &Address) {
        if let Some((first, count)) = &mut self.first
            && first == address
        {
            *count -= 1;
            if *count == 0 {
                self.first = None;
            }
        } else if let Some(more) = &mut self.more
            && let Some(count) = more.get_mut(address)
        {
            *count -= 1;
            if *count == 0 {
                more.remove(address);
            }
            if more.is_empty() {
                self.more = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flowhop_flow::key::address;

    use super::*;

    #[test]
    fn as_many_have_to_go_as_came() {
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| address(text.parse().unwrap()));
        let mut remotes = Remotes::default();
        [a, b, a, b, c].into_iter().for_each(|one| remotes.add(one));
        remotes.remove(&a);
        assert!([a, b, c].iter().all(|one| remotes.contains(one)));
        remotes.remove(&a);
        assert!(!remotes.contains(&a) && remotes.contains(&b));
        remotes.add(c);
        remotes.remove(&b);
        remotes.remove(&b);
        assert!(!remotes.contains(&b) && remotes.contains(&c));
        remotes.remove(&c);
        assert!(remotes.contains(&c));
        remotes.remove(&c);
        assert!(remotes.first.is_none() && remotes.more.is_none());
    }
}
