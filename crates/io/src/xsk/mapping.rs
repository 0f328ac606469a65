//! Memory that is shared with the kernel, mapped for as long as it is owned.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};

/// A mapping that is readable and writable.
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned, and no thread is special to it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed memory of this process.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// What a file has at `offset`.
    pub(super) fn of(file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd(), offset)
    }

    fn map(bytes: usize, flags: libc::c_int, file: libc::c_int, offset: u64) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, file, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { base, bytes })
    }

    /// Its length in bytes.
    pub(super) const fn len(&self) -> usize {
        self.bytes
    }

    /// Where it begins: page-aligned, valid for reading and writing [`len`](Self::len) bytes while `self` lives.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of `count` values at `offset`; `None` unless they are inside and aligned.
    pub(super) fn at<T>(&self, offset: u64, count: usize) -> Option<NonNull<T>> {
        let offset = usize::try_from(offset).ok()?;
        let end = count.checked_mul(size_of::<T>())?.checked_add(offset)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: the offset is inside of the mapping.
        let address = unsafe { self.base.add(offset) }.cast::<T>();
        address.is_aligned().then_some(address)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and its owner uses it no more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
