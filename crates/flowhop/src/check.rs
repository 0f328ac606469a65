//! `flowhop check`: reads a policy and says what is wrong with it.

use std::io::Write;
use std::path::Path;

use flowhop_policy::{Checked, Diagnostic, load};

use crate::exit::{Exit, Failure};

/// Prints `ok` to `out`, or every fault to standard error.
///
/// # Errors
/// When `out` cannot be written.
pub fn check(file: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
    match load(file).outcome {
        Ok(Checked { warnings, .. }) => {
            report(&warnings);
            writeln!(out, "ok").map_err(Failure::Output)?;
            Ok(Exit::Done)
        }
        Err(faults) => {
            report(&faults);
            Ok(Exit::Refused)
        }
    }
}

/// Prints diagnostics for people to standard error.
pub fn report(diagnostics: &[Diagnostic]) {
    let mut err = std::io::stderr().lock();
    for diagnostic in diagnostics {
        // Nobody is there to be told that standard error is closed.
        let _closed = writeln!(err, "{diagnostic}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_refused_and_a_good_one_is_ok() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        let mut out = Vec::new();
        assert_eq!(check(&file, &mut out).unwrap(), Exit::Refused);
        assert!(out.is_empty());
        std::fs::write(&file, "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\" }\n").unwrap();
        assert_eq!(check(&file, &mut out).unwrap(), Exit::Done);
        assert_eq!(out, b"ok\n");
    }
}
