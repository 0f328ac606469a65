//! Datagrams with numbers in them: what came, what did not, what came twice or late.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{Bed, LabError, Tried};

/// Bytes of a datagram's payload.
const SIZE: usize = 64;
/// The sender wakes this often.
const TICK: Duration = Duration::from_millis(1);
/// A sender that was held up makes good at most this many datagrams in one tick.
const BURST: u64 = 64;
/// The receiver ends this long after the sender.
const QUIET: Duration = Duration::from_millis(250);
/// Wanted for datagrams that wait for the receiver.
const BUFFER: usize = 32 << 20;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Different numbers received.
    pub received: u64,
    /// Received again.
    pub twice: u64,
    /// Received after a higher number.
    pub late: u64,
    /// Arrived at the receiving host and found its socket full.
    pub overrun: u64,
    /// Who sent them, as the receiver saw it.
    pub source: Option<SocketAddr>,
}

impl Tally {
    /// Lost between the hosts.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.sent.saturating_sub(self.received + self.overrun)
    }
}

/// Both ends of a stream of numbered datagrams.
#[derive(Debug)]
pub struct Numbered {
    /// The inside host's end.
    pub sender: Arc<UdpSocket>,
    receiver: Arc<UdpSocket>,
}

impl Numbered {
    /// Opens both ends, from the inside host to the outside host.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(bed: &Bed, to: IpAddr) -> Result<Self, LabError> {
        let receiver = bed.outside.enter(|| UdpSocket::bind((to, 0)))?.tried("a receiver")?;
        let address = receiver.local_addr().tried("a receiver")?;
        if setsockopt(&receiver, sockopt::RcvBufForce, &BUFFER).is_err() {
            // Without privileges, as much as the system allows.
            setsockopt(&receiver, sockopt::RcvBuf, &BUFFER).tried("a receive buffer")?;
        }
        receiver.set_read_timeout(Some(Duration::from_millis(20))).tried("a receiver")?;
        let sender = bed.inside.enter(|| UdpSocket::bind((super::any(to), 0)))?.tried("a sender")?;
        sender.connect(address).tried("a sender")?;
        Ok(Self { sender: Arc::new(sender), receiver: Arc::new(receiver) })
    }

    /// Sends that many at that rate in a second and says what came.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn run(&self, count: u64, rate: u32) -> Result<Tally, LabError> {
        let done = Arc::new(AtomicBool::new(false));
        let receiving = {
            let (socket, done) = (Arc::clone(&self.receiver), Arc::clone(&done));
            thread::spawn(move || receive(&socket, count, &done))
        };
        let sent = send(&self.sender, count, rate);
        done.store(true, Ordering::Release);
        let tally = receiving.join().map_err(|_| LabError::Thread("receiver"))?;
        Ok(Tally { sent: sent.tried("send numbered datagrams")?, ..tally })
    }
}

fn send(socket: &UdpSocket, count: u64, rate: u32) -> io::Result<u64> {
    let start = Instant::now();
    let limit = Duration::from_secs(5 + 2 * count / u64::from(rate.max(1)));
    let mut payload = [0; SIZE];
    let mut sent = 0;
    while sent < count && start.elapsed() < limit {
        let due = (start.elapsed().as_micros() as u64 * u64::from(rate) / 1_000_000 + 1).min(count).min(sent + BURST);
        while sent < due {
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                // An ICMP error that an earlier one got; this one was not sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                Err(error) => return Err(error),
            }
        }
        thread::sleep(TICK);
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, count: u64, done: &AtomicBool) -> Tally {
    let mut tally = Tally { sent: 0, received: 0, twice: 0, late: 0, overrun: 0, source: None };
    let mut seen = vec![false; usize::try_from(count).unwrap_or(0)];
    let before = dropped(socket);
    let mut highest = 0;
    let mut last = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        if let Ok((SIZE, from)) = socket.recv_from(&mut buffer) {
            last = Instant::now();
            let number = buffer.first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
            tally.source = Some(from);
            match usize::try_from(number).ok().and_then(|number| seen.get_mut(number)) {
                Some(seen) if !*seen => {
                    *seen = true;
                    tally.received += 1;
                    tally.late += u64::from(number < highest);
                    highest = highest.max(number);
                }
                _ => tally.twice += 1,
            }
        } else if done.load(Ordering::Acquire) && last.elapsed() > QUIET {
            tally.overrun = dropped(socket).saturating_sub(before);
            return tally;
        }
    }
}

/// What found the socket full, ever since it was opened.
fn dropped(socket: &UdpSocket) -> u64 {
    /// `SO_MEMINFO` of `linux/socket.h`, and the place of its last value, `SK_MEMINFO_DROPS`.
    const MEMINFO: (libc::c_int, usize) = (55, 8);
    let mut values = [0u32; MEMINFO.1 + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `values`.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, MEMINFO.0, values.as_mut_ptr().cast(), &raw mut length);
    }
    u64::from(values[MEMINFO.1])
}
