//! The CPU kernels: slices in, slices out. f32 ([`Kernels`]), and products in narrower formats ([`NarrowKernels`]).
//!
//! Each algorithm is written once, over a vector trait (`lanes.rs`); an instruction set's file holds its vector and nothing
//! else. What runs is chosen when the process starts, by what the CPU has. An element's value depends on its own row (or
//! sequence) alone, to the bit: not on the rows beside it, nor on how a caller cuts rows or columns among threads.
//!
//! Shapes are written [rows, columns], row-major. A slice too short for its shape panics: that is a caller's bug.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_formats;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_formats;
mod cls;
mod crew;
mod format;
mod gemm;
pub mod gpu;
mod lanes;
mod math;
mod matrix;
mod narrow;
mod narrow_kernels;
mod narrow_product;
#[cfg(test)]
mod narrow_tests;
mod norm;
mod peak;
mod place;
mod portable;
mod portable_formats;
mod product;
mod quantize;
#[cfg(test)]
mod scalar;
mod softmax;
#[cfg(test)]
mod tests;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // AMX alone has tiles
mod tile_attention;
#[cfg(test)]
mod tile_tests;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tiles;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use memmap2::Mmap;

pub use attention::AttentionScratch;
pub use crew::Crew;
pub use format::Precision;
pub use math::Activation;
pub use matrix::PackedMatrix;
pub use narrow::{Inputs, NarrowMatrix};
pub use narrow_kernels::NarrowKernels;
pub use quantize::NarrowInputs;

use gemm::GemmProduct;
use lanes::{Kernel, Lanes};
use matrix::Buffer;
use place::Place;
use portable::Portable;
use product::{Panels, Product, Start};

/// An instruction set; the better ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Isa {
    /// What every machine of the architecture has.
    Scalar,
    /// The same, but for linear layers' products in f32, which are the gemm crate's.
    Gemm,
    /// With FMA.
    Avx2,
    Avx512,
    /// AVX-512, and AMX for products in narrow formats. Of f32 there is none.
    Amx,
}

impl Isa {
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Gemm => "gemm",
            Isa::Avx2 => "avx2",
            // The same panels: what was packed for one is read by the other.
            Isa::Avx512 | Isa::Amx => "avx512",
        }
    }
}

/// The kernels of one instruction set. Holding one proves that the CPU has it.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
}

/// How a model computes: its linear layers' products in a narrow format or in f32, all else in f32 (attention's
/// products: see [`Compute::attention`]).
#[derive(Clone, Copy, Debug)]
pub struct Compute {
    pub kernels: Kernels,
    pub narrow: Option<NarrowKernels>,
}

impl Compute {
    /// Whether packing has a use for what is known of inputs.
    pub fn assumes(&self) -> bool {
        self.narrow.is_some_and(|narrow| narrow.precision() == Precision::Int8)
    }

    /// Self-attention within each packed sequence. qkv is [tokens, 3 * heads * head_dim] (q, k, v; heads in order inside
    /// each), with 1 / sqrt(head_dim) already in q; sequence s is the tokens cu_seqlens[s]..cu_seqlens[s + 1]; out is
    /// [tokens, heads * head_dim]. In bf16, on tiles, where the linear layers are on them and the heads suit.
    pub fn attention(
        &self,
        qkv: &[f32],
        cu_seqlens: &[u32],
        heads: usize,
        head_dim: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let tiles = self.narrow.filter(|narrow| narrow.attends(head_dim));
        let width = heads * head_dim;
        assert!(width > 0 && qkv.len() == 3 * out.len(), "qkv is not three times out");
        let tokens = out.len() / width;
        check_sequences(cu_seqlens, tokens);
        let out = Place::new(out, tokens, width, width);
        let scratch = Mutex::new(scratch);
        crew::split(heads, 1, |these| {
            // SAFETY: `split` gives each head to one part.
            let out = unsafe { out.share(these.start * head_dim..these.end * head_dim) };
            attention::with_scratch(&scratch, |scratch| {
                let part = attention::Attention { qkv, cu_seqlens, heads, head_dim, these, out, scratch };
                match tiles {
                    Some(narrow) => narrow.attention(part),
                    None => self.kernels.run(part),
                }
            });
        });
    }

    /// As it is, but in f32 throughout.
    pub fn full(self) -> Self {
        Self { narrow: None, ..self }
    }
}

impl Kernels {
    /// The best that this machine has.
    pub fn detect() -> Self {
        let rest = if cfg!(target_arch = "aarch64") { Isa::Gemm } else { Isa::Scalar };
        Self::new(Isa::Avx512).or_else(|| Self::new(Isa::Avx2)).unwrap_or(Self { isa: rest })
    }

    /// None where the machine lacks it.
    pub fn new(isa: Isa) -> Option<Self> {
        let has = match isa {
            Isa::Scalar | Isa::Gemm => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::new().is_some(),
            _ => false,
        };
        has.then_some(Self { isa })
    }

    /// All that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        [Isa::Scalar, Isa::Gemm, Isa::Avx2, Isa::Avx512].into_iter().filter_map(Self::new).collect()
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn name(&self) -> &'static str {
        self.isa.name()
    }

    fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        match self.isa {
            // SAFETY (both): a Kernels of this instruction set is made by `new` alone, where the CPU has it.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::Avx512::assume() }.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::Avx2::assume() }.run(kernel),
            _ => Portable {}.run(kernel),
        }
    }

    /// Columns in a panel of a [`PackedMatrix`].
    fn panel(&self) -> usize {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::PANEL,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::PANEL,
            Isa::Gemm => gemm::PANEL,
            _ => Portable::PANEL,
        }
    }

    /// Packs a layer's weights, [n, k] (outputs by inputs), as checkpoints have them.
    pub fn pack(&self, weight: &[f32], n: usize, k: usize) -> PackedMatrix {
        assert_eq!(weight.len(), n * k, "weight is not [{n}, {k}]");
        self.pack_with(n, k, |row, out| out.copy_from_slice(&weight[row * k..(row + 1) * k]))
    }

    /// Packs weights that `fill(row, out)` writes, k values for each output row of n, in order: rows stacked from several
    /// matrices, scaled, or converted, without a whole copy.
    pub fn pack_with(&self, n: usize, k: usize, fill: impl FnMut(usize, &mut [f32])) -> PackedMatrix {
        PackedMatrix::new(n, k, self.panel(), fill)
    }

    /// A matrix that was packed before by these kernels and saved: where it lies in a file. None where its size is not the
    /// shape's.
    pub fn restore(&self, n: usize, k: usize, map: Arc<Mmap>, bytes: Range<usize>) -> Option<PackedMatrix> {
        PackedMatrix::restored(Buffer::file(map, bytes)?, n, k, self.panel())
    }

    /// out[r] = activation(x[r] . W^T + bias). x is [rows, k] with row stride `ldx`, out [rows, n] with row stride `ldo`,
    /// bias [n] (or empty: none).
    #[allow(clippy::too_many_arguments)] // a product's operands, as BLAS has them
    pub fn linear(
        &self,
        x: &[f32],
        ldx: usize,
        rows: usize,
        w: &PackedMatrix,
        bias: &[f32],
        activation: Activation,
        out: &mut [f32],
        ldo: usize,
    ) {
        let out = Place::new(out, rows, w.n(), ldo);
        crew::split(w.n(), w.panel(), |columns| {
            // SAFETY: `split` gives each column to one part.
            let out = unsafe { out.share(columns.clone()) };
            self.product(x, ldx, rows, w, bias, activation, columns, out);
        });
    }

    /// `linear` for some of the outputs alone: bias is still [n]; out holds these columns, [rows, columns.len()] with row
    /// stride `ldo`. `columns` begins at a multiple of [`PackedMatrix::panel`].
    #[allow(clippy::too_many_arguments)]
    pub fn linear_columns(
        &self,
        x: &[f32],
        ldx: usize,
        rows: usize,
        w: &PackedMatrix,
        bias: &[f32],
        activation: Activation,
        columns: Range<usize>,
        out: &mut [f32],
        ldo: usize,
    ) {
        let out = Place::new(out, rows, columns.len(), ldo);
        self.product(x, ldx, rows, w, bias, activation, columns, out);
    }

    #[allow(clippy::too_many_arguments)]
    fn product(
        &self,
        x: &[f32],
        ldx: usize,
        rows: usize,
        w: &PackedMatrix,
        bias: &[f32],
        activation: Activation,
        columns: Range<usize>,
        out: Place,
    ) {
        assert_eq!(w.panel(), self.panel(), "the weights were packed for another instruction set");
        if self.isa == Isa::Gemm {
            return self.run(GemmProduct { x, ldx, rows, w, bias, activation, columns, out });
        }
        let right = Panels::packed(w.data(), w.k(), w.n(), w.panel());
        let start = if bias.is_empty() { Start::Zero } else { Start::Bias(bias) };
        self.run(Product { x, ldx, rows, right, columns, start, activation, out });
    }

    /// x = activation(x), elementwise.
    pub fn activate(&self, x: &mut [f32], activation: Activation) {
        let width = x.len();
        self.run(math::Activate { x: Place::new(x, 1, width, width), activation });
    }

    /// x[r] = LayerNorm(x[r] + residual[r]) * gamma + beta; x and residual are [rows, width].
    pub fn add_layer_norm(
        &self,
        x: &mut [f32],
        residual: &[f32],
        width: usize,
        gamma: &[f32],
        beta: &[f32],
        eps: f32,
    ) {
        assert_eq!(x.len(), residual.len(), "x and residual differ in shape");
        assert_eq!(x.len() % width, 0, "x is not [rows, {width}]");
        self.run(norm::LayerNorm { x, residual: Some(residual), width, gamma, beta, eps });
    }

    /// x[r] = LayerNorm(x[r]) * gamma + beta; x is [rows, width].
    pub fn layer_norm(&self, x: &mut [f32], width: usize, gamma: &[f32], beta: &[f32], eps: f32) {
        assert_eq!(x.len() % width, 0, "x is not [rows, {width}]");
        self.run(norm::LayerNorm { x, residual: None, width, gamma, beta, eps });
    }

    /// The softmax of each row of x, [rows, width], in place.
    pub fn softmax(&self, x: &mut [f32], width: usize) {
        assert_eq!(x.len() % width, 0, "x is not [rows, {width}]");
        self.run(softmax::Softmax { x, width });
    }

    /// The last layer's attention for each sequence's first row alone, K and V never formed. x is [tokens, width], width =
    /// heads * head_dim; q [sequences, width], scaled, from the CLS rows; w_k and w_v [width, width] (outputs by inputs),
    /// v_bias [width]. K's bias drops out of the softmax. out is [sequences, width].
    #[allow(clippy::too_many_arguments)]
    pub fn cls_attention(
        &self,
        x: &[f32],
        cu_seqlens: &[u32],
        q: &[f32],
        w_k: &[f32],
        w_v: &[f32],
        v_bias: &[f32],
        heads: usize,
        head_dim: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let width = heads * head_dim;
        assert!(
            width > 0 && w_k.len() == width * width && w_v.len() == width * width && v_bias.len() == width
        );
        check_sequences(cu_seqlens, x.len() / width);
        assert!(
            q.len() == out.len() && q.len() == (cu_seqlens.len() - 1) * width,
            "q is not [sequences, width]"
        );
        self.run(cls::ClsAttention { x, cu_seqlens, q, w_k, w_v, v_bias, heads, head_dim, out, scratch });
    }

    /// Multiply-adds that never leave the registers, `rounds` of them over: the floating-point operations done, and a value
    /// to keep. Their rate is the peak that benches/kernels.rs measures against.
    pub fn peak(&self, rounds: usize) -> (u64, f32) {
        self.run(peak::Peak { rounds })
    }
}

/// A batch's sequences follow one another, from token 0, within `tokens`.
fn check_sequences(cu_seqlens: &[u32], tokens: usize) {
    assert!(!cu_seqlens.is_empty() && cu_seqlens.is_sorted(), "cu_seqlens does not ascend");
    assert!(cu_seqlens[cu_seqlens.len() - 1] as usize <= tokens, "cu_seqlens ends after the tokens");
}
