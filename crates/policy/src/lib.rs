//! The policy file: language, diagnostics, compilation.

mod diagnostic;
mod model;

use std::path::Path;

pub use diagnostic::{Diagnostic, Severity};
pub use model::address::{AddressSet, address_key, key_address};
pub use model::rule::{Action, Dependence, Family, NatRule, NewConnection, RateLimit, Rule, SourceTranslation};
pub use model::service::{ICMP, ICMPV6, PortSet, ServiceSet, TCP, UDP};
pub use model::zone::{Destination, RuleTarget, ZoneId, ZoneMatch, ZoneSet};
pub use model::{
    ForwardingPath, Interface, Martians, PathSettings, Policy, ReversePath, TableIndex, TableSettings, Timeouts,
};

/// A file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in diagnostics.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// A policy without faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The policy.
    pub policy: Policy,
    /// What works, but hardly as it was meant.
    pub warnings: Vec<Diagnostic>,
}

/// What [`load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The file and its drop-ins, in the order in which they count; without those that could not be read.
    pub sources: Vec<Source>,
    /// The policy, or everything that is wrong with it.
    pub outcome: Result<Checked, Vec<Diagnostic>>,
}

/// Reads a policy file and the drop-ins that its `include` names, and checks them together.
#[must_use]
pub fn load(_path: &Path) -> Loaded {
    Loaded { sources: Vec::new(), outcome: Err(Vec::new()) }
}

/// Checks a policy. The first source is the policy file, the others are its drop-ins. Reads no file.
///
/// # Errors
///
/// Every fault of every source, and the warnings that hold in spite of them.
pub fn parse(_sources: &[Source]) -> Result<Checked, Vec<Diagnostic>> {
    Err(Vec::new())
}
