//! Which sources a committed object was made from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::system::root;

/// What the kernel programs are made from, below the root.
const SOURCES: [&str; 10] = [
    "crates/flow/Cargo.toml",
    "crates/flow/src",
    "crates/kernel/.cargo/config.toml",
    "crates/kernel/Cargo.lock",
    "crates/kernel/Cargo.toml",
    "crates/kernel/src",
    // The reader's side; the writer has no part in it.
    "crates/table/src/lib.rs",
    "crates/table/src/lookup.rs",
    "crates/wire/Cargo.toml",
    "crates/wire/src",
];

/// One line, `<sha256>  <path>`, for each source file, in the order of their paths.
///
/// A list instead of one number, so that a stale object says which file it is about, and changes of different
/// files merge.
pub(crate) fn of_sources() -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root().join(source), &mut files)?;
    }
    files.sort();
    let mut lines = String::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root()).unwrap_or(&file).display();
        lines += &format!("{}  {name}\n", of(&bytes));
    }
    Ok(lines)
}

/// The SHA-256 of some bytes in hexadecimal.
pub(crate) fn of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
