//! Words of shared memory that several cores, and a process beside the kernel, read and write at once.
//!
//! Every access is one whole machine word, never torn and never invented by the compiler. On the host these
//! are the standard atomics. In a kernel program loads and stores are volatile: the BPF back end of older
//! toolchains and kernels (before 6.15) has no acquire loads, and on x86-64 program order of volatile
//! accesses is all that acquire and release ask for (loads are not reordered with loads, nor stores with
//! stores). Kernels on machines with weaker ordering need 6.15 and `load_acquire`.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A 32-bit word in shared memory.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Cell32(#[cfg(not(target_arch = "bpf"))] AtomicU32, #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<u32>);

/// A 64-bit word in shared memory.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Cell64(#[cfg(not(target_arch = "bpf"))] AtomicU64, #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<u64>);

#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::{AtomicU32, AtomicU64, Cell32, Cell64, Ordering};

    impl Cell32 {
        /// A word with a first value.
        #[must_use]
        pub const fn new(value: u32) -> Self {
            Self(AtomicU32::new(value))
        }

        /// Reads the word; what was written before the value was stored is visible afterwards (acquire).
        #[inline(always)]
        pub fn load(&self) -> u32 {
            self.0.load(Ordering::Acquire)
        }

        /// Writes the word; what was written before is visible to whoever loads this value (release).
        #[inline(always)]
        pub fn store(&self, value: u32) {
            self.0.store(value, Ordering::Release);
        }
    }

    impl Cell64 {
        /// A word with a first value.
        #[must_use]
        pub const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        /// Reads the word; what was written before the value was stored is visible afterwards (acquire).
        #[inline(always)]
        pub fn load(&self) -> u64 {
            self.0.load(Ordering::Acquire)
        }

        /// Writes the word; what was written before is visible to whoever loads this value (release).
        #[inline(always)]
        pub fn store(&self, value: u64) {
            self.0.store(value, Ordering::Release);
        }

        /// Adds, wrapping, and returns what was there before. A full barrier.
        #[inline(always)]
        pub fn add(&self, value: u64) -> u64 {
            self.0.fetch_add(value, Ordering::SeqCst)
        }

        /// Replaces `current` by `new` and tells whether it did. A full barrier.
        #[inline(always)]
        pub fn replace(&self, current: u64, new: u64) -> bool {
            self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        }
    }
}

#[cfg(target_arch = "bpf")]
mod kernel {
    use super::{Cell32, Cell64};
    use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
    use core::ptr::{read_volatile, write_volatile};

    // SAFETY: every access below is a single aligned machine word, which the architecture keeps whole.
    unsafe impl Sync for Cell32 {}
    // SAFETY: as above.
    unsafe impl Sync for Cell64 {}

    impl Cell32 {
        /// Reads the word.
        #[inline(always)]
        pub fn load(&self) -> u32 {
            // SAFETY: the pointer comes from a live reference; other writers store whole words.
            unsafe { read_volatile(self.0.get()) }
        }

        /// Writes the word.
        #[inline(always)]
        pub fn store(&self, value: u32) {
            // SAFETY: as in `load`.
            unsafe { write_volatile(self.0.get(), value) }
        }
    }

    impl Cell64 {
        /// A word of zero.
        pub const ZERO: Self = Self(core::cell::UnsafeCell::new(0));

        /// Reads the word.
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: the pointer comes from a live reference; other writers store whole words.
            unsafe { read_volatile(self.0.get()) }
        }

        /// Writes the word.
        #[inline(always)]
        pub fn store(&self, value: u64) {
            // SAFETY: as in `load`.
            unsafe { write_volatile(self.0.get(), value) }
        }

        /// Adds, wrapping, and returns what was there before. A full barrier.
        #[inline(always)]
        pub fn add(&self, value: u64) -> u64 {
            // SAFETY: as in `load`; the instruction is atomic for every core and for the process beside.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0.get(), value) }
        }

        /// Replaces `current` by `new` and tells whether it did. A full barrier.
        #[inline(always)]
        pub fn replace(&self, current: u64, new: u64) -> bool {
            // SAFETY: as in `add`.
            unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(self.0.get(), current, new)
                    .1
            }
        }
    }
}
