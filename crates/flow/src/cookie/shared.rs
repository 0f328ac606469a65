//! What is shared about SYN cookies: a layout, as those of `record`.

use crate::cell::{Cell32, Cell64};

/// What programs and the slow path share about cookies, one cache line.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Cookies {
    /// See `cookie::state`.
    pub state: Cell32,
    /// The generation, modulo `cookie::GENERATIONS`, whose secret was the last to be made.
    pub newest: Cell32,
    /// Secrets of SipHash, of generations with even and odd numbers.
    pub secrets: [[Cell64; 2]; 2],
    /// Room.
    pub unused: [Cell64; 3],
}
