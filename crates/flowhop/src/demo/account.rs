//! What went where, as `flowhop show` has it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Story;
use crate::lab::{Bed, Daemon, LabError};

/// Prints paths and drops.
pub(super) fn account(story: &mut Story<'_>, bed: &Bed, daemon: &Daemon, root: bool) -> Result<(), LabError> {
    story.say("\n5. What went where (flowhop show paths, flows, drops)")?;
    let (paths, flows, drops) = (daemon.show(bed, "paths")?, daemon.show(bed, "flows")?, daemon.show(bed, "drops")?);
    let mut directions: BTreeMap<&str, u64> = BTreeMap::new();
    let list = items(&flows, "flows");
    for flow in list {
        for direction in ["forward", "reverse"] {
            *directions.entry(text(&flow[direction], "path")).or_default() += 1;
        }
    }
    story.say(format!("   {:<8}{:>12}{:>16}{:>24}", "path", "packets", "bytes", "directions of flows"))?;
    let mut carried = BTreeMap::new();
    for path in items(&paths, "paths") {
        let (name, packets) = (text(path, "name"), number(path, "packets"));
        carried.insert(name, packets);
        let directions = directions.get(name).copied().unwrap_or(0);
        if packets + directions > 0 {
            story.say(format!("   {name:<8}{packets:>12}{:>16}{directions:>24}", number(path, "bytes")))?;
        }
    }
    story.say(format!("   {} connections are known", list.len()))?;
    let mut reasons: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for dropped in items(&drops, "drops") {
        *reasons.entry((text(dropped, "reason"), text(dropped, "path"))).or_default() += number(dropped, "packets");
    }
    for ((reason, path), packets) in &reasons {
        story.say(format!("   dropped on {path:<8}{packets:>8}  {reason}"))?;
    }
    let of = |name| carried.get(name).copied().unwrap_or(0);
    if root {
        let (fast, slow) = (of("skb"), of("user"));
        story.expect(fast > 10 * slow, || format!("only {fast} packets went by the kernel, and {slow} by user space"));
    } else {
        story.expect(of("user") > 0, || "the path `user` carried nothing".to_owned());
    }
    Ok(())
}

/// Packets dropped up to now, by reason.
pub(super) fn drops(bed: &Bed, daemon: &Daemon) -> Result<BTreeMap<String, u64>, LabError> {
    let mut reasons = BTreeMap::new();
    for dropped in items(&daemon.show(bed, "drops")?, "drops") {
        *reasons.entry(text(dropped, "reason").to_owned()).or_default() += number(dropped, "packets");
    }
    Ok(reasons)
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("?")
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}
