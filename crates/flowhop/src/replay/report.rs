//! What became of each packet, for programs or for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::replay::run::Line;

/// Prints a line for each packet and at last, for people, how many of each there were.
#[derive(Debug)]
pub(super) struct Report<'a, W: Write> {
    json: bool,
    out: &'a mut W,
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'a, W: Write> Report<'a, W> {
    pub(super) const fn new(json: bool, out: &'a mut W) -> Self {
        Self { json, out, counts: BTreeMap::new() }
    }

    pub(super) fn packet(&mut self, line: &Line) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut *self.out, line)?;
            return self.out.write_all(b"\n");
        }
        *self.counts.entry((line.verdict, line.reason)).or_default() += 1;
        write!(self.out, "{:>7}  {:<7}  {:<4}  {:<20}", line.index, line.verdict, line.path, line.reason)?;
        if let Some(output) = &line.out {
            write!(self.out, "  out {output}")?;
        }
        if let Some(flow) = line.flow {
            write!(self.out, "  flow {flow}")?;
        }
        if let Some(rule) = &line.rule {
            write!(self.out, "  rule {rule:?}")?;
        }
        self.out.write_all(b"\n")
    }

    pub(super) fn finish(self) -> io::Result<()> {
        if !self.json {
            // A summary is no datum: scripts that read the lines need not know it.
            let mut err = io::stderr().lock();
            for ((verdict, reason), count) in &self.counts {
                let _closed = writeln!(err, "{count:>7}  {verdict:<7}  {reason}");
            }
        }
        self.out.flush()
    }
}
