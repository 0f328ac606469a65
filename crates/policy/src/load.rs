//! Reads a policy file and its drop-ins.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::read::{self, IncludeFault};
use crate::{Checked, Diagnostic, Source};

/// A policy file is never that long; a device that never ends is.
const LONGEST_FILE: u64 = 64 << 20;

/// What [`load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The file and its drop-ins, in the order in which they count; without those that could not be read.
    pub sources: Vec<Source>,
    /// The policy, or everything that is wrong with it.
    pub outcome: Result<Checked, Vec<Diagnostic>>,
}

/// Why a file could not be read, or a pattern not be followed.
#[derive(Debug, Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is longer than {} MiB", LONGEST_FILE >> 20)]
    TooLong,
    #[error("line {line} is not UTF-8")]
    NotUtf8 { line: usize },
    #[error("\"*\" and \"?\" can stand only in the name of the file, not of its directory")]
    WildDirectory,
    #[error("the pattern is empty")]
    EmptyPattern,
}

/// Reads a policy file and the drop-ins that its `include` names, and checks them together.
///
/// A pattern is relative to the directory of the file. `*` and `?` may stand in its last part, and do not match a
/// leading dot; what they match counts in the order of the names. A pattern with wildcards may match nothing; a file
/// named without them must be there. A file that several patterns match counts once.
#[must_use]
pub fn load(path: &Path) -> Loaded {
    let main = match read_source(path) {
        Ok(source) => source,
        Err(error) => {
            let fault = Diagnostic::of_file(&path.display().to_string(), format!("cannot be read: {error}"));
            return Loaded { sources: Vec::new(), outcome: Err(vec![fault]) };
        }
    };
    let patterns = read::include_patterns(&main.text);
    let mut sources = vec![main];
    let mut faults = Vec::new();
    let mut seen: HashSet<PathBuf> = path.canonicalize().into_iter().collect();
    let directory = path.parent().unwrap_or(Path::new(""));
    for (index, pattern) in &patterns {
        let mut fault = |what: String, error: &ReadError| {
            faults.push(IncludeFault { pattern: *index, what, why: error.to_string() });
        };
        match matching_files(directory, pattern) {
            Ok(files) => {
                for file in files {
                    if file.canonicalize().is_ok_and(|real| !seen.insert(real)) {
                        continue;
                    }
                    match read_source(&file) {
                        Ok(source) => sources.push(source),
                        Err(error) => fault(file.display().to_string(), &error),
                    }
                }
            }
            Err(error) => fault(format!("{pattern:?}"), &error),
        }
    }
    let outcome = read::check(&sources, &faults);
    Loaded { sources, outcome }
}

fn read_source(path: &Path) -> Result<Source, ReadError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(ReadError::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        ReadError::NotUtf8 { line: 1 + before.filter(|byte| **byte == b'\n').count() }
    })?;
    Ok(Source { name: path.display().to_string(), text })
}

/// The files that a pattern stands for, sorted by name.
fn matching_files(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, ReadError> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if name.is_empty() {
        return Err(ReadError::EmptyPattern);
    }
    if folder.contains(['*', '?']) {
        return Err(ReadError::WildDirectory);
    }
    if !name.contains(['*', '?']) {
        return Ok(vec![directory.join(pattern)]);
    }

    let folder = if pattern.starts_with('/') && folder.is_empty() { Path::new("/") } else { Path::new(folder) };
    let folder = directory.join(folder);
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    let entries = match fs::read_dir(listed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let wanted: Vec<char> = name.chars().collect();
    let mut files = Vec::new();
    for entry in entries {
        let found = entry?.file_name();
        let letters: Vec<char> = found.to_string_lossy().chars().collect();
        if letters.first() != Some(&'.') && matches(&wanted, &letters) && !folder.join(&found).is_dir() {
            files.push(folder.join(&found));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a name matches a pattern of letters, `?` for one and `*` for any number.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not match: one letter further.
    let mut retry = None;
    while let Some(letter) = name.get(n) {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, n + 1));
            }
            Some(wanted) if *wanted == '?' || wanted == letter => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((star, next)) => {
                    (p, n) = (star, next);
                    retry = Some((star, next + 1));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        let matches = |pattern: &str, name: &str| {
            matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
        };
        for (pattern, name) in [("*.toml", "a.toml"), ("*", ""), ("a*b*c", "axbxbxc"), ("?.t", "é.t"), ("10-*", "10-")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.toml", "a.toml~"), ("?", ""), ("a*b", "axc"), ("", "x"), ("*a", "b")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
