//! Collects everything that is wrong, in the order of the files.

use std::collections::HashSet;

use super::problem::{Doubt, Problem};
use crate::{Diagnostic, Severity, Source};

/// A longer line is cut in a diagnostic: a generated file may be one line of megabytes, with a fault in each entry.
const LONGEST_LINE: usize = 2000;

/// A stretch of a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

pub(crate) struct Report<'s> {
    files: Vec<File<'s>>,
    entries: Vec<Entry>,
}

struct File<'s> {
    source: &'s Source,
    /// Byte offsets of the first character of each line.
    lines: Vec<usize>,
    /// Lines, from 0, that are not TOML: what the parser made of them is not worth a second complaint.
    broken: HashSet<usize>,
}

struct Entry {
    at: At,
    severity: Severity,
    message: String,
    expected: Option<String>,
    may_follow_from_syntax: bool,
}

impl<'s> Report<'s> {
    pub(crate) fn new(sources: &'s [Source]) -> Self {
        let files = sources
            .iter()
            .map(|source| File {
                source,
                lines: std::iter::once(0).chain(source.text.match_indices('\n').map(|(at, _)| at + 1)).collect(),
                broken: HashSet::new(),
            })
            .collect();
        Self { files, entries: Vec::new() }
    }

    /// Records a line that is not TOML; the first complaint about a line is the one that counts.
    pub(crate) fn syntax(&mut self, at: At, message: String, expected: Option<String>) {
        let line = self.line_index(at);
        if self.files.get_mut(at.file).is_some_and(|file| file.broken.insert(line)) {
            let problem = Problem::Syntax { message, expected };
            self.entries.push(Entry {
                at,
                severity: Severity::Error,
                message: problem.to_string(),
                expected: problem.expected(),
                may_follow_from_syntax: false,
            });
        }
    }

    pub(crate) fn error(&mut self, at: At, problem: &Problem) {
        if self.is_broken(at) {
            return;
        }
        self.entries.push(Entry {
            at,
            severity: Severity::Error,
            message: problem.to_string(),
            expected: problem.expected(),
            may_follow_from_syntax: problem.may_follow_from_syntax(),
        });
    }

    pub(crate) fn warning(&mut self, at: At, doubt: &Doubt) {
        if self.is_broken(at) {
            return;
        }
        self.entries.push(Entry {
            at,
            severity: Severity::Warning,
            message: doubt.to_string(),
            expected: doubt.expected(),
            may_follow_from_syntax: false,
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.entries.iter().any(|entry| entry.severity == Severity::Error)
    }

    pub(crate) fn has_syntax_errors(&self) -> bool {
        self.files.iter().any(|file| !file.broken.is_empty())
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, at: At) -> u32 {
        u32::try_from(self.line_index(at)).unwrap_or(u32::MAX).saturating_add(1)
    }

    pub(crate) fn file_name(&self, file: usize) -> &'s str {
        self.files.get(file).map_or("", |file| &file.source.name)
    }

    /// How to point at a place from a message about another file or the same.
    pub(crate) fn place(&self, at: At, seen_from: usize) -> String {
        let line = self.line(at);
        if at.file == seen_from { format!("line {line}") } else { format!("{}:{line}", self.file_name(at.file)) }
    }

    /// All that was collected, in the order of the files and lines.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        if self.has_syntax_errors() {
            self.entries.retain(|entry| !entry.may_follow_from_syntax);
        }
        self.entries.sort_by_key(|entry| (entry.at.file, entry.at.start));
        self.entries.iter().map(|entry| self.diagnostic(entry)).collect()
    }

    fn diagnostic(&self, entry: &Entry) -> Diagnostic {
        let at = entry.at;
        let text = self.files.get(at.file).map_or("", |file| file.source.text.as_str());
        let start = self.files.get(at.file).and_then(|file| file.lines.get(self.line_index(at))).copied().unwrap_or(0);
        let line = text.get(start..).unwrap_or("").split('\n').next().unwrap_or("");
        let line = line.strip_suffix('\r').unwrap_or(line);
        let until = |offset: usize| {
            let bytes = offset.saturating_sub(start).min(line.len());
            line.char_indices().take_while(|(index, _)| *index < bytes).count()
        };
        let before = until(at.start);
        Diagnostic {
            severity: entry.severity,
            file: self.file_name(at.file).to_owned(),
            line: self.line(at),
            column: u32::try_from(before + 1).unwrap_or(u32::MAX),
            width: u32::try_from(until(at.end).saturating_sub(before).max(1)).unwrap_or(1),
            line_text: line.chars().take(LONGEST_LINE).collect(),
            message: entry.message.clone(),
            expected: entry.expected.clone(),
        }
    }

    fn is_broken(&self, at: At) -> bool {
        self.files.get(at.file).is_some_and(|file| file.broken.contains(&self.line_index(at)))
    }

    fn line_index(&self, at: At) -> usize {
        self.files
            .get(at.file)
            .map_or(0, |file| file.lines.partition_point(|&start| start <= at.start).saturating_sub(1))
    }
}
