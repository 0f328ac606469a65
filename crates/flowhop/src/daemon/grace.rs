//! Grace periods of the kernel programs, waited for beside the daemon's thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use flowhop_io::bpf::membarrier_global;
use rustix::event::{EventfdFlags, eventfd};

/// A thread that waits, and an event when it has.
#[derive(Debug)]
pub(super) struct Grace {
    requests: Sender<u64>,
    done: Receiver<u64>,
    event: OwnedFd,
    outstanding: bool,
}

impl Grace {
    /// Starts the thread. It ends with this value.
    ///
    /// # Errors
    /// When there is no descriptor or thread to be had.
    pub(super) fn start() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let signal = event.try_clone()?;
        let (requests, incoming) = channel::<u64>();
        let (outgoing, done) = channel();
        std::thread::Builder::new().name("grace".into()).spawn(move || {
            while let Ok(number) = incoming.recv() {
                // Where the kernel does not offer the barrier (nohz_full processors), a program that began before
                // has certainly ended a second later: programs run for microseconds and cannot sleep.
                if membarrier_global().is_err() {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
                if outgoing.send(number).is_err() || rustix::io::write(&signal, &1u64.to_ne_bytes()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, done, event, outstanding: false })
    }

    /// Nothing is being waited for.
    #[must_use]
    pub(super) const fn is_free(&self) -> bool {
        !self.outstanding
    }

    /// Begins to wait for a period.
    pub(super) fn request(&mut self, number: u64) {
        self.outstanding = self.requests.send(number).is_ok();
    }

    /// The period that has passed, if one has.
    pub(super) fn passed(&mut self) -> Option<u64> {
        // Only the channel counts; the descriptor is for waking up.
        let _drained = rustix::io::read(&self.event, &mut [0u8; 8]);
        let number = self.done.try_recv().ok()?;
        self.outstanding = false;
        Some(number)
    }
}

impl AsFd for Grace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
