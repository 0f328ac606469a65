//! The direction of dependencies between the crates: a crate knows those below it and nothing else.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::system::{cargo, output, root};

/// Each crate and the crates of ours that it may name. What is not listed may name none, `flowhop` and the tests may
/// name all.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("flowhop-flow", &["flowhop-wire"]),
    ("flowhop-table", &["flowhop-flow", "flowhop-wire"]),
    ("flowhop-kernel", &["flowhop-flow", "flowhop-table", "flowhop-wire"]),
    ("flowhop-engine", &["flowhop-wire", "flowhop-flow", "flowhop-table", "flowhop-routing"]),
    ("flowhop-modules", &["flowhop-wire", "flowhop-flow", "flowhop-engine", "flowhop-policy"]),
    // Implements traits that the engine owns.
    ("flowhop-io", &["flowhop-wire", "flowhop-flow", "flowhop-table", "flowhop-engine", "flowhop-routing"]),
    ("flowhop-policy", &[]),
    ("flowhop-routing", &[]),
    // The model and what it is compared with: mutants of both are built with it, and nothing else.
    ("flowhop-differential", &["flowhop-wire", "flowhop-flow", "flowhop-table"]),
];

/// Crates at the top, which may name all.
const TOP: [&str; 3] = ["flowhop", "flowhop-tests", "xtask"];

/// Fails when a crate names one that it must not.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for manifest in ["Cargo.toml", "crates/kernel/Cargo.toml"] {
        let mut command: Command = cargo();
        command.args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"]).arg(root().join(manifest));
        wrong.extend(violations(&output(&mut command)?)?);
    }
    if !wrong.is_empty() {
        bail!("dependencies against the arrows of ARCHITECTURE.md:\n  {}", wrong.join("\n  "));
    }
    println!("crate arrows: as declared");
    Ok(())
}

/// The dependencies in the output of `cargo metadata` that are not allowed. Those of tests do not count.
fn violations(metadata: &str) -> Result<Vec<String>> {
    let metadata: Value = serde_json::from_str(metadata).context("output of cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("name")?;
        if TOP.contains(&name) {
            continue;
        }
        let may = allowed.get(name).copied().unwrap_or_default();
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let on = dependency["name"].as_str().unwrap_or_default();
            let ours = on == "flowhop" || on.starts_with("flowhop-");
            if ours && dependency["kind"] != "dev" && !may.contains(&on) {
                wrong.push(format!("{name} -> {on}"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_arrows_pass() {
        let metadata = r#"{"packages": [
            {"name": "flowhop-wire", "dependencies": [{"name": "flowhop-flow", "kind": null}]},
            {"name": "flowhop-flow", "dependencies": [{"name": "flowhop-wire", "kind": null}]},
            {"name": "flowhop-policy", "dependencies": [{"name": "flowhop-engine", "kind": "dev"}]},
            {"name": "flowhop-new", "dependencies": [{"name": "flowhop-io", "kind": "build"}, {"name": "libc"}]},
            {"name": "flowhop", "dependencies": [{"name": "flowhop-modules", "kind": null}]}
        ]}"#;
        let wrong = violations(metadata).unwrap();
        assert_eq!(wrong, ["flowhop-wire -> flowhop-flow", "flowhop-new -> flowhop-io"]);
    }

    #[test]
    fn the_workspace_keeps_to_them() {
        check().unwrap();
    }
}
