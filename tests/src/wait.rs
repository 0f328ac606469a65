//! Waiting, always with a deadline.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for its turn before it gives up.
const TURN: Duration = Duration::from_secs(1200);

/// Asks `probe` until it answers, and panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A test's turn on this machine; the next one starts when it is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "holds the lock")] File);

/// Waits until no other test with real traffic runs on this machine, in this process or another.
///
/// Packets that two tests lose to each other's load would be reported as the router's fault.
pub fn alone() -> Turn {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    assert!(root, "these tests build network namespaces and need root");
    let path = std::env::temp_dir().join("flowhop-tests.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .expect("a lock file in the temporary directory");
    until("a turn on this machine", TURN, || match file.try_lock() {
        Ok(()) => Some(()),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => panic!("{}: {error}", path.display()),
    });
    Turn(file)
}

/// Has the calling thread, and what it starts from now on, go before everything else on this machine.
///
/// For tests of a pace: where others compile beside them, it would be their turns on the processor that are tested.
pub fn undisturbed() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is valid for the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const first) } != 0 {
        eprintln!("not before others: {}", std::io::Error::last_os_error());
    }
}

/// Waits for a child to end; `None` after `limit`.
pub fn exit_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    if let Some(status) = child.try_wait().expect("wait for a child") {
        return Some(status);
    }
    // SAFETY: a plain system call; the child has not been reaped, so the id is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = i32::try_from(fd).expect("a descriptor fits");
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was opened above and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if !readable(&fd, limit) {
        return None;
    }
    Some(child.wait().expect("wait for a child"))
}

/// Waits until `fd` has something to read; false after `limit`.
pub fn readable(fd: &impl AsRawFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // Rounded up: a wait of less than a millisecond would otherwise spin.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd, and the count says so.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if ready > 0 {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}
