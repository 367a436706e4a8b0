//! Formats narrower than f32, and how a CPU multiplies them: what the product of `narrow.rs` is written over.
//!
//! Inputs are taken in groups along k, as the instructions want them: `vpdpbusd` multiplies four u8 by four i8 and adds
//! them to an i32, `vdpbf16ps` two bf16 by two and adds them to an f32. Like lanes, a value of a [`Format`] proves that
//! the CPU has what it needs.

use super::lanes::Lanes;
use super::matrix::Plain;

/// A precision of weights and of the inputs they meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// Products of bf16, sums in f32.
    Bf16,
    /// Products of u8 inputs and i8 weights, sums in i32: exact.
    Int8,
}

/// Groups that a product writes out one after the other: as in f32's, instructions are what is short.
pub(super) const UNROLL: usize = 4;

/// The most that any format's [`Format::BLOCK`] is.
pub(super) const MOST_BLOCK: usize = 384;

/// A piece of work that runs on any format.
pub(super) trait FormatKernel {
    type Output;
    fn run<F: Format>(self, format: F) -> Self::Output;
}

/// Vectors of one narrow format, and their products.
pub(super) trait Format: Copy {
    type Lanes: Lanes;
    /// An input as it is stored.
    type Input: Plain;
    /// A weight as it is stored.
    type Weight: Plain;
    /// `GROUP` inputs of one row, for every lane.
    type X: Copy;
    /// `GROUP` weights of each of `LANES` columns.
    type W: Copy;
    /// The sums of `LANES` columns.
    type Sum: Copy;
    /// Inputs multiplied at a time.
    const GROUP: usize;
    const PRECISION: Precision;
    /// Rows of the product's tile.
    const TILE_ROWS: usize = <Self::Lanes as Lanes>::TILE_ROWS;
    /// int8: the greatest input and the greatest weight.
    const GREATEST: (f32, f32) = (255.0, 127.0);
    /// int8: inputs, in a row and in an output's weights, that share one step. A step for fewer is more exact, and takes the sums
    /// out of their registers more often: 8 bits have exactness to spare.
    const BLOCK: usize = MOST_BLOCK;
    /// int8: what [`Format::together`] may be at most, so that no sum on the way saturates or wraps.
    const TOGETHER: f32 = f32::INFINITY;

    /// int8: of a block's weights in steps, the greatest sum of those of one sign that share a narrow sum on the way; 0 where
    /// none is narrow.
    #[inline(always)]
    fn together(_weights: &[f32]) -> f32 {
        0.0
    }

    /// Where, within a group of a panel, the weight of column `column` on the group's input `j` lies.
    #[inline(always)]
    fn place(column: usize, j: usize) -> usize {
        column * Self::GROUP + j
    }

    fn lanes(self) -> Self::Lanes;
    /// Runs the kernel inside a function compiled for this format.
    fn run<K: FormatKernel>(self, kernel: K) -> K::Output;

    fn zero(self) -> Self::Sum;
    /// sum + x . w, lane by lane.
    fn dot(self, sum: Self::Sum, x: Self::X, w: Self::W) -> Self::Sum;
    fn value(self, sum: Self::Sum) -> <Self::Lanes as Lanes>::V;
    /// The weight nearest to `x`, ties to even; for int8, `x` is within the greatest.
    fn weight(self, x: f32) -> Self::Weight;

    /// # Safety
    /// `from` is readable for `GROUP` values.
    unsafe fn inputs(self, from: *const Self::Input) -> Self::X;
    /// # Safety
    /// `from` is readable for `LANES * GROUP` values.
    unsafe fn weights(self, from: *const Self::Weight) -> Self::W;
    /// The inputs nearest to `v`, ties to even; for int8, `v` is from 0 to the greatest.
    /// # Safety
    /// `to` is writable for `LANES` values.
    unsafe fn store(self, v: <Self::Lanes as Lanes>::V, to: *mut Self::Input);

    /// sums += the products of one group: `w` points at its weights, and `group` counts in each of `rows`.
    /// # Safety
    /// Both are readable there.
    #[inline(always)]
    unsafe fn add_group<const HEIGHT: usize, const VECTORS: usize>(
        self,
        rows: &[*const Self::Input; HEIGHT],
        group: usize,
        w: *const Self::Weight,
        sums: &mut [[Self::Sum; VECTORS]; HEIGHT],
    ) {
        // SAFETY: the caller's promise.
        let mut weights = [unsafe { self.weights(w) }; VECTORS];
        for (v, weights) in weights.iter_mut().enumerate() {
            // SAFETY: as above.
            *weights = unsafe { self.weights(w.add(v * Self::Lanes::LANES * Self::GROUP)) };
        }
        for (&x, sums) in rows.iter().zip(sums) {
            // SAFETY: as above.
            let inputs = unsafe { self.inputs(x.add(group * Self::GROUP)) };
            for (sum, &weights) in sums.iter_mut().zip(&weights) {
                *sum = self.dot(*sum, inputs, weights);
            }
        }
    }

    /// As [`Format::add_group`], of [`UNROLL`] groups.
    /// # Safety
    /// All are readable there.
    #[inline(always)]
    unsafe fn add_groups<const HEIGHT: usize, const VECTORS: usize>(
        self,
        rows: &[*const Self::Input; HEIGHT],
        group: usize,
        w: *const Self::Weight,
        sums: &mut [[Self::Sum; VECTORS]; HEIGHT],
    ) {
        for u in 0..UNROLL {
            let w = w.wrapping_add(u * VECTORS * Self::Lanes::LANES * Self::GROUP);
            // SAFETY: the caller's promise.
            unsafe { self.add_group(rows, group + u, w, sums) };
        }
    }
}

/// [`Format::run`], compiled with the format's features.
macro_rules! compiled_run {
    ($features:literal, $this:ident) => {
        #[inline(always)]
        fn run<K: FormatKernel>($this, kernel: K) -> K::Output {
            #[target_feature(enable = $features)]
            fn compiled<F: Format, K: FormatKernel>(format: F, kernel: K) -> K::Output {
                kernel.run(format)
            }
            // SAFETY: the token proves the features.
            unsafe { compiled($this, kernel) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use compiled_run;

/// bf16's 16 bits of `x`, rounded to even; NaN stays one.
pub(super) fn bf16_bits(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}
