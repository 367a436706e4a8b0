//! Inputs in a narrow format, row by row.

use super::format::{Format, FormatKernel, Precision};
use super::lanes::Lanes;
use super::matrix::Buffer;
use super::narrow::{BLOCK, NarrowMatrix, blocks};

/// Rows of inputs as a [`NarrowMatrix`] takes them. It grows and is reused.
#[derive(Default)]
pub struct NarrowInputs {
    /// [rows, stride]
    pub(super) data: Buffer,
    /// [rows, blocks]: int8's 0 stands for this,
    pub(super) low: Vec<f32>,
    /// [rows, blocks]: and a difference of 1 for this.
    pub(super) step: Vec<f32>,
}

/// Values from one row to the next: whole vectors of any lanes, zeros after k.
pub(super) fn stride(k: usize) -> usize {
    k.next_multiple_of(16)
}

/// The rows of x, [rows, k] with row stride `ldx`, into `inputs`.
pub(super) struct Quantize<'a> {
    pub x: &'a [f32],
    pub ldx: usize,
    pub rows: usize,
    pub w: &'a NarrowMatrix,
    pub inputs: &'a mut NarrowInputs,
}

impl FormatKernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<F: Format>(self, format: F) {
        let Self { x, ldx, rows, w, inputs } = self;
        let stride = stride(w.k);
        let out = inputs.data.grown::<F::Input>(rows * stride);
        let blocks = blocks(w.k);
        for steps in [&mut inputs.low, &mut inputs.step] {
            steps.resize((rows * blocks).max(steps.len()), 0.0);
        }
        for (r, out) in out.chunks_exact_mut(stride).enumerate() {
            let row = &x[r * ldx..][..w.k];
            match F::PRECISION {
                Precision::Bf16 => round(format, row, out),
                Precision::Int8 => {
                    for (b, out) in out.chunks_mut(BLOCK).enumerate().take(blocks) {
                        let place = r * blocks + b;
                        (inputs.low[place], inputs.step[place]) = steps(format, row, b * BLOCK, w, out);
                    }
                }
            }
        }
    }
}

/// The row as it is, rounded.
#[inline(always)]
fn round<F: Format>(format: F, row: &[f32], out: &mut [F::Input]) {
    let lanes = format.lanes();
    for (x, out) in row.chunks(F::Lanes::LANES).zip(out.chunks_exact_mut(F::Lanes::LANES)) {
        // SAFETY: a chunk of `out` has LANES values.
        unsafe { format.store(lanes.read(x), out.as_mut_ptr()) };
    }
}

/// A block of the row, from element `first` on, in even steps from its least to its greatest, after its centers and factors:
/// (least, step).
#[inline(always)]
fn steps<F: Format>(
    format: F,
    row: &[f32],
    first: usize,
    w: &NarrowMatrix,
    out: &mut [F::Input],
) -> (f32, f32) {
    let lanes = format.lanes();
    let row = &row[..row.len().min(first + BLOCK)];
    let (low, high) = range(lanes, row, first, w);
    let step = (high - low) / F::GREATEST.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let (low_lanes, inverse) = (lanes.splat(low), lanes.splat(inverse));
    let vectors = (row.len() - first).div_ceil(F::Lanes::LANES);
    for (p, out) in out.chunks_exact_mut(F::Lanes::LANES).enumerate().take(vectors) {
        let at = first + p * F::Lanes::LANES;
        let value = lanes.mul(lanes.sub(centered(lanes, row, w, at), low_lanes), inverse);
        // What lies after k meets weights of zero, but has to fit.
        let value = lanes.first(value, (row.len() - at).min(F::Lanes::LANES));
        // SAFETY: a chunk of `out` has LANES values.
        unsafe { format.store(value, out.as_mut_ptr()) };
    }
    (low, step)
}

/// (x - center) * factor, from element `at` on.
#[inline(always)]
fn centered<L: Lanes>(lanes: L, row: &[f32], w: &NarrowMatrix, at: usize) -> L::V {
    let mut value = lanes.read(&row[at..]);
    if !w.center.is_empty() {
        value = lanes.sub(value, lanes.read(&w.center[at..row.len()]));
    }
    lanes.mul(value, lanes.read(&w.factor[at..row.len()]))
}

/// The least and the greatest of the row's elements from `first` on, and 0 among them. NaN where one is not finite, which
/// neither minimum nor maximum would tell.
#[inline(always)]
fn range<L: Lanes>(lanes: L, row: &[f32], first: usize, w: &NarrowMatrix) -> (f32, f32) {
    let zero = lanes.splat(0.0);
    let (mut low, mut high, mut total) = (zero, zero, zero);
    for at in (first..row.len()).step_by(L::LANES) {
        // Past the end it reads zeros, which count anyway; their factor is 0 too.
        let value = centered(lanes, row, w, at);
        low = lanes.min(low, value);
        high = lanes.max(high, value);
        total = lanes.add(total, value);
    }
    if !lanes.sum(total).is_finite() {
        return (f32::NAN, f32::NAN);
    }
    (-lanes.maximum(lanes.sub(zero, low)), lanes.maximum(high))
}
