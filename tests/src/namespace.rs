//! Network namespaces, and the threads and processes in them.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::wait::exit_within;

/// How long a command may take unless told otherwise.
const COMMAND: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test of this machine uses: `fht-<pid>-<n>-<label>`.
pub fn unique(label: &str) -> String {
    format!("fht-{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace, removed when the last owner lets go of it.
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Creates `fht-<pid>-<n>-<label>` with its loopback device up and without duplicate address
    /// detection, so that IPv6 addresses work at once.
    pub fn new(label: &str) -> Arc<Self> {
        let name = unique(label);
        let made = Command::new("ip").args(["netns", "add", &name]).output().expect("run ip");
        assert!(made.status.success(), "ip netns add {name}: {made:?}");
        let handle = File::open(format!("/run/netns/{name}")).expect("open the namespace");
        let namespace = Arc::new(Self { name, handle });
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0");
        }
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside, in the caller's own mount namespace (unlike `ip netns exec`).
    ///
    /// The process is killed when the thread that started it ends, so nothing outlives a killed test.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.handle.as_raw_fd();
        // SAFETY: both calls are plain system calls, fit for the time between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Runs a command to its end and returns what came of it, good or bad.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.run_within(COMMAND, program, arguments)
    }

    /// [`run`](Self::run) with a deadline of one's own. Panics if it passes.
    pub fn run_within(&self, limit: Duration, program: &str, arguments: &[&str]) -> Output {
        self.spawn(program, arguments).finish(limit)
    }

    /// Starts a command that is killed when the guard is dropped.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(format!("[{}] {program} {}", self.name, arguments.join(" ")), command)
    }

    /// Runs `ip` with the words of `arguments`, and panics unless it succeeds. Returns its output.
    pub fn ip(&self, arguments: &str) -> String {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        self.run("ip", &words).ok().stdout
    }

    /// Runs `ip` with the words of `arguments`, and tells whether it succeeded: for what a kernel may lack.
    pub fn tries_ip(&self, arguments: &str) -> bool {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        self.run("ip", &words).status.success()
    }

    /// Runs many `ip` commands, one per line, in one process; panics unless all succeed.
    pub fn ip_batch(&self, lines: &str) {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        let what = format!("[{}] ip -batch: {lines}", self.name);
        Process::start_with_input(what, command, lines).finish(COMMAND).ok();
    }

    /// Writes a value below `/proc/sys`, for example `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("[{}] {path} = {value}: {error}", self.name));
    }

    /// Runs `work` on a thread inside and returns its result. Sockets opened there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.switch();
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside.
    pub fn thread<T: Send + 'static>(self: &Arc<Self>, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = Arc::clone(self);
        thread::spawn(move || {
            namespace.switch();
            work()
        })
    }

    /// The hardware address of a device.
    pub fn mac(&self, device: &str) -> [u8; 6] {
        let answer = self.link(device);
        let text = answer["address"].as_str().expect("a link has an address");
        let mut mac = [0; 6];
        for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(digits, 16).expect("an address in hexadecimal");
        }
        mac
    }

    /// What the kernel counts as (received, sent) packets of a device.
    pub fn device_packets(&self, device: &str) -> (u64, u64) {
        let link = self.link(device);
        let of = |way: &str| link["stats64"][way]["packets"].as_u64().expect("a link has statistics");
        (of("rx"), of("tx"))
    }

    fn link(&self, device: &str) -> serde_json::Value {
        let text = self.ip(&format!("-j -s link show dev {device}"));
        let mut links: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
        links[0].take()
    }

    /// Moves the calling thread inside.
    fn switch(&self) {
        // SAFETY: the descriptor is that of a namespace and stays open for the life of `self`.
        let done = unsafe { libc::setns(self.handle.as_raw_fd(), libc::CLONE_NEWNET) };
        assert!(done == 0, "enter {}: {}", self.name, io::Error::last_os_error());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let done = Command::new("ip").args(["netns", "del", &self.name]).output();
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("ip netns del {}: {done:?}", self.name);
        }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Panics with everything it printed unless it ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(
            self.status.success(),
            "{}: {}\nstdout: {}\nstderr: {}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The exit code; `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.command, self.stdout))
    }
}

/// A running command; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts a command in the namespaces of the caller, for tools that look at processes.
    pub(crate) fn start_plain(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start(format!("{program} {}", arguments.join(" ")), command)
    }

    fn start(what: String, command: Command) -> Self {
        Self::start_with_input(what, command, "")
    }

    fn start_with_input(what: String, mut command: Command, input: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut process = Self::of(what, child);
        if let Some(mut stdin) = process.child.stdin.take() {
            // A command that ended already has said why on its own.
            let _ = stdin.write_all(input.as_bytes());
        }
        process
    }

    /// Takes charge of a child.
    pub(crate) fn of(what: String, mut child: Child) -> Self {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Self { what, child, stdout: stdout.map(collect), stderr: stderr.map(collect) }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        signal_process(self.child.id(), signal);
    }

    /// Waits for the end and returns what it printed; kills it and panics after `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let status = exit_within(&mut self.child, limit);
        if status.is_none() {
            self.kill();
        }
        let take = |stream: &mut Option<JoinHandle<String>>| {
            stream.take().map(|thread| thread.join().expect("read output")).unwrap_or_default()
        };
        let (stdout, stderr) = (take(&mut self.stdout), take(&mut self.stderr));
        let what = &self.what;
        let Some(status) = status else {
            panic!("{what}: no end within {limit:?}\nstdout: {stdout}\nstderr: {stderr}");
        };
        Output { command: what.clone(), status, stdout, stderr }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process that the caller started and has not reaped.
pub(crate) fn signal_process(id: u32, signal: i32) {
    let id = i32::try_from(id).expect("a process id fits");
    // SAFETY: a plain system call; callers own the process.
    unsafe { libc::kill(id, signal) };
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
