//! The kernel's links, addresses, routes and neighbours, as events for [`flowhop_routing`].
//!
//! # What
//!
//! A [`Monitor`] holds two sockets of the network namespace that the calling thread is in when it is opened: one that
//! the kernel announces changes on, and one for requests. It works without privileges, except that
//! [`Monitor::resolve`], [`Monitor::confirm`] and [`Monitor::set_link_up`] need `CAP_NET_ADMIN` over the namespace.
//!
//! # Rules
//!
//! - Join the announcements first, dump then: what changes during the dump is announced, and events are idempotent.
//!   [`Monitor::open`] and [`Monitor::dump`] in this order do that.
//! - The announcements of the kernel are lossy. When the receive buffer overflows, [`Monitor::poll_events`] dumps
//!   everything again between [`Event::ResyncBegin`] and [`Event::ResyncEnd`]. Dumps come at most once in
//!   [`Options::resync_interval`], so that a storm of changes does not become a storm of dumps; while one is pending,
//!   [`Monitor::resync_due`] tells how long to sleep at most.
//! - A message that is not understood is counted ([`Monitor::undecodable`]) and passed over.
//!
//! ```no_run
//! use flowhop_io::netlink::Monitor;
//! use flowhop_routing::Routing;
//!
//! let mut monitor = Monitor::open()?;
//! let mut routing = Routing::new(4096);
//! let (mut events, mut changes) = (monitor.dump()?, Vec::new());
//! loop {
//!     for event in events.drain(..) {
//!         routing.apply(event, &mut changes);
//!     }
//!     if changes.contains(&flowhop_routing::Change::NeedResync) {
//!         monitor.request_resync();
//!     }
//!     changes.clear();
//!     // poll(2) on the monitor's descriptor, for `monitor.resync_due()` at most …
//!     monitor.poll_events(&mut events)?;
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), flowhop_io::netlink::NetlinkError>(())
//! ```

mod decode;
pub(crate) mod request;
pub(crate) mod socket;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use flowhop_routing::{Event, Link};
use netlink_sys::protocols::NETLINK_ROUTE;
use thiserror::Error;

use self::request::Requests;
use self::socket::{NetlinkSocket, Received, messages};

/// What the event socket is a member of.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Datagrams read by one [`Monitor::poll_events`], so that announcements without end do not keep it from returning.
const DATAGRAMS_PER_POLL: usize = 16_384;

/// Something went wrong between us and the kernel.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// A socket could not be opened or set up.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// Announcements could not be read.
    #[error("cannot read announcements of the kernel")]
    Receive(#[source] io::Error),
    /// A request could not be sent or its answer not be read.
    #[error("{request}: cannot talk to the kernel")]
    Request {
        /// What was asked for.
        request: &'static str,
        /// What the system call said.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{request}: {}", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// The positive error number of the kernel.
        errno: i32,
    },
    /// No answer came.
    #[error("{request}: no answer of the kernel within {after:?}")]
    Timeout {
        /// What was asked for.
        request: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The answer did not fit into the receive buffer.
    #[error("{request}: the answer was lost")]
    AnswerLost {
        /// What was asked for.
        request: &'static str,
    },
    /// The tables changed during every attempt at a dump.
    #[error("{request}: interrupted by changes {attempts} times")]
    DumpInterrupted {
        /// What was asked for.
        request: &'static str,
        /// How often it was tried.
        attempts: usize,
    },
    /// There is no link with this name.
    #[error("no interface is named `{0}`")]
    NoSuchLink(String),
}

/// How a [`Monitor`] is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Receive buffer for announcements in bytes, before the kernel doubles it. Without `CAP_NET_ADMIN` in the initial
    /// user namespace `net.core.rmem_max` is the limit.
    pub event_buffer: usize,
    /// How long to wait for an answer of the kernel.
    pub request_timeout: Duration,
    /// Least time between two dumps.
    pub resync_interval: Duration,
}

impl Default for Options {
    /// 16 MiB (some 100 000 routes at once), 5 s, and 2 s.
    fn default() -> Options {
        Options {
            event_buffer: 16 << 20,
            request_timeout: Duration::from_secs(5),
            resync_interval: Duration::from_secs(2),
        }
    }
}

/// What [`Monitor::poll_events`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polled {
    /// Announcements were lost since the last call.
    pub overrun: bool,
    /// The events include a full dump.
    pub resynced: bool,
}

/// Announcements of and requests to the kernel.
pub struct Monitor {
    announcements: NetlinkSocket,
    requests: Requests,
    options: Options,
    event_buffer: usize,
    last_dump: Option<Instant>,
    resync_wanted: bool,
    overruns: u64,
    undecodable: u64,
}

impl Monitor {
    /// Opens the sockets in the current network namespace and joins the announcements, with the default [`Options`].
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Monitor, NetlinkError> {
        Monitor::open_with(Options::default())
    }

    /// Opens the sockets in the current network namespace and joins the announcements.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open_with(options: Options) -> Result<Monitor, NetlinkError> {
        let announcements = NetlinkSocket::open(NETLINK_ROUTE, &GROUPS).map_err(NetlinkError::Open)?;
        announcements.set_non_blocking().map_err(NetlinkError::Open)?;
        let event_buffer = announcements.set_receive_buffer(options.event_buffer).map_err(NetlinkError::Open)?;
        let requests = Requests::open(NETLINK_ROUTE, options.request_timeout).map_err(NetlinkError::Open)?;
        Ok(Monitor {
            announcements,
            requests,
            options,
            event_buffer,
            last_dump: None,
            resync_wanted: false,
            overruns: 0,
            undecodable: 0,
        })
    }

    /// Everything that the kernel knows, between [`Event::ResyncBegin`] and [`Event::ResyncEnd`].
    ///
    /// # Errors
    ///
    /// All but [`NetlinkError::Open`], [`NetlinkError::Receive`] and [`NetlinkError::NoSuchLink`].
    pub fn dump(&mut self) -> Result<Vec<Event>, NetlinkError> {
        let mut events = vec![Event::ResyncBegin];
        self.last_dump = Some(Instant::now());
        self.undecodable += self.requests.dump_all(&mut events)?;
        self.resync_wanted = false;
        events.push(Event::ResyncEnd);
        Ok(events)
    }

    /// Pushes what was announced since the last call to `events`, without waiting, and behind it a dump when one is
    /// due. At most some ten thousand announcements are read at once: the descriptor stays readable when there are more.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Receive`], or what [`Monitor::dump`] reports; the dump is then tried again by a later call. What
    /// was pushed before stays valid.
    pub fn poll_events(&mut self, events: &mut Vec<Event>) -> Result<Polled, NetlinkError> {
        let mut polled = Polled::default();
        for _ in 0..DATAGRAMS_PER_POLL {
            match self.announcements.receive() {
                Ok(Received::Datagram(datagram)) => {
                    self.undecodable += decode_datagram(datagram, events);
                }
                Ok(Received::Lost) => {
                    self.overruns += 1;
                    self.resync_wanted = true;
                    polled.overrun = true;
                }
                Ok(Received::Nothing) => break,
                Err(error) => return Err(NetlinkError::Receive(error)),
            }
        }
        if self.resync_due() == Some(Duration::ZERO) {
            events.append(&mut self.dump()?);
            polled.resynced = true;
        }
        Ok(polled)
    }

    /// Has one of the next [`Monitor::poll_events`] dump everything: the answer to
    /// [`Change::NeedResync`](flowhop_routing::Change::NeedResync).
    pub fn request_resync(&mut self) {
        self.resync_wanted = true;
    }

    /// How long until [`Monitor::poll_events`] should be called for a pending dump, or `None` when none is pending.
    #[must_use]
    pub fn resync_due(&self) -> Option<Duration> {
        let since = self.last_dump.map(|last| last.elapsed());
        let wait = since.map_or(Duration::ZERO, |since| self.options.resync_interval.saturating_sub(since));
        self.resync_wanted.then_some(wait)
    }

    /// Has the kernel resolve a neighbour; what comes of it is announced. With an entry that is resolved already this is
    /// [`Monitor::confirm`]; one that failed is tried again.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Refused`] (`ENODEV`, `EPERM`, …), [`NetlinkError::Request`] or [`NetlinkError::Timeout`].
    pub fn resolve(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.requests.use_neighbour(ifindex, address)
    }

    /// Tells the kernel that a stale neighbour is in use. It goes on being used; some seconds later the kernel asks it
    /// for a sign of life and announces what came of it.
    ///
    /// # Errors
    ///
    /// As [`Monitor::resolve`].
    pub fn confirm(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.requests.use_neighbour(ifindex, address)
    }

    /// The link with this name, with its kind and state, as it is now.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::NoSuchLink`], [`NetlinkError::Refused`], [`NetlinkError::Request`] or [`NetlinkError::Timeout`].
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let link = self.requests.link(name)?;
        link.ok_or_else(|| NetlinkError::NoSuchLink(name.to_owned()))
    }

    /// The interface index of the link with this name.
    ///
    /// # Errors
    ///
    /// As [`Monitor::link`].
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        Ok(self.link(name)?.ifindex)
    }

    /// Sets a link administratively up or down.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Refused`] (`ENODEV`, `EPERM`, …), [`NetlinkError::Request`] or [`NetlinkError::Timeout`].
    pub fn set_link_up(&mut self, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
        self.requests.set_link_up(ifindex, up)
    }

    /// How often announcements were lost.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// How many messages of the kernel were not understood.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The receive buffer for announcements that the kernel gave, in bytes of its own accounting.
    #[must_use]
    pub fn event_buffer(&self) -> usize {
        self.event_buffer
    }
}

impl AsRawFd for Monitor {
    /// The non-blocking descriptor to poll for announcements.
    fn as_raw_fd(&self) -> RawFd {
        self.announcements.as_raw_fd()
    }
}

impl AsFd for Monitor {
    /// The non-blocking descriptor to poll for announcements.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.announcements.as_fd()
    }
}

/// Pushes the events that a datagram of the kernel's announces; returns how many messages were not understood.
pub fn decode_datagram(datagram: &[u8], events: &mut Vec<Event>) -> u64 {
    let mut undecodable = 0;
    for message in messages(datagram) {
        match decode::decode(&message) {
            Ok(event) => events.extend(event),
            Err(_) => undecodable += 1,
        }
    }
    undecodable
}

#[cfg(test)]
mod tests;
