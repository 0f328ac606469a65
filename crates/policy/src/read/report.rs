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
    missing_word: Option<String>,
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
                missing_word: None,
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
            missing_word: problem.missing_word().map(str::to_owned),
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
            missing_word: None,
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.entries.iter().any(|entry| entry.severity == Severity::Error)
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
        let broken = self.broken_lines();
        self.entries.retain(|entry| !entry.missing_word.as_ref().is_some_and(|word| may_have_had(&broken, word)));
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

    fn broken_lines(&self) -> Vec<&'s str> {
        let lines = |file: &File<'s>| {
            let starts = file.broken.iter().filter_map(|line| file.lines.get(*line).copied()).collect::<Vec<_>>();
            let text = &file.source.text;
            starts.into_iter().filter_map(move |start| text.get(start..)?.lines().next())
        };
        self.files.iter().flat_map(lines).collect()
    }

    /// Whether a place is on a line that is not TOML, or in a table whose header is not.
    fn is_broken(&self, at: At) -> bool {
        let Some(file) = self.files.get(at.file).filter(|file| !file.broken.is_empty()) else { return false };
        let line = self.line_index(at);
        let starts = file.lines.get(..=line).unwrap_or(&[]);
        let is_header = |start: &usize| file.source.text.get(*start..).is_some_and(|rest| rest.starts_with('['));
        file.broken.contains(&line)
            || starts.iter().rposition(is_header).is_some_and(|line| file.broken.contains(&line))
    }

    fn line_index(&self, at: At) -> usize {
        self.files
            .get(at.file)
            .map_or(0, |file| file.lines.partition_point(|&start| start <= at.start).saturating_sub(1))
    }
}

/// Whether a word may be missing only because of lines that could not be read. After the header of a table that could
/// be any word.
fn may_have_had(broken_lines: &[&str], word: &str) -> bool {
    broken_lines.iter().any(|line| line.trim_start().starts_with('[') || line.contains(word))
}
