//! The matrix product: out = start + x . B, tile by tile.
//!
//! Every output is one chain of multiply-adds over k in order, beginning at its start value, whatever the tile's height,
//! the block of rows or the block of k (a partial sum stored and loaded again is the same f32). So a row's values don't
//! depend on the rows beside it, to the bit.

use std::ops::Range;

use super::lanes::{Kernel, Lanes, Stops, prefetch_tile};
use super::math::{Activate, Activation};
use super::place::{Place, fits};

/// Rows of x that one pass over a block of k takes: a wave of the usual size in one, so that the weights, which come from
/// memory in a model of any size, are read once. 144 was tried: as good with weights that the cache holds, and a tenth of
/// the peak lost with those that it doesn't (12 layers in turn, 256 rows).
const ROWS: usize = 288;
/// k in one pass: sums are stored and loaded again after each. 384, 1536 and 3072 were tried: worse, the same, worse.
const DEPTH: usize = 768;

/// A right side of so many values is not asked for ahead of its use: it fits in L2.
const SMALL: usize = 64 << 10;

/// The right side, [k, n], as panels of columns.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub data: &'a [f32],
    pub k: usize,
    pub n: usize,
    /// Values from one k to the next.
    pub step: usize,
    /// Values from one panel to the next.
    pub panel: usize,
}

impl<'a> Panels<'a> {
    /// Packed: [n / width, k, width].
    pub(super) fn packed(data: &'a [f32], k: usize, n: usize, width: usize) -> Self {
        Self { data, k, n, step: width, panel: width * k }
    }

    /// A row-major matrix as it lies, [k, n] with row stride `stride`.
    pub(super) fn row_major(data: &'a [f32], k: usize, n: usize, stride: usize, width: usize) -> Self {
        Self { data, k, n, step: stride, panel: width }
    }
}

/// What a sum begins with.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// [n]
    Bias(&'a [f32]),
}

/// out[r, c - columns.start] = activation(start[c] + sum over k of x[r, k] * right[k, c]), for c in `columns`.
pub(super) struct Product<'a> {
    /// [rows, k], row stride `ldx`.
    pub x: &'a [f32],
    pub ldx: usize,
    pub rows: usize,
    pub right: Panels<'a>,
    /// Begins at a panel.
    pub columns: Range<usize>,
    pub start: Start<'a>,
    pub activation: Activation,
    /// [rows, columns]
    pub out: Place<'a>,
}

impl Product<'_> {
    /// Everything that the tiles' pointers rely on.
    fn check<L: Lanes>(&self) {
        let Range { start, end } = self.columns;
        let right = &self.right;
        assert!(
            end <= right.n && (start.is_multiple_of(L::PANEL) || start >= end),
            "columns {start}..{end} of {}",
            right.n
        );
        assert!(fits(self.x.len(), self.rows, right.k, self.ldx), "x is shorter than its shape");
        assert!(
            self.out.rows() == self.rows && self.out.width() == end.saturating_sub(start),
            "out has another shape"
        );
        if start < end {
            // The last panel may be narrow where the matrix is row-major; its loads are then masked.
            let (panel, last) = ((end - 1) / L::PANEL, (end - 1) % L::PANEL + 1);
            assert!(fits(right.data.len().saturating_sub(panel * right.panel), right.k, last, right.step));
        }
        if let Start::Bias(bias) = self.start {
            assert!(bias.len() >= end, "bias is shorter than its shape");
        }
    }
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        self.check::<L>();
        // Even blocks: a last block of a few rows would read all the weights for itself alone.
        let blocks = self.rows.div_ceil(ROWS).max(1);
        let block = self.rows.div_ceil(blocks).next_multiple_of(L::TILE_ROWS).max(1);
        for first in (0..self.rows).step_by(block) {
            let rows = first..(first + block).min(self.rows);
            // At least once: a product over no k is its start.
            for p in (0..self.right.k.max(1)).step_by(DEPTH) {
                let depth = p..(p + DEPTH).min(self.right.k);
                for column in self.columns.clone().step_by(L::PANEL) {
                    self.panel(lanes, rows.clone(), depth.clone(), column);
                }
            }
        }
    }
}

impl Product<'_> {
    /// What follows this panel's block of k: the next panel's, or at the last panel the first one's next block.
    #[inline(always)]
    fn coming<L: Lanes>(&self, depth: &Range<usize>, column: usize, tiles: usize) -> Coming {
        let right = &self.right;
        let (k, column) = if column + L::PANEL < self.columns.end {
            (depth.start, column + L::PANEL)
        } else {
            (if depth.end < right.k { depth.end } else { 0 }, self.columns.start)
        };
        let at = column / L::PANEL * right.panel + k * right.step;
        // A row-major matrix's panel is not contiguous; a small one, as of attention's keys, is in the cache already.
        let ask = right.step == L::PANEL && right.data.len() > SMALL;
        let lines = if ask { (depth.len() * L::PANEL / 16).div_ceil(tiles.max(1)) } else { 0 };
        Coming { next: right.data.as_ptr().wrapping_add(at), lines }
    }

    /// One panel's columns for a block of rows and a block of k. The activation follows the last block of k: there the
    /// panel's part of `out` is in L1. (Inside the tile it would be compiled once for every height.)
    #[inline(always)]
    fn panel<L: Lanes>(&mut self, lanes: L, rows: Range<usize>, depth: Range<usize>, column: usize) {
        let right = &self.right;
        let left = column - self.columns.start; // in out
        let width = (self.columns.end - column).min(L::PANEL);
        let (out, ldo) = (self.out.as_mut_ptr(), self.out.stride());
        let tiles = rows.len().div_ceil(L::TILE_ROWS);
        let mut coming = self.coming::<L>(&depth, column, tiles);
        let stops = Stops::new(coming.lines, depth.len(), UNROLL);
        for row in rows.clone().step_by(L::TILE_ROWS) {
            // wrapping_add: the pointers of an empty product may lie outside, and aren't followed.
            let to = out.wrapping_add(row * ldo + left);
            let (start, start_stride) = match self.start {
                _ if depth.start > 0 => (to.cast_const(), ldo),
                Start::Bias(bias) => (bias.as_ptr().wrapping_add(column), 0),
                Start::Zero => (std::ptr::null(), 0),
            };
            let part = Part {
                x: self.x.as_ptr().wrapping_add(row * self.ldx + depth.start),
                ldx: self.ldx,
                b: right
                    .data
                    .as_ptr()
                    .wrapping_add(column / L::PANEL * right.panel + depth.start * right.step),
                step: right.step,
                k: depth.len(),
                start,
                start_stride,
                out: to,
                ldo,
                width,
                coming: coming.next,
                stops,
            };
            coming.next = coming.next.wrapping_add(16 * coming.lines);
            let height = (rows.end - row).min(L::TILE_ROWS);
            // SAFETY: check() has shown that these rows, columns and k lie within the slices.
            unsafe { part.run(lanes, height) };
        }
        if self.activation != Activation::None && depth.end == right.k {
            let x = self.out.part(rows, left..left + width);
            lanes.run(Activate { x, activation: self.activation });
        }
    }
}

/// The next panel's part of the weights, asked for line by line while this panel's tiles run: they come from L3 or from
/// memory, a stride away, where no hardware prefetcher looks. A tile asks for its lines evenly over k: all at once they
/// fill the core's list of misses, and the tile waits for memory after all.
struct Coming {
    next: *const f32,
    /// Lines for each tile to ask for.
    lines: usize,
}

/// The operands of one tile: `height` rows by one panel.
#[derive(Clone, Copy)]
struct Part {
    /// [height, k], row stride `ldx`.
    x: *const f32,
    ldx: usize,
    /// [k, width], row stride `step`.
    b: *const f32,
    step: usize,
    k: usize,
    /// [height, width], row stride `start_stride` (0: one row for all); null: zeros.
    start: *const f32,
    start_stride: usize,
    /// [height, width], row stride `ldo`.
    out: *mut f32,
    ldo: usize,
    /// At most the panel's.
    width: usize,
    /// What to ask for meanwhile, and when.
    coming: *const f32,
    stops: Stops,
}

impl Part {
    /// # Safety
    /// The pointers are good for the shapes above, with `height` at most `L::TILE_ROWS`.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self, lanes: L, height: usize) {
        let narrow = !self.width.is_multiple_of(L::LANES);
        // A last panel takes only the vectors that it needs: 64 columns in panels of 48 are 3 vectors and 1.
        match (self.width.div_ceil(L::LANES), narrow) {
            _ if self.width == L::PANEL && self.step == L::PANEL => self.dense(lanes, height),
            (1, false) => self.tile::<L, 1, STRIDED>(lanes, height),
            (1, true) => self.tile::<L, 1, NARROW>(lanes, height),
            (2, false) => self.tile::<L, 2, STRIDED>(lanes, height),
            (2, true) => self.tile::<L, 2, NARROW>(lanes, height),
            (_, false) => self.tile::<L, 3, STRIDED>(lanes, height),
            (_, true) => self.tile::<L, 3, NARROW>(lanes, height),
        }
    }

    /// A full panel of a packed matrix.
    #[inline(always)]
    fn dense<L: Lanes>(self, lanes: L, height: usize) {
        match L::TILE_VECTORS {
            1 => self.tile::<L, 1, DENSE>(lanes, height),
            2 => self.tile::<L, 2, DENSE>(lanes, height),
            _ => self.tile::<L, 3, DENSE>(lanes, height),
        }
    }

    #[inline(always)]
    fn tile<L: Lanes, const VECTORS: usize, const KIND: u8>(self, lanes: L, height: usize) {
        match height {
            1 => lanes.run(Tile::<1, VECTORS, KIND>(self)),
            2 => lanes.run(Tile::<2, VECTORS, KIND>(self)),
            3 => lanes.run(Tile::<3, VECTORS, KIND>(self)),
            4 => lanes.run(Tile::<4, VECTORS, KIND>(self)),
            5 => lanes.run(Tile::<5, VECTORS, KIND>(self)),
            6 => lanes.run(Tile::<6, VECTORS, KIND>(self)),
            7 => lanes.run(Tile::<7, VECTORS, KIND>(self)),
            _ => lanes.run(Tile::<8, VECTORS, KIND>(self)),
        }
    }
}

/// How a panel lies, and whether it is full.
const DENSE: u8 = 0; // full, each k right behind the one before: addresses are constants
const STRIDED: u8 = 1; // full
const NARROW: u8 = 2; // not full: loads and stores are masked

/// Steps of k that are written out one after the other. A core often shares its front end with another one's thread, and
/// is then short of instructions, not of multipliers: rolled up, a step took 36 for 12 multiply-adds, and 20 are needed.
/// Measured on a busy machine, 12 layers' weights in turn: 1 is 0.90 of 8, 2 is 0.96, 4 is 0.99.
const UNROLL: usize = 8;

/// `HEIGHT` rows by `VECTORS` vectors, in registers for all of the part's k. Made only by `Part::run`, whose caller promised
/// the pointers.
struct Tile<const HEIGHT: usize, const VECTORS: usize, const KIND: u8>(Part);

impl<const HEIGHT: usize, const VECTORS: usize, const KIND: u8> Tile<HEIGHT, VECTORS, KIND> {
    /// A vector for each of the tile's, from one row.
    /// # Safety
    /// `from` is readable for the part's width.
    #[inline(always)]
    unsafe fn load<L: Lanes>(&self, lanes: L, from: *const f32) -> [L::V; VECTORS] {
        let mut row = [lanes.splat(0.0); VECTORS];
        for (v, vector) in row.iter_mut().enumerate() {
            let at = from.wrapping_add(v * L::LANES);
            // SAFETY: within the width; a narrow panel loads no more than is left of it.
            *vector = unsafe {
                if KIND == NARROW { lanes.load_first(at, self.left::<L>(v)) } else { lanes.load(at) }
            };
        }
        row
    }

    /// How many columns vector `v` has.
    #[inline(always)]
    fn left<L: Lanes>(&self, v: usize) -> usize {
        (self.0.width - v * L::LANES).min(L::LANES)
    }

    /// sums += x[., p] * right[p, .], for one p: `right` points at its row, and `p` counts in each of `rows`.
    /// # Safety
    /// Both are readable there.
    #[inline(always)]
    unsafe fn step<L: Lanes>(
        &self,
        lanes: L,
        rows: &[*const f32; HEIGHT],
        p: usize,
        right: *const f32,
        sums: &mut [[L::V; VECTORS]; HEIGHT],
    ) {
        // SAFETY: the caller's promise.
        let right = unsafe { self.load(lanes, right) };
        for (&x, sums) in rows.iter().zip(sums) {
            // SAFETY: the caller's promise.
            let left = lanes.splat(unsafe { *x.add(p) });
            for (sum, &right) in sums.iter_mut().zip(&right) {
                *sum = lanes.mul_add(left, right, *sum);
            }
        }
    }
}

impl<const HEIGHT: usize, const VECTORS: usize, const KIND: u8> Kernel for Tile<HEIGHT, VECTORS, KIND> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Part { x, ldx, b, k, start, start_stride, out, ldo, coming, stops, .. } = self.0;
        let step = if KIND == DENSE { L::PANEL } else { self.0.step };
        if KIND == DENSE {
            // The next tile's: it may begin with what is there. Attention's are in the cache already.
            prefetch_tile::<L>(out.wrapping_add(HEIGHT * ldo), ldo, HEIGHT);
        }
        let mut sums = [[lanes.splat(0.0); VECTORS]; HEIGHT];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                // SAFETY: Part::run's caller promised HEIGHT rows.
                *row = unsafe { self.load(lanes, start.add(r * start_stride)) };
            }
        }
        let mut rows = [x; HEIGHT];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = x.wrapping_add(r * ldx);
        }
        let (mut coming, mut right, mut p) = (coming, b, 0);
        while p < k {
            coming = stops.ask(coming);
            let end = (p + stops.every).min(k);
            while p + UNROLL <= end {
                for u in 0..UNROLL {
                    // SAFETY: Part::run's caller promised k rows of the panel, and HEIGHT rows of x, of k values.
                    unsafe { self.step(lanes, &rows, p + u, right.wrapping_add(u * step), &mut sums) };
                }
                right = right.wrapping_add(UNROLL * step);
                p += UNROLL;
            }
            while p < end {
                // SAFETY: as above.
                unsafe { self.step(lanes, &rows, p, right, &mut sums) };
                right = right.wrapping_add(step);
                p += 1;
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let to = out.wrapping_add(r * ldo + v * L::LANES);
                // SAFETY: and HEIGHT rows of out; a narrow panel stores no more than its width.
                unsafe {
                    if KIND == NARROW {
                        lanes.store_first(sum, to, self.left::<L>(v))
                    } else {
                        lanes.store(sum, to)
                    }
                }
            }
        }
    }
}
