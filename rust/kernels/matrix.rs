//! Memory that the kernels own: aligned buffers, and weights packed for the product's tile.

/// A cache line, and a vector of the widest lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// # Safety
/// Any bits are a value, and none of them is padding.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// Numbers on a 64-byte boundary. It grows and keeps what it grew to.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// `len` zeros of a type.
    pub(super) fn zeros<T: Plain>(len: usize) -> Self {
        Self { lines: vec![Line([0; 64]); (len * size_of::<T>()).div_ceil(64)] }
    }

    /// The first `len` values, whatever they hold.
    pub(super) fn grown<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        &mut self.as_mut_slice()[..len]
    }

    pub(super) fn as_slice<T: Plain>(&self) -> &[T] {
        let len = self.bytes() / size_of::<T>();
        // SAFETY: the lines are 64 bytes each without padding, aligned for any T, whose bits may be any; and the slice
        // borrows the vector.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), len) }
    }

    pub(super) fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        let len = self.bytes() / size_of::<T>();
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * 64
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

    /// What the packed weights take.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    pub(super) fn data(&self) -> &[f32] {
        self.data.as_slice()
    }
}
