//! The rings of an AF_XDP socket: queues with one producer and one consumer, one of them the kernel.
//!
//! # Rules
//!
//! Both indices count up without end and wrap around at 2³²; an entry's place is the index modulo the ring's size. Each
//! index has one writer. The producer writes entries, then its index with *release*; the consumer reads that index with
//! *acquire*, then the entries, then writes its own index with *release*, which the producer reads with *acquire*
//! before it writes over them. So each entry belongs to one side at any time.
//!
//! The kernel keeps to that: its indices are believed. An index that makes no sense could make entries lost or come
//! twice, and what they say is checked where it is used; no memory outside of the ring is touched in any case.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::net::xdp::{XdpRingFlags, XdpRingOffset};

use super::mapping::Mapping;

/// What both kinds of ring have in common.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Number of entries, a power of two.
    size: u32,
    /// Where all of the above points into.
    _mapping: Mapping,
}

// SAFETY: the mapping is owned, what the pointers lead to is in it, and entries are plain numbers (`Copy`) that no
// thread is special to.
unsafe impl<T: Copy + Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn new(mapping: Mapping, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::InvalidData);
        if !size.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            producer: mapping.at(offsets.producer, 1).ok_or_else(missing)?,
            consumer: mapping.at(offsets.consumer, 1).ok_or_else(missing)?,
            // Linux 5.4 has flags in the ring, and chains, which need 6.6, are asked for at the bind.
            flags: offsets.flags.and_then(|flags| mapping.at(flags, 1)).ok_or_else(missing)?,
            entries: mapping.at(offsets.desc, size as usize).ok_or_else(missing)?,
            size,
            _mapping: mapping,
        })
    }

    fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let entries = size as usize * size_of::<T>();
        let header = usize::try_from(offsets.desc).map_err(|_| io::ErrorKind::InvalidData)?;
        Self::new(Mapping::of(socket, page, header + entries)?, offsets, size)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` found the index inside of the mapping and aligned, and it is only ever accessed as an atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // What was published before must be visible to a kernel that goes to sleep now, or its flag to us.
        fence(Ordering::SeqCst);
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() }.load(Ordering::Relaxed);
        flags & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: `new` found `size` entries inside of the mapping, and the offset is below that.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }.as_ptr()
    }
}

/// A ring that entries are given to the kernel through.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Index of the next entry to write; what is before it and not published belongs to us.
    next: u32,
    /// The consumer's index as it was last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps the ring that a socket has at this page offset.
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ok(Self::new(Ring::map(socket, page, offsets, size)?))
    }

    fn new(ring: Ring<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self { ring, next, consumed }
    }

    /// Whether as many entries can be pushed.
    pub(super) fn has_room(&mut self, count: u32) -> bool {
        if self.room() < count {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
        }
        self.room() >= count
    }

    fn room(&self) -> u32 {
        self.ring.size.saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes an entry, unless the ring is full. The kernel sees it after [`publish`](Self::publish).
    pub(super) fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: the place is inside of the ring, and the consumer is done with it: there is room.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Gives all that was pushed to the kernel.
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries pushed that the kernel has not reported as taken. It may have taken more: it reports in batches, and all
    /// of them when it finds the ring empty.
    pub(super) fn waiting(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumed)
    }

    /// Whether the kernel looks at the ring only when a system call has it do so.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel gives entries through.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Index of the next entry to read.
    next: u32,
    /// The producer's index as it was last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    /// Maps the ring that a socket has at this page offset.
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ok(Self::new(Ring::map(socket, page, offsets, size)?))
    }

    fn new(ring: Ring<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        Self { ring, next, produced: next }
    }

    /// The entry this many behind the first that waits, if there are so many.
    pub(super) fn peek(&mut self, behind: u32) -> Option<T> {
        if self.produced.wrapping_sub(self.next) <= behind {
            self.produced = self.ring.producer().load(Ordering::Acquire);
        }
        if behind >= self.ring.size || self.produced.wrapping_sub(self.next) <= behind {
            return None;
        }
        // SAFETY: the place is inside of the ring, and the producer has published it (acquire) and will not touch it
        // before `advance` has passed it. Any bits are a value: entries are numbers.
        Some(unsafe { self.ring.entry(self.next.wrapping_add(behind)).read() })
    }

    /// Gives the first `count` entries that wait back to the kernel.
    pub(super) fn advance(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
        self.ring.consumer().store(self.next, Ordering::Release);
    }

    /// Number of entries that the ring has.
    pub(super) const fn size(&self) -> u32 {
        self.ring.size
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, flags: Some(128), desc: 192 };

    /// Both sides of one ring, whose indices begin at `start`.
    fn both_sides(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        // SAFETY: the name ends with a zero; the descriptor is new.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"ring".as_ptr(), 0)) };
        let bytes = 192 + size as usize * size_of::<u64>();
        std::fs::File::from(file.try_clone().unwrap()).set_len(bytes as u64).unwrap();
        let ring = || Ring::new(Mapping::of(file.as_fd(), 0, bytes).unwrap(), &OFFSETS, size).unwrap();
        ring().producer().store(start, Ordering::Relaxed);
        ring().consumer().store(start, Ordering::Relaxed);
        (Producer::new(ring()), Consumer::new(ring()))
    }

    #[test]
    fn entries_come_in_order_and_once_across_the_end_of_the_numbers() {
        let (mut producer, mut consumer) = both_sides(8, u32::MAX - 20);
        let (mut put, mut got) = (0, 0);
        for step in 0..1000u32 {
            for _ in 0..step % 11 {
                let room = producer.has_room(1);
                assert_eq!(producer.push(put), room);
                put += u64::from(room);
            }
            assert!(put - got <= 8);
            producer.publish();
            assert_eq!(u64::from(producer.waiting()), put - got);
            for _ in 0..step % 7 {
                let Some(entry) = consumer.peek(0) else { break };
                assert_eq!(entry, got);
                got += 1;
                consumer.advance(1);
            }
        }
        assert!(got > 1000 && put - got <= 8);
    }

    #[test]
    fn what_is_not_published_is_not_seen_and_what_is_peeked_at_stays() {
        let (mut producer, mut consumer) = both_sides(4, 0);
        assert!(producer.push(1) && producer.push(2));
        assert_eq!(consumer.peek(0), None);
        producer.publish();
        assert_eq!((consumer.peek(0), consumer.peek(1), consumer.peek(2)), (Some(1), Some(2), None));
        assert!(producer.has_room(2) && !producer.has_room(3));
        consumer.advance(2);
        assert!(producer.has_room(4) && !producer.has_room(5));
        assert_eq!((consumer.peek(0), consumer.peek(u32::MAX)), (None, None));
    }

    #[test]
    fn two_threads_hand_over_a_million_entries() {
        let (mut producer, mut consumer) = both_sides(64, u32::MAX - 1000);
        let sender = std::thread::spawn(move || {
            for entry in 0..1_000_000u64 {
                while !producer.push(entry) {
                    std::hint::spin_loop();
                }
                producer.publish();
            }
        });
        for expected in 0..1_000_000 {
            let entry = loop {
                if let Some(entry) = consumer.peek(0) {
                    break entry;
                }
                std::hint::spin_loop();
            };
            assert_eq!(entry, expected);
            consumer.advance(1);
        }
        sender.join().unwrap();
    }

    #[test]
    fn offsets_outside_of_the_mapping_are_refused() {
        let ring = |offsets: XdpRingOffset, size| Ring::<u64>::new(Mapping::anonymous(4096).unwrap(), &offsets, size);
        assert!(ring(OFFSETS, 256).is_ok());
        assert!(ring(OFFSETS, 512).is_err());
        assert!(ring(OFFSETS, 100).is_err(), "no power of two");
        assert!(ring(XdpRingOffset { producer: 4096, ..OFFSETS }, 8).is_err());
        assert!(ring(XdpRingOffset { consumer: u64::MAX, ..OFFSETS }, 8).is_err());
        assert!(ring(XdpRingOffset { desc: 3, ..OFFSETS }, 8).is_err(), "not aligned");
        assert!(ring(XdpRingOffset { flags: None, ..OFFSETS }, 8).is_err());
    }
}
