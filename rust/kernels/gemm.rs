//! The linear product by the gemm crate, which is candle's own matmul: what 64-bit ARM runs. Its kernels for NEON are tested by their
//! makers on such machines; ours, the portable ones, would be compiled there unseen. On x86-64 it is for tests.
//!
//! How gemm sums depends on the shape that it is given: a single row goes another way, and so do few rows with few columns. Bits
//! differed in 590 to 1,922 of a row's outputs (768 to 2,304) between the row alone and among others. So it is always given one
//! shape but for the rows, which are at least two, and never more of k than it sums in one go: the sums go to a block of their own
//! first, of which the columns that are wanted are copied.

use std::ops::Range;

use super::lanes::{Kernel, Lanes};
use super::math::{Activate, Activation};
use super::matrix::PackedMatrix;
use super::place::{Place, fits};

/// Outputs side by side in a packed matrix: what gemm is given at a time.
pub(super) const PANEL: usize = 128;
/// Rows at a time.
const ROWS: usize = 64;
/// Of k at a time: gemm takes no less at once, whatever the caches of the machine.
const DEPTH: usize = 512;

/// [ROWS, PANEL]
#[repr(C, align(64))]
struct Sums([f32; ROWS * PANEL]);

/// out[r, c - columns.start] = activation(bias[c] + sum over k of x[r, k] * w[c, k]), for c in `columns`.
pub(super) struct GemmProduct<'a> {
    /// [rows, k], row stride `ldx`.
    pub x: &'a [f32],
    pub ldx: usize,
    pub rows: usize,
    pub w: &'a PackedMatrix,
    /// [n], or empty: zeros.
    pub bias: &'a [f32],
    pub activation: Activation,
    /// Begins at a panel.
    pub columns: Range<usize>,
    /// [rows, columns]
    pub out: Place<'a>,
}

impl Kernel for GemmProduct<'_> {
    type Output = ();

    fn run<L: Lanes>(mut self, lanes: L) {
        let Range { start, end } = self.columns;
        let w = self.w;
        assert!(w.panel() == PANEL && w.data().len() >= w.n().div_ceil(PANEL) * PANEL * w.k());
        assert!(
            end <= w.n() && (start.is_multiple_of(PANEL) || start >= end),
            "columns {start}..{end} of {}",
            w.n()
        );
        assert!(fits(self.x.len(), self.rows, w.k(), self.ldx), "x is shorter than its shape");
        assert!(self.bias.is_empty() || self.bias.len() >= end, "bias is shorter than its shape");
        let mut sums = Sums([0.0; ROWS * PANEL]);
        for first in (0..self.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(self.rows);
            for column in (start..end).step_by(PANEL) {
                self.multiply(rows.clone(), column, &mut sums);
                self.finish(lanes, rows.clone(), column, &sums);
            }
        }
    }
}

impl GemmProduct<'_> {
    /// sums = x . w of these rows and of the whole panel, of which what is past n is zeros.
    fn multiply(&self, rows: Range<usize>, column: usize, sums: &mut Sums) {
        let k = self.w.k();
        if k == 0 {
            sums.0.fill(0.0);
        }
        // A single row is multiplied twice over.
        let (height, stride) = if rows.len() > 1 { (rows.len(), self.ldx) } else { (2, 0) };
        for depth in (0..k).step_by(DEPTH) {
            let x = self.x.as_ptr().wrapping_add(rows.start * self.ldx + depth);
            let w = self.w.data().as_ptr().wrapping_add(column * k + depth * PANEL);
            // SAFETY: `run` has shown that x has these rows (the single one is read as two, a stride of 0 apart) and w this panel,
            // [k, PANEL]; sums has ROWS rows, which are at least two.
            unsafe {
                gemm::gemm(
                    height,
                    PANEL,
                    DEPTH.min(k - depth),
                    sums.0.as_mut_ptr(),
                    1,
                    PANEL as isize,
                    depth > 0,
                    x,
                    1,
                    stride as isize,
                    w,
                    1,
                    PANEL as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    // The engine's threads are its own: each core is used once.
                    gemm::Parallelism::None,
                );
            }
        }
    }

    /// What is wanted of a panel's sums, with bias and activation, to `out`.
    fn finish<L: Lanes>(&mut self, lanes: L, rows: Range<usize>, column: usize, sums: &Sums) {
        let left = column - self.columns.start;
        let width = (self.columns.end - column).min(PANEL);
        let bias = self.bias.get(column..column + width).unwrap_or(&[]);
        let mut out = self.out.part(rows.clone(), left..left + width);
        for (r, sums) in sums.0.chunks_exact(PANEL).enumerate().take(rows.len()) {
            let out = out.row(r);
            out.copy_from_slice(&sums[..width]);
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
        lanes.run(Activate { x: out, activation: self.activation });
    }
}
