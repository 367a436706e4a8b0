//! Self-attention over packed sequences on a unit of tiles: both products in bf16, summed in f32; the softmax between them
//! is f32's own. For models whose linear layers are in a narrow format anyway: beside those, by the kernels' own times,
//! attention in f32 is a fifth of the work at 128 tokens and half at 512.

use super::attention::{Attention, AttentionScratch};
use super::format::{Format, FormatKernel};
use super::lanes::Lanes;
use super::place::Place;
use super::softmax::exponentials;
use super::tiles::{DEPTH, Operands, PANEL, ROWS, Sums, TILE_ROWS, Tiles};

/// Values of a head that a step of a product takes.
const STEP: usize = DEPTH / 2;
/// The widest head that there is room for on the stack.
const WIDEST: usize = 256;

/// Whether heads of this size are whole steps.
pub(super) fn suits(head_dim: usize) -> bool {
    head_dim.is_multiple_of(STEP) && (1..=WIDEST).contains(&head_dim)
}

/// As [`Attention`]; `tiles` multiply bf16, and the heads suit them.
pub(super) struct TileAttention<'a, T: Tiles> {
    pub attention: Attention<'a>,
    pub tiles: T,
}

impl<T: Tiles> TileAttention<'_, T> {
    pub(super) fn run(self) {
        let tiles = self.tiles;
        tiles.configured(|| tiles.format().run(self));
    }
}

impl<T: Tiles> FormatKernel for TileAttention<'_, T> {
    type Output = ();

    /// `F` is the tiles' own format: `run` above sees to it.
    #[inline(always)]
    fn run<F: Format>(self, _: F) {
        let Attention { qkv, cu_seqlens, heads, head_dim, these, mut out, scratch } = self.attention;
        assert!(suits(head_dim) && size_of::<<T::Format as Format>::Input>() == 2, "no heads for tiles");
        let width = heads * head_dim;
        for ends in cu_seqlens.windows(2) {
            let (first, last) = (ends[0] as usize, ends[1] as usize);
            // An empty sequence has no first token to point at.
            let heads = if first < last { these.clone() } else { 0..0 };
            for (place, head) in heads.enumerate() {
                let columns = place * head_dim..(place + 1) * head_dim;
                let mut head = Head {
                    tiles: self.tiles,
                    qkv: &qkv[first * 3 * width..last * 3 * width],
                    width,
                    offset: head * head_dim,
                    dim: head_dim,
                    tokens: last - first,
                    out: out.part(first..last, columns),
                    scratch,
                };
                head.run();
            }
        }
    }
}

/// One head of one sequence.
struct Head<'a, T: Tiles> {
    tiles: T,
    /// [tokens, 3, width]
    qkv: &'a [f32],
    /// heads * dim
    width: usize,
    /// This head's first column in `width`.
    offset: usize,
    dim: usize,
    tokens: usize,
    /// [tokens, dim]
    out: Place<'a>,
    scratch: &'a mut AttentionScratch,
}

impl<T: Tiles> Head<'_, T> {
    #[inline(always)]
    fn run(&mut self) {
        self.round_queries();
        self.pack_keys();
        self.pack_values();
        for first in (0..self.tokens).step_by(ROWS) {
            let rows = (self.tokens - first).min(ROWS);
            self.scores(first, rows);
            let factors = self.softmax(rows);
            self.mix(first, rows, &factors);
        }
    }

    /// Tokens in whole steps, as the second product takes them.
    #[inline(always)]
    fn padded(&self) -> usize {
        self.tokens.next_multiple_of(STEP)
    }

    /// to = the head's row of q (0), k (1) or v (2) of a token, rounded.
    #[inline(always)]
    fn round(&self, part: usize, token: usize, to: &mut [u16]) {
        let (format, lanes) = (self.tiles.format(), self.tiles.format().lanes());
        let from = &self.qkv[(token * 3 + part) * self.width + self.offset..][..self.dim];
        let step = <T::Format as Format>::Lanes::LANES;
        for (from, to) in from.chunks_exact(step).zip(to.chunks_exact_mut(step)) {
            // SAFETY: a chunk of `to` has LANES values, of 16 bits as the format's own (asserted by `run`).
            unsafe { format.store(lanes.read(from), to.as_mut_ptr().cast()) };
        }
    }

    /// queries [padded, dim]; what is after the last is whatever it was, and its rows of scores are not read.
    #[inline(always)]
    fn round_queries(&mut self) {
        let (dim, length) = (self.dim, self.padded() * self.dim);
        let mut queries = std::mem::take(&mut self.scratch.queries);
        for (token, to) in queries.grown::<u16>(length).chunks_exact_mut(dim).take(self.tokens).enumerate() {
            self.round(0, token, to);
        }
        self.scratch.queries = queries;
    }

    /// keys [tokens / PANEL, dim / 2, PANEL, 2]: as weights, an output for each key.
    #[inline(always)]
    fn pack_keys(&mut self) {
        let (dim, lanes) = (self.dim, self.tiles.format().lanes());
        let mut keys = std::mem::take(&mut self.scratch.keys);
        // Pairs of values, moved as if they were f32.
        let pairs = dim / 2;
        let packed = keys.grown::<f32>(self.tokens.next_multiple_of(PANEL) * pairs);
        let mut block = Rows([[0; WIDEST]; TILE_ROWS]);
        for first in (0..self.tokens).step_by(TILE_ROWS) {
            for (r, row) in block.0.iter_mut().enumerate().take(self.tokens - first) {
                self.round(1, first + r, row);
            }
            let from = block.0.as_ptr().cast::<f32>();
            for pair in (0..pairs).step_by(TILE_ROWS) {
                let to = &mut packed[(first / PANEL * pairs + pair) * PANEL + first % PANEL..];
                assert!(to.len() >= (TILE_ROWS - 1) * PANEL + TILE_ROWS);
                // SAFETY: `to` holds 16 rows of 16, just asserted; `block` has 16 rows of WIDEST / 2 pairs, of which these
                // are 16, for dim is a multiple of 32.
                unsafe { lanes.transpose(from.add(pair), WIDEST / 2, to.as_mut_ptr(), PANEL) };
            }
        }
        self.scratch.keys = keys;
    }

    /// values [dim / PANEL, padded / 2, PANEL, 2]: as weights, an output for each column. Zeros after the last token, for what
    /// they are multiplied by is zero, and zero times whatever was there may be no number.
    #[inline(always)]
    fn pack_values(&mut self) {
        let (dim, pairs) = (self.dim, self.padded() / 2);
        let mut values = std::mem::take(&mut self.scratch.values);
        let packed = values.grown::<u16>(dim.next_multiple_of(PANEL) * 2 * pairs);
        for pair in 0..pairs {
            let mut both = Rows([[0; WIDEST]; 2]);
            for (r, row) in both.0.iter_mut().enumerate() {
                if 2 * pair + r < self.tokens {
                    self.round(2, 2 * pair + r, row);
                }
            }
            let [even, odd] = &both.0;
            for first in (0..dim).step_by(PANEL) {
                let columns = first..(first + PANEL).min(dim);
                let to = &mut packed[(first / PANEL * pairs + pair) * PANEL * 2..][..PANEL * 2];
                for ((to, &even), &odd) in
                    to.as_chunks_mut::<2>().0.iter_mut().zip(&even[columns.clone()]).zip(&odd[columns])
                {
                    *to = [even, odd];
                }
            }
        }
        self.scratch.values = values;
    }

    /// scores [rows, stride] = q . k of ROWS queries, over all keys. The scale is in q.
    #[inline(always)]
    fn scores(&mut self, first: usize, rows: usize) {
        let (dim, lanes) = (self.dim, self.tiles.format().lanes());
        let stride = self.stride();
        let AttentionScratch { queries, keys, scores, .. } = &mut *self.scratch;
        let scores = scores.grown::<f32>(ROWS * stride);
        let mut sums = Sums::uninit();
        for (panel, keys) in keys.as_slice::<u16>().chunks_exact(PANEL * dim).enumerate().take(stride / PANEL)
        {
            let operands = Operands {
                x: queries.as_slice::<u16>()[first * dim..].as_ptr().cast(),
                stride: 2 * dim,
                both: rows > TILE_ROWS,
                w: keys.as_ptr().cast(),
                steps: dim / STEP,
                coming: keys.as_ptr().cast(),
            };
            // SAFETY: queries are padded to whole tiles of rows, and a panel of keys is whole. `multiply` writes these rows
            // of sums; a row of scores holds whole panels.
            unsafe {
                self.tiles.multiply(operands, sums.as_mut_ptr());
                for r in 0..rows {
                    let to = scores[r * stride + panel * PANEL..][..PANEL].as_mut_ptr();
                    for at in (0..PANEL).step_by(PANEL / 3) {
                        lanes.store(self.tiles.value(sums.as_ptr().add(r * PANEL + at)), to.add(at));
                    }
                }
            }
        }
    }

    /// Scores from one row to the next.
    #[inline(always)]
    fn stride(&self) -> usize {
        self.tokens.next_multiple_of(PANEL)
    }

    /// weights [rows, padded] = exp(scores - the greatest), rounded, zeros after the last token; 1 / their sum before rounding.
    #[inline(always)]
    fn softmax(&mut self, rows: usize) -> [f32; ROWS] {
        let (format, lanes) = (self.tiles.format(), self.tiles.format().lanes());
        let (tokens, padded, stride) = (self.tokens, self.padded(), self.stride());
        let step = <T::Format as Format>::Lanes::LANES;
        let mut factors = [0.0; ROWS];
        let AttentionScratch { scores, weights, .. } = &mut *self.scratch;
        let scores = scores.as_mut_slice::<f32>().chunks_exact_mut(stride);
        let weights = weights.grown::<u16>(ROWS * padded).chunks_exact_mut(padded);
        for ((scores, weights), factor) in scores.zip(weights).zip(&mut factors).take(rows) {
            *factor = exponentials(lanes, &mut scores[..tokens]);
            let mut to = weights.chunks_exact_mut(step);
            for (from, to) in scores[..tokens].chunks(step).zip(&mut to) {
                // SAFETY: a chunk of weights has LANES values, of 16 bits as the format's own (asserted by `run`).
                unsafe { format.store(lanes.read(from), to.as_mut_ptr().cast()) };
            }
            to.for_each(|rest| rest.fill(0));
        }
        factors
    }

    /// out[first + r] = weights[r] . v * factors[r]
    #[inline(always)]
    fn mix(&mut self, first: usize, rows: usize, factors: &[f32; ROWS]) {
        let (dim, padded, lanes) = (self.dim, self.padded(), self.tiles.format().lanes());
        let mut sums = Sums::uninit();
        let values = self.scratch.values.as_slice::<u16>().chunks_exact(padded * PANEL);
        for (panel, values) in values.enumerate().take(dim.div_ceil(PANEL)) {
            let operands = Operands {
                x: self.scratch.weights.as_slice::<u8>().as_ptr(),
                stride: 2 * padded,
                both: rows > TILE_ROWS,
                w: values.as_ptr().cast(),
                steps: padded / STEP,
                coming: values.as_ptr().cast(),
            };
            // SAFETY: `softmax` has made room for ROWS rows of weights; a panel of values is whole.
            unsafe { self.tiles.multiply(operands, sums.as_mut_ptr()) };
            let columns = panel * PANEL..((panel + 1) * PANEL).min(dim);
            for (r, &factor) in factors.iter().enumerate().take(rows) {
                let factor = lanes.splat(factor);
                let out = &mut self.out.row(first + r)[columns.clone()];
                for (v, out) in out.chunks_exact_mut(PANEL / 3).enumerate() {
                    // SAFETY: `multiply` has written this row of sums.
                    let sum = unsafe { self.tiles.value(sums.as_ptr().add(r * PANEL + v * PANEL / 3)) };
                    lanes.write(lanes.mul(sum, factor), out);
                }
            }
        }
    }
}

/// Rows of bf16 on cache lines.
#[repr(C, align(64))]
struct Rows<const N: usize>([[u16; WIDEST]; N]);
