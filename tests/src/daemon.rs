//! The daemon under test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::namespace::{Namespace, Output, Process, signal_process, unique};
use crate::policy::Policy;
use crate::wait::exit_within;

/// How long a start may take, loading the kernel programs included.
const READY: Duration = Duration::from_secs(20);
/// How long a client command may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Of what a daemon has to say when its test fails: characters of an answer, lines of its standard error.
const SAID: usize = 20_000;
const LAST_LINES: usize = 20;

/// How the daemon gets into the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// By `setns`, in the mount namespace of the tests, as a service manager would.
    Direct,
    /// By `ip netns exec`, which gives every process a mount namespace of its own: what it mounts is
    /// gone with it.
    IpNetnsExec,
}

/// A `flowhop run` in a namespace, with policy and state in a directory of its own.
///
/// Dropping it kills the process, runs `flowhop down` and removes the directory; in a failing test it
/// first prints what the daemon has to say.
#[derive(Debug)]
pub struct Daemon {
    namespace: Arc<Namespace>,
    launch: Launch,
    folder: PathBuf,
    running: Option<Running>,
    log: Arc<Log>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

/// Everything on standard error, of all starts together.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    ready: bool,
    ended: bool,
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program: `$FLOWHOP_BIN`, or the one that cargo built beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FLOWHOP_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    // target/<profile>/deps/<test>
    let profile = test.parent().and_then(Path::parent).expect("a target directory");
    let target = profile.parent().expect("a target directory");
    let places = [profile.join("flowhop"), target.join("debug/flowhop"), target.join("release/flowhop")];
    let found = places.iter().find(|place| place.is_file());
    found
        .cloned()
        .unwrap_or_else(|| panic!("no flowhop in {places:?}: `cargo build -p flowhop` first, or set FLOWHOP_BIN"))
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub fn start(namespace: &Arc<Namespace>, policy: &Policy) -> Self {
        Self::start_by(Launch::Direct, namespace, policy)
    }

    /// Starts it in a certain way and waits until it is ready.
    pub fn start_by(launch: Launch, namespace: &Arc<Namespace>, policy: &Policy) -> Self {
        binary();
        let folder = std::env::temp_dir().join(unique("state"));
        fs::create_dir(&folder).expect("a directory for the daemon");
        let mut daemon = Self { namespace: Arc::clone(namespace), launch, folder, running: None, log: Arc::default() };
        daemon.write_policy(policy);
        daemon.start_again();
        daemon
    }

    /// Starts it once more, with the same state, and waits until it is ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "the daemon runs already");
        {
            let mut log = self.log.lock();
            (log.ready, log.ended) = (false, false);
            log.lines.push("--- start".to_owned());
        }
        let mut command = self.flowhop();
        let policy = self.folder.join("policy.toml");
        command.arg("run").arg("-c").arg(policy).arg("--state").arg(self.state());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start flowhop");
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::clone(&self.log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut state = log.lock();
                state.ready |= line.trim() == "ready";
                state.lines.push(line);
                log.changed.notify_all();
            }
            log.lock().ended = true;
            log.changed.notify_all();
        });
        self.running = Some(Running { child, reader: Some(reader) });

        let end = Instant::now() + READY;
        let mut log = self.log.lock();
        while !log.ready {
            let left = end.saturating_duration_since(Instant::now());
            if log.ended || left.is_zero() {
                let text = log.lines.join("\n");
                drop(log);
                panic!("the daemon did not get ready:\n{text}");
            }
            let waited = self.log.changed.wait_timeout(log, left);
            log = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("the daemon runs").child.id()
    }

    /// Whether the process is there.
    pub fn is_alive(&mut self) -> bool {
        let alive = |running: &mut Running| matches!(running.child.try_wait(), Ok(None));
        self.running.as_mut().is_some_and(alive)
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What it has printed on standard error, of all starts.
    pub fn stderr(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    /// Runs a client command such as `show flows` with `--state`, and returns what came of it.
    pub fn client(&self, words: &str) -> Output {
        self.client_within(ANSWER, words)
    }

    /// The same for an answer that takes long to give.
    pub fn client_within(&self, limit: Duration, words: &str) -> Output {
        let mut command = self.flowhop();
        command.args(words.split_whitespace()).arg("--state").arg(self.state());
        finish(command, words, limit)
    }

    /// Runs a client command with `-j` and returns its answer; panics unless it succeeds.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        self.client(&format!("{words} -j")).ok().json()
    }

    /// The flows whose forward destination is this, as `show flows -j` has them.
    #[track_caller]
    pub fn flows_to(&self, destination: &str) -> Vec<Value> {
        let flows = self.json("show flows");
        let all = flows["flows"].as_array().unwrap_or_else(|| panic!("no flows in {flows}"));
        let mine = |flow: &&Value| flow["forward"]["destination"] == *destination;
        all.iter().filter(mine).cloned().collect()
    }

    /// The flow to that destination, of which there is one.
    #[track_caller]
    pub fn only_flow_to(&self, destination: &str) -> Value {
        let mut flows = self.flows_to(destination);
        assert_eq!(flows.len(), 1, "flows to {destination}: {flows:?}");
        flows.remove(0)
    }

    /// An interface of the policy, as `show interfaces -j` has it.
    #[track_caller]
    pub fn interface(&self, name: &str) -> Value {
        let interfaces = self.json("show interfaces");
        let found = interfaces["interfaces"].as_array().and_then(|all| all.iter().find(|one| one["name"] == *name));
        found.unwrap_or_else(|| panic!("no {name} in {interfaces}")).clone()
    }

    /// Packets that a path has carried, by `show paths -j`.
    #[track_caller]
    pub fn path_packets(&self, path: &str) -> u64 {
        let paths = self.json("show paths");
        let all = paths["paths"].as_array().unwrap_or_else(|| panic!("no paths in {paths}"));
        all.iter().filter(|entry| entry["name"] == *path).filter_map(|entry| entry["packets"].as_u64()).sum()
    }

    /// Packets dropped, by `show drops -j`: for one reason, or for any.
    #[track_caller]
    pub fn drops(&self, reason: Option<&str>) -> u64 {
        let drops = self.json("show drops");
        let all = drops["drops"].as_array().unwrap_or_else(|| panic!("no drops in {drops}"));
        let wanted = |entry: &&Value| reason.is_none_or(|reason| entry["reason"] == *reason);
        all.iter().filter(wanted).filter_map(|entry| entry["packets"].as_u64()).sum()
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// SIGTERM; panics unless it ends in time.
    pub fn terminate(&mut self) {
        self.end(libc::SIGTERM);
    }

    /// Writes a new policy and sends SIGHUP.
    pub fn reload(&self, policy: &Policy) {
        self.write_policy(policy);
        signal_process(self.id(), libc::SIGHUP);
    }

    /// `flowhop down`, with whatever came of it.
    pub fn down(&self) -> Output {
        self.client("down")
    }

    fn end(&mut self, signal: i32) {
        let Some(mut running) = self.running.take() else { return };
        signal_process(running.child.id(), signal);
        let ended = exit_within(&mut running.child, ANSWER);
        if ended.is_none() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if let Some(reader) = running.reader.take() {
            let _ = reader.join();
        }
        assert!(
            ended.is_some() || thread::panicking(),
            "the daemon did not end on signal {signal}:\n{}",
            self.stderr()
        );
    }

    fn write_policy(&self, policy: &Policy) {
        fs::write(self.folder.join("policy.toml"), policy.text()).expect("write the policy");
    }

    /// The program, to be run in the router.
    fn flowhop(&self) -> Command {
        match self.launch {
            Launch::Direct => self.namespace.command(binary()),
            Launch::IpNetnsExec => {
                // `ip` replaces itself by the program, so the child's id is the daemon's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", self.namespace.name()]).arg(binary());
                command
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            for words in ["show status", "show paths", "show drops", "show flows"] {
                if self.is_alive() {
                    // That it does not answer is no reason to say nothing of the test that fails.
                    let asked = AssertUnwindSafe(|| self.client(&format!("{words} -j")));
                    let Ok(output) = catch_unwind(asked) else { continue };
                    eprintln!("{words}: {:.SAID$}{:.SAID$}", output.stdout, output.stderr);
                }
            }
            let lines = self.stderr();
            let lines: Vec<&str> = lines.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("standard error of the daemon, {} lines, at the end:\n{}", lines.len(), last.join("\n"));
        }
        if self.running.is_some() {
            self.end(libc::SIGKILL);
        }
        let down = self.down();
        if !down.status.success() {
            eprintln!("{down:?}");
        }
        unmount_below(&self.folder);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

fn finish(mut command: Command, words: &str, limit: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("flowhop {words}: {error}"));
    Process::of(format!("flowhop {words}"), child).finish(limit)
}

/// Takes off what a daemon that went wrong has left mounted in the test's own directory.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(point).starts_with(folder) {
            let path = std::ffi::CString::new(Path::new(point).as_os_str().as_bytes());
            let path = path.expect("a path has no zero");
            // SAFETY: the path ends in a zero byte; it lies below a directory that this test made.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
    }
}
