//! Namespaces, `ip`, and a mirror that is kept up to date.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flowhop_io::netlink::{Monitor, Options};
use flowhop_routing::{Change, Event, Routing};
use nix::sched::{CloneFlags, unshare};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn must_be_root() {
    assert!(rustix::process::geteuid().is_root(), "this test must be run as root: it makes network namespaces");
}

/// Runs `body` on a thread with a new network namespace; commands that it starts are in there too.
pub(crate) fn in_own_namespace(body: impl FnOnce() + Send + 'static) {
    must_be_root();
    let inside = thread::Builder::new().name(thread::current().name().unwrap_or("test").to_owned()).spawn(|| {
        enter_new_namespace();
        body();
    });
    if let Err(panic) = inside.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

/// Duplicate address detection is off in there: the kernel announces an address only when it is over.
fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("the namespace's own setting");
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip can be started");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip -batch` with these lines.
pub(crate) fn ip_batch(lines: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip can be started");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("ip reads on");
    assert!(child.wait().expect("ip ends").success());
}

/// Another network namespace, held by a thread that runs commands in it.
pub(crate) struct PeerNamespace {
    path: String,
    commands: mpsc::Sender<(String, mpsc::Sender<bool>)>,
}

impl PeerNamespace {
    pub(crate) fn new() -> PeerNamespace {
        let (commands, inbox) = mpsc::channel::<(String, mpsc::Sender<bool>)>();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            enter_new_namespace();
            let thread = rustix::thread::gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            ready.send(path).expect("the test waits");
            for (words, done) in inbox {
                ip(&words);
                done.send(true).expect("the test waits");
            }
        });
        let path = is_ready.recv().expect("the namespace was made");
        PeerNamespace { path, commands }
    }

    /// A path that `ip link set … netns` takes.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn ip(&self, words: &str) {
        let (done, is_done) = mpsc::channel();
        self.commands.send((words.to_owned(), done)).expect("the thread lives");
        assert!(is_done.recv().unwrap_or(false), "ip {words} failed in the other namespace");
    }
}

/// A monitor and the routing state that it feeds.
pub(crate) struct Mirror {
    pub(crate) monitor: Monitor,
    pub(crate) routing: Routing,
    /// All that changed.
    pub(crate) changes: Vec<Change>,
}

impl Mirror {
    pub(crate) fn open() -> Mirror {
        Mirror::open_with(Options::default())
    }

    pub(crate) fn open_with(options: Options) -> Mirror {
        let mut monitor = Monitor::open_with(options).expect("a monitor");
        let events = monitor.dump().expect("a dump");
        let mut mirror = Mirror { monitor, routing: Routing::new(256), changes: Vec::new() };
        mirror.apply(events);
        mirror
    }

    pub(crate) fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            self.routing.apply(event, &mut self.changes);
        }
    }

    fn poll(&mut self) -> bool {
        let mut events = Vec::new();
        self.monitor.poll_events(&mut events).expect("announcements can be read");
        let any = !events.is_empty();
        self.apply(events);
        any
    }

    /// Polls until the kernel has been silent for a while (IPv6 and link state come late).
    pub(crate) fn settle(&mut self) {
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < Duration::from_millis(250) {
            if self.poll() {
                quiet_since = Instant::now();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Polls until `condition` holds.
    pub(crate) fn until(&mut self, condition: impl Fn(&Routing) -> bool) {
        let start = Instant::now();
        while !condition(&self.routing) {
            assert!(start.elapsed() < PATIENCE, "it did not happen within {PATIENCE:?}: {:#?}", self.routing);
            self.poll();
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A mirror made from a fresh dump must show the same.
    pub(crate) fn assert_as_dumped(&mut self) {
        let fresh = Mirror::open();
        let show = |routing: &Routing| {
            let links = routing.links().map(|link| format!("{link:?}"));
            let addresses = routing.own_addresses().map(|own| format!("{own:?}"));
            let routes = routing.routes().map(|route| format!("{route:?}"));
            links.chain(addresses).chain(routes).collect::<Vec<_>>()
        };
        let (ours, theirs) = (show(&self.routing), show(&fresh.routing));
        let only = |these: &[String], those: &[String]| {
            let those: std::collections::HashSet<_> = those.iter().collect();
            these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>()
        };
        let (extra, missing) = (only(&ours, &theirs), only(&theirs, &ours));
        assert!(
            extra.is_empty() && missing.is_empty(),
            "only in the mirror: {extra:#?}\nonly in the kernel: {missing:#?}"
        );
        assert_eq!(ours.len(), theirs.len(), "none is there twice");
    }
}
