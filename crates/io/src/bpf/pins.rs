//! The bpffs below the state directory, in which maps and links outlive the daemon.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::KernelError;

/// Where on a device a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver (XDP).
    Driver,
    /// On the socket buffer (tcx ingress).
    Ingress,
}

impl Hook {
    /// What the name of a pinned link starts with; its interface index follows.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Driver => "driver-",
            Self::Ingress => "link-",
        }
    }
}

/// The directory of pins.
///
/// Mounts belong to a mount namespace, and one that was made for this process alone, as `ip netns exec` makes it,
/// would take the bpffs along when the process ends. So the bpffs is mounted where this process's ancestors live;
/// from here it is reached through an open descriptor.
pub(super) struct Pins {
    /// The directory, as everybody names it.
    place: PathBuf,
    /// The same as this process reaches it.
    base: PathBuf,
    /// Keeps `base` open.
    open: Option<OwnedFd>,
}

impl Pins {
    /// The directory below a state directory, whether it is there or not.
    pub(super) fn of(state: &Path) -> Self {
        let place = state.join("bpf");
        let mut pins = Self { base: place.clone(), place, open: None };
        pins.reach();
        pins
    }

    /// Opens the directory where it lasts, if it is there.
    fn reach(&mut self) {
        let opened = lasting(|| open_directory(&self.place));
        if let Ok(directory) = opened {
            self.base = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
            self.open = Some(directory);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.place
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.base.join(format!("{}{ifindex}", hook.prefix()))
    }

    /// Mounts the bpffs unless it is there.
    pub(super) fn mount(&mut self) -> Result<(), KernelError> {
        let place = self.place.clone();
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM) => KernelError::NotPermitted,
            _ => KernelError::Mount { path: place.clone(), error },
        };
        fs::create_dir_all(&self.place).map_err(failed)?;
        if !self.is_mounted().map_err(failed)? {
            lasting(|| mount_bpffs(&self.place)).map_err(failed)?;
            self.reach();
        }
        Ok(())
    }

    /// Whether a bpffs is mounted there.
    pub(super) fn is_mounted(&self) -> io::Result<bool> {
        let path = c_path(&self.base)?;
        let mut status = MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the path ends with a zero, and the buffer is one `statfs`.
        if unsafe { libc::statfs(path.as_ptr(), status.as_mut_ptr()) } != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) };
        }
        // SAFETY: zeroed, then filled in by the kernel; any bits are a valid `statfs`.
        Ok(unsafe { status.assume_init() }.f_type == libc::BPF_FS_MAGIC)
    }

    /// Interfaces that have a pinned link.
    pub(super) fn links(&self, hook: Hook) -> Result<Vec<u32>, KernelError> {
        let failed = |error| KernelError::File { path: self.place.clone(), error };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_prefix(hook.prefix())?.parse::<u32>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a pin; one that is not there is fine.
    pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::File { path: path.to_path_buf(), error })
            }
            _ => Ok(()),
        }
    }

    /// Removes all links, so that no packet meets a program any more, then all maps.
    pub(super) fn clear(&self, maps: &[&str]) -> Result<(), KernelError> {
        for hook in [Hook::Driver, Hook::Ingress] {
            for ifindex in self.links(hook)? {
                Self::remove(&self.link(hook, ifindex))?;
            }
        }
        maps.iter().try_for_each(|name| Self::remove(&self.map(name)))
    }

    /// Unmounts the bpffs and removes its directory.
    pub(super) fn unmount(&mut self) -> Result<(), KernelError> {
        let place = self.place.clone();
        self.open = None;
        self.base.clone_from(&self.place);
        lasting(|| {
            unmount(&place)?;
            match fs::remove_dir(&place) {
                // A copy of the mount in another mount namespace keeps the directory busy; it is empty all the same.
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => Err(error),
                _ => Ok(()),
            }
        })
        .map_err(|error| KernelError::Mount { path: place.clone(), error })
    }

    /// Whether it is known that what is mounted here outlives this process.
    pub(super) fn last() -> bool {
        ancestor_namespace().is_some()
    }
}

/// Acts in the mount namespace that outlives this process: on a thread of its own, if that is another one.
fn lasting<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let Some(namespace) = lasting_namespace() else { return act() };
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: only this thread gets a view of the file system of its own, and it ends with the closure.
            if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: as above; the descriptor is open.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } != 0 {
                return Err(io::Error::last_os_error());
            }
            act()
        });
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// The mount namespace to mount in; none if it is this process's own.
fn lasting_namespace() -> Option<File> {
    let first = ancestor_namespace()?;
    let own = fs::metadata("/proc/self/ns/mnt").ok()?;
    let there = first.metadata().ok()?;
    ((there.dev(), there.ino()) != (own.dev(), own.ino())).then_some(first)
}

/// The mount namespace of process 1, or of the first ancestor that may be looked at.
fn ancestor_namespace() -> Option<File> {
    let mut ancestors = vec![1];
    let mut process = std::os::unix::process::parent_id();
    while process > 1 && ancestors.len() < 32 {
        ancestors.insert(1, process);
        process = parent_of(process).unwrap_or(0);
    }
    let namespaces = ancestors.iter().map(|process| format!("/proc/{process}/ns/mnt"));
    namespaces.filter_map(|path| File::open(path).ok()).next()
}

/// The parent of a process: the second field behind the name in parentheses.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

fn mount_bpffs(path: &Path) -> io::Result<()> {
    let target = c_path(path)?;
    // SAFETY: all strings end with a zero and outlive the call.
    let result =
        unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast()) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unmount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a zero and outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Into::into)
}
