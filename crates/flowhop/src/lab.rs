//! Small networks to try the firewall in: what `flowhop demo` and `flowhop bench` share.
//!
//! # Nothing stays behind
//! The network namespaces have no names: they are held by descriptors of this process and end with it, and with them
//! their devices, addresses and programs. Files live in a `tmpfs` of a private mount namespace, which ends in the same
//! way. Child processes are killed when this one ends. So nothing is left after Ctrl-C or `kill -9` either, and no
//! traffic can reach the machine's own network.

pub mod bed;
pub mod daemon;
pub mod namespace;
pub mod sandbox;
pub mod traffic;
pub mod wire;

use std::fmt::Display;
use std::io;

use thiserror::Error;

pub use bed::{Bed, Family, device};
pub use daemon::{Daemon, Mode};
pub use namespace::Namespace;
pub use sandbox::Sandbox;

/// Why something could not be tried.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// The system refuses something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// This machine does not allow what is needed.
    #[error("{0}")]
    NotAllowed(String),
    /// A program that is not installed.
    #[error("{program} is needed ({package} on Debian) and was not found")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// A command failed.
    #[error("{command}: {message}")]
    Command {
        /// Which.
        command: String,
        /// What it said.
        message: String,
    },
    /// A deadline passed.
    #[error("{0}: not within the time allowed")]
    Late(String),
    /// A thread ended in a way that it must not.
    #[error("a thread of the {0} failed")]
    Thread(&'static str),
    /// Standard output is closed.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Says what was tried when the system refuses.
pub trait Tried<T> {
    /// With what was tried.
    ///
    /// # Errors
    /// The error, explained.
    fn tried(self, what: impl Display) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Display) -> Result<T, LabError> {
        self.map_err(|error| LabError::System { what: what.to_string(), error: error.into() })
    }
}
