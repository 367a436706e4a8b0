//! The product in a narrow format on a unit of tiles, which multiplies 16 rows by 16 columns over 64 bytes of k in one
//! instruction: `amx.rs` has Intel's. Weights are packed as for AVX-512, whose panel is three tiles wide.
//!
//! Rows are taken 32 at a time, two tiles, by one panel: six tiles of sums, and two registers left for what is multiplied.
//! Measured on Sapphire Rapids' successor with the weights in L2, as shares of the unit's peak: this 0.59, 16 rows 0.42, 32
//! rows by 32 columns 0.50, this with k in blocks of 384, 256 or 192 so that a panel's part stays in L1 0.53, 0.51, 0.49,
//! and with inputs laid out tile by tile 0.61. Putting the sums before in scale between the steps of the next, or after the last
//! of them, lost too: 0.75 and 0.86 of the whole's speed in int8, 0.4 and 0.7 of a product's in bf16. The likely reason is that
//! a tile's load waits for every store before it that may be to the same place, by the lower twelve bits of its address.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::format::{Format, FormatKernel, Precision};
use super::lanes::Lanes;
use super::math::{Activate, Activation};
use super::narrow::{NarrowMatrix, blocks};
use super::narrow_product::NarrowProduct;
use super::quantize::stride;

/// Bytes of k that an instruction takes, and of 16 columns' weights on one group of inputs.
pub(super) const DEPTH: usize = 64;
/// A tile's rows: inputs are padded to whole tiles.
pub(super) const TILE_ROWS: usize = 16;
/// Rows multiplied at a time.
pub(super) const ROWS: usize = 2 * TILE_ROWS;
/// Columns of a panel: three tiles.
pub(super) const PANEL: usize = 48;
/// Cache lines of the next panel that a step of 32 rows asks for: a panel has 48 a step, so that four times 32 rows see all of
/// it arrive in L2.
pub(super) const ASKED: usize = 12;
/// Inputs that all panels read in turn take about this much of L2, of which a CPU with AMX has 2 MB. Weights are read once for
/// each such block: with a quarter of it 3072 inputs left 32 rows, and 0.26 of the peak where 768 inputs had 0.42.
const BLOCK_BYTES: usize = 1 << 20;

/// [ROWS, PANEL] sums, i32 or f32, or their values. Not zeroed: that is a hundred stores for every tile.
#[repr(C, align(64))]
pub(super) struct Sums(MaybeUninit<[u32; ROWS * PANEL]>);

impl Sums {
    #[inline(always)]
    pub(super) fn uninit() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(super) fn as_ptr(&self) -> *const u32 {
        self.0.as_ptr().cast()
    }

    #[inline(always)]
    pub(super) fn as_mut_ptr(&mut self) -> *mut u32 {
        self.0.as_mut_ptr().cast()
    }
}

/// What one call multiplies.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// [16 or 32, steps * DEPTH bytes], a row every `stride` bytes.
    pub x: *const u8,
    pub stride: usize,
    /// Whether all 32 rows are wanted, not the first 16 alone.
    pub both: bool,
    /// [steps, 16 groups, PANEL, group]: DEPTH * PANEL bytes a step.
    pub w: *const u8,
    /// At least 1.
    pub steps: usize,
    /// Where to ask for ASKED cache lines a step: what will be multiplied next. Any address will do.
    pub coming: *const u8,
}

/// A unit of tiles and the narrow format that it multiplies; a value of it proves that the CPU has both.
pub(super) trait Tiles: Copy {
    type Format: Format;

    fn format(self) -> Self::Format;

    /// Makes the calling thread's tiles ready, and lets them go again when it returns.
    fn configured<R>(self, work: impl FnOnce() -> R) -> R;

    /// sums [16 or 32, PANEL] = x . w, of the rows asked for.
    /// # Safety
    /// Within [`Tiles::configured`]; x and w are readable as the operands say, and sums is writable.
    unsafe fn multiply(self, operands: Operands, sums: *mut u32);

    /// Products of registers alone, `rounds` of them over: the operations done.
    fn peak(self, rounds: usize) -> u64;

    /// Sums as f32.
    /// # Safety
    /// `from` is readable for `LANES` sums.
    unsafe fn value(self, from: *const u32) -> <<Self::Format as Format>::Lanes as Lanes>::V;
}

/// Whether a matrix is one for tiles: k in whole steps. Every BERT's is.
pub(super) fn suits<F: Format>(w: &NarrowMatrix) -> bool {
    (w.k * size_of::<F::Input>()).is_multiple_of(DEPTH) && w.k > 0
}

pub(super) struct TileProduct<'a, T: Tiles> {
    pub product: NarrowProduct<'a>,
    pub tiles: T,
}

type V<T> = <<<T as Tiles>::Format as Format>::Lanes as Lanes>::V;

impl<T: Tiles> TileProduct<'_, T> {
    pub(super) fn run(self) {
        let tiles = self.tiles;
        tiles.configured(|| tiles.format().run(self));
    }
}

impl<T: Tiles> FormatKernel for TileProduct<'_, T> {
    type Output = ();

    /// `F` is the tiles' own format: `run` above sees to it.
    #[inline(always)]
    fn run<F: Format>(mut self, _: F) {
        let product = &self.product;
        product.check::<T::Format>();
        let (rows, columns, w) = (product.rows, product.columns.clone(), product.w);
        let bytes = w.k * size_of::<<T::Format as Format>::Input>();
        let padded = rows.next_multiple_of(TILE_ROWS);
        assert!(suits::<T::Format>(w) && w.panel == PANEL && stride(w.k) == w.k, "no matrix for tiles");
        assert!(product.inputs.data.bytes() >= padded * bytes, "inputs are not padded to tiles");
        // Even blocks, of as many rows as L2 holds beside a panel: each reads all weights.
        let most = (BLOCK_BYTES / bytes / ROWS * ROWS).max(ROWS);
        let block = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(ROWS).max(ROWS);
        for first in (0..rows).step_by(block) {
            let last = (first + block).min(rows);
            for column in columns.clone().step_by(PANEL) {
                self.panel(first..last, column);
            }
        }
    }
}

impl<T: Tiles> TileProduct<'_, T> {
    #[inline(always)]
    fn panel(&mut self, rows: Range<usize>, column: usize) {
        let left = column - self.product.columns.start;
        let width = (self.product.columns.end - column).min(PANEL);
        // The next panel lies right behind this one.
        let bytes = self.product.w.k * size_of::<<T::Format as Format>::Input>();
        let data = self.product.w.data.as_slice::<u8>().as_ptr();
        let coming = data.wrapping_add((column + PANEL) * bytes);
        for (at, row) in rows.clone().step_by(ROWS).enumerate() {
            let height = (rows.end - row).min(ROWS);
            let part = at % (PANEL / ASKED) * (bytes / DEPTH * ASKED * 64);
            self.tile(row, height, column, width, coming.wrapping_add(part));
        }
        if self.product.activation != Activation::None {
            let activation = self.product.activation;
            let x = self.product.out.part(rows, left..left + width);
            self.tiles.format().lanes().run(Activate { x, activation });
        }
    }

    /// `height` rows by one panel, `width` of it wanted. What is added and in which order is as in the product without
    /// tiles, so that int8's values are the same to the bit.
    #[inline(always)]
    fn tile(&mut self, row: usize, height: usize, column: usize, width: usize, coming: *const u8) {
        let int8 = <T::Format as Format>::PRECISION == Precision::Int8;
        let count = if int8 { blocks::<T::Format>(self.product.w.k) } else { 1 };
        let mut values = Sums::uninit();
        // A block's sums are put in their scale while the next one's are multiplied: they wait for nothing that those are.
        let mut sums = [Sums::uninit(), Sums::uninit()];
        for block in 0..=count {
            if block < count {
                let operands = self.operands(block, row, height, column, coming);
                // SAFETY: `run` has shown that x has whole tiles of these rows, and `check` that w has this panel whole.
                unsafe { self.tiles.multiply(operands, sums[block % 2].as_mut_ptr()) };
            }
            let Some(block) = block.checked_sub(1) else { continue };
            let stride = self.product.out.stride();
            let (to, stride) = if block + 1 == count && width == PANEL {
                let left = column - self.product.columns.start;
                (self.product.out.as_mut_ptr().wrapping_add(row * stride + left), stride)
            } else {
                (values.as_mut_ptr().cast::<f32>(), PANEL)
            };
            let before = (block > 0).then(|| values.as_ptr().cast::<f32>());
            let sums = sums[block % 2].as_ptr();
            // SAFETY: `multiply` has written the sums of these rows, the block before their values; check() has shown that
            // `out` has the rows and the panel's columns, which are all wanted where they go there at once.
            unsafe {
                if int8 {
                    self.scaled(block, row, height, column, sums, before, to, stride);
                } else {
                    self.plain(height, column, sums, to, stride);
                }
            }
        }
        if width < PANEL {
            self.narrow(row, height, column, width, values.as_ptr().cast());
        }
    }

    /// What is multiplied for one block of k, of rows from `row` on and the panel that begins at `column`.
    #[inline(always)]
    fn operands(
        &self,
        block: usize,
        row: usize,
        height: usize,
        column: usize,
        coming: *const u8,
    ) -> Operands {
        let (x, w) = (self.product.inputs.data.as_slice::<u8>(), self.product.w.data.as_slice::<u8>());
        let bytes = self.product.w.k * size_of::<<T::Format as Format>::Input>();
        let int8 = <T::Format as Format>::PRECISION == Precision::Int8;
        let size = if int8 { <T::Format as Format>::BLOCK } else { bytes };
        let (from, to) = (block * size, ((block + 1) * size).min(bytes));
        Operands {
            x: x.as_ptr().wrapping_add(row * bytes + from),
            stride: bytes,
            both: height > TILE_ROWS,
            // A panel is [bytes / DEPTH, DEPTH * PANEL bytes].
            w: w.as_ptr().wrapping_add(column * bytes + from * PANEL),
            steps: (to - from) / DEPTH,
            coming: coming.wrapping_add(from / DEPTH * ASKED * 64),
        }
    }

    /// The bias of a panel.
    #[inline(always)]
    fn bias(&self, column: usize) -> [V<T>; 3] {
        let lanes = self.tiles.format().lanes();
        let step = PANEL / 3;
        [0, 1, 2].map(|v| lanes.read(self.product.bias.get(column + v * step..).unwrap_or(&[])))
    }

    /// to[r] = bias + sums[r]
    /// # Safety
    /// `sums` has `height` rows, and `to`, a row every `stride`, a panel of each.
    #[inline(always)]
    unsafe fn plain(&self, height: usize, column: usize, sums: *const u32, to: *mut f32, stride: usize) {
        let lanes = self.tiles.format().lanes();
        let bias = self.bias(column);
        for r in 0..height {
            for (v, &bias) in bias.iter().enumerate() {
                let at = v * PANEL / 3;
                // SAFETY: the caller's promise.
                unsafe {
                    let sum = self.tiles.value(sums.add(r * PANEL + at));
                    lanes.store(lanes.add(bias, sum), to.add(r * stride + at));
                }
            }
        }
    }

    /// to[r] = before[r] (None: bias) + sums[r] in the scale of their block of k.
    /// # Safety
    /// `sums` and `before` have `height` rows, and `to`, a row every `stride`, a panel of each.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn scaled(
        &self,
        block: usize,
        row: usize,
        height: usize,
        column: usize,
        sums: *const u32,
        before: Option<*const f32>,
        to: *mut f32,
        stride: usize,
    ) {
        let (lanes, w) = (self.tiles.format().lanes(), self.product.w);
        let blocks = blocks::<T::Format>(w.k);
        let place = column * blocks + block * PANEL;
        let mut values = self.bias(column);
        // SAFETY: check() has shown that every panel has steps for its whole width in each block, and every row has them; the
        // rest is the caller's promise.
        unsafe {
            let steps = |of: *const f32| [0, 1, 2].map(|v| lanes.load(of.add(place + v * PANEL / 3)));
            let (scales, weights) = (steps(w.scales.as_ptr()), steps(w.sums.as_ptr()));
            for r in 0..height {
                let input = (row + r) * blocks + block;
                let low = lanes.splat(*self.product.inputs.low.as_ptr().add(input));
                let step = lanes.splat(*self.product.inputs.step.as_ptr().add(input));
                for v in 0..3 {
                    let at = v * PANEL / 3;
                    if let Some(before) = before {
                        values[v] = lanes.load(before.add(r * PANEL + at));
                    }
                    let sum = self.tiles.value(sums.add(r * PANEL + at));
                    let rest = lanes.mul_add(low, weights[v], values[v]);
                    let value = lanes.mul_add(lanes.mul(sum, scales[v]), step, rest);
                    lanes.store(value, to.add(r * stride + at));
                }
            }
        }
    }

    /// What is wanted of a panel's values, to `out`.
    #[inline(always)]
    fn narrow(&mut self, row: usize, height: usize, column: usize, width: usize, values: *const f32) {
        let left = column - self.product.columns.start;
        let mut out = self.product.out.part(row..row + height, left..left + width);
        for r in 0..height {
            // SAFETY: `tile` has written these rows.
            let values = unsafe { std::slice::from_raw_parts(values.add(r * PANEL), width) };
            out.row(r).copy_from_slice(values);
        }
    }
}
