//! Files, drop-ins and what can go wrong with them.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of the functions that clippy knows as tests")]

use std::fs;
use std::path::{Path, PathBuf};

use flowhop_policy::{Diagnostic, load};

/// An empty directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(path.join("conf.d")).unwrap();
    path
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

fn faults(directory: &Path) -> Vec<(String, u32, String)> {
    let outcome = load(&directory.join("p.toml")).outcome;
    let short = |fault: Diagnostic| {
        let file = Path::new(&fault.file).file_name().unwrap().to_string_lossy().into_owned();
        (file, fault.line, fault.message)
    };
    outcome.unwrap_err().into_iter().map(short).collect()
}

#[test]
fn drop_ins_count_in_the_order_of_their_names() {
    let here = directory("sorted");
    write(
        &here,
        "p.toml",
        "include = [\"conf.d/*.toml\", \"conf.d/10-a.toml\", \"*.toml\"]\nrule = [ { name = \"first\", service = \"esp\", action = \"allow\" } ]\n",
    );
    for name in ["20-b", "10-a", ".hidden", "30-c"] {
        write(
            &here,
            &format!("conf.d/{name}.toml"),
            &format!("[[rule]]\nname = \"{name}\"\nservice = \"{}\"\naction = \"allow\"\n", &name.len()),
        );
    }
    write(&here, "conf.d/40-d.toml~", "not = \n");
    fs::create_dir(here.join("conf.d/50-e.toml")).unwrap();

    let loaded = load(&here.join("p.toml"));
    let names: Vec<String> = loaded.outcome.unwrap().policy.rules.into_iter().map(|rule| rule.name).collect();
    assert_eq!(names, ["first", "10-a", "20-b", "30-c"]);
    assert_eq!(loaded.sources.len(), 4);
}

#[test]
fn what_cannot_be_included_is_a_fault_of_the_line_that_asks_for_it() {
    let here = directory("include");
    write(
        &here,
        "p.toml",
        "include = [\n  \"absent.toml\",\n  \"*/x.toml\",\n  \"\",\n  1,\n  \"none.d/*.toml\",\n  \"latin.toml\",\n  \"conf.d/nested.toml\",\n]\n",
    );
    fs::write(here.join("latin.toml"), b"# a\n# \xfc\n").unwrap();
    write(&here, "conf.d/nested.toml", "# a\ninclude = \"more.toml\"\n");
    let found = faults(&here);
    let parts = [
        ("p.toml", 2, "absent.toml cannot be included: No such file"),
        ("p.toml", 3, "can stand only in the name"),
        ("p.toml", 4, "the pattern is empty"),
        ("p.toml", 5, "\"include\" is an integer"),
        ("p.toml", 7, "line 2 is not UTF-8"),
        ("nested.toml", 2, "itself included"),
    ];
    assert_eq!(found.len(), parts.len(), "{found:#?}");
    for ((file, line, message), (expected_file, expected_line, part)) in found.iter().zip(parts) {
        assert!(file == expected_file && *line == expected_line && message.contains(part), "{file}:{line}: {message}");
    }
}

#[test]
fn a_file_that_is_not_there_is_a_fault_without_a_line() {
    let here = directory("absent");
    let found = faults(&here);
    assert!(matches!(found.as_slice(), [(_, 0, message)] if message.contains("No such file")), "{found:?}");
    let shown = load(&here).outcome.unwrap_err()[0].to_string();
    assert!(shown.contains(": error: cannot be read: ") && !shown.contains('\n'), "{shown}");
}

#[test]
fn a_file_that_never_ends_is_refused() {
    let fault = &load(Path::new("/dev/zero")).outcome.unwrap_err()[0];
    assert!(fault.message.contains("longer than"), "{fault}");
}
