//! The product in a narrow format: out = activation(x W^T + bias), tile by tile, k whole.
//!
//! int8's sums are exact and bf16's are one chain over k, so a row's values don't depend on the rows beside it.

use std::ops::Range;

use super::format::{Format, FormatKernel, Precision};
use super::lanes::{Lanes, prefetch};
use super::math::{Activate, Activation};
use super::narrow::NarrowMatrix;
use super::place::Place;
use super::quantize::{NarrowInputs, stride};

/// The rows that all panels read in turn take about this much of L2.
const BLOCK_BYTES: usize = 224 << 10;

pub(super) struct NarrowProduct<'a> {
    pub inputs: &'a NarrowInputs,
    pub rows: usize,
    pub w: &'a NarrowMatrix,
    /// [n], or empty: zeros.
    pub bias: &'a [f32],
    pub activation: Activation,
    /// Begins at a panel.
    pub columns: Range<usize>,
    /// [rows, columns]
    pub out: Place<'a>,
}

impl FormatKernel for NarrowProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<F: Format>(mut self, format: F) {
        self.check::<F>();
        let tile = F::TILE_ROWS;
        let most = BLOCK_BYTES / (stride(self.w.k) * size_of::<F::Input>()) / tile * tile;
        let blocks = self.rows.div_ceil(most.max(tile)).max(1);
        let block = self.rows.div_ceil(blocks).next_multiple_of(tile).max(1);
        for first in (0..self.rows).step_by(block) {
            let rows = first..(first + block).min(self.rows);
            for column in self.columns.clone().step_by(F::Lanes::PANEL) {
                self.panel(format, rows.clone(), column);
            }
        }
    }
}

impl NarrowProduct<'_> {
    /// Everything that the tiles' pointers rely on.
    fn check<F: Format>(&self) {
        let (w, Range { start, end }) = (self.w, self.columns.clone());
        let panel = F::Lanes::PANEL;
        assert!(
            w.precision == F::PRECISION && w.panel == panel && w.group == F::GROUP,
            "packed for another format"
        );
        assert!(
            end <= w.n && (start.is_multiple_of(panel) || start >= end),
            "columns {start}..{end} of {}",
            w.n
        );
        let groups = w.k.div_ceil(F::GROUP);
        assert!(w.data.as_slice::<F::Weight>().len() >= w.n.div_ceil(panel) * panel * groups * F::GROUP);
        assert!(
            self.inputs.data.as_slice::<F::Input>().len() >= self.rows * stride(w.k),
            "inputs are too few"
        );
        assert!(self.bias.is_empty() || self.bias.len() >= end, "bias is shorter than its shape");
        if F::PRECISION == Precision::Int8 {
            assert!(self.inputs.low.len() >= self.rows && self.inputs.step.len() >= self.rows);
            assert!(w.scales.len() == w.n && w.sums.len() == w.n);
        }
        let shape = (self.rows, end.saturating_sub(start));
        assert!((self.out.rows(), self.out.width()) == shape, "out has another shape");
    }

    #[inline(always)]
    fn panel<F: Format>(&mut self, format: F, rows: Range<usize>, column: usize) {
        let width = (self.columns.end - column).min(F::Lanes::PANEL);
        let groups = self.w.k.div_ceil(F::GROUP);
        let left = column - self.columns.start;
        let (out, ldo) = (self.out.as_mut_ptr(), self.out.stride());
        // The next panel lies right behind this one: each tile asks for its share of the lines, evenly over k, as the f32
        // product does.
        let panel = groups * F::GROUP * F::Lanes::PANEL * size_of::<F::Weight>();
        let lines = (panel / 64).div_ceil(rows.len().div_ceil(F::TILE_ROWS).max(1));
        let mut coming =
            self.w.data.as_slice::<u8>().as_ptr().wrapping_add((column / F::Lanes::PANEL + 1) * panel);
        for row in rows.clone().step_by(F::TILE_ROWS) {
            let part = Part::<F> {
                x: self.inputs.data.as_slice::<F::Input>().as_ptr().wrapping_add(row * stride(self.w.k)),
                ldx: stride(self.w.k),
                w: self.w.data.as_slice::<F::Weight>().as_ptr().wrapping_add(column * groups * F::GROUP),
                groups,
                column,
                matrix: self.w,
                bias: self.bias,
                low: self.inputs.low.get(row..).unwrap_or(&[]),
                step: self.inputs.step.get(row..).unwrap_or(&[]),
                out: out.wrapping_add(row * ldo + left),
                ldo,
                width,
                coming: coming.cast(),
                every: groups.div_ceil(lines.max(1)).max(1),
            };
            coming = coming.wrapping_add(64 * lines);
            match (rows.end - row).min(F::TILE_ROWS) {
                1 => format.run(Tile::<F, 1>(part)),
                2 => format.run(Tile::<F, 2>(part)),
                3 => format.run(Tile::<F, 3>(part)),
                4 => format.run(Tile::<F, 4>(part)),
                5 => format.run(Tile::<F, 5>(part)),
                6 => format.run(Tile::<F, 6>(part)),
                7 => format.run(Tile::<F, 7>(part)),
                _ => format.run(Tile::<F, 8>(part)),
            }
        }
        if self.activation != Activation::None {
            let x = self.out.part(rows, left..left + width);
            format.lanes().run(Activate { x, activation: self.activation });
        }
    }
}

/// The operands of one tile: its rows by one panel.
#[derive(Clone, Copy)]
struct Part<'a, F: Format> {
    /// [height, groups, group], row stride `ldx`.
    x: *const F::Input,
    ldx: usize,
    /// [groups, panel, group]
    w: *const F::Weight,
    groups: usize,
    /// The panel's first, in the matrix.
    column: usize,
    matrix: &'a NarrowMatrix,
    bias: &'a [f32],
    /// [height] or more.
    low: &'a [f32],
    step: &'a [f32],
    /// [height, width], row stride `ldo`.
    out: *mut f32,
    ldo: usize,
    width: usize,
    /// What to ask for meanwhile, a line
    coming: *const f32,
    /// for every so many groups.
    every: usize,
}

/// `HEIGHT` rows, in registers for the whole of k. Made only after `check`, which has shown that the pointers are good.
struct Tile<'a, F: Format, const HEIGHT: usize>(Part<'a, F>);

impl<T: Format, const HEIGHT: usize> FormatKernel for Tile<'_, T, HEIGHT> {
    type Output = ();

    #[inline(always)]
    fn run<F: Format>(self, format: F) {
        match <F::Lanes as Lanes>::TILE_VECTORS {
            1 => self.vectors::<F, 1>(format),
            2 => self.vectors::<F, 2>(format),
            _ => self.vectors::<F, 3>(format),
        }
    }
}

impl<T: Format, const HEIGHT: usize> Tile<'_, T, HEIGHT> {
    #[inline(always)]
    fn vectors<F: Format, const VECTORS: usize>(self, format: F) {
        // A Tile<F> is only ever run by its own F.
        let (mut x, mut w) = (self.0.x.cast::<F::Input>(), self.0.w.cast::<F::Weight>());
        let vector = F::Lanes::LANES * F::GROUP;
        let mut sums = [[format.zero(); VECTORS]; HEIGHT];
        let mut coming = self.0.coming;
        for first in (0..self.0.groups).step_by(self.0.every) {
            prefetch(coming);
            coming = coming.wrapping_add(16);
            for _ in first..(first + self.0.every).min(self.0.groups) {
                // SAFETY: check() has shown that the panel has this group, and each row of x.
                let mut weights = [unsafe { format.weights(w) }; VECTORS];
                for (v, weights) in weights.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *weights = unsafe { format.weights(w.add(v * vector)) };
                }
                for (r, row) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let inputs = unsafe { format.inputs(x.add(r * self.0.ldx)) };
                    for (sum, &weights) in row.iter_mut().zip(&weights) {
                        *sum = format.dot(*sum, inputs, weights);
                    }
                }
                x = x.wrapping_add(F::GROUP);
                w = w.wrapping_add(VECTORS * vector);
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                self.finish(format, r, v * F::Lanes::LANES, sum);
            }
        }
    }

    /// A sum's scale and bias, and its store.
    #[inline(always)]
    fn finish<F: Format>(&self, format: F, row: usize, column: usize, sum: F::Sum) {
        let (part, lanes) = (&self.0, format.lanes());
        if column >= part.width {
            return;
        }
        let at = part.column + column;
        let bias = if part.bias.is_empty() { lanes.splat(0.0) } else { lanes.read(&part.bias[at..]) };
        let value = match F::PRECISION {
            Precision::Bf16 => lanes.add(format.value(sum), bias),
            Precision::Int8 => {
                let rest =
                    lanes.mul_add(lanes.splat(part.low[row]), lanes.read(&part.matrix.sums[at..]), bias);
                let steps = lanes.mul(format.value(sum), lanes.splat(part.step[row]));
                lanes.mul_add(steps, lanes.read(&part.matrix.scales[at..]), rest)
            }
        };
        let left = part.width - column;
        let to = part.out.wrapping_add(row * part.ldo + column);
        // SAFETY: check() has shown that out has this row's columns; a narrow panel stores no more than its width.
        unsafe {
            if left >= F::Lanes::LANES { lanes.store(value, to) } else { lanes.store_first(value, to, left) }
        }
    }
}
