//! The place where a lab is built: namespaces of its own for mounts and network, and for users where need be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::{LabError, Tried};

/// Covered by a `tmpfs` that only this process and its children see.
const COVERED: &str = "/run";

/// What this process moved into. It never moves out again.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    root: bool,
}

impl Sandbox {
    /// Moves this process into it. Must be called while there is only one thread.
    ///
    /// # Errors
    /// When this machine does not allow namespaces.
    pub fn enter() -> Result<Self, LabError> {
        let (user, group) = (geteuid(), getegid());
        let root = user.is_root();
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        if root {
            unshare(flags).map_err(|error| forbidden(root, &error.into()))?;
        } else {
            unshare(flags | CloneFlags::CLONE_NEWUSER).map_err(|error| forbidden(root, &error.into()))?;
            // Without this, an ordinary user may not map groups.
            fs::write("/proc/self/setgroups", "deny").map_err(|error| forbidden(root, &error))?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1\n")).map_err(|error| forbidden(root, &error))?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1\n")).map_err(|error| forbidden(root, &error))?;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .and_then(|()| {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some("flowhop"), COVERED, Some("tmpfs"), flags, Some("mode=0755"))
            })
            .map_err(|error| forbidden(root, &error.into()))?;
        let folder = Path::new(COVERED).join(format!("flowhop-lab-{}", std::process::id()));
        fs::create_dir(&folder).tried(folder.display())?;
        Ok(Self { folder, root })
    }

    /// A directory that ends with the process.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether this is root of the machine, who may load kernel programs.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.root
    }
}

fn forbidden(root: bool, error: &io::Error) -> LabError {
    let advice = if root {
        "this container does not let root make namespaces; it needs CAP_SYS_ADMIN"
    } else {
        "this machine does not let ordinary users make namespaces; run it as root, or allow user namespaces \
         (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns)"
    };
    LabError::NotAllowed(format!("{advice}: {error}"))
}
