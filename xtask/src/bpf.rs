//! Building the kernel programs, and the committed object.
//!
//! The programs need `core` built from source and nightly features, so they are built by Debian's `rustc-web`
//! (any other rustc needs its own library sources and LLVM tools beside). The object is committed with a list of
//! the sources that it was made from, and it is reproducible: paths are mapped, versions locked.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system::{self, Package, output, root, run, target};
use crate::{digest, link};

const OBJECT: &str = "crates/io/bpf/flowhop.o";
const SOURCES: &str = "crates/io/bpf/flowhop.o.sources";
pub(crate) const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

const PACKAGES: [Package<'static>; 3] = [
    Package { name: "rustc-web", known_by: RUSTC },
    Package { name: "cargo-web", known_by: CARGO },
    Package { name: "rust-web-src", known_by: "/usr/lib/rustlib/src/rust/library/core" },
];

/// Builds the programs and updates the committed object.
pub(crate) fn build() -> Result<()> {
    system::need(&PACKAGES).context("building the kernel programs")?;
    let built = compile()?;
    let object = root().join(OBJECT);
    fs::create_dir_all(object.parent().unwrap_or(&object))?;
    fs::write(&object, &built)?;
    // Sources that come from the registry may have been added to the lock file, so the digest is taken last.
    fs::write(root().join(SOURCES), describe(&built)?)?;
    println!("{OBJECT}: {} bytes, sha256 {}", built.len(), digest::of(&built));
    Ok(())
}

/// Fails when the committed object does not belong to the sources; where the toolchain is to be had, by building.
pub(crate) fn check() -> Result<()> {
    let object = fs::read(root().join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    let recorded = fs::read_to_string(root().join(SOURCES)).with_context(|| format!("cannot read {SOURCES}"))?;
    let present = describe(&object)?;
    if recorded != present {
        for line in recorded.lines().filter(|line| !present.lines().any(|other| other == *line)) {
            eprintln!("recorded: {line}");
        }
        for line in present.lines().filter(|line| !recorded.lines().any(|other| other == *line)) {
            eprintln!("present:  {line}");
        }
        bail!("{OBJECT} is stale; run: cargo xtask bpf");
    }
    if let Err(missing) = system::need(&PACKAGES).and_then(|()| tools().map(drop)) {
        println!("{OBJECT} belongs to its sources by their digests; not rebuilt: {missing:#}");
        return Ok(());
    }
    let toolchain = toolchain()?;
    if !recorded.starts_with(&toolchain) {
        println!("{OBJECT} belongs to its sources by their digests; not compared, as it was built by another compiler");
        println!("here: {toolchain}there: {}", recorded.lines().next().unwrap_or_default());
        compile()?;
        return Ok(());
    }
    if compile()? != object {
        bail!("{OBJECT} is not what its sources make; run: cargo xtask bpf");
    }
    println!("{OBJECT} is what its sources make");
    Ok(())
}

/// The contents of [`SOURCES`] for an object: compiler, object, source files.
fn describe(object: &[u8]) -> Result<String> {
    let recorded = fs::read_to_string(root().join(SOURCES)).unwrap_or_default();
    let committed = fs::read(root().join(OBJECT)).is_ok_and(|bytes| bytes == object);
    let compiler = match (toolchain(), recorded.lines().next()) {
        // Who only checks need not have the compiler.
        (_, Some(line)) if committed && !recorded.is_empty() => format!("{line}\n"),
        (compiler, _) => compiler?,
    };
    Ok(format!("{compiler}{}  {OBJECT}\n{}", digest::of(object), digest::of_sources()?))
}

/// One line that names compiler and LLVM.
fn toolchain() -> Result<String> {
    let version = output(Command::new(RUSTC).arg("-vV"))?;
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    Ok(format!("# rustc {} {}, LLVM {}\n", field("release:"), field("commit-hash:"), field("LLVM version:")))
}

/// The directory of the LLVM tools that belong to the compiler.
fn tools() -> Result<PathBuf> {
    let version = output(Command::new(RUSTC).arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).context("rustc names no LLVM")?;
    let major = llvm.split('.').next().unwrap_or(llvm);
    let tools = Path::new("/usr/lib").join(format!("llvm-{major}/bin"));
    let package = format!("llvm-{major}");
    for tool in ["opt", "llc"] {
        let tool = tools.join(tool);
        system::need(&[Package { name: &package, known_by: &tool.to_string_lossy() }])?;
    }
    Ok(tools)
}

/// Compiles the programs into an object.
fn compile() -> Result<Vec<u8>> {
    let tools = tools()?;
    let this = env::current_exe()?;
    let directory = target().join("bpf");
    let mut flags = vec![
        format!("-Ctarget-cpu={}", link::CPU),
        format!("-Ctarget-feature={}", link::FEATURES),
        "-Cdebuginfo=0".to_owned(),
        // Nobody asks for it: cargo links anew when how that is done has changed.
        format!("--cfg=linked_by_{}", &digest::of(include_bytes!("link.rs"))[..16]),
        format!("--remap-path-prefix={}=/flowhop", root().display()),
    ];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    let mut command = Command::new(CARGO);
    command.current_dir(root().join("crates/kernel"));
    // The cargo that runs this task has set variables for its own toolchain.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = text.starts_with("CARGO") && text != "CARGO_HOME" || text.starts_with("RUST");
        if foreign {
            command.env_remove(&name);
        }
    }
    run(command
        .env("RUSTC", RUSTC)
        .env("RUSTC_WRAPPER", &this)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback")
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &this)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(link::TOOLS, &tools)
        .args(["build", "-q", "--release", "--bin", "flowhop"]))
    .context("building the kernel programs")?;
    let object = directory.join("bpfel-unknown-none/release/flowhop");
    fs::read(&object).with_context(|| format!("cannot read {}", object.display()))
}

/// Calls the compiler with cargo's arguments, but for the hash of the directory that cargo tells crates of the same name apart
/// by: it is part of every symbol, by which the optimiser takes functions up, and would end up in the object.
pub(crate) fn compile_as_anywhere(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments: Vec<OsString> = arguments.collect();
    let name =
        arguments.iter().skip_while(|argument| *argument != "--crate-name").nth(1).and_then(|name| name.to_str());
    let ours = name.filter(|name| name.starts_with("flowhop"));
    let arguments = arguments.iter().map(|argument| match (argument.to_str(), ours) {
        (Some(text), Some(name)) if text.starts_with("metadata=") => format!("metadata={name}").into(),
        _ => argument.clone(),
    });
    run(Command::new(RUSTC).args(arguments))
}

fn cargo_home() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}
