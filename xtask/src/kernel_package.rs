//! A kernel from a Debian package, unpacked and not installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::system::{has_program, output, run};

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// What boots.
    pub(crate) image: PathBuf,
    folder: PathBuf,
}

impl Kernel {
    /// The folder with its modules, by version.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }

    /// The files of modules and of what they need, in the order to load them; none for what the kernel has built in.
    pub(crate) fn modules_for(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(&self.folder).args(["-S", &self.version, "-a", "--show-depends"]).args(names);
        let mut files: Vec<PathBuf> = Vec::new();
        for line in output(&mut command)?.lines() {
            let file = line.strip_prefix("insmod ").map(|rest| PathBuf::from(rest.trim_end()));
            files.extend(file.filter(|file| !files.contains(file)));
        }
        Ok(files)
    }
}

/// The newest kernel of a Debian suite, of the backports to the machine's own suite if none is named; or one that somebody
/// has unpacked to a folder, whose name has a slash in it. What was fetched once stays below `folder`.
pub(crate) fn get(folder: &Path, wanted: Option<&str>) -> Result<Kernel> {
    if let Some(path) = wanted.filter(|name| name.contains('/')) {
        return prepared(&Path::new(path).canonicalize().with_context(|| path.to_owned())?);
    }
    let (mirror, own) = mirror()?;
    let suite = wanted.map_or_else(|| format!("{own}-backports"), str::to_owned);
    let place = folder.join(&suite);
    if !place.exists() {
        let package = fetch(&folder.join("apt"), &mirror, &suite)?;
        // It is there when it is whole.
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
        fs::rename(&partial, &place)?;
    }
    prepared(&place)
}

/// Where this machine gets Debian from, and which suite it is.
fn mirror() -> Result<(String, String)> {
    if !has_program("apt-get") {
        bail!(
            "kernels are taken from Debian's packages, and there is no apt-get; name one that is unpacked: --kernel FOLDER/"
        );
    }
    let format = "$(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let found = targets.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["Debian", "main", suite, mirror] if !suite.contains('-') => Some((mirror.to_owned(), suite.to_owned())),
            _ => None,
        }
    });
    found.context(
        "no mirror of Debian is configured (apt-get indextargets; apt-get update); or unpack a kernel: --kernel FOLDER/",
    )
}

/// Downloads the package of a suite's kernel, by lists and a cache of its own: the machine's sources stay as they are.
fn fetch(folder: &Path, mirror: &str, suite: &str) -> Result<PathBuf> {
    for name in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let sources = folder.join("sources.list");
    let signed = if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { String::new() };
    fs::write(&sources, format!("deb {signed}{mirror} {suite} main\n"))?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder.join("archives"));
        let places = [("Dir::Etc::sourcelist", "sources.list"), ("Dir::State::lists", "lists"), ("Dir::Cache", "")];
        for (key, place) in places {
            command.arg("-o").arg(format!("{key}={}", folder.join(place).display()));
        }
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null", "-o", "APT::Sandbox::User=root", "-q"]);
        command
    };
    run(apt("apt-get").arg("update"))?;
    let depends = output(apt("apt-cache").args(["depends", "--important", "linux-image-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.with_context(|| format!("{suite} has no kernel:\n{depends}"))?;
    run(apt("apt-get").args(["download", package]))?;
    let files = fs::read_dir(folder.join("archives"))?.flatten().map(|entry| entry.path());
    let is_it = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(&format!("{package}_"))
    };
    files.into_iter().find(is_it).with_context(|| format!("{package} was not downloaded"))
}

/// The kernel in a folder, with its list of modules and where all versions of kmod look for them.
fn prepared(folder: &Path) -> Result<Kernel> {
    // Old and new packages differ in which of the two they use.
    let (old, new) = (folder.join("lib"), folder.join("usr/lib"));
    if !old.exists() {
        symlink("usr/lib", old)?;
    } else if !new.join("modules").exists() {
        fs::create_dir_all(&new)?;
        symlink("../../lib/modules", new.join("modules"))?;
    }
    let boot = folder.join("boot");
    let image = boot.join(only(&boot, "vmlinuz-")?);
    let version = only(&folder.join("lib/modules"), "")?;
    if !folder.join("lib/modules").join(&version).join("modules.dep").exists() {
        run(Command::new("depmod").arg("-b").arg(folder).arg(&version))?;
    }
    Ok(Kernel { version, image, folder: folder.to_path_buf() })
}

/// The one name in a folder that begins so.
fn only(folder: &Path, start: &str) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("no kernel: {}", folder.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    ensure!(names.len() == 1, "no kernel, or more than one, in {}: {names:?}", folder.display());
    Ok(names.remove(0))
}
