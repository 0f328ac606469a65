//! `flowhop bench`: how fast it is on this machine, side by side with the kernel.
//!
//! Everything is measured in one run and in turns, so that what else the machine does hits everybody; ratios count,
//! absolute figures do not. Everything happens in namespaces of its own ([`lab`](crate::lab)).

mod answer;
mod bpf;
mod budget;
mod contestants;
mod cores;
mod field;
mod floor;
mod frame;
mod generator;
mod handover;
mod latency;
mod load;
mod memory;
mod openvswitch;
mod packets;
mod page;
mod plot;
mod program;
mod rate;
mod report;
mod setup;
mod stream;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, geteuid};

use self::page::{Machine, Report};
use crate::exit::{Exit, Failure};
use crate::lab::{LabError, Sandbox};

/// What to measure, and what to do with it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Less of everything, in about a minute.
    pub quick: bool,
    /// Print JSON.
    pub json: bool,
    /// Write a page of documentation, with plots and the results as JSON beside it.
    pub markdown: Option<PathBuf>,
    /// Measure this only; everything if none.
    pub only: Option<Part>,
    /// Numbers of flows, powers of two; the usual ones if none.
    pub flows: Vec<u32>,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Small packets of many flows
    Rate,
    /// Longer packets, IPv6, a tag
    Packets,
    /// First packets of new connections
    Setup,
    /// First packets and later ones: how long they take
    Latency,
    /// One TCP connection
    Stream,
    /// The kernel programs alone
    Program,
    /// The kernel programs on several processors
    Cores,
    /// Memory of a connection
    Memory,
}

/// The number of flows where one is enough.
const MIDDLE: u32 = 1 << 16;

/// What the name of the file with the results ends in; the rest is the page's.
const RESULTS: &str = "json";

/// Measures something.
type Measure = fn(&mut Bench<'_>) -> Result<report::Section, LabError>;

/// In the order of the report.
const PARTS: [(Part, Measure); 8] = [
    (Part::Rate, rate::rate),
    (Part::Packets, packets::packets),
    (Part::Setup, setup::setup),
    (Part::Latency, latency::latency),
    (Part::Stream, stream::streams),
    (Part::Program, program::programs),
    (Part::Cores, cores::cores),
    (Part::Memory, memory::memory),
];

/// A run.
pub(crate) struct Bench<'a> {
    sandbox: &'a Sandbox,
    quick: bool,
    flows: &'a [u32],
}

impl Bench<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.sandbox.folder().join(name)
    }

    /// Numbers of flows, powers of two, in ascending order.
    fn sizes(&self) -> Vec<u32> {
        if !self.flows.is_empty() {
            let mut sizes = self.flows.to_vec();
            sizes.sort_unstable();
            sizes.dedup();
            return sizes;
        }
        if self.quick { vec![1 << 10, 1 << 14] } else { vec![1 << 10, 1 << 16, 1 << 20] }
    }

    fn most(&self) -> u32 {
        self.sizes().last().copied().unwrap_or(1)
    }

    /// The number of flows where one is enough: much more than a processor's own caches hold, if it may be.
    fn middle(&self) -> u32 {
        self.sizes().into_iter().rfind(|flows| *flows <= MIDDLE).unwrap_or(MIDDLE)
    }

    const fn rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    const fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 250 } else { 800 })
    }

    /// Says on standard error how far it is.
    #[expect(clippy::unused_self, reason = "so that it is at hand where it is wanted")]
    fn progress(&self, line: impl AsRef<str>) -> Result<(), LabError> {
        writeln!(io::stderr(), "flowhop bench: {}", line.as_ref()).map_err(LabError::Output)
    }
}

/// Runs the benchmarks.
///
/// # Errors
/// When they cannot be run on this machine, or the results cannot be written.
pub fn bench(options: &Options, out: &mut dyn Write) -> Result<Exit, Failure> {
    if !geteuid().is_root() {
        let message = "the benchmarks load programs into the kernel and need root; `flowhop demo` does not".to_owned();
        return Err(Failure::Other { message, exit: Exit::NotPermitted });
    }
    if let Some(page) = options.markdown.as_deref().filter(|page| page.extension() == Some(RESULTS.as_ref())) {
        let message = format!("{} cannot be the page: the results go to a file of this name", page.display());
        return Err(Failure::Other { message, exit: Exit::Refused });
    }
    // Before the first thread is started.
    let sandbox = Sandbox::enter()?;
    let mut bench = Bench { sandbox: &sandbox, quick: options.quick, flows: &options.flows };
    let mut report = Report { machine: Machine::this(), rounds: bench.rounds(), sections: Vec::new() };
    for (_, measure) in PARTS.iter().filter(|(part, _)| options.only.is_none_or(|only| only == *part)) {
        let section = measure(&mut bench)?;
        if !options.json {
            writeln!(out, "{}", section.text()).and_then(|()| out.flush()).map_err(Failure::Output)?;
        }
        report.sections.push(section);
    }
    if options.json {
        writeln!(out, "{:#}", report.json()).map_err(Failure::Output)?;
    }
    if let Some(file) = &options.markdown {
        publish(&report, &command(options, file), file)?;
    }
    Ok(Exit::Done)
}

/// Writes the page, and beside it the results as JSON and the plots that the page shows.
fn publish(report: &Report, command: &str, page: &Path) -> Result<(), Failure> {
    let mut notes = Vec::new();
    let plots = if plot::can_draw() {
        // What was measured is not given up because it cannot be drawn.
        plot::draw(&report.sections, &plots_of(page), &link_of(page)).unwrap_or_else(|error| {
            notes.push(format!("Without plots: {error}."));
            Vec::new()
        })
    } else {
        notes.push("Without plots: gnuplot (`gnuplot-nox` of Debian) is not installed.".to_owned());
        Vec::new()
    };
    write(&page.with_extension(RESULTS), &format!("{:#}\n", report.json()))?;
    write(page, &report.markdown(command, &plots, &notes))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| Failure::Other {
        message: format!("cannot write {}: {error}", file.display()),
        exit: Exit::Refused,
    })
}

/// The folder with the plots of a page.
fn plots_of(page: &Path) -> PathBuf {
    page.with_extension(if page.extension().is_some() { "" } else { "plots" })
}

/// The same as the page names it.
fn link_of(page: &Path) -> String {
    plots_of(page).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn command(options: &Options, file: &Path) -> String {
    let quick = if options.quick { " --quick" } else { "" };
    let only = options.only.and_then(|part| part.to_possible_value());
    let only = only.map_or_else(String::new, |part| format!(" --only {}", part.get_name()));
    let flows: String = options.flows.iter().map(|flows| format!(" --flows {flows}")).collect();
    format!("flowhop bench{quick}{only}{flows} --markdown {}", file.display())
}

/// Keeps the calling thread on the last processor: what is measured there is not moved about.
fn pin() -> io::Result<()> {
    pin_to(last_processor())
}

/// Keeps the calling thread on a processor.
fn pin_to(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Keeps all threads of a process, and those that they start, on a processor.
fn keep_process(id: u32, processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        if let Some(thread) = thread?.file_name().to_str().and_then(|name| name.parse().ok()) {
            match sched_setaffinity(Pid::from_raw(thread), &set) {
                // It has ended meanwhile.
                Err(Errno::ESRCH) => {}
                kept => kept?,
            }
        }
    }
    Ok(())
}

fn last_processor() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_page_is_the_one_that_made_it() {
        let file = Path::new("page.md");
        assert_eq!(command(&Options::default(), file), "flowhop bench --markdown page.md");
        let options = Options { quick: true, only: Some(Part::Rate), flows: vec![1024, 65_536], ..Options::default() };
        let command = command(&options, file);
        assert_eq!(command, "flowhop bench --quick --only rate --flows 1024 --flows 65536 --markdown page.md");
    }
}
