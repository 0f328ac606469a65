//! Tables for people, made from the values that the JSON output consists of.

use std::io::{self, Write};

use serde_json::Value;

use crate::show::What;

/// Rows that are looked at before the first is printed, to find out how wide the columns are. Later rows that need
/// more room shift what stands behind.
const LOOK_AHEAD: usize = 1024;

/// A table that is printed as its rows come in.
#[derive(Debug)]
pub struct Table<'a, W: Write> {
    what: What,
    out: &'a mut W,
    waiting: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl<'a, W: Write> Table<'a, W> {
    /// A table for the elements of a list.
    pub fn new(what: What, out: &'a mut W) -> Self {
        let head: Vec<String> = columns(what).iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { what, out, waiting: vec![head], widths: Vec::new() }
    }

    /// Adds an element of the list.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn push(&mut self, element: &Value) -> io::Result<()> {
        for row in rows(self.what, element) {
            self.waiting.push(row);
        }
        if self.widths.is_empty() && self.waiting.len() < LOOK_AHEAD {
            return Ok(());
        }
        self.flush()
    }

    /// Prints what was not printed yet.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let columns = columns(self.what);
        if self.widths.is_empty() {
            self.widths = (0..columns.len())
                .map(|column| self.waiting.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
                .collect();
        }
        for row in self.waiting.drain(..) {
            let mut line = String::new();
            for ((cell, (_, align)), width) in row.iter().zip(columns).zip(&self.widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Prints the daemon's status.
///
/// # Errors
/// When the output cannot be written.
pub fn status(value: &Value, out: &mut impl Write) -> io::Result<()> {
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                let parts: Vec<String> = inner.iter().map(|(key, value)| format!("{key} {}", text(value))).collect();
                writeln!(out, "{:<12}{}", format!("{key}:"), parts.join(", "))?;
            }
            _ => writeln!(out, "{:<12}{}", format!("{key}:"), text(value))?,
        }
    }
    out.flush()
}

#[derive(Clone, Copy, Debug)]
enum Align {
    Left,
    Right,
}

type Columns = &'static [(&'static str, Align)];

const fn columns(what: What) -> Columns {
    use Align::{Left, Right};
    match what {
        What::Flows => &[
            ("ID", Right),
            ("PROTO", Left),
            ("STATE", Left),
            ("DIR", Left),
            ("SOURCE", Left),
            ("DESTINATION", Left),
            ("TRANSLATED TO", Left),
            ("IN", Left),
            ("OUT", Left),
            ("PATH", Left),
            ("PACKETS", Right),
            ("BYTES", Right),
            ("IDLE", Right),
            ("RULE", Left),
            ("NAT", Left),
        ],
        What::Paths => &[
            ("PATH", Left),
            ("LEVEL", Left),
            ("PACKETS", Right),
            ("BYTES", Right),
            ("HITS", Right),
            ("MISSES", Right),
            ("INTERFACES", Left),
        ],
        What::Fib => &[
            ("KIND", Left),
            ("DESTINATION", Left),
            ("NEXT HOP", Left),
            ("MAC", Left),
            ("INTERFACE", Left),
            ("STATE", Left),
        ],
        What::Rules => {
            &[("RULE", Left), ("ACTION", Left), ("FROM", Left), ("TO", Left), ("CONNECTIONS", Right), ("LINE", Left)]
        }
        What::Nat => &[
            ("FLOW", Right),
            ("NAT", Left),
            ("PROTO", Left),
            ("SOURCE", Left),
            ("BECOMES", Left),
            ("DESTINATION", Left),
            ("LEFT", Right),
        ],
        What::Drops => &[("REASON", Left), ("PATH", Left), ("INTERFACE", Left), ("PACKETS", Right), ("BYTES", Right)],
        What::Interfaces => &[
            ("NAME", Left),
            ("DEVICE", Left),
            ("ZONE", Left),
            ("STATE", Left),
            ("PATH", Left),
            ("WHY", Left),
            ("MAC", Left),
            ("MTU", Right),
        ],
        What::Agents => &[("AGENT", Left), ("PROTOCOL", Left), ("STATE", Left), ("ROUTES", Right)],
        What::Modules => &[("MODULE", Left), ("RUNS AFTER", Left)],
        What::Status => &[],
    }
}

/// The rows for one element.
fn rows(what: What, element: &Value) -> Vec<Vec<String>> {
    let cells = |names: &[&str]| names.iter().map(|name| text(&element[*name])).collect();
    match what {
        What::Flows => vec![flow_row(element, "forward"), flow_row(element, "reverse")],
        What::Paths => vec![cells(&["name", "level", "packets", "bytes", "hits", "misses", "interfaces"])],
        What::Fib => fib_rows(element),
        What::Rules => {
            let mut row: Vec<String> = cells(&["name", "action", "from", "to", "connections"]);
            row.push(format!("{}:{}", text(&element["file"]), text(&element["line"])));
            vec![row]
        }
        What::Nat => {
            let connection = element["kind"] == "connection" || element["kind"] == "pcp";
            let mut row: Vec<String> = cells(&["flow", "nat"]);
            row.push(text(&element[if connection { "protocol" } else { "service" }]));
            row.extend(["source", "translated_source"].map(|key| text(&element[key])));
            row.push(changed(element, "destination", "translated_destination"));
            let left = &element["lifetime_s"];
            row.push(left.as_f64().map_or_else(|| text(left), |left| format!("{}s", left.round())));
            vec![row]
        }
        What::Drops => vec![cells(&["reason", "path", "interface", "packets", "bytes"])],
        What::Interfaces => vec![cells(&["name", "device", "zone", "state", "path", "path_reason", "mac", "mtu"])],
        What::Agents => vec![cells(&["name", "protocol", "state", "routes"])],
        What::Modules => vec![cells(&["name", "runs_after"])],
        What::Status => Vec::new(),
    }
}

/// One line for each direction; what they share stands in the first.
fn flow_row(flow: &Value, name: &str) -> Vec<String> {
    let first = name == "forward";
    let shared = |key: &str| if first { text(&flow[key]) } else { String::new() };
    let direction = &flow[name];
    let idle = if first { format!("{}s", text(&flow["idle_s"])) } else { String::new() };
    let mut row = vec![shared("id"), shared("protocol"), shared("state"), if first { "->" } else { "<-" }.to_owned()];
    row.extend([text(&direction["source"]), text(&direction["destination"])]);
    row.push(translation(direction));
    row.extend(["in", "out", "path", "packets", "bytes"].map(|key| text(&direction[key])));
    row.extend([idle, shared("rule"), shared("nat")]);
    row
}

/// What a direction leaves with, as far as it differs from what it came with.
fn translation(direction: &Value) -> String {
    let ends: Vec<String> =
        [("source", "translated_source", "source "), ("destination", "translated_destination", "destination ")]
            .into_iter()
            .filter(|(before, after, _)| direction[*before] != direction[*after])
            .map(|(_, after, label)| format!("{label}{}", text(&direction[after])))
            .collect();
    if ends.is_empty() { "-".to_owned() } else { ends.join(", ") }
}

fn changed(element: &Value, before: &str, after: &str) -> String {
    if element[before] == element[after] {
        text(&element[before])
    } else {
        format!("{} -> {}", text(&element[before]), text(&element[after]))
    }
}

fn fib_rows(entry: &Value) -> Vec<Vec<String>> {
    let flow = entry["kind"] == "flow";
    let destination = if flow {
        let parts = ["protocol", "source", "destination"].map(|key| text(&entry[key]));
        format!("{} {} > {}", parts[0], parts[1], parts[2])
    } else {
        text(&entry["prefix"])
    };
    let state = |hop: &Value| if flow { text(&hop["context"]["state"]) } else { text(&entry["type"]) };
    let row = |hop: &Value| {
        let next_hop = if hop["gateway"].is_null() { "-".to_owned() } else { text(&hop["gateway"]) };
        vec![
            text(&entry["kind"]),
            destination.clone(),
            next_hop,
            text(&hop["mac"]),
            text(&hop["interface"]),
            state(hop),
        ]
    };
    match entry["next_hops"].as_array().filter(|hops| !hops.is_empty()) {
        Some(hops) => hops.iter().map(row).collect(),
        None => vec![row(&Value::Null)],
    }
}

/// A value as people read it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields.values().map(text).collect::<Vec<_>>().join("/"),
        other => other.to_string(),
    }
}

/// Names of rules are people's; nothing in them may take over a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up() {
        let mut out = Vec::new();
        let mut table = Table::new(What::Drops, &mut out);
        for (reason, packets) in [("no_rule", 7), ("bad_ip_checksum", 1234)] {
            let element = json!({"reason": reason, "path": "user", "interface": null, "packets": packets, "bytes": 9});
            table.push(&element).unwrap();
        }
        table.finish().unwrap();
        let expected = "REASON           PATH  INTERFACE  PACKETS  BYTES\n\
            no_rule          user  -                7      9\n\
            bad_ip_checksum  user  -             1234      9\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
