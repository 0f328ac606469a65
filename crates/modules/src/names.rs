//! Persistent identities: a rule's name is its identity across reloads and restarts; flow records hold a
//! number for it.

use std::collections::HashMap;

/// Between a name and the kind of what it names. Names in a policy have no control characters.
const KIND: char = '\u{1f}';

/// Numbers for names, never given to another name while they are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    by_name: HashMap<String, u16>,
    by_number: HashMap<u16, String>,
    next: u16,
}

impl Names {
    /// The number of a name, a new one if it has none. 0 when all 65,535 are taken.
    pub fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        if self.by_number.len() >= usize::from(u16::MAX) {
            return 0;
        }
        loop {
            self.next = self.next.wrapping_add(1).max(1);
            if !self.by_number.contains_key(&self.next) {
                break;
            }
        }
        self.set(self.next, name);
        self.next
    }

    /// The number of a name for things of one kind: of another kind the same name has another number.
    pub fn number_of_kind(&mut self, name: &str, kind: &str) -> u16 {
        self.number(&format!("{name}{KIND}{kind}"))
    }

    /// Remembers a pair from an earlier process.
    pub fn set(&mut self, number: u16, name: &str) {
        self.by_name.insert(name.to_owned(), number);
        self.by_number.insert(number, name.to_owned());
        self.next = self.next.max(number);
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, number: u16) -> Option<&str> {
        let name = self.by_number.get(&number)?;
        Some(name.split_once(KIND).map_or(name, |(name, _)| name))
    }

    /// Numbers of what has a kind, and the kind.
    pub fn kinds(&self) -> impl Iterator<Item = (u16, &str)> {
        self.by_number.iter().filter_map(|(number, name)| Some((*number, name.split_once(KIND)?.1)))
    }

    /// All pairs, for [`set`](Self::set).
    pub fn iter(&self) -> impl Iterator<Item = (u16, &str)> {
        self.by_number.iter().map(|(number, name)| (*number, name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut names = Names::default();
        let web = names.number("web");
        let mail = names.number("mail");
        assert_ne!(web, mail);
        assert_ne!(web, 0);
        assert_eq!(names.number("web"), web);
        let other = names.number_of_kind("web", "pairs");
        assert!(![web, mail].contains(&other));
        assert_eq!((names.name(web), names.name(other)), (Some("web"), Some("web")));
        let mut later = Names::default();
        for (number, name) in names.iter() {
            later.set(number, name);
        }
        assert_eq!(later.number("mail"), mail);
        assert_eq!((later.number("web"), later.number_of_kind("web", "pairs")), (web, other));
        assert!(![web, mail, other].contains(&later.number("dns")));
    }
}
