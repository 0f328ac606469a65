//! `flowhop run` and `flowhop down`: the daemon's life as a command.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::{DownArgs, RunArgs};
use crate::control::Request;
use crate::control::client::ask;
use crate::daemon::state::{State, StateError, is_used};
use crate::daemon::{self, DaemonError, Options, PolicyError};
use crate::exit::{Exit, Failure};
use crate::state;

/// How long a daemon may take to take everything down.
const PATIENCE: Duration = Duration::from_secs(20);

/// `flowhop run`: the daemon, in the foreground.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let state = state::directory(args.state.as_deref());
    let socket = state::socket(None, Some(&state));
    let options = Options { config: args.config.clone(), state, socket };
    match daemon::run(options) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(failure(&error)),
    }
}

/// `flowhop down`: takes everything off the interfaces and forgets it, with or without a daemon running.
///
/// # Errors
/// What could not be taken down.
pub fn down(args: &DownArgs) -> Result<Exit, Failure> {
    let state = state::directory(args.state.as_deref());
    match state.try_exists() {
        Ok(true) if is_used(&state) => {}
        Ok(_) => {
            if args.state.is_some() {
                say!("flowhop: there is no state in {}", state.display());
            }
            return Ok(Exit::Done);
        }
        Err(error) => {
            let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Refused };
            return Err(Failure::Other { message: format!("{}: {error}", state.display()), exit });
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let mut asked = false;
    let lock = loop {
        match State::open(&state) {
            Ok(lock) => break lock,
            Err(StateError::Busy(_)) if Instant::now() < deadline => {
                if !asked {
                    asked = ask_daemon(&state)?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failure(&error.into())),
        }
    };
    daemon::take_down(&state).map_err(|error| failure(&error))?;
    drop(lock);
    Ok(Exit::Done)
}

/// Asks a running daemon to end; it may be just starting, or just ending.
fn ask_daemon(state: &Path) -> Result<bool, Failure> {
    match ask(&state::socket(None, Some(state)), &Request::Down) {
        Ok(answer) => {
            answer.copy_to(&mut io::sink())?;
            Ok(true)
        }
        Err(error) if error.exit() == Exit::NoDaemon => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn failure(error: &DaemonError) -> Failure {
    if let DaemonError::Policy(PolicyError::Faults { faults, .. }) = error {
        for fault in faults {
            say!("{fault}");
        }
    }
    let exit = if error.is_denied() { Exit::NotPermitted } else { Exit::Refused };
    Failure::Other { message: error.to_string(), exit }
}
