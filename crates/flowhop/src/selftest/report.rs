//! What came of it, for people, for programs, and as a page of documentation.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::clause::{Clause, How};

/// How a clause did on each path that was tried.
#[derive(Clone, Debug)]
pub struct Result {
    /// The clause.
    pub clause: Clause,
    /// Path, and what was wrong on it.
    pub paths: Vec<(&'static str, Option<String>)>,
}

impl Result {
    /// Whether all paths passed, or nothing was to be tried.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.paths.iter().all(|(_, fault)| fault.is_none())
    }

    /// One line, and one more for each path that failed.
    #[must_use]
    pub fn text(&self) -> String {
        let Clause { rfc, clause, level, does, how } = self.clause;
        let verdict = match how {
            How::Unmet(_) => "unmet",
            How::Overruled(_) => "other",
            How::Tried(..) if self.passed() => "pass",
            How::Tried(..) => "FAIL",
        };
        let mut text = format!("{verdict:<6} RFC {rfc:<5} {clause:<12} {:<7} {does}", level.name());
        if let How::Unmet(reason) | How::Overruled(reason) = how {
            let _written = write!(text, "\n       {reason}");
        }
        for (path, fault) in &self.paths {
            if let Some(fault) = fault {
                let _written = write!(text, "\n       {path}: {fault}");
            }
        }
        text
    }

    fn json(&self) -> Value {
        let Clause { rfc, clause, level, does, how } = self.clause;
        let path = |name: &str| {
            let found = self.paths.iter().find(|(path, _)| *path == name);
            found.map(|(_, fault)| if fault.is_none() { "pass" } else { "fail" })
        };
        let faults = self.paths.iter().filter_map(|(path, fault)| Some(format!("{path}: {}", fault.as_ref()?)));
        json!({
            "rfc": rfc,
            "clause": clause,
            "level": level.name(),
            "does": does,
            "unmet": match how { How::Unmet(reason) => Some(reason), How::Tried(..) | How::Overruled(_) => None },
            "overruled": match how { How::Overruled(reason) => Some(reason), How::Tried(..) | How::Unmet(_) => None },
            "driver": path("driver"),
            "skb": path("skb"),
            "user": path("user"),
            "faults": faults.collect::<Vec<_>>(),
        })
    }
}

/// The JSON object.
#[must_use]
pub fn json(results: &[Result]) -> Value {
    let passed = results.iter().filter(|result| result.passed() && matches!(result.clause.how, How::Tried(..))).count();
    json!({
        "version": 1,
        "clauses": results.iter().map(Result::json).collect::<Vec<_>>(),
        "passed": passed,
        "failed": results.iter().filter(|result| !result.passed()).count(),
        "unmet": results.iter().filter(|result| result.clause.is_unmet()).count(),
        "overruled": results.iter().filter(|result| result.clause.is_overruled()).count(),
        "unmet_musts": results.iter().filter(|result| result.clause.is_unmet_must()).count(),
    })
}

/// What does not hold, MUSTs first, as a table.
fn not_met(clauses: &[Clause]) -> String {
    let (musts, others): (Vec<_>, Vec<_>) =
        clauses.iter().filter(|clause| clause.is_unmet()).partition(|clause| clause.is_unmet_must());
    let mut table = format!(
        "## What is not met\n\n{} clauses of {}, {} of which are MUSTs; the reasons are with the clauses below.\n\n\
         | RFC | clause | level | what flowhop does |\n|---|---|---|---|\n",
        musts.len() + others.len(),
        clauses.len(),
        musts.len(),
    );
    rows(&mut table, musts.into_iter().chain(others));
    table += "\
## What is overruled

Where a later document, or what is asked of a firewall by those who build this one, says otherwise, that is done.

| RFC | clause | level | what flowhop does |
|---|---|---|---|
";
    rows(&mut table, clauses.iter().filter(|clause| clause.is_overruled()));
    table
}

fn rows<'a>(table: &mut String, clauses: impl Iterator<Item = &'a Clause>) {
    for Clause { rfc, clause, level, does, .. } in clauses {
        let _written = writeln!(table, "| {rfc} | {clause} | {} | {does} |", level.name());
    }
    table.push('\n');
}

/// The page of documentation.
#[must_use]
pub fn markdown(clauses: &[Clause]) -> String {
    let mut page = "\
# What flowhop does about the RFCs

Made by `flowhop selftest --markdown docs/rfc-compliance.md`, and by nothing else, from the list of clauses that
`flowhop selftest` tries: each on every path (`driver`, `skb`, `user`), by packets through the shipped data path.

The level is that of the RFC's own words (RFC 2119). Where it has none of these, since it is older or informational, it is
MUST for what the text says has to be or is, SHOULD for what it advises, and MAY for what is a way of doing things, or
stricter than it asks. What an RFC demands of the ends of a connection is here where a firewall that follows the
connection must not stand in its way.

"
    .to_owned();
    page += &not_met(clauses);
    let mut last = None;
    for clause in clauses {
        if last.replace(clause.rfc) != Some(clause.rfc) {
            let rfc = clause.rfc;
            let gap = if last.is_some() && !page.ends_with("\n\n") { "\n" } else { "" };
            let _written = write!(
                page,
                "{gap}## RFC {rfc}\n\n| clause | level | what flowhop does | tried |\n|---|---|---|---|\n"
            );
        }
        let tried = match clause.how {
            How::Tried(policy, _) => format!("policy `{}`", policy.name),
            How::Unmet(reason) => format!("**not met**: {reason}"),
            How::Overruled(reason) => format!("**overruled**: {reason}"),
        };
        let _written = writeln!(page, "| {} | {} | {} | {tried} |", clause.clause, clause.level.name(), clause.does);
    }
    page
}
