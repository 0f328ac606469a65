//! `cargo xtask vm`: tests on another kernel than this machine's, in an emulated machine.
//!
//! The machine's files are the host's, which it cannot write. Its time goes by the instructions that it executes, not by
//! the host's clock: emulation is slow, but nothing in it is late, so that tests of rates and deadlines mean what they
//! mean elsewhere.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kernel_package::{self, Kernel};
use crate::system::{self, Package, cargo, output, root, run};
use crate::test::{TOOLS, summary};

const NEEDED: [Package<'static>; 4] = [
    Package { name: "qemu-system-x86", known_by: "qemu-system-x86_64" },
    // Linked statically, unlike its sister `busybox`.
    Package { name: "busybox-static", known_by: "/var/lib/dpkg/info/busybox-static.list" },
    Package { name: "xz-utils", known_by: "xz" },
    Package { name: "kmod", known_by: "depmod" },
];
/// What brings the host's files, if it is not in the kernel itself.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay"];
const INIT: &str = include_str!("vm_init.sh");

/// A test program of the package `flowhop-tests`, and which of its tests.
struct Test {
    name: String,
    filter: Option<String>,
    program: PathBuf,
}

/// `[--kernel SUITE|FOLDER/] [TEST[::FILTER]…]`: without a kernel that of Debian's backports, without tests `levels`.
pub(crate) fn vm(arguments: &[&str]) -> Result<()> {
    let (kernel, tests) = match arguments {
        ["--kernel", kernel, tests @ ..] => (Some(*kernel), tests),
        tests => (None, tests),
    };
    let tests = if tests.is_empty() { &["levels"] } else { tests };
    ensure!(cfg!(target_arch = "x86_64"), "the emulated machine is of the kind x86_64, and so must be the host");
    system::need(&NEEDED).context("what emulates a machine")?;
    system::need(&TOOLS).context("tools that the tests run")?;
    let tests = built(tests)?;
    let folder = system::target().join("vm");
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let kernel = kernel_package::get(&folder, kernel)?;
    println!("==> Linux {}", kernel.version);
    let initramfs = initramfs(&folder, &kernel, &inside(&tests))?;
    boot(&folder, &kernel, &initramfs, &tests)
}

/// Builds the program and the test programs that are named.
fn built(names: &[&str]) -> Result<Vec<Test>> {
    let split = |name: &&str| match name.split_once("::") {
        Some((program, filter)) => (program.to_owned(), Some(filter.to_owned())),
        None => ((*name).to_owned(), None),
    };
    let wanted: Vec<(String, Option<String>)> = names.iter().map(split).collect();
    // Optimised, both: emulation takes its time for every instruction.
    run(cargo().args(["build", "-q", "--release", "-p", "flowhop"]))?;
    let mut build = cargo();
    build.args(["test", "-q", "--release", "--no-run", "-p", "flowhop-tests", "--message-format", "json"]);
    build.args(wanted.iter().map(|(program, _)| format!("--test={program}")));
    let messages: Vec<Value> = output(&mut build)?.lines().flat_map(serde_json::from_str).collect();
    let executable = |name: &str| {
        let of = |message: &&Value| message["target"]["name"] == name && message["executable"].is_string();
        messages.iter().find(of).and_then(|message| message["executable"].as_str())
    };
    let tests = names.iter().zip(wanted).map(|(name, (program, filter))| {
        let built = executable(&program).with_context(|| format!("cargo has built no test program {program:?}"))?;
        Ok(Test { name: (*name).to_owned(), filter, program: built.into() })
    });
    tests.collect()
}

/// What the machine runs when it is up, a script.
fn inside(tests: &[Test]) -> String {
    let mut script = String::from(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         {\n\
         ip link set lo up\n\
         modprobe -q tun\n",
    );
    for (name, value) in env::vars().filter(|(name, _)| name.starts_with("FLOWHOP_")) {
        let _ = writeln!(script, "export {name}={}", quoted(&value));
    }
    let _ = writeln!(script, "cd {}", quoted(&root().join("tests").to_string_lossy()));
    script.push_str(&commands(tests));
    script.push_str("} >/dev/hvc0 2>&1 </dev/null\nbusybox poweroff -f\n");
    script
}

/// Runs one test program after the other and says how each ended.
fn commands(tests: &[Test]) -> String {
    let mut script = String::new();
    for test in tests {
        // One at a time, as they take turns anyway: who waits for his would give up by the clock.
        let filter = test.filter.as_deref().map(quoted).unwrap_or_default();
        let program = quoted(&test.program.to_string_lossy());
        let _ = writeln!(script, "{program} --color never --show-output --test-threads 1 {filter}");
        let _ = writeln!(script, "echo vm: {} ended with $?", quoted(&test.name));
    }
    script
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What the kernel unpacks and starts: busybox, modules for the host's files, and scripts.
fn initramfs(folder: &Path, kernel: &Kernel, inside: &str) -> Result<PathBuf> {
    let tree = folder.join("initramfs");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for name in ["bin", "dev", "proc", "sys", "host", "written", "root", "modules"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("copy busybox")?;
    let mut order = String::new();
    for module in kernel.modules_for(&MODULES)? {
        let name = unpack_module(&module, &tree.join("modules")).with_context(|| module.display().to_string())?;
        let _ = writeln!(order, "{name}");
    }
    fs::write(tree.join("modules/order"), order)?;
    fs::write(tree.join("modules/folder"), kernel.modules().to_string_lossy().as_bytes())?;
    fs::write(tree.join("inside"), inside)?;
    fs::write(tree.join("init"), INIT)?;
    let archive = folder.join("initramfs.cpio");
    run(Command::new("sh")
        .current_dir(&tree)
        .args(["-c", "chmod 755 init && find . | busybox cpio -o -H newc >\"$0\" 2>/dev/null"])
        .arg(&archive))?;
    Ok(archive)
}

/// Writes a module to a folder as the kernel takes it, and returns its name there.
fn unpack_module(module: &Path, folder: &Path) -> Result<String> {
    let tool = match module.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => "cat",
    };
    let name = module.file_name().context("a module has a name")?.to_string_lossy();
    let name = name.split_inclusive(".ko").next().unwrap_or_default().to_owned();
    let mut unpack = Command::new(tool);
    if tool != "cat" {
        unpack.args(["-d", "-c"]);
    }
    run(unpack.arg(module).stdout(File::create(folder.join(&name))?))?;
    Ok(name)
}

/// Boots, prints what the tests print, and fails unless all of them ran and passed.
fn boot(folder: &Path, kernel: &Kernel, initramfs: &Path, tests: &[Test]) -> Result<()> {
    let console = folder.join("console.log");
    File::create(&console)?;
    let start = Instant::now();
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35", "-m", "4096"])
        // A nanosecond an instruction; five-level page tables only take time.
        .args(["-accel", "tcg", "-icount", "shift=0,sleep=on", "-cpu", "max,la57=off", "-smp", "2"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 panic=-1 mitigations=off quiet"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=out", "-device", "virtconsole,chardev=out"])
        .args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = machine.spawn().context("cannot run qemu-system-x86_64")?;
    let lines = BufReader::new(child.stdout.take().context("output of the machine")?).split(b'\n');
    let (mut passed, mut failed, mut lacking, mut good) = (0, 0, 0, 0);
    for line in lines {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("{line}");
        if let Some((more_passed, more_failed)) = summary(&line) {
            passed += more_passed;
            failed += more_failed;
        }
        // As tests say it that find something missing.
        lacking += u32::from(line.starts_with("not run: "));
        good += usize::from(tests.iter().any(|test| line == format!("vm: {} ended with 0", test.name)));
    }
    let status = child.wait()?;
    let (version, seconds) = (&kernel.version, start.elapsed().as_secs());
    println!("Linux {version}: {passed} passed, {failed} failed, {lacking} of these not run in full, in {seconds} s");
    ensure!(status.success(), "qemu-system-x86_64: {status}");
    ensure!(
        good == tests.len(),
        "{good} of {} test programs ended well; the kernel's messages are in {}",
        tests.len(),
        console.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_words_as_they_were() {
        for word in ["levels", "two words", "it's", "$HOME `id` \\ \"", ""] {
            let said = output(Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))));
            assert_eq!(said.expect("sh runs"), word);
        }
    }

    #[test]
    fn the_script_says_how_each_test_ended() {
        let test = |name: &str, filter: Option<&str>, program: &str| Test {
            name: name.to_owned(),
            filter: filter.map(str::to_owned),
            program: program.into(),
        };
        let script = commands(&[test("good::none", Some("none"), "/bin/true"), test("bad", None, "/bin/false")]);
        let said = output(Command::new("sh").arg("-c").arg(script));
        assert_eq!(said.expect("sh runs"), "vm: good::none ended with 0\nvm: bad ended with 1\n");
    }
}
