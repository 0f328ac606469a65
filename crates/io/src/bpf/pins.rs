//! The bpffs below the state directory, in which maps and links outlive the daemon.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::KernelError;

/// What the name of a pinned link starts with; its interface index follows.
const LINK: &str = "link-";

/// The directory of pins.
pub(super) struct Pins(PathBuf);

impl Pins {
    /// The directory below a state directory, whether it is there or not.
    pub(super) fn of(state: &Path) -> Self {
        Self(state.join("bpf"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn link(&self, ifindex: u32) -> PathBuf {
        self.0.join(format!("{LINK}{ifindex}"))
    }

    /// Mounts the bpffs unless it is there.
    pub(super) fn mount(&self) -> Result<(), KernelError> {
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM) => KernelError::NotPermitted,
            _ => KernelError::Mount { path: self.0.clone(), error },
        };
        fs::create_dir_all(&self.0).map_err(failed)?;
        if self.is_mounted().map_err(failed)? {
            return Ok(());
        }
        let target = c_path(&self.0).map_err(failed)?;
        // SAFETY: all strings end with a zero and outlive the call.
        let result =
            unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast()) };
        if result != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Whether a bpffs is mounted there.
    pub(super) fn is_mounted(&self) -> io::Result<bool> {
        let path = c_path(&self.0)?;
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
    pub(super) fn links(&self) -> Result<Vec<u32>, KernelError> {
        let failed = |error| KernelError::File { path: self.0.clone(), error };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_prefix(LINK)?.parse::<u32>().ok()));
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
        for ifindex in self.links()? {
            Self::remove(&self.link(ifindex))?;
        }
        maps.iter().try_for_each(|name| Self::remove(&self.map(name)))
    }

    /// Unmounts the bpffs and removes its directory.
    pub(super) fn unmount(&self) -> Result<(), KernelError> {
        let failed = |error| KernelError::Mount { path: self.0.clone(), error };
        let path = c_path(&self.0).map_err(failed)?;
        // SAFETY: the path ends with a zero and outlives the call.
        if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        fs::remove_dir(&self.0).map_err(|error| KernelError::File { path: self.0.clone(), error })
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Into::into)
}
