//! Project tasks: `cargo xtask <task>`.
//!
//! * `bpf` builds the kernel programs and updates the committed object; `bpf --check` fails when it is stale.
//! * `test` is everything that a change has to pass.
//! * `differ` compares the fast paths with the reference model, for long; `fuzz` runs the fuzz targets, likewise.
//! * `mutants` asks whether the tests notice small changes of the forwarding function and the table.
//! * `vm` runs tests on another kernel, in an emulated machine.
//!
//! On Debian as root they install what they need; elsewhere they name it.

mod arrows;
mod bpf;
mod differ;
mod digest;
mod fuzz;
mod kernel_package;
mod link;
mod mutants;
mod system;
mod test;
mod vm;

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::mutants::Chosen;

const USAGE: &str = "usage: cargo xtask <task>

    bpf            build the kernel programs, update crates/io/bpf/
    bpf --check    fail when the committed object does not belong to its sources
    test           all checks and tests
    differ [PACKETS [SEED]]
                   the same histories of so many packets, ten million if not said otherwise, through the
                   reference model and each fast path; as many through the slow path behind them
    fuzz [TARGET [SECONDS]]
                   the fuzz targets (fuzz/fuzz_targets), each for ten minutes if not said otherwise
    fuzz --keep [TARGET]
                   what they found, as few inputs as reach the same branches, to fuzz/kept
    mutants [NAMES | --since COMMIT]
                   whether the tests notice changes of the forwarding function and of the decision table; of all
                   files and functions, of those that this expression matches, or of what changed since a commit
    vm [--kernel SUITE|FOLDER/] [TEST[::FILTER]...]
                   tests of the package flowhop-tests on another kernel, in an emulated machine: that of a suite of
                   Debian (the backports, if not said otherwise) or an unpacked one, and the tests `levels`";

fn main() -> ExitCode {
    // Cargo calls this very program in place of the compiler of the kernel programs, and that calls it as their linker.
    let result = match env::var_os(link::TOOLS) {
        Some(_) if env::args_os().nth(1).is_some_and(|first| first == bpf::RUSTC) => {
            bpf::compile_as_anywhere(env::args_os().skip(2))
        }
        Some(tools) => link::link(tools.as_ref(), env::args_os().skip(1)),
        None => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bpf"] => bpf::build(),
        ["bpf", "--check"] => bpf::check(),
        ["test"] => test::run_all(),
        ["differ"] => differ::differ("10000000", "1"),
        ["differ", packets] => differ::differ(packets, "1"),
        ["differ", packets, seed] => differ::differ(packets, seed),
        ["fuzz"] => fuzz::fuzz(None, 600),
        ["fuzz", "--keep"] => fuzz::keep(None),
        ["fuzz", "--keep", target] => fuzz::keep(Some(target)),
        ["fuzz", target] => fuzz::fuzz(Some(target), 600),
        ["fuzz", target, seconds] => fuzz::fuzz(Some(target), seconds.parse().context("seconds")?),
        ["mutants"] => mutants::mutants(&Chosen::All),
        ["mutants", "--since", commit] => mutants::mutants(&Chosen::Since(commit)),
        ["mutants", names] => mutants::mutants(&Chosen::Named(names)),
        ["vm", arguments @ ..] => vm::vm(arguments),
        _ => bail!("{USAGE}"),
    }
}
