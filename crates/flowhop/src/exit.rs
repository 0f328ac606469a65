//! How the program ends.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::control::client::ClientError;
use crate::replay::ReplayError;

/// The exit codes; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// The daemon, the kernel or a check refused.
    Refused = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No daemon is there.
    NoDaemon = 3,
    /// The caller may not do this.
    NotPermitted = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, Error)]
pub enum Failure {
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The daemon cannot be asked, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A capture cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Another part of the program failed; it says how the program ends.
    #[error("{message}")]
    Other {
        /// What happened, for people.
        message: String,
        /// How the program ends.
        exit: Exit,
    },
}

impl Failure {
    /// How the program ends.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Output(_) | Self::Replay(_) => Exit::Refused,
            Self::Client(error) => error.exit(),
            Self::Other { exit, .. } => *exit,
        }
    }

    /// Whoever read standard output has had enough, as in `flowhop show flows | head`: no failure at all.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        let error = match self {
            Self::Output(error) | Self::Client(ClientError::Output(error)) => error,
            Self::Replay(ReplayError::Output(error)) => error,
            _ => return false,
        };
        error.kind() == io::ErrorKind::BrokenPipe
    }
}
