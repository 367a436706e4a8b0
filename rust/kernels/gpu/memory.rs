//! Memory of a GPU, freed with its owner; and parts of it, with how many elements they have.

use std::sync::Arc;

use super::Precision;
use super::driver::{Driver, Outcome};

/// Where the elements of a part begin: at a multiple of as many bytes, which the widest reads of the kernels need.
const ALIGN: usize = 256;

/// One allocation.
pub struct Buffer {
    driver: Arc<dyn Driver>,
    at: u64,
    bytes: usize,
}

/// A part of a buffer: elements of one precision. It does not keep its buffer alive: whoever makes one has the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    at: u64,
    len: usize,
    precision: Precision,
}

impl Buffer {
    pub(super) fn new(driver: Arc<dyn Driver>, bytes: usize) -> Outcome<Self> {
        let at = driver.alloc(bytes)?;
        Ok(Self { driver, at, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// All of it.
    pub fn slice(&self, precision: Precision) -> Slice {
        Slice { at: self.at, len: self.bytes / precision.size(), precision }
    }

    /// Cuts it into parts, one after another.
    pub fn cutter(&self) -> Cutter<'_> {
        Cutter { buffer: self, next: 0 }
    }

    /// The bytes that parts of these sizes take.
    pub fn room(parts: &[usize]) -> usize {
        parts.iter().map(|bytes| bytes.next_multiple_of(ALIGN)).sum()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and freed here alone. No work uses it any more: a queue waits for its own when it is
        // dropped, an arena drops its queue first, and weights are dropped after all arenas.
        unsafe { self.driver.free(self.at, self.bytes) }
    }
}

/// See [`Buffer::cutter`].
pub struct Cutter<'a> {
    buffer: &'a Buffer,
    next: usize,
}

impl Cutter<'_> {
    pub fn cut(&mut self, len: usize, precision: Precision) -> Slice {
        let at = self.next;
        self.next += (len * precision.size()).next_multiple_of(ALIGN);
        assert!(self.next <= self.buffer.bytes, "a buffer of {} bytes is too short", self.buffer.bytes);
        Slice { at: self.buffer.at + at as u64, len, precision }
    }
}

impl Slice {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Elements from `start` on, `len` of them.
    pub fn part(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part of {len} from {start} on, of {}", self.len);
        Self { at: self.at + (start * self.precision.size()) as u64, len, precision: self.precision }
    }
}
