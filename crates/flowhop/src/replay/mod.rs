//! `flowhop replay`: packets from a capture through the very same code.
//!
//! # What
//! The policy, the engine with its modules, a decision table in private memory, and in front of the engine the
//! forwarding function at the level of the kernel programs, so that both the fast and the slow way are gone as in
//! the daemon. Interfaces, routes and neighbours are made up ([`network`]); the clock is the capture's.
//!
//! # Rules
//! Nothing here depends on the machine, the time or chance: the seeds are fixed, so the same input gives the same
//! output.

pub mod capture;
pub mod network;
pub mod output;
mod report;
pub mod run;
mod stage;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use flowhop_policy::{Checked, Policy, load};
use thiserror::Error;

use crate::check::report as report_faults;
use crate::cli::ReplayArgs;
use crate::exit::{Exit, Failure};
use crate::replay::capture::{Capture, CaptureError};
use crate::replay::output::Output;
use crate::replay::report::Report;
use crate::replay::run::Replay;

pub use run::Line;

/// Why a replay cannot be done.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The policy has faults, which were printed.
    #[error("the policy {0} cannot be used")]
    Policy(PathBuf),
    /// The policy has no interfaces.
    #[error("the policy has no interfaces that packets could come in through")]
    NoInterface,
    /// More interfaces than there are made-up addresses.
    #[error("replay makes up networks of at most 250 interfaces, the policy has {0}")]
    TooManyInterfaces(usize),
    /// `--in` names an interface that is not in the policy.
    #[error("the policy has no interface {0:?}")]
    UnknownInterface(String),
    /// The capture cannot be read.
    #[error("cannot read {path}: {error}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        error: CaptureError,
    },
    /// The capture of what is sent cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Input and output are one file.
    #[error("{0} is both the capture to read and the one to write")]
    SameFile(PathBuf),
    /// The modules do not fit together.
    #[error("cannot put the slow path together: {0}")]
    Engine(String),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Runs the command; what became of each packet goes to `out`.
///
/// # Errors
/// When the policy or a capture cannot be used.
pub fn run(args: &ReplayArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let policy = read_policy(&args.file)?;
    let broken = |error| ReplayError::Capture { path: args.capture.clone(), error };
    let file = File::open(&args.capture).map_err(|error| broken(error.into()))?;
    let size = file.metadata().map_or(u64::MAX, |metadata| if metadata.is_file() { metadata.len() } else { u64::MAX });
    let mut capture = Capture::open(BufReader::with_capacity(1 << 20, file)).map_err(broken)?;
    let mut replay = Replay::new(policy, args.input.as_deref(), size)?;
    let mut sink = args.output.as_deref().map(|path| Sink::create(path, &args.capture)).transpose()?;
    let mut out = BufWriter::new(out);
    let mut report = Report::new(args.json, &mut out);
    let mut bytes = Vec::new();
    let ended = loop {
        let captured = match capture.next(&mut bytes) {
            Ok(Some(captured)) => captured,
            Ok(None) => break Ok(()),
            // What came before has been replayed, and is written, before the fault is told.
            Err(error) => break Err(broken(error)),
        };
        let line = replay.packet(&captured, capture.interfaces(), &mut bytes);
        report.packet(&line).map_err(ReplayError::Output)?;
        replay.leases().iter().for_each(|lease| say!("{lease}"));
        if let Some(sink) = &mut sink {
            sink.take(replay.sent(), captured.nanos, capture.is_fine())?;
        }
        replay.clear_sent();
    };
    if let Some(sink) = sink {
        sink.finish(capture.is_fine())?;
    }
    report.finish().map_err(ReplayError::Output)?;
    ended?;
    Ok(Exit::Done)
}

fn read_policy(path: &Path) -> Result<Policy, ReplayError> {
    match load(path).outcome {
        Ok(Checked { policy, warnings }) => {
            report_faults(&warnings);
            Ok(policy)
        }
        Err(faults) => {
            report_faults(&faults);
            Err(ReplayError::Policy(path.to_owned()))
        }
    }
}

/// The capture of what is sent. Its header is written with the first packet, when the resolution is known.
struct Sink {
    path: PathBuf,
    file: Option<File>,
    output: Option<Output<BufWriter<File>>>,
}

impl Sink {
    fn create(path: &Path, input: &Path) -> Result<Self, ReplayError> {
        if let (Ok(one), Ok(other)) = (path.canonicalize(), input.canonicalize())
            && one == other
        {
            return Err(ReplayError::SameFile(path.to_owned()));
        }
        let file = File::create(path).map_err(|error| ReplayError::Write { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), file: Some(file), output: None })
    }

    fn take(&mut self, frames: &[Vec<u8>], nanos: u64, fine: bool) -> Result<(), ReplayError> {
        self.begin(fine)
            .and_then(|()| {
                let Some(output) = &mut self.output else { return Ok(()) };
                frames.iter().try_for_each(|frame| output.write(nanos, frame))
            })
            .map_err(|error| ReplayError::Write { path: self.path.clone(), error })
    }

    fn begin(&mut self, fine: bool) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            self.output = Some(Output::new(BufWriter::new(file), fine)?);
        }
        Ok(())
    }

    fn finish(mut self, fine: bool) -> Result<(), ReplayError> {
        self.begin(fine)
            .and_then(|()| self.output.take().map_or(Ok(()), |output| output.finish().map(drop)))
            .map_err(|error| ReplayError::Write { path: self.path, error })
    }
}
