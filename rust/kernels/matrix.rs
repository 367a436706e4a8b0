//! Memory that the kernels own: aligned buffers, and weights packed for the product's tile.

/// A cache line, and a vector of the widest lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

/// f32s on a 64-byte boundary. It grows and keeps what it grew to.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); len.div_ceil(16)] }
    }

    /// The first `len` values, whatever they hold.
    pub(super) fn grown(&mut self, len: usize) -> &mut [f32] {
        if self.lines.len() * 16 < len {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        &mut self.as_mut_slice()[..len]
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        // SAFETY: a Line is sixteen f32s without padding, and the slice borrows the vector.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 16) }
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
        let mut data = Buffer::zeros(n.div_ceil(panel) * panel * k);
        let packed = data.as_mut_slice();
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
        std::mem::size_of_val(self.data.as_slice())
    }

    pub(super) fn data(&self) -> &[f32] {
        self.data.as_slice()
    }
}
