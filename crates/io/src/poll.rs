//! Waiting: for descriptors, for signals; and telling systemd that the waiting is over.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Descriptors reported by one [`Poller::wait`]; others that are ready come with the next.
const EVENTS: usize = 64;

/// Waits until one of many descriptors is readable (or failed): level-triggered, so what is left unread is reported again.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// A poller without descriptors.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    /// Watches a descriptor. Closing it ends that, unless it was duplicated.
    ///
    /// # Errors
    /// `EEXIST` when it is watched already, `EPERM` for a file that cannot be waited for.
    pub fn add(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, descriptor, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Watches a descriptor no longer.
    ///
    /// # Errors
    /// `ENOENT` when it was not watched.
    pub fn remove(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, descriptor)?)
    }

    /// Waits for as long as `timeout` (`None`: without end) and puts the tokens of what is ready into `tokens`, which may
    /// be none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&mut self, timeout: Option<Duration>, tokens: &mut Vec<u64>) -> io::Result<()> {
        tokens.clear();
        self.events.clear();
        // A time too long for the kernel's type is without end.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        tokens.extend(self.events.iter().map(|event| event.data.u64()));
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: end.
    Terminate,
    /// `SIGINT`: the user at the terminal wants it to end.
    Interrupt,
    /// `SIGHUP`: read the policy again.
    Reload,
}

/// `SIGTERM`, `SIGINT` and `SIGHUP` as a descriptor.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals, for good, in the calling thread and those that it starts: so call this before there are any.
    /// Processes started by [`std::process::Command`] have them unblocked.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn block() -> io::Result<Self> {
        // SAFETY: a set of zeros is valid, and the calls only write to it.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            set
        };
        // SAFETY: the set is read; the old one is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set is read.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The next signal that came; `None` when none did. The same one sent twice may come once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        loop {
            let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
            match rustix::io::read(&self.0, &mut record) {
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The record begins with the number.
            let number = record.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number));
            return Ok(match number {
                libc::SIGTERM => Some(Signal::Terminate),
                libc::SIGINT => Some(Signal::Interrupt),
                libc::SIGHUP => Some(Signal::Reload),
                _ => continue,
            });
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells systemd, if it started this process, that the service is ready.
///
/// # Errors
/// The socket that `$NOTIFY_SOCKET` names cannot be written to.
pub fn notify_ready() -> io::Result<()> {
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_readable_is_reported_until_it_is_read() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (_idle, other) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&far, 7).unwrap();
        poller.add(&other, 8).unwrap();
        let mut tokens = vec![1];
        poller.wait(Some(Duration::ZERO), &mut tokens).unwrap();
        assert!(tokens.is_empty());
        near.write_all(b"x").unwrap();
        for _ in 0..2 {
            poller.wait(Some(Duration::MAX), &mut tokens).unwrap();
            assert_eq!(tokens, [7]);
        }
        poller.remove(&far).unwrap();
        poller.wait(Some(Duration::from_millis(1)), &mut tokens).unwrap();
        assert!(tokens.is_empty());
    }

    #[test]
    fn signals_are_read() {
        let signals = Signals::block().unwrap();
        assert_eq!(signals.next().unwrap(), None);
        for (number, signal) in
            [(libc::SIGTERM, Signal::Terminate), (libc::SIGINT, Signal::Interrupt), (libc::SIGHUP, Signal::Reload)]
        {
            // To this thread, where it is blocked: not to the process, other threads of which do not block it.
            // SAFETY: the thread is the calling one.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), number) }, 0);
            let mut poller = Poller::new().unwrap();
            poller.add(&signals, 1).unwrap();
            let mut tokens = Vec::new();
            poller.wait(Some(Duration::from_secs(5)), &mut tokens).unwrap();
            assert_eq!((tokens.as_slice(), signals.next().unwrap()), ([1].as_slice(), Some(signal)));
        }
    }
}
