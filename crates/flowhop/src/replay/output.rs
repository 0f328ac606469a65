//! Writing captures: pcap, of Ethernet frames.

use std::io::{self, Write};

/// A capture that is being written.
#[derive(Debug)]
pub struct Output<W: Write> {
    out: W,
    fine: bool,
}

/// Longest packet that is ever written.
const SNAP: u32 = 1 << 20;

impl<W: Write> Output<W> {
    /// Begins a capture, with times in nanoseconds (`fine`) or microseconds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut out: W, fine: bool) -> io::Result<Self> {
        let magic: u32 = if fine { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        for word in [magic, 2 | 4 << 16, 0, 0, SNAP, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out, fine })
    }

    /// Adds a frame. Times beyond the year 2106 do not fit and are cut.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, nanos: u64, frame: &[u8]) -> io::Result<()> {
        let (seconds, fraction) = ((nanos / 1_000_000_000) as u32, (nanos % 1_000_000_000) as u32);
        let fraction = if self.fine { fraction } else { fraction / 1000 };
        for word in [seconds, fraction, frame.len() as u32, frame.len() as u32] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes what is still buffered and gives the writer back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}
