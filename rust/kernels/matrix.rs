//! Memory that the kernels own: aligned buffers, and weights packed for the product's tile.

use std::ops::Range;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

/// A cache line, and a vector of the widest lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

mod plain {
    /// Numbers, of which any bits are a value and none is padding. Sealed: nothing else can be one.
    pub trait Plain: Copy {}
    impl Plain for i8 {}
    impl Plain for u8 {}
    impl Plain for u16 {}
    impl Plain for f32 {}
}
pub(super) use plain::Plain;

/// What is larger than this is mapped by itself, and asks for huge pages: a wave reads all weights once, and with pages of
/// 4 KB most of its misses are of the translation too. Measured on 12 layers' weights in turn: 2 to 4 hundredths of the
/// peak, more on a busy machine.
const MAPPED_BYTES: usize = 1 << 20;

/// Numbers on a 64-byte boundary. It grows and keeps what it grew to.
pub(super) struct Buffer {
    memory: Memory,
}

enum Memory {
    Heap(Vec<Line>),
    Map(MmapMut),
    /// Part of a file.
    File(Arc<Mmap>, Range<usize>),
}

impl Default for Buffer {
    fn default() -> Self {
        Self { memory: Memory::Heap(Vec::new()) }
    }
}

impl Buffer {
    /// `len` zeros of a type.
    pub(super) fn zeros<T: Plain>(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if lines * 64 >= MAPPED_BYTES
            && let Ok(map) = MmapMut::map_anon(lines * 64)
        {
            // Advice only: where a system declines, pages are small and nothing is wrong.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Self { memory: Memory::Map(map) };
        }
        Self { memory: Memory::Heap(vec![Line([0; 64]); lines]) }
    }

    /// What lies in a file, read where it lies. None where it doesn't lie on a 4-byte boundary, or past the end.
    pub(super) fn file(map: Arc<Mmap>, bytes: Range<usize>) -> Option<Self> {
        let start = map.get(bytes.clone())?.as_ptr();
        start.cast::<f32>().is_aligned().then_some(Self { memory: Memory::File(map, bytes) })
    }

    /// The first `len` values, whatever they hold.
    pub(super) fn grown<T: Plain>(&mut self, len: usize) -> &mut [T] {
        if self.bytes() < len * size_of::<T>() {
            *self = Self::zeros::<T>(len);
        }
        &mut self.as_mut_slice()[..len]
    }

    pub(super) fn as_slice<T: Plain>(&self) -> &[T] {
        let start: *const u8 = match &self.memory {
            Memory::Heap(lines) => lines.as_ptr().cast(),
            Memory::Map(map) => map.as_ptr(),
            Memory::File(map, bytes) => map[bytes.clone()].as_ptr(),
        };
        // SAFETY: these are the buffer's own bytes, on a line's, a page's or (as `file` checks) an f32's boundary, which is any Plain's; their bits may be
        // any; and the slice borrows the buffer.
        unsafe { std::slice::from_raw_parts(start.cast(), self.bytes() / size_of::<T>()) }
    }

    pub(super) fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        if let Memory::File(..) = self.memory {
            // Files are read only: from here on it is a copy.
            let mut own = Self::zeros::<u8>(self.bytes());
            own.as_mut_slice::<u8>()[..self.bytes()].copy_from_slice(self.as_slice());
            *self = own;
        }
        let len = self.bytes() / size_of::<T>();
        let start: *mut u8 = match &mut self.memory {
            Memory::Heap(lines) => lines.as_mut_ptr().cast(),
            Memory::Map(map) => map.as_mut_ptr(),
            Memory::File(..) => unreachable!("just copied"),
        };
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.memory {
            Memory::Heap(lines) => lines.len() * 64,
            Memory::Map(map) => map.len(),
            Memory::File(_, bytes) => bytes.len(),
        }
    }
}

/// A linear layer's weights, packed once for one instruction set's tile.
pub struct PackedMatrix {
    /// [n / panel, k, panel]: the weights of `panel` outputs side by side; zeros after output n.
    data: Buffer,
    n: usize,
    k: usize,
    panel: usize,
}

impl PackedMatrix {
    /// `fill(row, out)` writes the k weights of output `row`, for every row below n, in order.
    pub(super) fn new(n: usize, k: usize, panel: usize, mut fill: impl FnMut(usize, &mut [f32])) -> Self {
        let mut data = Buffer::zeros::<f32>(n.div_ceil(panel) * panel * k);
        let packed = data.as_mut_slice::<f32>();
        let mut row = vec![0.0; k];
        for output in 0..n {
            fill(output, &mut row);
            let start = output / panel * panel * k + output % panel;
            for (p, &weight) in row.iter().enumerate() {
                packed[start + p * panel] = weight;
            }
        }
        Self { data, n, k, panel }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Outputs in a panel: what column ranges must be multiples of.
    pub fn panel(&self) -> usize {
        self.panel
    }

    /// Packed before, by `as_bytes`, for the same panel. None where the size is not that of the shape.
    pub(super) fn restored(data: Buffer, n: usize, k: usize, panel: usize) -> Option<Self> {
        let size = n.div_ceil(panel) * panel * k * size_of::<f32>();
        (data.bytes() >= size && data.bytes() < size + 64).then_some(Self { data, n, k, panel })
    }

    /// The packed weights, as they lie.
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    pub(super) fn data(&self) -> &[f32] {
        self.data.as_slice()
    }
}
