//! Where the daemon of a network namespace keeps its state.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// State directory of the first network namespace.
pub const DEFAULT: &str = "/run/flowhop";
/// Where `ip netns` keeps the names of network namespaces.
const NAMED: &str = "/run/netns";

/// The state directory: as given, else that of this network namespace.
#[must_use]
pub fn directory(given: Option<&Path>) -> PathBuf {
    given.map_or_else(of_this_namespace, Path::to_owned)
}

/// The control socket: as given, else in the state directory.
#[must_use]
pub fn socket(socket: Option<&Path>, state: Option<&Path>) -> PathBuf {
    socket.map_or_else(|| directory(state).join("control.sock"), Path::to_owned)
}

/// `/run/flowhop`, and in another namespace than that of process 1 a directory below it by the namespace's name, or
/// by its inode if it has none.
fn of_this_namespace() -> PathBuf {
    let default = PathBuf::from(DEFAULT);
    let Some(own) = identity(Path::new("/proc/self/ns/net")) else { return default };
    let first = identity(Path::new("/proc/1/ns/net"));
    if first == Some(own) {
        return default;
    }
    if let Some(name) = name_of(own) {
        return default.join(name);
    }
    let unnamed = default.join(own.1.to_string());
    // Who may not look at process 1 cannot tell its namespace from others; most likely it is the same.
    if first.is_some() || unnamed.exists() { unnamed } else { default }
}

/// What tells namespaces apart: device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn name_of(namespace: (u64, u64)) -> Option<OsString> {
    let mut names: Vec<OsString> = fs::read_dir(NAMED)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| identity(&Path::new(NAMED).join(name)) == Some(namespace))
        .collect();
    names.sort();
    names.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts() {
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        assert_eq!(socket(Some(a), Some(b)), a);
        assert_eq!(socket(None, Some(b)), Path::new("/b/control.sock"));
        assert!(socket(None, None).starts_with(DEFAULT));
    }
}
