//! Values and tables of a document, with what they are called in messages.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, one_of};
use super::report::{At, Report};
use super::suggest::nearest;

/// Keys that every table takes.
const EVERYWHERE: [&str; 2] = ["comment", "enabled"];

/// Keys of the file whose values are lists of tables.
const LISTS: [&str; 2] = ["rule", "nat"];

/// A value and the key that it stands under.
#[derive(Clone, Copy)]
pub(crate) struct Node<'d> {
    pub(crate) key: &'d str,
    pub(crate) at: At,
    pub(crate) value: &'d DeValue<'d>,
}

/// A table.
#[derive(Clone, Copy)]
pub(crate) struct Section<'d> {
    /// What it is, for messages: "a rule".
    pub(crate) place: &'static str,
    pub(crate) at: At,
    pub(crate) table: &'d DeTable<'d>,
    /// Whether all that it stands in takes part.
    pub(crate) enabled: bool,
}

/// A word that a key takes, and what it means; `None` for what a later version will do.
pub(crate) type Choice<T> = (&'static str, Option<T>);

impl<'d> Section<'d> {
    /// The entries in the order of the file.
    pub(crate) fn entries(&self) -> Vec<(At, Node<'d>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let key_at = self.at_span(key);
                (key_at, Node { key: key.get_ref(), at: self.at_span(value), value: value.get_ref() })
            })
            .collect();
        entries.sort_by_key(|(key_at, _)| key_at.start);
        entries
    }

    pub(crate) fn get(&self, key: &str) -> Option<Node<'d>> {
        // Linear: the tables that are asked for keys have a dozen.
        let (key, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Node { key: key.get_ref(), at: self.at_span(value), value: value.get_ref() })
    }

    /// The value of a key that must be there.
    pub(crate) fn require(
        &self,
        key: &'static str,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Node<'d>> {
        let node = self.get(key);
        if node.is_none() {
            report.error(self.at, &Problem::MissingKey { key, place: self.place, expected });
        }
        node
    }

    /// Reports keys that are none of these, and returns whether the table takes part.
    pub(crate) fn check_keys(&self, known: &[&'static str], report: &mut Report<'_>) -> bool {
        for (key_at, node) in self.entries() {
            if known.contains(&node.key) || EVERYWHERE.contains(&node.key) {
                continue;
            }
            if self.is_misplaced(&node, report, key_at) {
                continue;
            }
            let known: Vec<&'static str> = known.iter().chain(&EVERYWHERE).copied().collect();
            let near = nearest(node.key, known.iter().copied());
            report.error(key_at, &Problem::UnknownKey { key: node.key.to_owned(), place: self.place, near, known });
        }
        self.is_enabled(report)
    }

    /// Checks `comment` and `enabled`, and returns whether the table takes part.
    pub(crate) fn is_enabled(&self, report: &mut Report<'_>) -> bool {
        if let Some(comment) = self.get("comment") {
            comment.string(report);
        }
        self.get("enabled").and_then(|enabled| enabled.boolean(report)).unwrap_or(true) && self.enabled
    }

    /// The entries that are not `comment` or `enabled`: those with names of the user's own.
    pub(crate) fn named_entries(&self, report: &mut Report<'_>) -> Vec<(At, Node<'d>)> {
        let mut entries = self.entries();
        entries.retain(|(key_at, node)| !EVERYWHERE.contains(&node.key) && !self.is_misplaced(node, report, *key_at));
        entries
    }

    /// Reports `rule = [ { … } ]` below the header of another table, which is easily written and hard to see.
    fn is_misplaced(&self, node: &Node<'d>, report: &mut Report<'_>, key_at: At) -> bool {
        let has_header = self.place.starts_with('[');
        let is_list_of_tables = match node.value {
            DeValue::Array(items) => items.iter().all(|item| item.get_ref().is_table()),
            _ => false,
        };
        let is_misplaced = has_header && is_list_of_tables && LISTS.contains(&node.key);
        if is_misplaced {
            report.error(key_at, &Problem::Misplaced { key: node.key.to_owned(), place: self.place });
        }
        is_misplaced
    }

    fn at_span<T>(&self, spanned: &Spanned<T>) -> At {
        let span = spanned.span();
        At { file: self.at.file, start: span.start, end: span.end }
    }
}

impl<'d> Node<'d> {
    pub(crate) fn string(&self, report: &mut Report<'_>) -> Option<&'d str> {
        self.string_expecting("a string", report)
    }

    pub(crate) fn string_expecting(&self, expected: &str, report: &mut Report<'_>) -> Option<&'d str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type(expected, report),
        }
    }

    pub(crate) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false", report),
        }
    }

    /// The number, if it is one that fits.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    pub(crate) fn section(&self, place: &'static str, expected: &str, report: &mut Report<'_>) -> Option<Section<'d>> {
        match self.value {
            DeValue::Table(table) => Some(Section { place, at: self.at, table, enabled: true }),
            _ => self.wrong_type(expected, report),
        }
    }

    /// The value itself, or each of a list of them.
    pub(crate) fn one_or_many(&self) -> Vec<Self> {
        match self.value {
            DeValue::Array(items) => items
                .iter()
                .map(|item| {
                    let span = item.span();
                    let at = At { file: self.at.file, start: span.start, end: span.end };
                    Self { key: self.key, at, value: item.get_ref() }
                })
                .collect(),
            _ => vec![*self],
        }
    }

    /// The same for a key whose list may not be empty.
    pub(crate) fn at_least_one(&self, expected: &'static str, report: &mut Report<'_>) -> Vec<Self> {
        let nodes = self.one_or_many();
        if nodes.is_empty() {
            report.error(self.at, &Problem::EmptyList { what: self.key.to_owned(), expected });
        }
        nodes
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        what: &'static str,
        choices: &[Choice<T>],
        report: &mut Report<'_>,
    ) -> Option<T> {
        let supported: Vec<&str> = choices.iter().filter(|(_, value)| value.is_some()).map(|(word, _)| *word).collect();
        let word = self.string_expecting(&one_of(&supported), report)?;
        match choices.iter().find(|(choice, _)| *choice == word) {
            Some((_, Some(value))) => Some(*value),
            Some((_, None)) => {
                let what = format!("{} = {word:?}", self.key);
                report.error(self.at, &Problem::NotSupported { what, expected: Some(one_of(&supported)) });
                None
            }
            None => {
                let near = nearest(word, choices.iter().map(|(choice, _)| *choice));
                let problem = Problem::BadValue { what, value: word.to_owned(), near, expected: one_of(&supported) };
                report.error(self.at, &problem);
                None
            }
        }
    }

    /// Reports that the value has the wrong type. Always `None`, to be returned.
    pub(crate) fn wrong_type<T>(&self, expected: &str, report: &mut Report<'_>) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        report.error(self.at, &Problem::WrongType { what: self.key.to_owned(), found, expected: expected.to_owned() });
        None
    }
}
