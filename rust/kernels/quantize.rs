//! Inputs in a narrow format, row by row.

use super::format::{Format, FormatKernel, Precision};
use super::lanes::Lanes;
use super::matrix::Buffer;
use super::narrow::NarrowMatrix;

/// Rows of inputs as a [`NarrowMatrix`] takes them. It grows and is reused.
#[derive(Default)]
pub struct NarrowInputs {
    /// [rows, stride]
    pub(super) data: Buffer,
    /// [rows]: int8's 0 stands for this,
    pub(super) low: Vec<f32>,
    /// [rows]: and a difference of 1 for this.
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
        inputs.low.resize(rows.max(inputs.low.len()), 0.0);
        inputs.step.resize(rows.max(inputs.step.len()), 0.0);
        for (r, out) in out.chunks_exact_mut(stride).enumerate() {
            let row = &x[r * ldx..][..w.k];
            match F::PRECISION {
                Precision::Bf16 => round(format, row, out),
                Precision::Int8 => (inputs.low[r], inputs.step[r]) = steps(format, row, w, out),
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

/// The row in even steps from its least to its greatest, after its centers and factors: (least, step).
#[inline(always)]
fn steps<F: Format>(format: F, row: &[f32], w: &NarrowMatrix, out: &mut [F::Input]) -> (f32, f32) {
    let lanes = format.lanes();
    let (low, high) = range(lanes, row, w);
    let step = (high - low) / F::GREATEST.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let (low_lanes, inverse) = (lanes.splat(low), lanes.splat(inverse));
    for (p, out) in
        out.chunks_exact_mut(F::Lanes::LANES).enumerate().take(row.len().div_ceil(F::Lanes::LANES))
    {
        let at = p * F::Lanes::LANES;
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
        value = lanes.sub(value, lanes.read(&w.center[at..]));
    }
    lanes.mul(value, lanes.read(&w.factor[at..]))
}

/// The least and the greatest.
#[inline(always)]
fn range<L: Lanes>(lanes: L, row: &[f32], w: &NarrowMatrix) -> (f32, f32) {
    let whole = row.len() / L::LANES * L::LANES;
    // The last vector begins early rather than reading past the end; a row shorter than one is read with zeros.
    let first = centered(lanes, row, w, 0);
    let (mut low, mut high) = (first, first);
    for at in (L::LANES..whole).step_by(L::LANES) {
        let value = centered(lanes, row, w, at);
        low = lanes.min(low, value);
        high = lanes.max(high, value);
    }
    if row.len() > whole && row.len() >= L::LANES {
        let value = centered(lanes, row, w, row.len() - L::LANES);
        low = lanes.min(low, value);
        high = lanes.max(high, value);
    }
    let zero = lanes.splat(0.0);
    (-lanes.maximum(lanes.sub(zero, low)), lanes.maximum(high))
}
