//! The linker of the kernel programs: `opt` and `llc` of the LLVM that rustc was built with.
//!
//! With link-time optimisation and one codegen unit rustc hands over one file of bitcode and the list of symbols
//! to keep. That is little enough to do without `bpf-linker`, which Debian does not have.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system::run;

/// Environment variable that turns this program into the linker: the directory of LLVM's tools.
pub(crate) const TOOLS: &str = "FLOWHOP_BPF_LINK";

/// Instruction set: 32-bit arithmetic, sign extension, atomics with acquire and release (Linux 6.6).
pub(crate) const CPU: &str = "v4";
/// Headers lie at any address; without this every access to them would become byte code.
pub(crate) const FEATURES: &str = "+allows-misaligned-mem-access";

/// Links as rustc asks for it.
pub(crate) fn link(tools: &Path, arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let request = Request::parse(arguments)?;
    let symbols = fs::read_to_string(&request.symbols).context("the list of symbols to export")?;
    let symbols: Vec<&str> = symbols.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let optimised = request.output.with_extension("ll");
    run(Command::new(tools.join("opt"))
        .args(["-mtriple=bpfel", &format!("-mcpu={CPU}"), &format!("-mattr={FEATURES}")])
        // One function per program: what is called gets its arguments in memory, and is slower to run and to verify.
        .arg("-force-attribute=alwaysinline")
        .arg("-passes=forceattrs,internalize,default<O3>,globaldce,always-inline,globaldce")
        .arg(format!("-internalize-public-api-list={}", symbols.join(",")))
        .args([&request.bitcode, Path::new("-S"), Path::new("-o"), &optimised]))?;
    let text = fs::read_to_string(&optimised).context("the optimised programs")?;
    fs::write(&optimised, text.lines().map(|line| rewritten(line) + "\n").collect::<String>())?;
    run(Command::new(tools.join("llc"))
        .args(["-march=bpfel", &format!("-mcpu={CPU}"), &format!("-mattr={FEATURES}"), "-O3", "-filetype=obj"])
        // A `match` becomes comparisons: kernels before 6.19 have no indirect jumps, and loaders know no tables.
        .arg("-bpf-min-jump-table-entries=4294967295")
        .args([&optimised, Path::new("-o"), &request.output]))
}

/// A line of LLVM's language as the code generator gets it.
fn rewritten(line: &str) -> String {
    // The name has a hash of the directory in it, and would end up in the object.
    if line.starts_with("source_filename = ") { "source_filename = \"flowhop\"".to_owned() } else { defined(line) }
}

/// A line of LLVM's language with a zero in place of every value that is not defined on some way to it.
///
/// Such values are never used (the payload of a `None`), yet the code generator may keep them in a register and put
/// them aside; the verifier refuses to read a register that nobody has written.
fn defined(line: &str) -> String {
    let Some((head, phi)) = line.split_once(" = phi ") else {
        return line.to_owned();
    };
    let zero = match phi.split(' ').next() {
        Some("ptr") => "null",
        Some(kind) if kind.starts_with('i') => "0",
        _ => "zeroinitializer",
    };
    let phi = phi.replace("[ undef,", &format!("[ {zero},")).replace("[ poison,", &format!("[ {zero},"));
    format!("{head} = phi {phi}")
}

/// What rustc asks a linker of the `bpf` flavour for.
struct Request {
    bitcode: PathBuf,
    symbols: PathBuf,
    output: PathBuf,
}

impl Request {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let (mut bitcode, mut symbols, mut output) = (Vec::new(), None, None);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--export-symbols") => symbols = arguments.next().map(PathBuf::from),
                Some("-o") => output = arguments.next().map(PathBuf::from),
                Some("--cpu" | "--cpu-features" | "-L" | "-O" | "--target") => drop(arguments.next()),
                Some(option) if option.starts_with('-') => {}
                _ => bitcode.push(PathBuf::from(argument)),
            }
        }
        // Libraries of `core` come along, but with link-time optimisation everything used is in the one object.
        bitcode.retain(|path| path.extension().is_some_and(|extension| extension == "o"));
        match (bitcode.as_slice(), symbols, output) {
            ([one], Some(symbols), Some(output)) => Ok(Self { bitcode: one.clone(), symbols, output }),
            (inputs, ..) => bail!("expected one file of bitcode, symbols and an output, got {inputs:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_values_become_zero() {
        assert_eq!(defined("  %3 = phi i32 [ undef, %1 ], [ %2, %0 ]"), "  %3 = phi i32 [ 0, %1 ], [ %2, %0 ]");
        assert_eq!(defined("  %3 = phi ptr [ poison, %1 ]"), "  %3 = phi ptr [ null, %1 ]");
        assert_eq!(defined("  %3 = add i32 %1, undef"), "  %3 = add i32 %1, undef");
    }
}
