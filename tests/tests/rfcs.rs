//! `flowhop selftest` on the program as it is built: every clause that is tried holds on every path.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`).

use std::process::Command;

use flowhop_tests::daemon::binary;
use flowhop_tests::{alone, wait::undisturbed};
use serde_json::Value;

#[test]
fn every_clause_holds_on_every_path() {
    let _turn = alone();
    undisturbed();
    let output = Command::new(binary()).args(["selftest", "-j"]).output().expect("flowhop selftest");
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let clauses = outcome["clauses"].as_array().expect("clauses");
    let faulty = clauses.iter().filter(|clause| clause["faults"] != Value::Array(vec![]));
    let faults: Vec<String> =
        faulty.map(|clause| format!("RFC {} {}: {}", clause["rfc"], clause["clause"], clause["faults"])).collect();
    assert!(faults.is_empty(), "{}", faults.join("; "));
    let tried = |clause: &&Value| clause["unmet"].is_null() && clause["overruled"].is_null();
    for clause in clauses.iter().filter(tried) {
        for path in ["driver", "skb", "user"] {
            assert_eq!(clause[path], "pass", "{clause}");
        }
    }
    assert_eq!(output.status.code(), Some(0));
}
