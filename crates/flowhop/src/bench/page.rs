//! All results: as JSON, as a page of documentation.

use std::fmt::Write as _;
use std::fs;

use flowhop_io::clock::Clock;
use serde_json::{Value, json};

use super::budget::Budgets;
use super::plot::Plot;
use super::report::Section;
use crate::show::JSON_VERSION;

/// Where it was measured.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    date: String,
    kernel: String,
    processor: String,
    processors: usize,
    memory_mib: u64,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory = field("/proc/meminfo", "MemTotal");
        let memory = memory.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        Self {
            date: Clock::wall(),
            kernel: kernel.trim().to_owned(),
            processor: field("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: memory / 1024,
        }
    }
}

/// All that a run has found.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) rounds: usize,
    pub(super) sections: Vec<Section>,
}

impl Report {
    /// As JSON.
    pub(super) fn json(&self) -> Value {
        let machine = &self.machine;
        json!({
            "version": JSON_VERSION,
            "flowhop": env!("CARGO_PKG_VERSION"),
            "machine": {
                "date": machine.date, "kernel": machine.kernel, "processor": machine.processor,
                "processors": machine.processors, "memory_mib": machine.memory_mib,
            },
            "rounds": self.rounds,
            "budgets": Budgets::of(&self.sections).json(),
            "sections": self.sections.iter().map(Section::json).collect::<Vec<_>>(),
        })
    }

    /// As a page, made by this command.
    pub(super) fn markdown(&self, command: &str, plots: &[Plot], notes: &[String]) -> String {
        let (machine, rounds) = (&self.machine, self.rounds);
        let mut text = format!(
            "# Benchmarks\n\nMade by `{command}`, and by nothing else: run it again to change this page.\n\n\
         | | |\n|---|---|\n| date | {} |\n| flowhop | {} |\n| kernel | {} |\n| processor | {} x {} |\n\
         | memory | {} MiB |\n| rounds | {rounds}, in which everybody has a turn; medians and ranges |\n\n\
         Absolute figures say little: everything, the sender and the receiver too, runs on this one machine. What counts \
         are the ratios, and of those only the ones within one run.\n",
            machine.date,
            env!("CARGO_PKG_VERSION"),
            machine.kernel,
            machine.processors,
            machine.processor,
            machine.memory_mib,
        );
        for note in notes {
            let _written = writeln!(text, "\n{note}");
        }
        let budgets = Budgets::of(&self.sections).markdown();
        if !budgets.is_empty() {
            text.push('\n');
            text.push_str(&budgets);
        }
        for section in &self.sections {
            text.push('\n');
            text.push_str(&section.markdown(plots));
        }
        text
    }
}
