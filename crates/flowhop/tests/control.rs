//! The control socket: questions, refusals, exit codes, and clients that misbehave.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowhop::control::{Answer, Handler, PathChoice, Peer, Request, Server};
use flowhop::show::What;
use serde_json::json;

/// A daemon that knows one flow.
struct Daemon;

impl Handler for Daemon {
    fn answer(&mut self, request: Request, peer: Peer) -> Answer {
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        match request {
            Request::Show { what: What::Drops } => {
                let drop = json!({"reason": "no_rule", "path": "user", "interface": "lan", "packets": 3, "bytes": 180});
                Answer::Now(json!({"version": 1, "drops": [drop]}))
            }
            Request::Show { what: What::Modules } => Answer::Later(Box::new(|out| {
                thread::sleep(Duration::from_millis(50));
                out.write_all(br#"{"version":1,"modules":[{"name":"filter","runs_after":["route"]}]}"#)
            })),
            Request::DeleteFlow { id: 7 } => Answer::Now(json!({})),
            Request::DeleteFlow { id } => Answer::Refused(format!("no flow {id}")),
            Request::MoveFlow { id: 7, path: PathChoice::User } => {
                Answer::Now(json!({"version": 1, "moved": 1, "paths": ["user", "skb"]}))
            }
            Request::MoveFlows { path: PathChoice::Default } => Answer::Later(Box::new(|out| {
                thread::sleep(Duration::from_millis(50));
                out.write_all(br#"{"version":1,"moved":9,"paths":null}"#)
            })),
            Request::MoveFlow { id, .. } => Answer::Refused(format!("no flow {id}")),
            _ => Answer::Refused("not here".to_owned()),
        }
    }
}

/// Serves until it is dropped.
struct Serving {
    folder: tempfile::TempDir,
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Duration>>,
}

impl Serving {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::listen(&folder.path().join("control.sock")).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            assert!(server.as_fd().try_clone_to_owned().is_ok());
            while !ended.load(Ordering::Acquire) {
                let before = Instant::now();
                server.serve(&mut Daemon);
                longest = longest.max(before.elapsed());
                thread::sleep(Duration::from_millis(2));
            }
            longest
        });
        Self { folder, end, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn client(&self, words: &str) -> Output {
        client(words, self.folder.path())
    }

    /// Ends it; the longest time that the daemon's thread was kept.
    fn end(&mut self) -> Duration {
        self.end.store(true, Ordering::Release);
        self.thread.take().map_or(Duration::ZERO, |thread| thread.join().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end();
    }
}

fn client(words: &str, state: &Path) -> Output {
    let words = words.split(' ');
    Command::new(env!("CARGO_BIN_EXE_flowhop")).args(words).arg("--state").arg(state).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn commands_and_their_exit_codes() {
    let mut serving = Serving::start();
    let json = serving.client("show drops -j");
    assert_eq!(
        text(&json.stdout),
        "{\"version\":1,\"drops\":[{\"reason\":\"no_rule\",\"path\":\"user\",\"interface\":\"lan\",\"packets\":3,\"bytes\":180}]}\n"
    );
    let people = serving.client("show modules");
    assert_eq!(
        (text(&people.stdout), people.status.code()),
        ("MODULE  RUNS AFTER\nfilter  route\n".to_owned(), Some(0))
    );
    assert_eq!(serving.client("delete flow 7").status.code(), Some(0));
    assert_eq!(text(&serving.client("delete flow 7 -j").stdout), "{\"version\":1,\"deleted\":7}\n");
    assert_eq!(text(&serving.client("move flow 7 user").stdout), "flow 7: forward user, reverse skb\n");
    let json = serving.client("move flow 7 user -j");
    assert_eq!(text(&json.stdout), "{\"version\":1,\"moved\":1,\"paths\":[\"user\",\"skb\"]}\n");
    assert_eq!(text(&serving.client("move flow all default").stdout), "9 flows moved\n");
    let json = serving.client("move flow all default -j");
    assert_eq!(text(&json.stdout), "{\"version\":1,\"moved\":9,\"paths\":null}\n");
    for (words, code, said) in [
        ("delete flow 8", 1, "no flow 8"),
        ("move flow 8 user", 1, "no flow 8"),
        ("move flow some user", 2, "`all`"),
        ("move flow 7 nowhere", 2, "nowhere"),
        ("show fib", 1, "not here"),
        ("show x", 2, "x"),
        ("delete flow x", 2, "x"),
    ] {
        let refused = serving.client(words);
        assert_eq!(refused.status.code(), Some(code), "{words}: {refused:?}");
        assert!(text(&refused.stderr).contains(said) && refused.stdout.is_empty(), "{words}: {refused:?}");
    }
    let mode = std::fs::metadata(serving.socket()).unwrap().permissions().mode();
    assert!([0o600, 0o660].contains(&(mode & 0o777)), "{mode:o}");

    serving.end();
    assert!(!serving.socket().exists());
    assert_eq!(serving.client("show drops").status.code(), Some(3), "it is gone");
    std::os::unix::net::UnixListener::bind(serving.socket()).unwrap();
    assert_eq!(serving.client("show drops").status.code(), Some(3), "nobody listens at what was left behind");
}

#[test]
fn clients_that_misbehave_keep_nobody_waiting() {
    let mut serving = Serving::start();
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(serving.socket()).unwrap()).collect();
    for request in ["nonsense\n", "{\"command\":\"show\",\"what\":\"everything\"}\n", &("x".repeat(9000) + "\n")] {
        let mut stream = UnixStream::connect(serving.socket()).unwrap();
        let _closed = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }
    // Never reads its answer, and goes away.
    drop(UnixStream::connect(serving.socket()).unwrap().write_all(b"{\"command\":\"show\",\"what\":\"modules\"}\n"));
    assert_eq!(serving.client("show drops -j").status.code(), Some(0));
    thread::sleep(Duration::from_millis(200));
    let more: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(serving.socket()).unwrap()).collect();
    let refused = serving.client("show drops -j");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("too many clients"), "{refused:?}");
    drop((silent, more));
    // Far less than the five seconds that a silent client is given.
    assert!(serving.end() < Duration::from_secs(1), "the daemon's thread waited for a client");
}
