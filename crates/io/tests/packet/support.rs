//! Network namespaces without names, held by threads: nothing has to be removed, whatever fails.

use std::any::Any;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use flowhop_io::netlink::Monitor;
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>;

/// A network namespace and a thread in it.
pub(crate) struct Namespace {
    path: String,
    jobs: mpsc::Sender<(Job, mpsc::Sender<Box<dyn Any + Send>>)>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test must be run as root: it makes network namespaces");
        let (jobs, inbox) = mpsc::channel::<(Job, mpsc::Sender<_>)>();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("the namespace's own setting");
            ip("link set dev lo up");
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid());
            ready.send(path).expect("the test waits");
            for (job, done) in inbox {
                done.send(job()).expect("the test waits");
            }
        });
        Self { path: is_ready.recv().expect("the namespace was made"), jobs }
    }

    /// Runs something in the namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::channel();
        self.jobs.send((Box::new(|| Box::new(job())), done)).expect("the thread lives");
        *is_done.recv().expect("it went well in the namespace").downcast().expect("its type")
    }

    /// Runs `ip` with these words for each line, in the namespace.
    pub(crate) fn ip(&self, lines: &str) {
        let lines = lines.to_owned();
        self.run(move || lines.lines().for_each(|line| drop(ip(line))));
    }

    /// A link between two namespaces.
    pub(crate) fn link(&self, name: &str, other: &Self, other_name: &str) {
        self.ip(&format!("link add name {name} type veth peer name {other_name} netns {}", other.path));
        self.ip(&format!("link set dev {name} up"));
        other.ip(&format!("link set dev {other_name} up"));
        self.runs(name);
        other.runs(other_name);
    }

    /// Has the kernel notice that a device runs, which it may else do a second later: before that it drops what is sent. Whoever
    /// asks for one device by its name is told what is so now (`linkwatch_sync_dev`).
    fn runs(&self, device: &str) {
        let device = device.to_owned();
        let link = self.run(move || Monitor::open().and_then(|mut monitor| monitor.link(&device)).expect("the device"));
        assert!(link.up, "{link:?}");
    }

    pub(crate) fn index(&self, name: &'static str) -> u32 {
        self.run(move || nix::net::if_::if_nametoindex(name).expect("the interface is there"))
    }
}

/// Runs `ip` with these words; what it prints.
fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip can be started");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
