//! The policy of the daemon: read, checked, put in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flowhop_flow::record::{TICK_SHIFT, Tick, index_kind};
use flowhop_policy::{Diagnostic, Policy, RuleTarget, TableIndex};
use flowhop_table::Geometry;
use thiserror::Error;

/// Why a policy is not put in force.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It has faults, all of them here.
    #[error("{} has {} fault{}; nothing was changed", .file.display(), .faults.len(), if .faults.len() == 1 { "" } else { "s" })]
    Faults {
        /// The file.
        file: PathBuf,
        /// The faults.
        faults: Vec<Diagnostic>,
    },
    /// The table cannot change its size while it is in use.
    #[error("[table] cannot change while flowhop runs ({0}); nothing was changed. `flowhop down`, then start again")]
    Table(String),
}

/// Reads and checks a policy; warnings go to standard error.
///
/// # Errors
/// All faults.
pub(super) fn read(file: &Path) -> Result<Policy, PolicyError> {
    match flowhop_policy::load(file).outcome {
        Ok(checked) => {
            for warning in &checked.warnings {
                say!("{warning}");
            }
            Ok(checked.policy)
        }
        Err(faults) => Err(PolicyError::Faults { file: file.to_path_buf(), faults }),
    }
}

/// The geometry of the table that a policy asks for.
#[must_use]
pub(super) fn geometry(policy: &Policy) -> Geometry {
    let index = match policy.table.index {
        TableIndex::Lines => index_kind::LINES,
        TableIndex::KernelHash => index_kind::KERNEL_HASH,
    };
    Geometry::for_connections(policy.table.connections, index)
}

/// A duration in ticks, at least one.
#[must_use]
pub(super) fn ticks(duration: Duration) -> Tick {
    u32::try_from(duration.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX / 2).max(1)
}

/// Whether some rule is about new connections to the box itself.
#[must_use]
pub(super) fn judges_local(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| rule.to == RuleTarget::SelfBox)
}
