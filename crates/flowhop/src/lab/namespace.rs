//! Network namespaces without names, and threads and commands in them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{LabError, Tried};

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Where a program is. Ordinary users of Debian have no `/sbin` on their path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A network namespace. It ends when this value, its threads and its processes have.
#[derive(Debug)]
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// Makes one, with its loopback device up.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Arc<Self>, LabError> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            // In IPv6, new addresses are not used before it is known that nobody else has them.
            for scope in ["all", "default"] {
                let _needed_only_by_link_local_addresses =
                    fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
            }
            File::open("/proc/thread-self/ns/net")
        });
        let handle = made.join().map_err(|_| LabError::Thread("lab"))?.tried("a new network namespace")?;
        let namespace = Self { handle };
        namespace.ip(&[], "link set lo up\n")?;
        Ok(Arc::new(namespace))
    }

    /// A command that will run inside and be killed when the calling thread ends. Other namespaces are handed on to it as
    /// descriptors, for [`place`](Self::place).
    pub fn command(&self, program: impl AsRef<OsStr>, others: &[&Self]) -> Command {
        let mut command = Command::new(program);
        let own = self.handle.as_raw_fd();
        let others: Vec<i32> = others.iter().map(|other| other.handle.as_raw_fd()).collect();
        let work = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // SAFETY: the descriptors are copies of those of namespaces that the parent holds while it forks.
            let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
            setns(borrow(own), CloneFlags::CLONE_NEWNET)?;
            for &other in &others {
                nix::fcntl::fcntl(borrow(other), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes plain system calls and allocates nothing.
        unsafe { command.pre_exec(work) };
        command
    }

    /// How a command that this namespace was handed to names it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }

    /// Runs lines of `ip` inside; others are named by [`place`](Self::place).
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, others: &[&Self], lines: &str) -> Result<(), LabError> {
        let program = find("ip").ok_or(LabError::Missing { program: "ip", package: "iproute2" })?;
        let mut command = self.command(program, others);
        command.args(["-batch", "-"]);
        run(command, "ip", lines).map(drop)
    }

    /// Writes a value below `/proc/sys` inside.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::write(&path, value))?.tried(&path)
    }

    /// Runs `work` on a thread inside; sockets opened there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let inside = || self.switch().map(|()| work());
        let done = thread::scope(|scope| scope.spawn(inside).join());
        done.map_err(|_| LabError::Thread("lab"))?.tried("enter a network namespace")
    }

    /// Starts a thread inside.
    pub fn thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, LabError> + Send + 'static,
    ) -> Running<T> {
        let namespace = Arc::clone(self);
        Running(thread::spawn(move || {
            namespace.switch().tried("enter a network namespace")?;
            work()
        }))
    }

    /// Moves the calling thread inside.
    fn switch(&self) -> io::Result<()> {
        Ok(setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// (received, sent) packets of a device inside, as the kernel counts them.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn device_packets(&self, device: &str) -> Result<(u64, u64), LabError> {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?.tried("/proc/net/dev")?;
        let numbers = text.lines().find_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            (name.trim() == device).then(|| Some((*numbers.get(1)?, *numbers.get(9)?)))?
        });
        numbers.ok_or_else(|| LabError::Late(format!("device {device}")))
    }
}

/// A thread in a namespace.
#[derive(Debug)]
pub struct Running<T>(JoinHandle<Result<T, LabError>>);

impl<T> Running<T> {
    /// Waits for its end. All such threads have deadlines of their own.
    ///
    /// # Errors
    /// What went wrong there.
    pub fn finish(self) -> Result<T, LabError> {
        self.0.join().map_err(|_| LabError::Thread("lab"))?
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started, fails, or takes too long.
pub fn run(mut command: Command, name: &str, input: &str) -> Result<String, LabError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().tried(name)?;
    let collect = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What has come until then is as good as it gets.
            let _broken = stream.map(|mut stream| stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = collect(child.stderr.take().map(|stream| Box::new(stream) as _));
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ended already says why on its own.
        let _ended = stdin.write_all(input.as_bytes());
    }
    let status = wait(&mut child, COMMAND).tried(name)?;
    let Some(status) = status else {
        let _gone = child.kill().and_then(|()| child.wait());
        return Err(LabError::Late(name.to_owned()));
    };
    let text = |thread: JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !status.success() {
        return Err(LabError::Command { command: name.to_owned(), message: format!("{status}: {}", stderr.trim()) });
    }
    Ok(stdout)
}

/// Waits for a child to end; `None` when the deadline passes.
///
/// # Errors
/// What the system says.
pub fn wait(child: &mut std::process::Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}
