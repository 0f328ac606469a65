//! Arrays of records in memory that kernel programs share.

use std::fs::OpenOptions;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use flowhop_flow::record::{Adjacency, Block, Bucket, Config, Gate, Port, PortCounters, PortMap, PortSlot};
use flowhop_table::Region;

mod sealed {
    pub trait Sealed {}
}

/// A record that may live in memory which others write at any time.
///
/// # Safety
/// The type consists of `flowhop_flow::cell` words alone, so that every access is atomic, every bit pattern is a
/// value, and all zero is the empty record. Its size is a multiple of 8, as the kernel lays out the values of an
/// array, and its alignment divides the size of a page.
pub unsafe trait Record: sealed::Sealed + Sync {}

macro_rules! records {
    ($($name:ident)*) => {$(
        impl sealed::Sealed for $name {}
        // SAFETY: made of cells alone, see `flowhop_flow::record`; size and alignment are asserted here.
        unsafe impl Record for $name {}
        const _: () = assert!(size_of::<$name>() % 8 == 0 && 4096 % align_of::<$name>() == 0);
    )*};
}

records! { Config PortSlot Port Bucket Block Adjacency Gate PortMap PortCounters }

/// An array of records: a memory-mapped BPF array, or memory of this process alone.
pub struct MappedArray<T: Record> {
    base: NonNull<T>,
    count: usize,
    bytes: usize,
}

// SAFETY: what is shared are cells, which any thread may touch (`Record: Sync`); unmapping is not bound to a thread.
unsafe impl<T: Record> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Record> Sync for MappedArray<T> {}

impl<T: Record> MappedArray<T> {
    /// Maps the `count` values of a BPF array that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What `mmap` says; `EPERM` or `ENOTSUPP` for maps that cannot be mapped.
    pub fn of_map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Self::map(count, libc::MAP_SHARED, map.as_raw_fd())
    }

    /// Zeroed memory for `count` records, fixed from the start.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn anonymous(count: usize) -> io::Result<Self> {
        Self::map(count, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1)
    }

    fn map(count: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        // SAFETY: `sysconf` has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
        let bytes = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_next_multiple_of(page));
        let bytes = bytes.filter(|bytes| *bytes != 0).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { base, count, bytes })
    }
}

impl<T: Record> Deref for MappedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds at least `count` records, page-aligned, and lives as long as `self`; any
        // contents are valid and may change at any time (`Record`).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl<T: Record> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and borrows of it have ended.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Records in a file that outlives the process: made and zeroed if need be, taken as they are otherwise.
///
/// # Errors
/// What the system says to the file or the mapping; `InvalidData` for a file of another length.
pub fn file_region<T: Record + Send + 'static>(path: &Path, count: usize) -> io::Result<Region<T>> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    let bytes = (count * size_of::<T>()) as u64;
    match file.metadata()?.len() {
        0 => file.set_len(bytes)?,
        length if length == bytes => {}
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    let array = Arc::new(MappedArray::<T>::map(count, libc::MAP_SHARED, file.as_raw_fd())?);
    let start = NonNull::from(&**array).cast();
    // SAFETY: the region keeps the mapping alive; records are made of cells, and any contents are valid.
    Ok(unsafe { Region::from_raw(start, count, array) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_empty_and_shared_between_threads() {
        let ports = MappedArray::<Port>::anonymous(300).unwrap();
        assert_eq!(ports.len(), 300);
        assert!(ports.iter().all(|port| port.ifindex.load() == 0));
        std::thread::scope(|scope| {
            scope.spawn(|| ports[299].set_mac([1, 2, 3, 4, 5, 6]));
        });
        assert_eq!(ports[299].mac(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn nothing_and_too_much_are_errors() {
        assert!(MappedArray::<Block>::anonymous(0).is_err());
        assert!(MappedArray::<Block>::anonymous(usize::MAX / 16).is_err());
    }
}
