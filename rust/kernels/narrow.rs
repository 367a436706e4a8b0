//! Weights in a narrow format, packed for its product; and how int8 chooses its steps without seeing data.
//!
//! int8: x W^T = ((x - center) / s) (W s)^T + W center, whatever center and s [k] are. The inputs' center goes, so that
//! a row's steps cover only what varies in it, and s moves range from inputs that are large to weights that are
//! small (SmoothQuant, Xiao et al. 2023, with a half to each). Both come from the weights before, not from data: see
//! [`Inputs`]. Then a block of a row's inputs is low + step * q, q in 0..=255, and the weights that an output has on them are
//! scale * w, w in -127..=127 (AVX2: q to 127, and see its `together`): their product is scale * (step * (q . w) + low * sum(w)),
//! and q . w is exact. Blocks of inputs have steps of their own, in the inputs and in the weights: [`Format::BLOCK`]. Mean error of a
//! score on mini-en: with AVX2's 7 bits and one block for all of k 0.0133, blocks of 128 0.0080; with 8 bits and blocks of 384
//! 0.0068. AVX2 takes no longer for its blocks of 128 than for longer ones; tiles, which multiply ten times as fast, would.

use super::format::{Format, FormatKernel, MOST_BLOCK, Precision};
use super::lanes::Lanes;
use super::matrix::Buffer;

/// Blocks of k inputs; the last one may be shorter.
#[inline(always)]
pub(super) fn blocks<F: Format>(k: usize) -> usize {
    k.div_ceil(F::BLOCK)
}

/// Groups in a block of a product over so many groups; bf16, which has no steps, takes all of k as one.
#[inline(always)]
pub(super) fn groups_per_block<F: Format>(groups: usize) -> usize {
    if F::PRECISION == Precision::Int8 { F::BLOCK / F::GROUP } else { groups.max(1) }
}

/// What is known of a layer's inputs before any is seen: both [k], or empty where nothing is.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Each input's middle: LayerNorm's beta, the value's bias.
    pub center: Vec<f32>,
    /// Each input's typical distance from it: LayerNorm's gamma.
    pub spread: Vec<f32>,
}

/// A linear layer's weights in a narrow format, packed once for one instruction set.
pub struct NarrowMatrix {
    /// [n / panel, k / group, panel, group]; zeros after output n and input k.
    pub(super) data: Buffer,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) panel: usize,
    pub(super) group: usize,
    pub(super) precision: Precision,
    /// [n / panel, blocks, panel]: what a weight of 1 stands for. Empty but for int8, as all that follows.
    pub(super) scales: Vec<f32>,
    /// [n / panel, blocks, panel]: scale * sum of the block's weights.
    pub(super) sums: Vec<f32>,
    /// [k]: what is taken from the inputs.
    pub(super) center: Vec<f32>,
    /// [k]: what they are then multiplied by, 1 / s.
    pub(super) factor: Vec<f32>,
    /// [n]: W center, which the caller adds to the bias.
    correction: Vec<f32>,
}

impl NarrowMatrix {
    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Outputs in a panel: what column ranges begin at multiples of.
    pub fn panel(&self) -> usize {
        self.panel
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The packed weights, as they lie; with [`NarrowMatrix::vectors`], all that a restored one needs.
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// What goes with the weights: scales and sums [n / panel, blocks, panel], center [k], factor [k]; empty ones included.
    pub fn vectors(&self) -> [&[f32]; 4] {
        [&self.scales, &self.sums, &self.center, &self.factor]
    }

    /// [n] (or empty: zeros), to be added to the bias: what the inputs' centers contribute.
    pub fn correction(&self) -> &[f32] {
        &self.correction
    }
}

/// Packed before, by the same format; `vectors` as of [`NarrowMatrix::vectors`]. None where sizes are not the shape's. The
/// center's contribution is in the bias already.
pub(super) struct Restore {
    pub data: Buffer,
    pub n: usize,
    pub k: usize,
    pub vectors: [Vec<f32>; 4],
}

impl FormatKernel for Restore {
    type Output = Option<NarrowMatrix>;

    fn run<F: Format>(self, _: F) -> Option<NarrowMatrix> {
        let Self { data, n, k, vectors: [scales, sums, center, factor] } = self;
        let (panel, group, precision) = (F::Lanes::PANEL, F::GROUP, F::PRECISION);
        let size = n.div_ceil(panel) * panel * k.div_ceil(group) * group * size_of::<F::Weight>();
        let rows = if precision == Precision::Int8 { n.div_ceil(panel) * panel * blocks::<F>(k) } else { 0 };
        let inputs = if precision == Precision::Int8 { k } else { 0 };
        let whole = data.bytes() >= size
            && data.bytes() < size + 64
            && [scales.len(), sums.len()] == [rows; 2]
            && factor.len() == inputs
            && (center.is_empty() || center.len() == inputs);
        let correction = Vec::new();
        let matrix =
            NarrowMatrix { data, n, k, panel, group, precision, scales, sums, center, factor, correction };
        whole.then_some(matrix)
    }
}

/// Builds a matrix. `fill(row, out)` writes the k weights of output `row`; int8 reads every row twice.
pub(super) struct Pack<'a, R: FnMut(usize, &mut [f32])> {
    pub n: usize,
    pub k: usize,
    pub inputs: &'a Inputs,
    pub fill: R,
}

impl<R: FnMut(usize, &mut [f32])> FormatKernel for Pack<'_, R> {
    type Output = NarrowMatrix;

    #[inline(always)]
    fn run<F: Format>(mut self, format: F) -> NarrowMatrix {
        let (n, k, panel, group) = (self.n, self.k, F::Lanes::PANEL, F::GROUP);
        let groups = k.div_ceil(group);
        let mut data = Buffer::zeros::<F::Weight>(n.div_ceil(panel) * panel * groups * group);
        let int8 = F::PRECISION == Precision::Int8;
        let smooth = if int8 { self.smooth() } else { Vec::new() };
        let steps = if int8 { n.div_ceil(panel) * panel * blocks::<F>(k) } else { 0 };
        let (mut scales, mut sums) = (vec![0.0; steps], vec![0.0; steps]);
        let mut correction = Vec::new();
        let mut row = vec![0.0; k];
        let packed = data.as_mut_slice::<F::Weight>();
        for output in 0..n {
            (self.fill)(output, &mut row);
            if int8 {
                if !self.inputs.center.is_empty() {
                    let dot = |sum, (w, c): (&f32, &f32)| sum + f64::from(*w) * f64::from(*c);
                    correction.push(row.iter().zip(&self.inputs.center).fold(0.0, dot) as f32);
                }
                row.iter_mut().zip(&smooth).for_each(|(w, s)| *w *= s);
                for (block, row) in row.chunks_mut(F::BLOCK).enumerate() {
                    let scale = in_steps::<F>(row);
                    let place = (output / panel * blocks::<F>(k) + block) * panel + output % panel;
                    scales[place] = scale;
                    sums[place] = scale * row.iter().sum::<f32>();
                }
            }
            let start = output / panel * panel * groups * group;
            for (p, weights) in row.chunks(group).enumerate() {
                let to = &mut packed[start + p * panel * group..][..panel * group];
                for (j, &weight) in weights.iter().enumerate() {
                    to[F::place(output % panel, j)] = format.weight(weight);
                }
            }
        }
        let factor = smooth.iter().map(|s| 1.0 / s).collect();
        let center = if int8 { self.inputs.center.clone() } else { Vec::new() };
        let precision = F::PRECISION;
        NarrowMatrix { data, n, k, panel, group, precision, scales, sums, center, factor, correction }
    }
}

impl<R: FnMut(usize, &mut [f32])> Pack<'_, R> {
    /// s [k]: sqrt(spread of the input / greatest weight on it), weights as shares of their own output's greatest, since
    /// every output has a scale of its own. Inputs and weights that are next to nothing don't stretch it without bound.
    fn smooth(&mut self) -> Vec<f32> {
        if self.inputs.spread.is_empty() {
            return vec![1.0; self.k];
        }
        let mut most = vec![0.0f32; self.k];
        let mut row = vec![0.0; self.k];
        for output in 0..self.n {
            (self.fill)(output, &mut row);
            let greatest = greatest(&row);
            if greatest > 0.0 {
                let inverse = 1.0 / greatest;
                for (most, w) in most.iter_mut().zip(&row) {
                    let share = w.abs() * inverse;
                    *most = if share > *most { share } else { *most };
                }
            }
        }
        let floor = |values: &[f32]| 1e-3 * values.iter().fold(f32::MIN_POSITIVE, |a, &b| a.max(b.abs()));
        let (least, least_most) = (floor(&self.inputs.spread), floor(&most));
        let ratio = |(spread, most): (&f32, &f32)| (spread.abs().max(least) / most.max(least_most)).sqrt();
        self.inputs.spread.iter().zip(&most).map(ratio).collect()
    }
}

/// A block's weights in whole steps, and the step: the least by which the heaviest is whole and the format's sums are safe,
/// whatever the inputs.
#[inline(always)]
fn in_steps<F: Format>(block: &mut [f32]) -> f32 {
    let most = greatest(block);
    if most == 0.0 {
        // Any step will do.
        return 1.0;
    }
    let mut whole = [0.0; MOST_BLOCK];
    let whole = &mut whole[..block.len()];
    let mut levels = F::GREATEST.1.min((F::TOGETHER / F::together(block) * most).floor());
    loop {
        let scale = most / levels;
        for (whole, &w) in whole.iter_mut().zip(&*block) {
            *whole = (w / scale).round_ties_even();
        }
        // Rounding may have added to it; of one level it can't be too much.
        if F::together(whole) <= F::TOGETHER || levels <= 1.0 {
            block.copy_from_slice(whole);
            return scale;
        }
        levels -= 1.0;
    }
}

/// The greatest magnitude, 16 at a time: one chain would wait for itself, and loading takes most of a second of it.
#[inline(always)]
fn greatest(row: &[f32]) -> f32 {
    let mut most = [0.0f32; 16];
    let (chunks, tail) = row.as_chunks::<16>();
    for chunk in chunks {
        for (most, w) in most.iter_mut().zip(chunk) {
            *most = if w.abs() > *most { w.abs() } else { *most };
        }
    }
    most.iter().chain(tail).fold(0.0, |most, w| most.max(w.abs()))
}
