//! As many small datagrams as one thread can send.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::lab::{Bed, LabError, Tried};

/// Bytes of payload.
const PAYLOAD: [u8; 18] = [0x5a; 18];
/// Datagrams between two looks at the clock.
const BATCH: u32 = 256;

/// Sends small datagrams of one flow for a while; how many a second came to the outside host's device.
///
/// # Errors
/// When the system refuses.
pub fn blast(bed: &Bed, to: IpAddr, time: Duration) -> Result<f64, LabError> {
    // Nobody reads from it: its buffer fills and the rest is dropped there, which costs least.
    let sink = bed.outside.enter(|| UdpSocket::bind((to, 0)))?.tried("a receiver")?;
    let address = sink.local_addr().tried("a receiver")?;
    let sender = bed.inside.enter(|| UdpSocket::bind((super::any(to), 0)))?.tried("a sender")?;
    sender.connect(address).tried("a sender")?;
    // The first one makes the connection.
    sender.send(&PAYLOAD).tried("send datagrams")?;
    std::thread::sleep(Duration::from_millis(20));
    let (before, _) = bed.outside.device_packets("eth0")?;
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..BATCH {
            // Full buffers on the way are what this is about.
            let _full = sender.send(&PAYLOAD);
        }
    }
    let took = start.elapsed();
    let (after, _) = bed.outside.device_packets("eth0")?;
    Ok((after - before) as f64 / took.as_secs_f64())
}
