//! The state directory: who owns it, and what outlives a restart beside the pinned maps.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flowhop_modules::Names;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What flowhop keeps in a state directory, beside the bpffs.
const FILES: [&str; 5] = ["names.json", "names.json.new", "counters", "control.sock", "lock"];
/// Differences that shadow mode keeps there, see [`difference`].
const DIFFERENCES: usize = 8;
/// Version of `names.json`.
const VERSION: u32 = 1;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("{what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Another daemon has it.
    #[error("another flowhop daemon uses {0}; stop it first, or give another --state directory")]
    Busy(PathBuf),
    /// Written by a newer flowhop, or not by flowhop.
    #[error("{path} was not written by this version of flowhop ({why}); run `flowhop down` to start afresh")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A state directory that this process owns for as long as it lives.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    _lock: File,
}

/// Numbers that flow records hold, with the names that they stand for.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Rules.
    pub rules: Names,
    /// Translations.
    pub nats: Names,
    /// Ports, by interface name.
    pub ports: Names,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesFile {
    version: u32,
    rules: BTreeMap<u16, String>,
    nats: BTreeMap<u16, String>,
    ports: BTreeMap<u16, String>,
}

impl State {
    /// Makes the directory if need be and takes it into use.
    ///
    /// # Errors
    /// When it cannot be made, or another daemon has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let fail = |what, path: &Path, error| StateError::File { what, path: path.to_path_buf(), error };
        let shared = has_foreign_files(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| fail("cannot make the state directory", path, error))?;
        if !shared {
            admit_group(path).map_err(|error| fail("cannot set the permissions of", path, error))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| fail("cannot open", &lock_path, error))?;
        // SAFETY: a plain system call on a descriptor that is open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(StateError::Busy(path.to_path_buf()));
        }
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn names_path(&self) -> PathBuf {
        self.path.join("names.json")
    }

    /// Reads what names the numbers in flow records stand for; empty when there is nothing yet.
    ///
    /// # Errors
    /// When the file is not ours or cannot be read.
    pub fn read_numbers(&self) -> Result<Numbers, StateError> {
        let path = self.names_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Numbers::default()),
            Err(error) => return Err(StateError::File { what: "cannot read", path, error }),
        };
        let file: NamesFile = serde_json::from_str(&text)
            .map_err(|error| StateError::Foreign { path: path.clone(), why: error.to_string() })?;
        if file.version != VERSION {
            let why = format!("version {}, expected {VERSION}", file.version);
            return Err(StateError::Foreign { path, why });
        }
        let names = |pairs: BTreeMap<u16, String>| {
            let mut names = Names::default();
            for (number, name) in pairs {
                names.set(number, &name);
            }
            names
        };
        Ok(Numbers { rules: names(file.rules), nats: names(file.nats), ports: names(file.ports) })
    }

    /// Writes the names, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_numbers(&self, numbers: &Numbers) -> Result<(), StateError> {
        let pairs =
            |names: &Names| names.iter().map(|(number, name)| (number, name.to_owned())).collect::<BTreeMap<_, _>>();
        let file = NamesFile {
            version: VERSION,
            rules: pairs(&numbers.rules),
            nats: pairs(&numbers.nats),
            ports: pairs(&numbers.ports),
        };
        let path = self.names_path();
        let fresh = self.path.join("names.json.new");
        let written = serde_json::to_vec_pretty(&file).map_err(io::Error::from).and_then(|text| {
            let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(&fresh, &path)
        });
        written.map_err(|error| StateError::File { what: "cannot write", path, error })
    }
}

/// The files of a difference that shadow mode has found: a capture, and the state of the flow. `None` beyond the last that
/// is kept.
#[must_use]
pub fn difference(number: usize) -> Option<[String; 2]> {
    (number < DIFFERENCES).then(|| ["pcap", "json"].map(|kind| format!("shadow-{number}.{kind}")))
}

fn files() -> impl Iterator<Item = String> {
    FILES.into_iter().map(str::to_owned).chain((0..DIFFERENCES).filter_map(difference).flatten())
}

/// Whether a directory has something in it that is not flowhop's: then its permissions are somebody else's business.
fn has_foreign_files(path: &Path) -> bool {
    let ours = |name: &OsStr| files().any(|file| *file == *name) || name == "bpf";
    fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| !ours(&entry.file_name())))
}

/// Whether a daemon has ever used the directory.
#[must_use]
pub fn is_used(path: &Path) -> bool {
    path.join("lock").exists()
}

/// Root's alone; members of the group `flowhop`, where there is one, may go through it to the control socket.
fn admit_group(path: &Path) -> io::Result<()> {
    let group = nix::unistd::Group::from_name(crate::control::server::GROUP).ok().flatten();
    let mode = match &group {
        Some(group) => {
            std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))?;
            0o710
        }
        None => 0o700,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes the files of a state directory, and the directory itself if nothing else is in it.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove(path: &Path) -> Result<(), StateError> {
    for name in files() {
        let file = path.join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StateError::File { what: "cannot remove", path: file, error });
            }
            _ => {}
        }
    }
    // Whatever else is in there is not ours.
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Ok(())
        }
        Err(error) => Err(StateError::File { what: "cannot remove", path: path.to_path_buf(), error }),
    }
}
