//! From text to policy. Goes on after every fault, so that one run finds them all.

mod addresses;
mod cookies;
mod document;
mod interfaces;
mod names;
mod nats;
mod node;
mod pcp;
mod pools;
mod problem;
mod report;
mod review;
mod rules;
mod services;
mod settings;
mod suggest;
mod translate;
mod values;

use std::borrow::Cow;

use toml::de::DeTable;

use crate::{Checked, Diagnostic, Policy, Severity, Source};
use interfaces::Interfaces;
use names::Names;
use node::{Node, Section};
use problem::{Doubt, Problem};
use report::{At, Report};
use rules::{Placed, Scope, TakenNames};
use settings::Settings;

const ROOT_KEYS: [&str; 11] =
    ["include", "interfaces", "addresses", "services", "rule", "nat", "paths", "table", "timeouts", "ip", "pcp"];
const INCLUDE: &str = "a list of files, include = [\"conf.d/*.toml\"]";

/// A file and whether it takes part.
struct File<'t> {
    root: DeTable<'t>,
    at: At,
    enabled: bool,
}

/// A pattern of an `include` that could not be followed.
pub(crate) struct IncludeFault {
    /// Which pattern, counting from 0.
    pub(crate) pattern: usize,
    /// The file, or the pattern itself.
    pub(crate) what: String,
    pub(crate) why: String,
}

/// The patterns of the `include` of a policy file, each with its place in the list, as far as they are strings.
pub(crate) fn include_patterns(text: &str) -> Vec<(usize, String)> {
    let sources = [Source { name: String::new(), text: text.to_owned() }];
    let mut ignored = Report::new(&sources);
    let text = document::close_brackets(0, text, &mut ignored);
    let file = File::read(0, &text, &mut ignored);
    if !file.enabled {
        return Vec::new();
    }
    let Some(include) = file.section().get("include") else { return Vec::new() };
    let nodes = include.one_or_many().into_iter().enumerate();
    nodes.filter_map(|(index, node)| Some((index, node.string(&mut ignored)?.to_owned()))).collect()
}

/// Checks all sources together.
pub(crate) fn check(sources: &[Source], include_faults: &[IncludeFault]) -> Result<Checked, Vec<Diagnostic>> {
    let mut report = Report::new(sources);
    let texts: Vec<Cow<'_, str>> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| document::close_brackets(index, &source.text, &mut report))
        .collect();
    let files: Vec<File<'_>> =
        texts.iter().enumerate().map(|(index, text)| File::read(index, text, &mut report)).collect();
    for file in &files {
        check_include(file, include_faults, &mut report);
    }

    let mut interfaces = Interfaces::default();
    let (mut addresses, mut services) = (Names::new(), Names::new());
    let mut settings = Settings::default();
    for file in &files {
        file.with_table("interfaces", &mut report, |section, report| interfaces.read(&section, report));
        file.with_table("addresses", &mut report, |section, report| addresses::read(&section, &mut addresses, report));
        file.with_table("services", &mut report, |section, report| services::read(&section, &mut services, report));
        file.with_table("paths", &mut report, |section, report| settings.read_paths(&section, report));
        file.with_table("table", &mut report, |section, report| settings.read_table(&section, report));
        file.with_table("timeouts", &mut report, |section, report| settings.read_timeouts(&section, report));
        file.with_table("ip", &mut report, |section, report| settings.read_ip(&section, report));
    }
    settings.check_requests(&interfaces.path_requests, &mut report);
    settings.check_table(&mut report);
    addresses.resolve(&mut report);
    services.resolve(&mut report);

    let Interfaces { interfaces, zones, .. } = interfaces;
    let scope = Scope { zones, addresses, services };
    let (mut rules, mut nats) = (Vec::new(), Vec::new());
    let (mut rule_names, mut nat_names) = (TakenNames::default(), TakenNames::default());
    for file in &files {
        for table in file.tables("rule", "a rule", "tables: [[rule]] or rule = [ { … }, … ]", &mut report) {
            rules.extend(rules::read(&table, &scope, &mut rule_names, &mut report));
        }
        for table in file.tables("nat", "a translation", "tables: [[nat]] or nat = [ { … }, … ]", &mut report) {
            nats.extend(nats::read(&table, &scope, &mut nat_names, &mut report));
        }
    }

    let mut pcp = pcp::Reader::default();
    for file in &files {
        file.with_table("pcp", &mut report, |section, report| pcp.read(&section, &scope, report));
    }

    if let (Some(settings), Some(at)) = (&pcp.settings, pcp.first) {
        review::asking(&rules, settings, at, &mut report);
    }

    let policy = Policy {
        interfaces,
        paths: settings.paths,
        table: settings.table,
        timeouts: settings.timeouts,
        ip: settings.ip,
        pcp: pcp.settings,
        ..Policy::default()
    };
    finish(policy, scope, rules, nats, report)
}

fn finish(
    mut policy: Policy,
    scope: Scope,
    rules: Vec<Placed<crate::Rule>>,
    nats: Vec<Placed<crate::NatRule>>,
    mut report: Report<'_>,
) -> Result<Checked, Vec<Diagnostic>> {
    policy.zones = scope.zones.names;
    // Rules at fault are not among these, and leaving out a rule hides no other.
    review::shared_pools(&nats, &mut report);
    review::reach(&rules, &nats, policy.zones.len(), &mut report);
    if !report.has_errors() {
        // A rule at fault might be the one that allows SSH.
        review::ssh(&rules, &policy.zones, &mut report);
        if policy.interfaces.is_empty() {
            report.warning(At { file: 0, start: 0, end: 0 }, &Doubt::NoInterface);
        }
    }
    policy.rules = rules.into_iter().map(|rule| rule.what).collect();
    policy.nats = nats.into_iter().map(|nat| nat.what).collect();

    let diagnostics = report.finish();
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        Err(diagnostics)
    } else {
        Ok(Checked { policy: policy.index(), warnings: diagnostics })
    }
}

/// Only the policy file itself may include others, and what it includes must have been found.
fn check_include(file: &File<'_>, faults: &[IncludeFault], report: &mut Report<'_>) {
    let Some(include) = file.section().get("include") else { return };
    if file.at.file > 0 {
        let what = "\"include\" in a file that is itself included".to_owned();
        report.error(include.at, &Problem::Contradiction { what, expected: "`include` in the first file alone" });
        return;
    }
    for (index, node) in include.one_or_many().iter().enumerate() {
        node.string_expecting(INCLUDE, report);
        for fault in faults.iter().filter(|fault| fault.pattern == index) {
            let (what, why) = (fault.what.clone(), fault.why.clone());
            report.error(node.at, &Problem::Include { what, why, expected: INCLUDE });
        }
    }
}

impl<'t> File<'t> {
    fn read(index: usize, text: &'t str, report: &mut Report<'_>) -> Self {
        let root = document::read(index, text, report);
        let mut file = Self { root, at: At { file: index, start: 0, end: 0 }, enabled: true };
        file.enabled = file.section().check_keys(&ROOT_KEYS, report);
        file
    }

    fn section(&self) -> Section<'_> {
        Section { place: "the file", at: self.at, table: &self.root, enabled: true }
    }

    /// Hands over one of the tables that a file has at most once.
    fn with_table(&self, key: &'static str, report: &mut Report<'_>, read: impl FnOnce(Section<'_>, &mut Report<'_>)) {
        let Some(node) = self.section().get(key) else { return };
        let Some(section) = self.table(node, report) else { return };
        read(Section { enabled: self.enabled, ..section }, report);
    }

    fn table<'f>(&'f self, node: Node<'f>, report: &mut Report<'_>) -> Option<Section<'f>> {
        let place = match node.key {
            "interfaces" => "[interfaces]",
            "addresses" => "[addresses]",
            "services" => "[services]",
            "paths" => "[paths]",
            "table" => "[table]",
            "ip" => "[ip]",
            "pcp" => "[pcp]",
            _ => "[timeouts]",
        };
        node.section(place, &format!("a table, {place}"), report)
    }

    fn tables<'f>(
        &'f self,
        key: &str,
        place: &'static str,
        expected: &str,
        report: &mut Report<'_>,
    ) -> Vec<Section<'f>> {
        let Some(node) = self.section().get(key) else { return Vec::new() };
        let mut tables = rules::tables(node, place, expected, report);
        for table in &mut tables {
            table.enabled = self.enabled;
        }
        tables
    }
}
