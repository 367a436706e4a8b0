//! The last layer's attention for the CLS rows alone, with K and V absorbed: neither is ever formed.
//!
//! q . k_t = q . (W_k x_t + b_k) = (W_k^T q) . x_t + a constant, which drops out of the softmax; and the weights of a
//! softmax sum to 1, so sum_t p_t (W_v x_t + b_v) = W_v (sum_t p_t x_t) + b_v.

use super::attention::AttentionScratch;
use super::lanes::{Kernel, Lanes};
use super::math::Activation;
use super::place::Place;
use super::product::{Panels, Product, Start};
use super::softmax::{exponentials, scale};

pub(super) struct ClsAttention<'a> {
    /// [tokens, width]
    pub x: &'a [f32],
    /// [sequences + 1]
    pub cu_seqlens: &'a [u32],
    /// [sequences, heads, head_dim]; the scale is in it.
    pub q: &'a [f32],
    /// [heads, head_dim, width]
    pub w_k: &'a [f32],
    /// [heads, head_dim, width]
    pub w_v: &'a [f32],
    /// [heads, head_dim]
    pub v_bias: &'a [f32],
    pub heads: usize,
    pub head_dim: usize,
    /// [sequences, heads, head_dim]
    pub out: &'a mut [f32],
    pub scratch: &'a mut AttentionScratch,
}

impl Kernel for ClsAttention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (heads, dim, width) = (self.heads, self.head_dim, self.heads * self.head_dim);
        let sequences = self.cu_seqlens.len() - 1;
        let AttentionScratch { absorbed, scores, .. } = self.scratch;
        let absorbed = absorbed.grown(sequences * heads * width);
        let mut place = Place::new(absorbed, sequences, heads * width, heads * width);
        for head in 0..heads {
            // u[s, head] = W_k,head^T q[s, head]
            lanes.run(Product {
                x: &self.q[(head * dim).min(self.q.len())..],
                ldx: width,
                rows: sequences,
                right: Panels::row_major(&self.w_k[head * dim * width..], dim, width, width, L::PANEL),
                columns: 0..width,
                start: Start::Zero,
                activation: Activation::None,
                out: place.part(0..sequences, head * width..(head + 1) * width),
            });
        }
        for (ends, absorbed) in self.cu_seqlens.windows(2).zip(absorbed.chunks_exact_mut(heads * width)) {
            let x = &self.x[ends[0] as usize * width..ends[1] as usize * width];
            let tokens = x.len() / width;
            let scores = scores.grown(heads * tokens);
            lanes.run(Context { x, tokens, heads, width, absorbed, scores });
        }
        for head in 0..heads {
            // out[s, head] = W_v,head context[s, head] + b_v,head
            lanes.run(Dots {
                a: &absorbed[(head * width).min(sequences * heads * width)..],
                lda: heads * width,
                rows: sequences,
                b: &self.w_v[head * dim * width..],
                ldb: width,
                columns: dim,
                k: width,
                bias: Some(&self.v_bias[head * dim..(head + 1) * dim]),
                out: &mut self.out[(head * dim).min(sequences * width)..],
                ldo: width,
            });
        }
    }
}

/// One sequence: absorbed[h] = sum_t softmax_t(absorbed[h] . x[t]) x[t].
struct Context<'a> {
    /// [tokens, width]
    x: &'a [f32],
    tokens: usize,
    heads: usize,
    width: usize,
    /// [heads, width]
    absorbed: &'a mut [f32],
    /// [heads, tokens]
    scores: &'a mut [f32],
}

impl Kernel for Context<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, tokens, heads, width, absorbed, scores } = self;
        lanes.run(Dots {
            a: absorbed,
            lda: width,
            rows: heads,
            b: x,
            ldb: width,
            columns: tokens,
            k: width,
            bias: None,
            out: scores,
            ldo: tokens,
        });
        for row in scores.chunks_exact_mut(tokens.max(1)) {
            let factor = exponentials(lanes, row);
            scale(lanes, row, factor);
        }
        lanes.run(Product {
            x: scores,
            ldx: tokens,
            rows: heads,
            right: Panels::row_major(x, tokens, width, width, L::PANEL),
            columns: 0..width,
            start: Start::Zero,
            activation: Activation::None,
            out: Place::new(absorbed, heads, width, width),
        });
    }
}

/// out[r, c] = a[r] . b[c] + bias[c]: rows against rows, k contiguous in both. Each dot keeps its own lanes over k and adds
/// them at the end, so that it is the same in every tile.
struct Dots<'a> {
    /// [rows, k], row stride `lda`.
    a: &'a [f32],
    lda: usize,
    rows: usize,
    /// [columns, k], row stride `ldb`.
    b: &'a [f32],
    ldb: usize,
    columns: usize,
    k: usize,
    /// [columns]
    bias: Option<&'a [f32]>,
    /// [rows, columns], row stride `ldo`.
    out: &'a mut [f32],
    ldo: usize,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        for row in (0..self.rows).step_by(4) {
            match self.rows - row {
                1 => self.strip::<L, 1>(lanes, row),
                2 => self.strip::<L, 2>(lanes, row),
                3 => self.strip::<L, 3>(lanes, row),
                _ => self.strip::<L, 4>(lanes, row),
            }
        }
    }
}

impl Dots<'_> {
    /// `HEIGHT` rows against every column, two at a time.
    #[inline(always)]
    fn strip<L: Lanes, const HEIGHT: usize>(&mut self, lanes: L, row: usize) {
        for column in (0..self.columns).step_by(2) {
            if self.columns - column > 1 {
                self.tile::<L, HEIGHT, 2>(lanes, row, column);
            } else {
                self.tile::<L, HEIGHT, 1>(lanes, row, column);
            }
        }
    }

    #[inline(always)]
    fn tile<L: Lanes, const HEIGHT: usize, const WIDTH: usize>(
        &mut self,
        lanes: L,
        row: usize,
        column: usize,
    ) {
        let mut a: [&[f32]; HEIGHT] = [&[]; HEIGHT];
        for (i, a) in a.iter_mut().enumerate() {
            *a = &self.a[(row + i) * self.lda..][..self.k];
        }
        let mut b: [&[f32]; WIDTH] = [&[]; WIDTH];
        for (j, b) in b.iter_mut().enumerate() {
            *b = &self.b[(column + j) * self.ldb..][..self.k];
        }
        let mut sums = [[lanes.splat(0.0); WIDTH]; HEIGHT];
        for p in (0..self.k).step_by(L::LANES) {
            let mut right = [lanes.splat(0.0); WIDTH];
            for (right, b) in right.iter_mut().zip(&b) {
                *right = lanes.read(&b[p..]);
            }
            for (row, a) in sums.iter_mut().zip(&a) {
                let left = lanes.read(&a[p..]);
                for (sum, &right) in row.iter_mut().zip(&right) {
                    *sum = lanes.mul_add(left, right, *sum);
                }
            }
        }
        for (i, row_sums) in sums.iter().enumerate() {
            for (j, &sum) in row_sums.iter().enumerate() {
                let bias = self.bias.map_or(0.0, |bias| bias[column + j]);
                self.out[(row + i) * self.ldo + column + j] = lanes.sum(sum) + bias;
            }
        }
    }
}
