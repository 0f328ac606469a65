//! Network namespaces without names, held by threads: nothing has to be removed, whatever fails.

use std::any::Any;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flowhop_io::netlink::Monitor;
use flowhop_io::poll::Poller;
use flowhop_routing::Event;
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

    /// Waits until the kernel has noticed that a device runs: before that it drops what is sent.
    fn runs(&self, device: &str) {
        let device = device.to_owned();
        self.run(move || {
            let mut monitor = Monitor::open().expect("the kernel's announcements");
            let mut poller = Poller::new().expect("a poller");
            poller.add(&monitor, 0).expect("the monitor is waited for");
            let mut events = monitor.dump().expect("what there is");
            let runs = |event: Event| matches!(event, Event::LinkUpsert(link) if link.name == device && link.up);
            let end = Instant::now() + Duration::from_secs(10);
            while !events.drain(..).any(runs) {
                let left = end.checked_duration_since(Instant::now()).expect("the device runs by then");
                poller.wait(Some(left), &mut Vec::new()).expect("an announcement");
                monitor.poll_events(&mut events).expect("announcements");
            }
        });
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
