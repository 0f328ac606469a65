//! How client commands talk to the daemon.
//!
//! # What
//! A stream socket in the state directory. A client sends one line, a JSON [`Request`]; the daemon answers with one
//! line, `{"ok": …}` or `{"error": "…", "kind": "refused"|"not_permitted"}`, and closes.
//!
//! # Who
//! The socket belongs to the daemon's user and to the group `flowhop`, mode 0660; without such a group mode 0600. So
//! the kernel already turns away who may not look. Who may connect may ask for what [`Request::changes`] nothing; the
//! rest is for root and the daemon's own user.

pub mod client;
pub mod server;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use client::ClientError;
pub use server::{Answer, Handler, Peer, Server};

use crate::show::What;

/// Longest request in bytes.
pub const LONGEST_REQUEST: u64 = 4096;

/// What a client asks for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Show something.
    Show {
        /// What.
        what: What,
    },
    /// End a flow at once.
    DeleteFlow {
        /// Its identifier.
        id: u32,
    },
    /// Move a flow to another path.
    MoveFlow {
        /// Its identifier.
        id: u32,
        /// Where to.
        path: PathChoice,
    },
    /// Move all flows to another path.
    MoveFlows {
        /// Where to.
        path: PathChoice,
    },
    /// Take everything off the interfaces, forget it, and end.
    Down,
}

/// A path that a flow is moved to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PathChoice {
    /// The program in the driver
    Driver,
    /// The program on the socket buffer
    Skb,
    /// The daemon
    User,
    /// The one that policy and interfaces say
    Default,
}

impl Request {
    /// Reads the line that a client sent.
    ///
    /// # Errors
    /// In words on one line, when it is no request.
    pub fn read(line: &str) -> Result<Self, String> {
        serde_json::from_str(line).map_err(|error| {
            // It repeats what was sent, which may be anything.
            let said = error.to_string().replace(char::is_control, " ");
            format!("not a request that this daemon knows: {said}")
        })
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn changes(&self) -> bool {
        match self {
            Self::Show { .. } => false,
            Self::DeleteFlow { .. } | Self::MoveFlow { .. } | Self::MoveFlows { .. } | Self::Down => true,
        }
    }
}

/// Why the daemon did not answer what it was asked.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It cannot be done.
    Refused,
    /// The caller may not.
    NotPermitted,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Found by fuzzing: what is repeated of a request may hold anything.
    #[test]
    fn refusals_are_one_line() {
        for line in [" [\"\\n\"P", "{\"command\":\"a\\nb\\u001b[2J\"}", "\n\n", ""] {
            let said = Request::read(line).expect_err(line);
            assert!(said.starts_with("not a request") && !said.contains(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn requests_look_as_documented() {
        let text = |request| serde_json::to_string(&request).unwrap();
        assert_eq!(text(Request::Show { what: What::Flows }), r#"{"command":"show","what":"flows"}"#);
        assert_eq!(text(Request::DeleteFlow { id: 7 }), r#"{"command":"delete_flow","id":7}"#);
        let request = Request::MoveFlow { id: 7, path: PathChoice::User };
        assert_eq!(text(request), r#"{"command":"move_flow","id":7,"path":"user"}"#);
        let request = Request::MoveFlows { path: PathChoice::Default };
        assert_eq!(text(request), r#"{"command":"move_flows","path":"default"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"command":"show","what":"flows","x":1}"#).is_err());
    }
}
