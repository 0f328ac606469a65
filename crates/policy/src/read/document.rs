//! TOML with a place for every fault: a document is read to its end however many lines of it are wrong.

use std::borrow::Cow;

use toml::de::{DeTable, Error};

use super::report::{At, Report};

/// Brackets that are never closed and that we step over before giving up on the rest of the file.
const MOST_UNCLOSED: usize = 32;

/// The text without entries that open a bracket and never close it, which are reported: an open bracket swallows the
/// rest of the file. All that is left stays at its offset.
pub(crate) fn close_brackets<'t>(file: usize, text: &'t str, report: &mut Report<'_>) -> Cow<'t, str> {
    let mut closed = Cow::Borrowed(text);
    for _ in 0..MOST_UNCLOSED {
        let (_, errors) = DeTable::parse_recoverable(&closed);
        if !errors.iter().any(|error| error.message().starts_with("unclosed")) {
            break;
        }
        let Some(open) = unclosed_bracket(&closed) else { break };
        let bracket = At { file, start: open, end: open + 1 };
        report.syntax(bracket, "this is not TOML: the bracket is never closed".to_owned(), None);
        closed = Cow::Owned(without_entry_at(&closed, open));
    }
    closed
}

/// Reads a source; lines that are not TOML are reported and left out.
pub(crate) fn read<'t>(file: usize, text: &'t str, report: &mut Report<'_>) -> DeTable<'t> {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    for error in &errors {
        report_error(file, text, error, report);
    }
    root.into_inner()
}

fn report_error(file: usize, text: &str, error: &Error, report: &mut Report<'_>) {
    let span = error.span().unwrap_or(0..0);
    let word = text.get(span.clone()).unwrap_or("");
    let (message, expected) = match error.message().split_once(", expected ") {
        // The parser takes a bare word that begins like `inf` or `nan` for a broken number.
        Some(("invalid float", _)) if word.starts_with(char::is_alphabetic) => {
            ("string values must be quoted", Some(format!("{word:?}")))
        }
        Some(("string values must be quoted", _)) if !word.is_empty() => {
            ("string values must be quoted", Some(format!("{word:?}")))
        }
        Some(("string values must be quoted", _)) => ("there is no value", Some("a value".to_owned())),
        Some((message, expected)) => (message, Some(expected.to_owned())),
        None if error.message() == "duplicate key" => {
            // The likeliest cause: one table array in both spellings.
            let is_header = text.get(..span.start).is_some_and(|before| before.ends_with("[["));
            let expected =
                format!("[[{word}]] for all of them or `{word} = [ … ]` for all of them, or a file for each");
            ("duplicate key", is_header.then_some(expected))
        }
        None => (error.message(), None),
    };
    // At the end of a line a place of no width would be shown on the next.
    let start = if word.is_empty() { last_place_of_line(text, span.start) } else { span.start };
    report.syntax(At { file, start, end: span.end }, format!("this is not TOML: {message}"), expected);
}

fn last_place_of_line(text: &str, offset: usize) -> usize {
    let at_line_start = text.get(..offset).is_some_and(|before| before.ends_with('\n'));
    if at_line_start && offset == text.len() { offset.saturating_sub(1) } else { offset }
}

/// The bracket that the first mismatch, or else the end of the text, shows not to be closed.
fn unclosed_bracket(text: &str) -> Option<usize> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let at = text.len() - rest.len();
        let token = token_length(rest, c);
        match c {
            '[' | '{' => open.push((at, c)),
            ']' | '}' => match open.pop() {
                Some((_, '[')) if c == ']' => {}
                Some((_, '{')) if c == '}' => {}
                Some((culprit, _)) => return Some(culprit),
                None => {}
            },
            _ => {}
        }
        rest = rest.get(token..).unwrap_or("");
    }
    open.last().map(|(at, _)| *at)
}

/// How long the comment, the string or else the character is that a text begins with.
fn token_length(text: &str, first: char) -> usize {
    let line = text.find('\n').unwrap_or(text.len());
    let closing = match first {
        '#' => return line,
        '"' if text.starts_with("\"\"\"") => "\"\"\"",
        '"' => "\"",
        '\'' if text.starts_with("\'\'\'") => "\'\'\'",
        '\'' => "\'",
        _ => return first.len_utf8(),
    };
    // A string that is not closed ends with its line; a long one with the text.
    let end = if closing.len() == 1 { line } else { text.len() };
    let mut at = closing.len();
    while let Some(rest) = text.get(at..end).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(closing) {
            return at + closing.len();
        }
        let escaped = first == '"' && rest.starts_with('\\');
        at += rest.chars().take(if escaped { 2 } else { 1 }).map(char::len_utf8).sum::<usize>();
    }
    end.max(1)
}

/// The text with the entry that the offset is in turned into blanks, so that all other offsets hold.
fn without_entry_at(text: &str, offset: usize) -> String {
    let start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let mut result = text.get(..start).unwrap_or("").to_owned();
    let mut blanking = true;
    for (number, line) in text.get(start..).unwrap_or("").split_inclusive('\n').enumerate() {
        blanking = blanking && (number == 0 || !begins_something(line));
        if blanking {
            result.extend(line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        } else {
            result.push_str(line);
        }
    }
    result
}

/// Whether a line looks like the beginning of a table or an entry.
fn begins_something(line: &str) -> bool {
    let line = line.trim_start();
    let after_key = line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-.".contains(c));
    line.starts_with(['[', ']', '{', '}']) || (after_key.len() < line.len() && after_key.trim_start().starts_with('='))
}
