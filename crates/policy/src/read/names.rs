//! Named sets, nested by name: definitions in any order and in any file, cycles found.

use std::collections::HashMap;

use super::problem::Problem;
use super::report::{At, Report};
use super::suggest::nearest;

/// A kind of set that can be named: addresses, services.
pub(crate) trait NamedSet: Clone {
    /// What one of its names is called: "address set".
    const KIND: &'static str;
    /// What may stand where a name does.
    const EXPECTED: &'static str;

    /// What is in one of `included` and in none of `excluded`; with nothing included, all but `excluded`.
    fn combine(included: &[Self], excluded: &[Self]) -> Self;
    fn nothing() -> Self;
}

/// One entry of a list: a set written out, or the name of one.
pub(crate) struct Entry<S> {
    pub(crate) at: At,
    pub(crate) excluded: bool,
    pub(crate) value: Value<S>,
}

pub(crate) enum Value<S> {
    Set(S),
    Name(String),
}

/// All definitions of one kind.
pub(crate) struct Names<S> {
    definitions: Vec<Definition<S>>,
    by_name: HashMap<String, usize>,
}

struct Definition<S> {
    name: String,
    at: At,
    /// `None` if an entry is at fault, which has been reported.
    entries: Option<Vec<Entry<S>>>,
    resolved: Option<S>,
}

enum Lookup<'n, S> {
    Found(&'n S),
    /// Defined, but at fault, which has been reported.
    Faulty,
    Unknown,
}

impl<S: NamedSet> Names<S> {
    pub(crate) fn new() -> Self {
        Self { definitions: Vec::new(), by_name: HashMap::new() }
    }

    pub(crate) fn define(&mut self, name: &str, at: At, entries: Option<Vec<Entry<S>>>, report: &mut Report<'_>) {
        if let Some(first) = self.by_name.get(name).and_then(|index| self.definitions.get(*index)) {
            let first = report.place(first.at, at.file);
            report.error(at, &Problem::Duplicate { kind: S::KIND, name: name.to_owned(), first });
            return;
        }
        self.by_name.insert(name.to_owned(), self.definitions.len());
        self.definitions.push(Definition { name: name.to_owned(), at, entries, resolved: None });
    }

    /// Works out all definitions, those that others name first. Without recursion: a chain may be as long as the file.
    pub(crate) fn resolve(&mut self, report: &mut Report<'_>) {
        let uses = self.uses(report);
        let mut used_by = vec![Vec::new(); uses.len()];
        let mut waiting: Vec<usize> = uses.iter().map(Vec::len).collect();
        for (user, used) in uses.iter().enumerate() {
            for &one in used {
                used_by[one].push(user);
            }
        }

        let mut ready: Vec<usize> = (0..uses.len()).filter(|&index| waiting[index] == 0).collect();
        while let Some(index) = ready.pop() {
            let entries = self.definitions[index].entries.take();
            self.definitions[index].resolved = entries.and_then(|entries| self.combine(&entries));
            for &user in &used_by[index] {
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    ready.push(user);
                }
            }
        }

        self.report_cycles(&uses, &waiting, report);
    }

    /// The set that a list stands for; `None` after a fault.
    pub(crate) fn evaluate(&self, entries: &[Entry<S>], report: &mut Report<'_>) -> Option<S> {
        let mut known = true;
        for entry in entries {
            known &= self.check_name(entry, report);
        }
        if known { self.combine(entries) } else { None }
    }

    /// For each definition the indices of those that it names. Reports names that nothing has.
    fn uses(&mut self, report: &mut Report<'_>) -> Vec<Vec<usize>> {
        let mut all = Vec::with_capacity(self.definitions.len());
        for index in 0..self.definitions.len() {
            let Some(entries) = self.definitions[index].entries.take() else {
                all.push(Vec::new());
                continue;
            };
            let mut uses = Vec::new();
            let mut known = true;
            for entry in &entries {
                known &= self.check_name(entry, report);
                if let Value::Name(name) = &entry.value {
                    uses.extend(self.by_name.get(name).copied());
                }
            }
            self.definitions[index].entries = known.then_some(entries);
            all.push(uses);
        }
        all
    }

    fn check_name(&self, entry: &Entry<S>, report: &mut Report<'_>) -> bool {
        let Value::Name(name) = &entry.value else { return true };
        if self.by_name.contains_key(name) {
            return true;
        }
        let near = nearest(name, self.by_name.keys().map(String::as_str));
        let problem = Problem::UndefinedName { kind: S::KIND, name: name.clone(), near, expected: S::EXPECTED };
        report.error(entry.at, &problem);
        false
    }

    fn combine(&self, entries: &[Entry<S>]) -> Option<S> {
        let (mut included, mut excluded) = (Vec::new(), Vec::new());
        for entry in entries {
            let set = match &entry.value {
                Value::Set(set) => set.clone(),
                Value::Name(name) => match self.look_up(name) {
                    Lookup::Found(set) => set.clone(),
                    Lookup::Faulty | Lookup::Unknown => return None,
                },
            };
            if entry.excluded { excluded.push(set) } else { included.push(set) }
        }
        Some(match (included.as_slice(), excluded.as_slice()) {
            ([], []) => S::nothing(),
            ([only], []) => only.clone(),
            (included, excluded) => S::combine(included, excluded),
        })
    }

    fn look_up(&self, name: &str) -> Lookup<'_, S> {
        match self.by_name.get(name).and_then(|index| self.definitions.get(*index)) {
            Some(Definition { resolved: Some(set), .. }) => Lookup::Found(set),
            Some(_) => Lookup::Faulty,
            None => Lookup::Unknown,
        }
    }

    /// What still waits is in a cycle or names one that is. Each cycle is reported once, where it begins in the file.
    fn report_cycles(&self, uses: &[Vec<usize>], waiting: &[usize], report: &mut Report<'_>) {
        let mut seen = vec![false; uses.len()];
        for start in (0..uses.len()).filter(|&index| waiting[index] > 0) {
            let mut path = Vec::new();
            let mut next = Some(start);
            while let Some(index) = next.filter(|&index| !seen[index]) {
                seen[index] = true;
                path.push(index);
                next = uses[index].iter().copied().find(|&used| waiting[used] > 0);
            }
            let Some(begin) = next.and_then(|index| path.iter().position(|&step| step == index)) else { continue };
            self.report_cycle(&path[begin..], report);
        }
    }

    fn report_cycle(&self, cycle: &[usize], report: &mut Report<'_>) {
        let Some(begin) = (0..cycle.len()).min_by_key(|&step| cycle[step]) else { return };
        let chain: Vec<String> =
            cycle[begin..].iter().chain(&cycle[..=begin]).map(|&index| self.definitions[index].name.clone()).collect();
        let first = &self.definitions[cycle[begin]];
        report.error(first.at, &Problem::Cycle { kind: S::KIND, name: first.name.clone(), chain });
    }
}
