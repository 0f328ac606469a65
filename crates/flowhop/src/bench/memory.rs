//! Memory of a connection in the kernel.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::Bench;
use super::report::Section;
use crate::lab::daemon::Policy;
use crate::lab::{Bed, Daemon, LabError, Tried};

pub(super) const LINES: &str = "flowhop's index";
const HASH: &str = "kernel hash map";

/// Connections of a small table and of a large one.
const SMALL: u32 = 1 << 16;
pub(super) const LARGE: u32 = 1 << 20;

const METHOD: &str = "\
What the kernel holds for all maps of the daemon (`memlock` in its `/proc/PID/fdinfo`), divided by the connections that it \
has memory for (`[table] connections`): both directions, the index, and what does not grow with the table, which is most of \
a small one. The kernel gives this memory when the daemon starts, however many connections there are.";

/// Runs it.
pub(super) fn memory(bench: &mut Bench<'_>) -> Result<Section, LabError> {
    let mut section = Section {
        name: "memory",
        title: "Memory of a connection",
        unit: "bytes",
        method: METHOD,
        digits: 1,
        references: Vec::new(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for connections in [SMALL, LARGE] {
        for (who, index) in [(LINES, "lines"), (HASH, "kernel-hash")] {
            let bed = Bed::new()?;
            let policy = Policy { connections, index, ..Policy::default() };
            let daemon = Daemon::start(&bed, &bench.folder(&format!("memory-{index}-{connections}")), &policy)?;
            let bytes = map_bytes(daemon.id()).tried("the maps of flowhop run")?;
            daemon.stop()?;
            section.measured(&condition(connections), who, bytes as f64 / f64::from(connections));
        }
    }
    Ok(section)
}

/// What rows about a table of this size are called.
pub(super) fn condition(connections: u32) -> String {
    format!("{connections} connections")
}

/// Bytes of all maps that a process holds.
fn map_bytes(process: u32) -> io::Result<u64> {
    let mut maps = HashMap::new();
    for file in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // What has been closed meanwhile was no table.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        // Programs have memory as well, and no number of a map.
        if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}
