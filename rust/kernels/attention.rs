//! Self-attention over packed sequences: no padding, no mask.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

use super::lanes::{Kernel, Lanes};
use super::math::Activation;
use super::matrix::Buffer;
use super::place::Place;
use super::product::{Panels, Product, Start};
use super::softmax::{exponentials, scale};

/// Queries at a time: their scores over all the keys stay in L2 (96 KB at 512 keys). A multiple of every tile's height.
const QUERIES: usize = 48;

/// Memory that attention works in; it grows to the longest sequence seen and is reused.
#[derive(Default)]
pub struct AttentionScratch {
    /// One head's keys, transposed: [tokens / panel, head_dim, panel].
    pub(super) keys: Buffer,
    /// One head's values: [head_dim / panel, tokens, panel].
    pub(super) values: Buffer,
    /// [queries, tokens]
    pub(super) scores: Buffer,
    /// On tiles, in bf16: [tokens, head_dim], and the softmax of [queries, tokens].
    pub(super) queries: Buffer,
    pub(super) weights: Buffer,
    /// The CLS row's keys, absorbed: [sequences, heads, width].
    pub(super) absorbed: Buffer,
}

thread_local! {
    /// For a share in another thread's attention. A thread's own, not the leader's for each assistant: with n threads there
    /// are n of these, not n times n.
    static SPARE: RefCell<AttentionScratch> = RefCell::default();
}

/// Runs `work` in `scratch`, or where another thread is in that, in this thread's spare one.
pub(super) fn with_scratch(scratch: &Mutex<&mut AttentionScratch>, work: impl FnOnce(&mut AttentionScratch)) {
    match scratch.try_lock() {
        Ok(mut scratch) => work(&mut scratch),
        Err(_) => SPARE.with_borrow_mut(work),
    }
}

/// out[t, h] = softmax(q[t, h] . K[h]^T) V[h] within each sequence, for some of the heads.
pub(super) struct Attention<'a> {
    /// [tokens, 3, heads, head_dim]: q, k, v. The scale is in q.
    pub qkv: &'a [f32],
    /// [sequences + 1]
    pub cu_seqlens: &'a [u32],
    pub heads: usize,
    pub head_dim: usize,
    /// Those to compute.
    pub these: Range<usize>,
    /// [tokens, these, head_dim]
    pub out: Place<'a>,
    pub scratch: &'a mut AttentionScratch,
}

impl Kernel for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let width = self.heads * self.head_dim;
        for ends in self.cu_seqlens.windows(2) {
            let (first, last) = (ends[0] as usize, ends[1] as usize);
            // An empty sequence has no first token to point at.
            let heads = if first < last { self.these.clone() } else { 0..0 };
            for (place, head) in heads.enumerate() {
                let columns = place * self.head_dim..(place + 1) * self.head_dim;
                let one = Head {
                    qkv: &self.qkv[first * 3 * width..last * 3 * width],
                    width,
                    offset: head * self.head_dim,
                    head_dim: self.head_dim,
                    tokens: last - first,
                    out: self.out.part(first..last, columns),
                    scratch: self.scratch,
                };
                lanes.run(one);
            }
        }
    }
}

/// One head of one sequence.
struct Head<'a> {
    /// [tokens, 3, width]
    qkv: &'a [f32],
    /// heads * head_dim
    width: usize,
    /// This head's first column in `width`.
    offset: usize,
    head_dim: usize,
    tokens: usize,
    /// [tokens, head_dim]
    out: Place<'a>,
    scratch: &'a mut AttentionScratch,
}

impl Kernel for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        self.pack_keys(lanes);
        self.pack_values(lanes);
        let blocks = self.tokens.div_ceil(QUERIES).max(1);
        let block = self.tokens.div_ceil(blocks).next_multiple_of(L::TILE_ROWS).max(1);
        for first in (0..self.tokens).step_by(block) {
            self.queries(lanes, first, block.min(self.tokens - first));
        }
    }
}

impl Head<'_> {
    /// keys[t / panel, d, t % panel] = k[t, d]
    #[inline(always)]
    fn pack_keys<L: Lanes>(&mut self, lanes: L) {
        let (tokens, dim, stride) = (self.tokens, self.head_dim, 3 * self.width);
        let from = &self.qkv[self.width + self.offset..];
        let keys = self.scratch.keys.grown(tokens.next_multiple_of(L::PANEL) * dim);
        let (whole_tokens, whole_dim) = (tokens / L::LANES * L::LANES, dim / L::LANES * L::LANES);
        let place = |t: usize, d: usize| (t / L::PANEL * dim + d) * L::PANEL + t % L::PANEL;
        for t in (0..whole_tokens).step_by(L::LANES) {
            for d in (0..whole_dim).step_by(L::LANES) {
                let (source, target) = (&from[t * stride + d..], &mut keys[place(t, d)..]);
                assert!(source.len() >= (L::LANES - 1) * stride + L::LANES);
                assert!(target.len() >= (L::LANES - 1) * L::PANEL + L::LANES);
                // SAFETY: both hold LANES rows of LANES values, just asserted; LANES tokens lie in one panel.
                unsafe { lanes.transpose(source.as_ptr(), stride, target.as_mut_ptr(), L::PANEL) };
            }
            for d in whole_dim..dim {
                for t in t..t + L::LANES {
                    keys[place(t, d)] = from[t * stride + d];
                }
            }
        }
        for t in whole_tokens..tokens {
            for d in 0..dim {
                keys[place(t, d)] = from[t * stride + d];
            }
        }
    }

    /// values[d / panel, t, d % panel] = v[t, d]. Where they lie, each row is a page or more from the next, and the rows would
    /// share few sets of L1.
    #[inline(always)]
    fn pack_values<L: Lanes>(&mut self, lanes: L) {
        let (tokens, dim) = (self.tokens, self.head_dim);
        let values = self.scratch.values.grown(tokens * dim.next_multiple_of(L::PANEL));
        for (t, token) in self.qkv.chunks_exact(3 * self.width).enumerate() {
            let row = &token[2 * self.width + self.offset..][..dim];
            for (i, chunk) in row.chunks(L::LANES).enumerate() {
                let d = i * L::LANES;
                let to = (d / L::PANEL * tokens + t) * L::PANEL + d % L::PANEL;
                lanes.write(lanes.read(chunk), &mut values[to..to + L::LANES]);
            }
        }
    }

    /// out for the queries first..first + rows, over all the keys.
    #[inline(always)]
    fn queries<L: Lanes>(&mut self, lanes: L, first: usize, rows: usize) {
        let (tokens, dim, width) = (self.tokens, self.head_dim, self.width);
        let stride = tokens.next_multiple_of(16);
        let AttentionScratch { keys, values, scores, .. } = &mut *self.scratch;
        let scores = scores.grown(rows * stride);
        lanes.run(Product {
            x: &self.qkv[first * 3 * width + self.offset..],
            ldx: 3 * width,
            rows,
            right: Panels::packed(keys.as_slice(), dim, tokens, L::PANEL),
            columns: 0..tokens,
            start: Start::Zero,
            activation: Activation::None,
            out: Place::new(scores, rows, tokens, stride),
        });
        let mut factors = [0.0; QUERIES];
        for (row, factor) in scores.chunks_exact_mut(stride).zip(&mut factors) {
            *factor = exponentials(lanes, &mut row[..tokens]);
        }
        let mut out = self.out.part(first..first + rows, 0..dim);
        lanes.run(Product {
            x: scores,
            ldx: stride,
            rows,
            right: Panels::packed(values.as_slice(), tokens, dim, L::PANEL),
            columns: 0..dim,
            start: Start::Zero,
            activation: Activation::None,
            out: out.part(0..rows, 0..dim),
        });
        for (row, &factor) in factors[..rows].iter().enumerate() {
            scale(lanes, out.row(row), factor);
        }
    }
}
