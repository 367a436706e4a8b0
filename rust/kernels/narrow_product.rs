//! The product in a narrow format: out = activation(x W^T + bias), tile by tile, k whole.
//!
//! int8's sums are exact within a block of k, and the blocks follow one another; bf16's sums are one chain over k. So a row's
//! values don't depend on the rows beside it.

use std::ops::Range;

use super::format::{Format, FormatKernel, Precision, UNROLL};
use super::lanes::{Lanes, Stops, prefetch_tile};
use super::math::{Activate, Activation};
use super::narrow::{NarrowMatrix, blocks, groups_per_block};
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
    pub(super) fn check<F: Format>(&self) {
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
            let blocks = blocks::<F>(w.k);
            assert!(
                self.inputs.low.len() >= self.rows * blocks && self.inputs.step.len() >= self.rows * blocks
            );
            let steps = w.n.div_ceil(panel) * panel * blocks;
            assert!(w.scales.len() == steps && w.sums.len() == steps);
        }
        let shape = (self.rows, end.saturating_sub(start));
        assert!((self.out.rows(), self.out.width()) == shape, "out has another shape");
    }

    #[inline(always)]
    fn panel<F: Format>(&mut self, format: F, rows: Range<usize>, column: usize) {
        let width = (self.columns.end - column).min(F::Lanes::PANEL);
        let (groups, blocks) = (self.w.k.div_ceil(F::GROUP), blocks::<F>(self.w.k));
        let left = column - self.columns.start;
        let (out, ldo) = (self.out.as_mut_ptr(), self.out.stride());
        // The next panel lies right behind this one: each tile asks for its share of the lines, evenly over k, as the f32
        // product does.
        let panel = groups * F::GROUP * F::Lanes::PANEL * size_of::<F::Weight>();
        let lines = (panel / 64).div_ceil(rows.len().div_ceil(F::TILE_ROWS).max(1));
        let mut coming =
            self.w.data.as_slice::<u8>().as_ptr().wrapping_add((column / F::Lanes::PANEL + 1) * panel);
        let stops = Stops::new(lines, groups, UNROLL);
        for row in rows.clone().step_by(F::TILE_ROWS) {
            let part = Part::<F> {
                x: self.inputs.data.as_slice::<F::Input>().as_ptr().wrapping_add(row * stride(self.w.k)),
                ldx: stride(self.w.k),
                w: self.w.data.as_slice::<F::Weight>().as_ptr().wrapping_add(column * groups * F::GROUP),
                groups,
                column,
                bias: self.bias,
                low: self.inputs.low.as_ptr().wrapping_add(row * blocks),
                step: self.inputs.step.as_ptr().wrapping_add(row * blocks),
                scales: self.w.scales.as_ptr().wrapping_add(column * blocks),
                sums: self.w.sums.as_ptr().wrapping_add(column * blocks),
                blocks,
                out: out.wrapping_add(row * ldo + left),
                ldo,
                width,
                coming: coming.cast(),
                stops,
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
    bias: &'a [f32],
    /// int8's steps: of the inputs [height, blocks], of the panel's weights [blocks, panel].
    low: *const f32,
    step: *const f32,
    scales: *const f32,
    sums: *const f32,
    blocks: usize,
    /// [height, width], row stride `ldo`.
    out: *mut f32,
    ldo: usize,
    width: usize,
    /// What to ask for meanwhile, and when.
    coming: *const f32,
    stops: Stops,
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
        let (x, mut w) = (self.0.x.cast::<F::Input>(), self.0.w.cast::<F::Weight>());
        let (ldx, groups, stops) = (self.0.ldx, self.0.groups, self.0.stops);
        let step = VECTORS * F::Lanes::LANES * F::GROUP;
        let mut rows = [x; HEIGHT];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = x.wrapping_add(r * ldx);
        }
        prefetch_tile::<F::Lanes>(self.0.out, self.0.ldo, HEIGHT);
        let mut values = self.start::<F, VECTORS>(format);
        let (mut coming, mut group, mut ask_at) = (self.0.coming, 0, 0);
        for block in 0..groups.div_ceil(groups_per_block::<F>(groups)) {
            let end = (group + groups_per_block::<F>(groups)).min(groups);
            let mut sums = [[format.zero(); VECTORS]; HEIGHT];
            while group + UNROLL <= end {
                if group >= ask_at {
                    coming = stops.ask(coming);
                    ask_at += stops.every;
                }
                // SAFETY: check() has shown that the panel has these groups, and each row of x.
                unsafe { format.add_groups(&rows, group, w, &mut sums) };
                w = w.wrapping_add(UNROLL * step);
                group += UNROLL;
            }
            while group < end {
                // SAFETY: as above.
                unsafe { format.add_group(&rows, group, w, &mut sums) };
                w = w.wrapping_add(step);
                group += 1;
            }
            // Nothing else reads the sums, and nothing in a loop: where they are indexed by what the compiler can't see, they
            // get a place in memory, and every step a store for each of them.
            let mut part = values;
            for (part, sums) in part.iter_mut().zip(&sums) {
                for (part, &sum) in part.iter_mut().zip(sums) {
                    *part = format.value(sum);
                }
            }
            self.add(format, block, &part, &mut values);
        }
        for (r, row) in values.iter().enumerate() {
            for (v, &value) in row.iter().enumerate() {
                self.store(format, r, v * F::Lanes::LANES, value);
            }
        }
    }

    /// The bias, in every row.
    #[inline(always)]
    fn start<F: Format, const VECTORS: usize>(
        &self,
        format: F,
    ) -> [[<F::Lanes as Lanes>::V; VECTORS]; HEIGHT] {
        let lanes = format.lanes();
        let mut row = [lanes.splat(0.0); VECTORS];
        for (v, value) in row.iter_mut().enumerate() {
            let bias = self.0.bias.get(self.0.column + v * F::Lanes::LANES..);
            *value = lanes.read(bias.unwrap_or(&[]));
        }
        [row; HEIGHT]
    }

    /// values += the sums of one block of k, each in its scale.
    #[inline(always)]
    fn add<F: Format, const VECTORS: usize>(
        &self,
        format: F,
        block: usize,
        sums: &[[<F::Lanes as Lanes>::V; VECTORS]; HEIGHT],
        values: &mut [[<F::Lanes as Lanes>::V; VECTORS]; HEIGHT],
    ) {
        let (part, lanes) = (&self.0, format.lanes());
        if F::PRECISION == Precision::Bf16 {
            for (values, sums) in values.iter_mut().zip(sums) {
                for (value, &sum) in values.iter_mut().zip(sums) {
                    *value = lanes.add(*value, sum);
                }
            }
            return;
        }
        let mut scales = [lanes.splat(0.0); VECTORS];
        let mut weights = scales;
        for v in 0..VECTORS {
            let at = block * F::Lanes::PANEL + v * F::Lanes::LANES;
            // SAFETY: check() has shown that every panel has steps for its whole width, in each block.
            unsafe {
                scales[v] = lanes.load(part.scales.add(at));
                weights[v] = lanes.load(part.sums.add(at));
            }
        }
        for (r, (values, sums)) in values.iter_mut().zip(sums).enumerate() {
            // SAFETY: and every row a step for each block.
            let (low, step) = unsafe {
                let at = r * part.blocks + block;
                (lanes.splat(*part.low.add(at)), lanes.splat(*part.step.add(at)))
            };
            for v in 0..VECTORS {
                let rest = lanes.mul_add(low, weights[v], values[v]);
                values[v] = lanes.mul_add(lanes.mul(sums[v], scales[v]), step, rest);
            }
        }
    }

    #[inline(always)]
    fn store<F: Format>(&self, format: F, row: usize, column: usize, value: <F::Lanes as Lanes>::V) {
        let (part, lanes) = (&self.0, format.lanes());
        if column >= part.width {
            return;
        }
        let left = part.width - column;
        let to = part.out.wrapping_add(row * part.ldo + column);
        // SAFETY: check() has shown that out has this row's columns; a narrow panel stores no more than its width.
        unsafe {
            if left >= F::Lanes::LANES { lanes.store(value, to) } else { lanes.store_first(value, to, left) }
        }
    }
}
