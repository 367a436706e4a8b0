//! Inputs in a narrow format, row by row.

use super::format::{Format, FormatKernel, MOST_BLOCK, Precision};
use super::lanes::Lanes;
use super::matrix::Buffer;
use super::narrow::{NarrowMatrix, blocks};
use super::tiles::TILE_ROWS;

/// Rows of inputs as a [`NarrowMatrix`] takes them. It grows and is reused.
#[derive(Default)]
pub struct NarrowInputs {
    /// [rows, stride], and room for rows up to a whole tile's
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
        let out = inputs.data.grown::<F::Input>(rows.next_multiple_of(TILE_ROWS) * stride);
        let blocks = blocks::<F>(w.k);
        for steps in [&mut inputs.low, &mut inputs.step] {
            steps.resize((rows * blocks).max(steps.len()), 0.0);
        }
        for (r, out) in out.chunks_exact_mut(stride).take(rows).enumerate() {
            let row = &x[r * ldx..][..w.k];
            match F::PRECISION {
                Precision::Bf16 => round(format, row, out),
                Precision::Int8 => {
                    let place = r * blocks..(r + 1) * blocks;
                    let (low, step) = (&mut inputs.low[place.clone()], &mut inputs.step[place]);
                    if w.center.is_empty() {
                        blockwise::<F, false>(format, row, w, out, low, step);
                    } else {
                        blockwise::<F, true>(format, row, w, out, low, step);
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

/// The row in blocks, each in even steps from its least to its greatest, 0 among them, after its centers and factors: `low` and
/// `step` `[blocks]`. All NaN where one of the row is not finite.
#[inline(always)]
fn blockwise<F: Format, const CENTERED: bool>(
    format: F,
    row: &[f32],
    w: &NarrowMatrix,
    out: &mut [F::Input],
    low: &mut [f32],
    step: &mut [f32],
) {
    let lanes = format.lanes();
    // What neither minimum nor maximum would tell: the sum of all is finite only where each is.
    let mut total = lanes.splat(0.0);
    for (b, out) in out.chunks_mut(F::BLOCK).enumerate().take(low.len()) {
        let block = Block { row, w, first: b * F::BLOCK };
        // The values, once formed; past the row's end zeros, which meet weights of zero but have to fit.
        let mut values = Values([0.0; MOST_BLOCK]);
        let whole = row.len() - block.first >= F::BLOCK;
        let range = if whole {
            block.values::<F, CENTERED, true>(lanes, &mut values, &mut total)
        } else {
            block.values::<F, CENTERED, false>(lanes, &mut values, &mut total)
        };
        (low[b], step[b]) = range.quantized(format, &values, out);
    }
    if !lanes.sum(total).is_finite() {
        low.fill(f32::NAN);
        step.fill(f32::NAN);
    }
}

/// A block's values, in L1 between the pass that finds their range and the one that rounds them.
#[repr(C, align(64))]
struct Values([f32; MOST_BLOCK]);

/// A block of a row, from element `first` on.
struct Block<'a> {
    row: &'a [f32],
    w: &'a NarrowMatrix,
    first: usize,
}

/// The least and the greatest of a block, and 0 among them.
struct Extent {
    low: f32,
    high: f32,
}

impl Block<'_> {
    /// values = (x - center) * factor, and adds them to `total`. `WHOLE`: the row has all of the block.
    #[inline(always)]
    fn values<F: Format, const CENTERED: bool, const WHOLE: bool>(
        &self,
        lanes: F::Lanes,
        values: &mut Values,
        total: &mut <F::Lanes as Lanes>::V,
    ) -> Extent {
        let Self { row, w, first } = *self;
        let end = if WHOLE { first + F::BLOCK } else { row.len() };
        let (x, factor) = (&row[first..end], &w.factor[first..end]);
        let center = if CENTERED { &w.center[first..end] } else { &[] };
        let zero = lanes.splat(0.0);
        let (mut low, mut high) = (zero, zero);
        for at in (0..if WHOLE { F::BLOCK } else { end - first }).step_by(F::Lanes::LANES) {
            let read = |from: &[f32]| {
                if WHOLE {
                    // SAFETY: the slices are BLOCK long, a multiple of LANES.
                    unsafe { lanes.load(from.as_ptr().add(at)) }
                } else {
                    lanes.read(&from[at..])
                }
            };
            let mut value = read(x);
            if CENTERED {
                value = lanes.sub(value, read(center));
            }
            let value = lanes.mul(value, read(factor));
            lanes.write(value, &mut values.0[at..at + F::Lanes::LANES]);
            low = lanes.min(low, value);
            high = lanes.max(high, value);
            *total = lanes.add(*total, value);
        }
        Extent { low: -lanes.maximum(lanes.sub(zero, low)), high: lanes.maximum(high) }
    }
}

impl Extent {
    /// out = the values in steps: (least, step).
    #[inline(always)]
    fn quantized<F: Format>(&self, format: F, values: &Values, out: &mut [F::Input]) -> (f32, f32) {
        let lanes = format.lanes();
        let step = (self.high - self.low) / F::GREATEST.0;
        let inverse = lanes.splat(if step > 0.0 { 1.0 / step } else { 0.0 });
        let low = lanes.splat(self.low);
        let values = values.0.chunks_exact(F::Lanes::LANES);
        for (values, out) in values.zip(out.chunks_exact_mut(F::Lanes::LANES)) {
            let value = lanes.mul(lanes.sub(lanes.read(values), low), inverse);
            // SAFETY: a chunk of `out` has LANES values.
            unsafe { format.store(value, out.as_mut_ptr()) };
        }
        (self.low, step)
    }
}
