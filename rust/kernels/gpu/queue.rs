//! The kernels, each with its shapes checked, queued on a stream.

use super::driver::{Argument, Graph, Outcome, Product, Stream};
use super::memory::{Buffer, Slice};
use super::wave::Wave;
use super::{GRAIN, Precision, WIDEST_HEAD};
use crate::kernels::Activation;

/// Threads of a block; where each warp has a row, it has as many rows as warps.
const ROW_BLOCK: u32 = 128;
const ROWS_PER_BLOCK: usize = 4;

/// Elements of a row that a thread of `activate` has, and how many rows; cu/activate.cuh.
const ACTIVATE: [usize; 2] = [8, 4];

/// Heads that tensor cores are used for.
const FLASH_HEADS: [usize; 2] = [32, 64];

/// The names of all kernels: each in each precision, as cu/kernels.cu lists them.
#[cfg(feature = "cuda")]
pub(super) fn kernel_names() -> Vec<String> {
    let all = ["embed", "add_norm", "add_norm_wide", "gather", "activate", "attention", "cls_attention"];
    let precisions = [Precision::F32, Precision::F16, Precision::Bf16];
    let usual = precisions.iter().flat_map(|p| all.iter().map(move |name| format!("{name}_{}", p.name())));
    let flash = FLASH_HEADS.iter().flat_map(|d| ["f16", "bf16"].map(|p| format!("flash_{d}_{p}")));
    usual.chain(flash).collect()
}

/// A LayerNorm's vectors, f32 `[width]`.
#[derive(Clone, Copy)]
pub struct LayerNorm {
    pub gamma: Slice,
    pub beta: Slice,
    pub eps: f32,
}

/// The embedding tables, `[rows, width]` each; no types where there are none.
#[derive(Clone, Copy)]
pub struct Tables {
    pub words: Slice,
    pub positions: Slice,
    pub types: Option<Slice>,
}

/// A GPU's work in order.
pub struct Queue {
    stream: Box<dyn Stream>,
}

fn at(slice: Slice) -> Argument {
    Argument::Address(slice.at())
}

fn int(value: usize) -> Argument {
    assert!(value <= i32::MAX as usize, "{value} is past what kernels count to");
    Argument::Int(value as i32)
}

fn check(slice: Slice, precision: Precision, len: usize) {
    assert!(
        slice.precision() == precision,
        "a {} slice where {} is asked",
        slice.precision().name(),
        precision.name()
    );
    assert!(slice.len() >= len, "a slice of {} where {len} are asked", slice.len());
}

fn check_width(width: usize) {
    assert!(width > 0 && width.is_multiple_of(GRAIN), "a width of {width}");
}

impl Queue {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream }
    }

    fn launch(
        &self,
        kernel: &str,
        of: Precision,
        grid: [usize; 2],
        block: u32,
        arguments: &[Argument],
    ) -> Outcome<()> {
        let grid = grid.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        if grid.contains(&0) {
            return Ok(());
        }
        let kernel = format!("{kernel}_{}", of.name());
        // SAFETY: each caller below passes its kernel's arguments, as cu/kernels.cu declares them, and has checked that
        // every slice is of the precision and the size that the kernel's text asks for. Slices are of live buffers.
        unsafe { self.stream.launch(&kernel, grid, block, arguments) }
    }

    /// Copies bytes into a buffer, from this byte on.
    pub fn write(&self, buffer: &Buffer, from: usize, bytes: &[u8]) -> Outcome<()> {
        assert!(
            from + bytes.len() <= buffer.bytes(),
            "{} bytes from {from} on, of {}",
            bytes.len(),
            buffer.bytes()
        );
        // SAFETY: within the buffer, as was just seen.
        unsafe { self.stream.write(buffer.at() + from as u64, bytes) }
    }

    /// Keeps what `work` queues here, to be replayed; nothing of it is done.
    pub fn capture(&self, mut work: impl FnMut() -> Outcome<()>) -> Outcome<Box<dyn Graph>> {
        self.stream.capture(&mut work)
    }

    /// Queues what was captured here. Its buffers live still, as with every slice.
    pub fn replay(&self, graph: &dyn Graph) -> Outcome<()> {
        // SAFETY: slices are of live buffers, those of captured work too: that is asked of the caller above.
        unsafe { graph.replay() }
    }

    /// Waits for all that is queued, and copies f32 out.
    pub fn read(&self, slice: Slice, out: &mut [f32]) -> Outcome<()> {
        check(slice, Precision::F32, out.len());
        let mut bytes = vec![0; size_of_val(out)];
        // SAFETY: within the slice, as was just seen.
        unsafe { self.stream.read(slice.at(), &mut bytes) }?;
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_ne_bytes(*raw);
        }
        Ok(())
    }

    /// out `[rows, outputs]` = x `[rows, inputs]` weight `[outputs, inputs]`^T
    pub fn product(&self, x: Slice, weight: Slice, rows: usize, inputs: usize, out: Slice) -> Outcome<()> {
        let (precision, outputs) = (x.precision(), weight.len() / inputs);
        check(x, precision, rows * inputs);
        check(weight, precision, outputs * inputs);
        check(out, precision, rows * outputs);
        if rows == 0 {
            return Ok(());
        }
        let _ = (int(rows), int(inputs), int(outputs));
        let (x, weight, out) = (x.at(), weight.at(), out.at());
        // SAFETY: the shapes were just checked, and slices are of live buffers.
        unsafe { self.stream.product(&Product { precision, x, weight, out, rows, inputs, outputs }) }
    }

    /// out `[tokens, width]`: embeddings summed and normalized. block: the wave's words.
    pub fn embed(
        &self,
        tables: &Tables,
        block: Slice,
        wave: &Wave,
        norm: &LayerNorm,
        out: Slice,
    ) -> Outcome<()> {
        let (precision, width) = (out.precision(), norm.gamma.len());
        check_width(width);
        check(block, Precision::F32, wave.words());
        check(norm.beta, Precision::F32, width);
        for table in [Some(tables.words), Some(tables.positions), tables.types].into_iter().flatten() {
            check(table, precision, width);
        }
        check(out, precision, wave.tokens * width);
        let words = |start: usize| at(block.part(start, wave.tokens));
        let arguments = [
            at(tables.words),
            at(tables.positions),
            tables.types.map_or(Argument::Address(0), at),
            words(0),
            words(wave.tokens),
            words(2 * wave.tokens),
            at(norm.gamma),
            at(norm.beta),
            Argument::Float(norm.eps),
            int(wave.tokens),
            int(width),
            at(out),
        ];
        let blocks = wave.tokens.div_ceil(ROWS_PER_BLOCK);
        self.launch("embed", precision, [blocks, 1], ROW_BLOCK, &arguments)
    }

    /// out `[rows, width]` = LayerNorm(x + bias + residual); out may be x, or f32 whatever x is.
    pub fn add_norm(
        &self,
        x: Slice,
        bias: Slice,
        residual: Slice,
        norm: &LayerNorm,
        rows: usize,
        out: Slice,
    ) -> Outcome<()> {
        let (precision, width) = (x.precision(), norm.gamma.len());
        check_width(width);
        let wide = out.precision() != precision;
        for (vector, name) in [(bias, Precision::F32), (norm.beta, Precision::F32)] {
            check(vector, name, width);
        }
        for matrix in [x, residual] {
            check(matrix, precision, rows * width);
        }
        check(out, if wide { Precision::F32 } else { precision }, rows * width);
        let arguments = [
            at(x),
            at(bias),
            at(residual),
            at(norm.gamma),
            at(norm.beta),
            Argument::Float(norm.eps),
            int(rows),
            int(width),
            at(out),
        ];
        let kernel = if wide { "add_norm_wide" } else { "add_norm" };
        self.launch(kernel, precision, [rows.div_ceil(ROWS_PER_BLOCK), 1], ROW_BLOCK, &arguments)
    }

    /// x `[rows, width]` = activation(x + bias), in place.
    pub fn activate(&self, x: Slice, bias: Slice, activation: Activation, rows: usize) -> Outcome<()> {
        let width = bias.len();
        check_width(width);
        check(bias, Precision::F32, width);
        check(x, x.precision(), rows * width);
        // cu/activate.cuh has the same numbers.
        let function = match activation {
            Activation::None => 0,
            Activation::Gelu => 1,
            Activation::GeluTanh => 2,
            Activation::Relu => 3,
            Activation::Tanh => 4,
        };
        let arguments = [at(x), at(bias), Argument::Int(function), int(rows), int(width)];
        let blocks = [width.div_ceil(ACTIVATE[0] * ROW_BLOCK as usize), rows.div_ceil(ACTIVATE[1])];
        self.launch("activate", x.precision(), blocks, ROW_BLOCK, &arguments)
    }

    /// out `[tokens, heads, head_dim]` from qkv `[tokens, 3, heads, head_dim]`, to which `bias` has not been added yet.
    pub fn attention(
        &self,
        qkv: Slice,
        bias: Slice,
        block: Slice,
        wave: &Wave,
        heads: usize,
        out: Slice,
    ) -> Outcome<()> {
        let (precision, width) = (qkv.precision(), bias.len() / 3);
        let head_dim = width / heads;
        assert!(head_dim * heads == width && head_dim <= WIDEST_HEAD, "{heads} heads of {width}");
        check_width(head_dim);
        check(bias, Precision::F32, 3 * width);
        check(qkv, precision, wave.tokens * 3 * width);
        check(out, precision, wave.tokens * width);
        let tiles = block.part(wave.tile_words(), 3 * wave.tiles);
        let arguments = [at(qkv), at(bias), at(tiles), int(heads), int(head_dim), at(out)];
        let flash = precision != Precision::F32 && FLASH_HEADS.contains(&head_dim);
        let kernel = if flash { format!("flash_{head_dim}") } else { "attention".into() };
        self.launch(&kernel, precision, [wave.tiles, heads], ROW_BLOCK, &arguments)
    }

    /// out `[sequences, heads, head_dim]`: each sequence's q, its bias added, against kv `[tokens, 2, heads, head_dim]`,
    /// of which the values' has not been added.
    #[allow(clippy::too_many_arguments)]
    pub fn cls_attention(
        &self,
        q: Slice,
        kv: Slice,
        value_bias: Slice,
        block: Slice,
        wave: &Wave,
        heads: usize,
        out: Slice,
    ) -> Outcome<()> {
        let (precision, width) = (q.precision(), value_bias.len());
        let head_dim = width / heads;
        assert!(head_dim * heads == width && head_dim <= WIDEST_HEAD, "{heads} heads of {width}");
        check_width(head_dim);
        check(value_bias, Precision::F32, width);
        check(kv, precision, wave.tokens * 2 * width);
        for rows in [q, out] {
            check(rows, precision, wave.sequences * width);
        }
        let starts = block.part(wave.starts(), wave.sequences + 1);
        let arguments = [at(q), at(kv), at(value_bias), at(starts), int(heads), int(head_dim), at(out)];
        self.launch("cls_attention", precision, [wave.sequences, heads], ROW_BLOCK, &arguments)
    }

    /// out `[sequences, width]`: the first row of each sequence of x `[tokens, width]`.
    pub fn gather(&self, x: Slice, block: Slice, wave: &Wave, width: usize, out: Slice) -> Outcome<()> {
        check_width(width);
        check(x, out.precision(), wave.tokens * width);
        check(out, x.precision(), wave.sequences * width);
        let starts = block.part(wave.starts(), wave.sequences + 1);
        let arguments = [at(x), at(starts), int(wave.sequences), int(width), at(out)];
        self.launch(
            "gather",
            x.precision(),
            [wave.sequences.div_ceil(ROWS_PER_BLOCK), 1],
            ROW_BLOCK,
            &arguments,
        )
    }
}
