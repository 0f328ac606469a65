//! `flowhop selftest`: clauses of RFCs, tried on the shipped data path in namespaces of its own.
//!
//! The list of clauses ([`clause::all`]) is also the source of docs/rfc-compliance.md.

mod carriers;
mod checksums;
pub mod clause;
mod connection;
mod field;
mod forwarding;
mod fragments;
mod headers;
mod icmp;
mod ip;
mod mtu;
mod nat64;
mod nat_prefix;
mod nat_tcp;
mod nat_udp;
mod own_errors;
mod pcp;
pub mod policies;
pub mod report;
mod seen;
mod sources;
mod syn_cookies;
mod tcp;
mod tcp_options;
mod timers;
mod unmet;

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use clause::{Clause, How};
use field::Field;
use policies::Policy;
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
    let outcomes = try_paths(paths, sandbox.folder(), &clauses)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if options.json {
        writeln!(out, "{:#}", report::json(&outcomes)).map_err(Failure::Output)?;
    } else {
        for outcome in &outcomes {
            writeln!(out, "{}", outcome.text()).map_err(Failure::Output)?;
        }
        let unmet = outcomes.iter().filter(|outcome| outcome.clause.is_unmet()).count();
        let musts = outcomes.iter().filter(|outcome| outcome.clause.is_unmet_must()).count();
        let overruled = outcomes.iter().filter(|outcome| outcome.clause.is_overruled()).count();
        let passed = outcomes.len() - failed - unmet - overruled;
        let paths = paths.join(", ");
        let line = format!(
            "{passed} passed, {failed} failed, {unmet} not met, {musts} of which are MUSTs, {overruled} overruled; paths: {paths}"
        );
        writeln!(out, "{line}").map_err(Failure::Output)?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Refused })
}

/// Policies that are tried at the same time, for each path.
const WORKERS: usize = 2;

/// A policy to be tried on a path, by its place.
type Job = (usize, &'static Policy);

/// What came of clauses: their places, that of the path, and what was wrong.
type Found = Vec<(usize, usize, Option<String>)>;

/// Tries all clauses on all paths, some policies at a time: most of the time goes into waiting.
fn try_paths(paths: &[&'static str], folder: &Path, clauses: &[Clause]) -> Result<Vec<Outcome>, LabError> {
    let mut policies: Vec<&'static Policy> = Vec::new();
    for clause in clauses {
        if let How::Tried(policy, _) = clause.how
            && !policies.iter().any(|known| known.name == policy.name)
        {
            policies.push(policy);
        }
    }
    let jobs = policies.into_iter().flat_map(|policy| (0..paths.len()).map(move |path| (path, policy)));
    let jobs: Mutex<VecDeque<Job>> = Mutex::new(jobs.collect());
    let work = || {
        let mut found = Found::new();
        // Taken before it is done, so that nobody waits for the lock.
        while let Some(job) = jobs.lock().ok().and_then(|mut jobs| jobs.pop_front()) {
            try_policy(job, paths, folder, clauses, &mut found)?;
        }
        Ok::<_, LabError>(found)
    };
    let found: Vec<Result<Found, LabError>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..paths.len() * WORKERS).map(|_| scope.spawn(work)).collect();
        let failed = |_| Err(LabError::Late("a thread that failed".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect()
    });
    let mut outcomes: Vec<Outcome> = clauses.iter().map(|clause| Outcome { clause: *clause, paths: vec![] }).collect();
    let mut found: Found = found.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    found.sort_unstable();
    for (clause, path, fault) in found {
        if let (Some(outcome), Some(path)) = (outcomes.get_mut(clause), paths.get(path)) {
            outcome.paths.push((path, fault));
        }
    }
    Ok(outcomes)
}

/// Tries the clauses of one policy on one path, one after the other.
fn try_policy(
    (number, policy): Job,
    paths: &[&'static str],
    folder: &Path,
    clauses: &[Clause],
    found: &mut Found,
) -> Result<(), LabError> {
    let path = paths.get(number).copied().unwrap_or_default();
    let field = Field::new(path, &folder.join(format!("{path}-{}", policy.name)), policy)?;
    for (place, clause) in clauses.iter().enumerate() {
        if let How::Tried(wanted, test) = clause.how
            && wanted.name == policy.name
        {
            found.push((place, number, test(&field).err().map(|fault| fault.to_string())));
        }
    }
    field.stop()
}
