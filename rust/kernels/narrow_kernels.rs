//! The kernels of one narrow format, as layers call them.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use super::attention::Attention;
#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
use super::format::{Format, FormatKernel, Precision};
use super::math::Activation;
use super::matrix::Buffer;
use super::narrow::{Inputs, NarrowMatrix, Pack, Restore};
use super::narrow_product::NarrowProduct;
use super::peak::FormatPeak;
use super::place::Place;
use super::quantize::{NarrowInputs, Quantize};
#[cfg(target_arch = "x86_64")]
use super::tile_attention::TileAttention;
#[cfg(target_arch = "x86_64")]
use super::tiles::{self, TileProduct, Tiles};
use super::{Isa, crew, portable_formats, tile_attention};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2_formats, avx512_formats};

/// The kernels of one narrow format. Holding one proves that the CPU has the instructions it uses.
#[derive(Clone, Copy, Debug)]
pub struct NarrowKernels {
    precision: Precision,
    isa: Isa,
}

/// Of int8, in steps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The greatest input.
    pub input: f32,
    /// The greatest weight.
    pub weight: f32,
    /// The greatest sum of 16 weights of one sign.
    pub together: f32,
    /// Inputs that share a step.
    pub block: usize,
}

impl NarrowKernels {
    /// The best that this machine has; [`NarrowKernels::native`] tells whether it is of any use.
    pub fn detect(precision: Precision) -> Self {
        Self::available(precision).pop().unwrap_or(Self { precision, isa: Isa::Scalar })
    }

    /// None where the machine lacks it.
    pub fn new(isa: Isa, precision: Precision) -> Option<Self> {
        let has = match (isa, precision) {
            (Isa::Scalar, _) => true,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Precision::Int8) => avx512_formats::Int8::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Precision::Bf16) => avx512_formats::Bf16::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Precision::Int8) => amx::AmxInt8::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Precision::Bf16) => amx::AmxBf16::new().is_some(),
            // What gemm multiplies is f32.
            _ => false,
        };
        has.then_some(Self { precision, isa })
    }

    /// All that this machine has, the best last.
    pub fn available(precision: Precision) -> Vec<Self> {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx]
            .into_iter()
            .filter_map(|isa| Self::new(isa, precision))
            .collect()
    }

    /// Whether the CPU multiplies in this format, or a wider one of integers, rather than in f32 after all.
    pub fn native(&self) -> bool {
        matches!((self.isa, self.precision), (Isa::Avx512 | Isa::Amx, _) | (Isa::Avx2, Precision::Int8))
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What int8's steps are made of.
    pub fn limits(&self) -> Limits {
        struct Ask;
        impl FormatKernel for Ask {
            type Output = Limits;
            fn run<F: Format>(self, _: F) -> Limits {
                let (input, weight) = F::GREATEST;
                Limits { input, weight, together: F::TOGETHER, block: F::BLOCK }
            }
        }
        self.run(Ask)
    }

    /// The instructions in use, or what stands in for them.
    pub fn name(&self) -> &'static str {
        match (self.isa, self.precision) {
            (Isa::Scalar | Isa::Gemm, _) => "scalar",
            (Isa::Avx2, Precision::Int8) => "avx2",
            (Isa::Avx2, Precision::Bf16) => "avx2, widened",
            (Isa::Avx512, Precision::Int8) => "avx512-vnni",
            (Isa::Avx512, Precision::Bf16) => "avx512-bf16",
            (Isa::Amx, Precision::Int8) => "amx-int8",
            (Isa::Amx, Precision::Bf16) => "amx-bf16",
        }
    }

    fn run<K: FormatKernel>(&self, kernel: K) -> K::Output {
        match (self.isa, self.precision) {
            // SAFETY (all): a NarrowKernels of these is made by `new` alone, where the CPU has them. All but the product is
            // AVX-512's where there is AMX, which asks for it too.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, Precision::Int8) => {
                // SAFETY: as said above.
                unsafe { avx512_formats::Int8::assume() }.run(kernel)
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, Precision::Bf16) => {
                // SAFETY: as said above.
                unsafe { avx512_formats::Bf16::assume() }.run(kernel)
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as said above.
            (Isa::Avx2, Precision::Int8) => avx2_formats::Int8::new(unsafe { Avx2::assume() }).run(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as said above.
            (Isa::Avx2, Precision::Bf16) => avx2_formats::Bf16::new(unsafe { Avx2::assume() }).run(kernel),
            (_, Precision::Int8) => portable_formats::Int8.run(kernel),
            (_, Precision::Bf16) => portable_formats::Bf16.run(kernel),
        }
    }

    /// Packs weights that `fill(row, out)` writes, k values for each output row of n; it may be asked for every row twice,
    /// in order. `inputs` is what is known of the inputs that they will meet; bf16 has no use for it.
    pub fn pack(
        &self,
        n: usize,
        k: usize,
        inputs: &Inputs,
        fill: impl FnMut(usize, &mut [f32]),
    ) -> NarrowMatrix {
        for known in [&inputs.center, &inputs.spread] {
            assert!(known.is_empty() || known.len() == k, "what is known of the inputs is not [{k}]");
        }
        self.run(Pack { n, k, inputs, fill })
    }

    /// A matrix that was packed before by these kernels and saved: where it lies in a file, and the vectors that go with it.
    /// None where sizes are not the shape's.
    pub fn restore(
        &self,
        n: usize,
        k: usize,
        map: Arc<Mmap>,
        bytes: Range<usize>,
        vectors: [Vec<f32>; 4],
    ) -> Option<NarrowMatrix> {
        self.run(Restore { data: Buffer::file(map, bytes)?, n, k, vectors })
    }

    /// The rows of x, [rows, w.k()] with row stride `ldx`, as `w` takes them.
    pub fn quantize(&self, x: &[f32], ldx: usize, rows: usize, w: &NarrowMatrix, inputs: &mut NarrowInputs) {
        assert_eq!(w.precision(), self.precision, "the weights were packed for another format");
        self.run(Quantize { x, ldx, rows, w, inputs });
    }

    /// out[r] = activation(inputs[r] . W^T + bias) for the outputs `columns`, which begin at a multiple of
    /// [`NarrowMatrix::panel`]: [rows, columns.len()] with row stride `ldo`. bias is [n], or empty: none.
    #[allow(clippy::too_many_arguments)] // a product's operands, as BLAS has them
    pub fn linear(
        &self,
        inputs: &NarrowInputs,
        rows: usize,
        w: &NarrowMatrix,
        bias: &[f32],
        activation: Activation,
        columns: Range<usize>,
        out: &mut [f32],
        ldo: usize,
    ) {
        let (first, out) = (columns.start, Place::new(out, rows, columns.len(), ldo));
        // Shared with the thread's crew, if it leads one.
        crew::split(columns.len(), w.panel(), |part| {
            // SAFETY: `split` gives each column to one part.
            let out = unsafe { out.share(part.clone()) };
            let columns = first + part.start..first + part.end;
            self.product(NarrowProduct { inputs, rows, w, bias, activation, columns, out });
        });
    }

    fn product(&self, product: NarrowProduct) {
        match (self.isa, self.precision) {
            // SAFETY (both): a NarrowKernels of AMX is made by `new` alone, where it may be used.
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Precision::Int8) if tiles::suits::<avx512_formats::Int8>(product.w) => {
                // SAFETY: as said above.
                TileProduct { product, tiles: unsafe { amx::AmxInt8::assume() } }.run();
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Precision::Bf16) if tiles::suits::<avx512_formats::Bf16>(product.w) => {
                // SAFETY: as said above.
                TileProduct { product, tiles: unsafe { amx::AmxBf16::assume() } }.run();
            }
            _ => self.run(product),
        }
    }

    /// Whether attention over heads of this size is on tiles too.
    pub(super) fn attends(&self, head_dim: usize) -> bool {
        let tiles = self.isa == Isa::Amx && Self::new(Isa::Amx, Precision::Bf16).is_some();
        tiles && tile_attention::suits(head_dim)
    }

    /// Of kernels that `attends` says yes of.
    pub(super) fn attention(&self, attention: Attention) {
        assert!(self.attends(attention.head_dim), "no heads for tiles");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `attends` has found AMX for bf16.
        TileAttention { attention, tiles: unsafe { amx::AmxBf16::assume() } }.run();
    }

    /// As [`super::Kernels::peak`], of this format's products.
    pub fn peak(&self, rounds: usize) -> (u64, f32) {
        match (self.isa, self.precision) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for the product.
            (Isa::Amx, Precision::Int8) => (unsafe { amx::AmxInt8::assume() }.peak(rounds), 0.0),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for the product.
            (Isa::Amx, Precision::Bf16) => (unsafe { amx::AmxBf16::assume() }.peak(rounds), 0.0),
            _ => self.run(FormatPeak { rounds }),
        }
    }
}
