//! Reading and writing packet bytes in a form that the kernel's verifier can follow.

use core::arch::asm;

use flowhop_flow::shadow::HEAD;

/// Every offset that the forwarding function asks for is below this, since it reads headers only; the verifier needs
/// to see a bound.
const REACH: usize = 1024;

/// Hides from LLVM where a value comes from, so that it keeps the comparisons that the verifier wants to see.
#[inline(always)]
pub fn opaque(value: usize) -> usize {
    let mut value = value as u64;
    // SAFETY: no instruction at all; the value passes through a register unchanged.
    unsafe { asm!("/* {0} */", inout(reg) value) };
    value as usize
}

/// The address of `N` bytes at `offset` of a packet whose directly readable bytes begin at `start`; `end` reads where
/// they end, after the address is made.
#[inline(always)]
pub fn at<const N: usize>(start: u32, offset: usize, end: impl FnOnce() -> u32) -> Option<*mut [u8; N]> {
    // A mask and no comparison: a comparison whose outcome the verifier can tell makes it follow the exact value
    // of the offset through the loop over TCP options, which then has too many states.
    // An offset that LLVM knows, as those behind a header of fixed length, needs neither.
    let offset = if core::intrinsics::is_val_statically_known(offset) { offset } else { opaque(offset) & (REACH - 1) };
    let start = start as usize + offset;
    let end = end() as usize;
    // Hidden, or LLVM makes `start < end` of one byte's check, from which the verifier learns nothing.
    (opaque(start + N) <= end).then_some(start as *mut [u8; N])
}

/// A number of bytes of a packet's head, in a form that the verifier sees a bound of.
#[inline(always)]
pub fn head_of(length: u32) -> Option<u32> {
    let length = opaque(length as usize);
    (length > 0 && length <= HEAD).then_some(length as u32)
}
