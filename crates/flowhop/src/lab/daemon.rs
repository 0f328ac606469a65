//! The firewall itself, in the router of a bed.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::namespace::{run, wait};
use super::{Bed, LabError, Tried};

/// How long it may take to start, large tables included.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);
/// This very program, even where its file is out of sight.
const SELF: &str = "/proc/self/exe";

/// How flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the daemon chooses.
    Chosen,
    /// By programs in drivers.
    Driver,
    /// All in user space.
    User,
}

/// What the firewall is told.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Path of all interfaces.
    pub mode: Mode,
    /// Prefixes (IPv4) that are inside beside the inside host's own network.
    pub inside: Vec<String>,
    /// What their sources become; no translation if none.
    pub translate: Option<String>,
    /// Size of the table.
    pub connections: u32,
    /// TCP connections that may be half open; the usual share if none.
    pub half_open: Option<u32>,
    /// `lines` or `kernel-hash`.
    pub index: &'static str,
    /// One fast packet in so many is judged once more; none if not said.
    pub shadow: Option<u32>,
    /// Seconds after which idle flows of UDP and unanswered ones of TCP end; the usual ones if none.
    pub idle: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Chosen,
            inside: Vec::new(),
            translate: Some("\"interface\"".to_owned()),
            connections: 65536,
            half_open: None,
            index: "lines",
            shadow: None,
            idle: None,
        }
    }
}

impl Policy {
    /// The policy file.
    #[must_use]
    pub fn text(&self) -> String {
        let path = match self.mode {
            Mode::Chosen => "",
            Mode::Driver => ", path = \"driver\"",
            Mode::User => ", path = \"user\"",
        };
        let mut text = format!(
            "[interfaces]\n\
             lan = {{ device = \"lan0\", zone = \"inside\"{path} }}\n\
             wan = {{ device = \"wan0\", zone = \"outside\"{path} }}\n\n\
             [[rule]]\nname = \"inside may go out\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n"
        );
        if let Some(translate) = &self.translate {
            let mut sources = vec!["10.1.0.0/24"];
            sources.extend(self.inside.iter().map(String::as_str));
            // Writing to a string does not fail.
            let _written = write!(
                text,
                "\n[[nat]]\nname = \"hide the inside\"\nto = \"outside\"\nsource = {sources:?}\n\
                 translate.source = {translate}\n"
            );
        }
        let _written = write!(text, "\n[table]\nconnections = {}\nindex = \"{}\"\n", self.connections, self.index);
        if let Some(half_open) = self.half_open {
            let _written = writeln!(text, "half_open = {half_open}");
        }
        if let Some(one_in) = self.shadow {
            let _written = writeln!(text, "\n[paths]\nshadow = {one_in}");
        }
        if let Some(seconds) = self.idle {
            let _written = writeln!(text, "\n[timeouts]\nudp = \"{seconds}s\"\ntcp_opening = \"{seconds}s\"");
        }
        text
    }
}

/// A running `flowhop run`. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    state: PathBuf,
    log: Receiver<String>,
    said: Vec<String>,
}

impl Daemon {
    /// Starts it in the router of a bed, with its files in `folder`, and waits until it forwards. Must be called on a
    /// thread that lives as long as the daemon is to live.
    ///
    /// # Errors
    /// With what the daemon said.
    pub fn start(bed: &Bed, folder: &Path, policy: &Policy) -> Result<Self, LabError> {
        Self::start_with(bed, folder, &policy.text())
    }

    /// The same with the text of a policy.
    ///
    /// # Errors
    /// With what the daemon said.
    pub fn start_with(bed: &Bed, folder: &Path, policy: &str) -> Result<Self, LabError> {
        fs::create_dir(folder).tried(folder.display())?;
        let (file, state) = (folder.join("policy.toml"), folder.join("state"));
        fs::write(&file, policy).tried(file.display())?;
        private_pins(&state).tried(state.display())?;
        let mut command = bed.router.command(SELF, &[]);
        command.arg("run").arg("-c").arg(&file).arg("--state").arg(&state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().tried("flowhop run")?;
        let stderr = child.stderr.take();
        let (sender, log) = channel();
        thread::spawn(move || {
            let lines = stderr.into_iter().flat_map(|stream| BufReader::new(stream).lines());
            // Ends with the daemon, or when nobody listens any more.
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut daemon = Self { child, state, log, said: Vec::new() };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn wait_ready(&mut self) -> Result<(), LabError> {
        let end = Instant::now() + READY;
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.trim() == "ready" => return Ok(()),
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => return Err(LabError::Late("flowhop run getting ready".to_owned())),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(LabError::Command { command: "flowhop run".to_owned(), message: self.said.join("\n") });
                }
            }
        }
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said up to now, except `ready`.
    pub fn said(&mut self) -> &[String] {
        self.said.extend(self.log.try_iter());
        &self.said
    }

    /// `flowhop show WHAT -j`.
    ///
    /// # Errors
    /// What the client says, or that it is no JSON.
    pub fn show(&self, bed: &Bed, what: &str) -> Result<Value, LabError> {
        let name = format!("flowhop show {what} -j");
        let mut command = bed.router.command(SELF, &[]);
        command.args(["show", what, "-j", "--state"]).arg(&self.state);
        let text = run(command, &name, "")?;
        serde_json::from_str(&text).map_err(|error| LabError::Command { command: name, message: error.to_string() })
    }

    /// Ends it and says whether it ended well.
    ///
    /// # Errors
    /// When it did not.
    pub fn stop(mut self) -> Result<(), LabError> {
        let late = || LabError::Late("flowhop run ending".to_owned());
        let id = i32::try_from(self.child.id()).map_err(|_| late())?;
        kill(Pid::from_raw(id), Signal::SIGTERM).tried("SIGTERM")?;
        let status = wait(&mut self.child, END).tried("flowhop run")?.ok_or_else(late)?;
        if status.success() {
            return Ok(());
        }
        let message = format!("{status}: {}", self.said().join("\n"));
        Err(LabError::Command { command: "flowhop run".to_owned(), message })
    }
}

/// Where the daemon pins its maps.
fn pins_of(state: &Path) -> PathBuf {
    state.join("bpf")
}

/// Mounts the bpffs that the daemon pins its maps in. It would do that itself, but where it outlives its own mount
/// namespace; here everything is to end with this process, so it finds one.
fn private_pins(state: &Path) -> io::Result<()> {
    let pins = pins_of(state);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&pins)?;
    match mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), Some("mode=0700")) {
        // Who may not mount it may not load programs either, and the daemon does without.
        // So does it where the kernel has no BPF.
        Ok(()) | Err(Errno::EPERM | Errno::ENODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended is well.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        // What is pinned would keep its memory until this process ends; where nothing was mounted there is nothing.
        let _unmounted = umount2(&pins_of(&self.state), MntFlags::MNT_DETACH);
    }
}
