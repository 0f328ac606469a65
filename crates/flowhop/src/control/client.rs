//! The client's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::control::{RefusalKind, Request};
use crate::exit::Exit;

/// Why the daemon could not be asked, or did not do it.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon there: nothing listens on {0}")]
    NoDaemon(PathBuf),
    /// The socket may not be opened.
    #[error("not permitted to talk to the daemon on {0}")]
    Closed(PathBuf),
    /// The daemon says that the caller may not.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
    /// The connection failed.
    #[error("cannot talk to the daemon on {path}: {error}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What came was no answer, or not all of it.
    #[error("the daemon's answer was cut short or makes no sense: {0}")]
    Answer(String),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl ClientError {
    /// How the program ends.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NoDaemon(_) => Exit::NoDaemon,
            Self::Closed(_) | Self::NotPermitted(_) => Exit::NotPermitted,
            Self::Refused(_) | Self::Broken { .. } | Self::Answer(_) | Self::Output(_) => Exit::Refused,
        }
    }
}

/// An answer that has begun to come in and is no refusal; what follows is the value and then `}` and a newline.
#[derive(Debug)]
pub struct Incoming {
    reader: BufReader<UnixStream>,
}

/// What an answer of the daemon's that does what was asked begins with.
const OK: &[u8] = b"{\"ok\":";
/// And ends with.
const END: &[u8] = b"}\n";

#[derive(Deserialize)]
struct Refusal {
    error: String,
    kind: RefusalKind,
}

/// Asks the daemon at a socket.
///
/// # Errors
/// When it cannot be asked or refuses.
pub fn ask(path: &Path, request: &Request) -> Result<Incoming, ClientError> {
    let broken = |error: io::Error| ClientError::Broken { path: path.to_owned(), error };
    let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(path.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Closed(path.to_owned()),
        _ => broken(error),
    })?;
    let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    // A daemon that has too many clients answers and closes without reading.
    let sent = stream.write_all(&line);
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let start = reader.fill_buf().map_err(broken)?;
    if start.is_empty() {
        sent.map_err(broken)?;
        return Err(ClientError::Answer("nothing came".to_owned()));
    }
    let mut first = [0; OK.len()];
    reader.read_exact(&mut first).map_err(broken)?;
    if first == OK {
        return Ok(Incoming { reader });
    }
    let mut rest = String::new();
    // A refusal is one line. Behind it there may be a reset in place of an end, for the request that nobody read.
    reader.read_line(&mut rest).map_err(broken)?;
    let text = String::from_utf8_lossy(&first).into_owned() + &rest;
    Err(match serde_json::from_str(&text) {
        Ok(Refusal { error, kind: RefusalKind::Refused }) => ClientError::Refused(error),
        Ok(Refusal { error, kind: RefusalKind::NotPermitted }) => ClientError::NotPermitted(error),
        Err(error) => ClientError::Answer(error.to_string()),
    })
}

impl Incoming {
    /// Copies the value to `out` as it comes in, with a newline behind it.
    ///
    /// # Errors
    /// When the answer is not complete or `out` cannot be written.
    pub fn copy_to(mut self, out: &mut dyn Write) -> Result<(), ClientError> {
        // The last bytes are held back until it is known that they are the end.
        let mut tail: Vec<u8> = Vec::with_capacity(128 << 10);
        loop {
            let bytes = self.reader.fill_buf().map_err(|error| ClientError::Answer(error.to_string()))?;
            if bytes.is_empty() {
                break;
            }
            let read = bytes.len();
            tail.extend_from_slice(bytes);
            self.reader.consume(read);
            let complete = tail.len().saturating_sub(END.len());
            out.write_all(&tail[..complete]).map_err(ClientError::Output)?;
            tail.drain(..complete);
        }
        if tail != END {
            return Err(ClientError::Answer("it has no end".to_owned()));
        }
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(ClientError::Output)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// When the answer is not complete.
    pub fn value(self) -> Result<Value, ClientError> {
        let mut text = Vec::new();
        self.copy_to(&mut text)?;
        serde_json::from_slice(&text).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// What comes in, to be read as one value; [`Incoming::copy_to`]'s end is not checked.
    pub fn reader(&mut self) -> &mut impl Read {
        &mut self.reader
    }
}
