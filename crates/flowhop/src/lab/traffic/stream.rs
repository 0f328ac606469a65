//! One TCP connection with as much as goes through it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Bed, LabError, Tried};

/// Bytes of one write or read.
const CHUNK: usize = 256 << 10;
/// How long connecting, or one read or write, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What went through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stream {
    /// Bytes that came.
    pub bytes: u64,
    /// From the first to the last.
    pub took: Duration,
    /// Everything came that was sent.
    pub whole: bool,
}

impl Stream {
    /// Gigabits in a second.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64().max(1e-9) / 1e9
    }
}

/// Sends from the inside host to the outside host for a while.
///
/// # Errors
/// When there is no connection, or it stands still.
pub fn stream(bed: &Bed, to: IpAddr, time: Duration) -> Result<Stream, LabError> {
    let listener = bed.outside.enter(|| TcpListener::bind((to, 0)))?.tried("listen")?;
    let address = listener.local_addr().tried("listen")?;
    let server = bed.outside.thread(move || receive(&listener).tried("receive a TCP stream"));
    let client = bed.inside.thread(move || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).tried(format_args!("connect to {address}"))?;
        send(stream, time).tried("send a TCP stream")
    });
    // The client's error is the cause, the server's the consequence.
    let sent = client.finish();
    let received = server.finish();
    let sent = sent?;
    let (bytes, took) = received?;
    Ok(Stream { bytes, took, whole: bytes == sent })
}

fn send(mut stream: TcpStream, time: Duration) -> io::Result<u64> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0x5a; CHUNK];
    let end = Instant::now() + time;
    let mut sent = 0;
    while Instant::now() < end {
        sent += stream.write(&chunk)? as u64;
    }
    Ok(sent)
}

fn receive(listener: &TcpListener) -> io::Result<(u64, Duration)> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut bytes = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok((bytes, start.elapsed())),
            length => bytes += length as u64,
        }
    }
}
