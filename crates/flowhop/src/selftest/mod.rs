//! `flowhop selftest`: clauses of RFCs, tried on the shipped data path in namespaces of its own.
//!
//! The list of clauses ([`clause::all`]) is also the source of docs/rfc-compliance.md.

pub mod clause;
mod field;
mod fragments;
mod icmp;
mod ip;
mod nat;
pub mod policies;
pub mod report;
mod tcp;

use std::io::Write;
use std::path::PathBuf;

use clause::{Clause, How};
use field::Field;
use report::Result as Outcome;

use crate::exit::{Exit, Failure};
use crate::lab::{LabError, Sandbox};

/// What is to be tried, and how to say what came of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Clauses of this RFC only.
    pub rfc: Option<u16>,
    /// Print one JSON object.
    pub json: bool,
    /// Write the page of documentation instead of trying anything.
    pub markdown: Option<PathBuf>,
}

/// The paths on which each clause is tried by root; others have `user` alone.
const PATHS: [&str; 3] = ["driver", "skb", "user"];

/// Tries the clauses.
///
/// # Errors
/// When that cannot be done on this machine, or the outcome cannot be written.
pub fn selftest(options: &Options, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut clauses = clause::all();
    if let Some(file) = &options.markdown {
        return std::fs::write(file, report::markdown(&clauses)).map(|()| Exit::Done).map_err(|error| Failure::Other {
            message: format!("cannot write {}: {error}", file.display()),
            exit: Exit::Refused,
        });
    }
    clauses.retain(|clause| options.rfc.is_none_or(|rfc| rfc == clause.rfc));
    if clauses.is_empty() {
        let message = "there is no clause of that RFC in the list".to_owned();
        return Err(Failure::Other { message, exit: Exit::Refused });
    }
    // Before the first thread is started.
    let sandbox = Sandbox::enter()?;
    let paths = if sandbox.is_root() { &PATHS[..] } else { &PATHS[2..] };
    let mut outcomes: Vec<Outcome> = clauses.iter().map(|clause| Outcome { clause: *clause, paths: vec![] }).collect();
    for path in paths {
        try_path(path, &sandbox, &mut outcomes)?;
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if options.json {
        writeln!(out, "{:#}", report::json(&outcomes)).map_err(Failure::Output)?;
    } else {
        for outcome in &outcomes {
            writeln!(out, "{}", outcome.text()).map_err(Failure::Output)?;
        }
        let unmet = outcomes.iter().filter(|outcome| matches!(outcome.clause.how, How::Unmet(_))).count();
        let passed = outcomes.len() - failed - unmet;
        let line = format!("{passed} passed, {failed} failed, {unmet} not met; paths: {}", paths.join(", "));
        writeln!(out, "{line}").map_err(Failure::Output)?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Refused })
}

/// Tries all clauses on one path, those of one policy after the other.
fn try_path(path: &'static str, sandbox: &Sandbox, outcomes: &mut [Outcome]) -> Result<(), LabError> {
    let mut policies: Vec<&'static policies::Policy> = Vec::new();
    for outcome in &*outcomes {
        if let How::Tried(policy, _) = outcome.clause.how
            && !policies.iter().any(|known| known.name == policy.name)
        {
            policies.push(policy);
        }
    }
    for policy in policies {
        let field = Field::new(path, &sandbox.folder().join(format!("{path}-{}", policy.name)), policy)?;
        for outcome in &mut *outcomes {
            let Clause { how: How::Tried(wanted, test), .. } = outcome.clause else { continue };
            if wanted.name == policy.name {
                outcome.paths.push((path, test(&field).err().map(|fault| fault.to_string())));
            }
        }
        field.stop()?;
    }
    Ok(())
}
