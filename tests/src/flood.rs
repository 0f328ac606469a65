//! Floods: segments in the names of many, at a pace, beside what a test does meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::raw::{Packet, RawPort, Transport};
use crate::{Bed, until};

/// How long a flood may take to send what is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A segment of a flood: from, to, and what it is.
pub type Segment = (SocketAddr, SocketAddr, Transport);

/// A flood from outside, until it is dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends the segments of so many numbers a second, beginning with 0.
    pub fn start(bed: &Bed, rate: u64, segments: impl Fn(u64) -> Vec<Segment> + Send + 'static) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let wire = RawPort::open(&bed.outside, "eth0");
        let router = RawPort::open(&bed.router, "wan0").mac;
        let burst = rate / 100;
        let thread = {
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            thread::spawn(move || {
                let mut begun = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let so_far = sent.load(Ordering::Relaxed);
                    let due = begun.elapsed().as_millis() as u64 * rate / 1000;
                    if due > so_far + burst {
                        // Held up: a flood at a pace goes on, and does not make good for it by one at another pace.
                        begun = Instant::now() - Duration::from_millis((so_far + burst) * 1000 / rate);
                    }
                    for number in so_far..due.min(so_far + burst) {
                        for (source, to, transport) in segments(number) {
                            wire.send(&Packet::new((wire.mac, router), source, to, transport, &[]).build());
                        }
                        sent.store(number + 1, Ordering::Release);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        Self { sent, stop, thread: Some(thread) }
    }

    /// How many numbers' segments were sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Waits until so many were.
    pub fn wait(&self, numbers: u64) {
        until("the flood", LIMIT, || (self.sent() >= numbers).then_some(()));
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}
