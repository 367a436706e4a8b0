//! The most that these lanes can do: what the benches measure the others against.

use std::hint::black_box;

use super::format::{Format, FormatKernel, UNROLL};
use super::lanes::{Kernel, Lanes};
use super::matrix::Buffer;

/// Multiply-adds that never leave the registers.
pub(super) struct Peak {
    pub rounds: usize,
}

impl Kernel for Peak {
    /// The floating-point operations done (2 a multiply-add), and a value that keeps them from being optimized away.
    type Output = (u64, f32);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (u64, f32) {
        // As many chains as the product's tile has sums: enough to hide the latency, and all in registers. (Of AVX-512's 24
        // the compiler kept a third in memory, and they reached two thirds of what the product does.)
        match L::TILE_ROWS * L::TILE_VECTORS {
            4 => chains::<L, 4>(lanes, self.rounds),
            8 => chains::<L, 8>(lanes, self.rounds),
            12 => chains::<L, 12>(lanes, self.rounds),
            _ => chains::<L, 16>(lanes, self.rounds),
        }
    }
}

#[inline(always)]
fn chains<L: Lanes, const CHAINS: usize>(lanes: L, rounds: usize) -> (u64, f32) {
    // Values that the compiler can't know; chains that it knew to be equal it would make one.
    let (a, b) = (lanes.splat(black_box(0.999_999)), lanes.splat(black_box(1e-6)));
    let mut chains = [lanes.splat(0.0); CHAINS];
    for chain in &mut chains {
        *chain = lanes.splat(black_box(1.0));
    }
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = lanes.mul_add(*chain, a, b);
        }
    }
    let mut total = 0.0;
    for chain in chains {
        total += lanes.sum(chain);
    }
    ((rounds * CHAINS * L::LANES * 2) as u64, total)
}

/// Narrow products of a tile that stays in L1: each round has inputs of its own, or the products would be the same ones
/// and taken out of the loop.
pub(super) struct FormatPeak {
    pub rounds: usize,
}

impl FormatKernel for FormatPeak {
    type Output = (u64, f32);

    #[inline(always)]
    fn run<F: Format>(self, format: F) -> (u64, f32) {
        match (F::TILE_ROWS, <F::Lanes as Lanes>::TILE_VECTORS) {
            (4, 2) if F::TOGETHER.is_finite() => runs::<F, 4, 2>(format, self.rounds),
            (6, _) => products::<F, 6, 2>(format, self.rounds),
            (4, 2) => products::<F, 4, 2>(format, self.rounds),
            (4, _) => products::<F, 4, 1>(format, self.rounds),
            (_, 1) => products::<F, 8, 1>(format, self.rounds),
            _ => products::<F, 8, 3>(format, self.rounds),
        }
    }
}

/// Of a format that has a way of its own to add several groups at once.
#[inline(always)]
fn runs<F: Format, const HEIGHT: usize, const VECTORS: usize>(format: F, rounds: usize) -> (u64, f32) {
    let mut buffer = Buffer::zeros::<u8>(4096);
    buffer.as_mut_slice::<u8>().fill(black_box(1));
    let (x, w) = (buffer.as_slice::<F::Input>().as_ptr(), buffer.as_slice::<F::Weight>().as_ptr());
    let run = UNROLL * F::GROUP;
    let weights = VECTORS * F::Lanes::LANES * run;
    // Four runs of the tile's weights, of 2 bytes at most; its inputs are fewer.
    assert!(4 * weights * 2 <= buffer.bytes() && HEIGHT <= 8 * VECTORS);
    let mut rows = [x; HEIGHT];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = x.wrapping_add(r * run);
    }
    let (mut sums, last) = ([[format.zero(); VECTORS]; HEIGHT], black_box(3));
    for round in 0..rounds {
        let at = round & last;
        // SAFETY: as asserted.
        unsafe { format.add_groups(&rows, at * UNROLL, w.add(at * weights), &mut sums) };
    }
    let lanes = format.lanes();
    let total = sums.iter().flatten().map(|&sum| lanes.sum(format.value(sum))).sum();
    ((rounds * HEIGHT * VECTORS * F::Lanes::LANES * run * 2) as u64, total)
}

#[inline(always)]
fn products<F: Format, const HEIGHT: usize, const VECTORS: usize>(format: F, rounds: usize) -> (u64, f32) {
    let mut buffer = Buffer::zeros::<u8>(1024);
    for (i, byte) in buffer.as_mut_slice::<u8>().iter_mut().enumerate() {
        // Small in any format.
        *byte = black_box((i % 3) as u8);
    }
    let (x, w) = (buffer.as_slice::<F::Input>(), buffer.as_slice::<F::Weight>());
    let groups = black_box(15);
    // SAFETY: the buffer holds 1024 bytes, and a tile's weights are at most 256.
    let mut weights = [unsafe { format.weights(w.as_ptr()) }; VECTORS];
    for (v, weights) in weights.iter_mut().enumerate() {
        // SAFETY: as above.
        *weights = unsafe { format.weights(w.as_ptr().add(v * F::Lanes::LANES * F::GROUP)) };
    }
    let mut sums = [[format.zero(); VECTORS]; HEIGHT];
    for round in 0..rounds {
        for (r, row) in sums.iter_mut().enumerate() {
            // SAFETY: 16 + 8 groups of inputs are at most 192 bytes.
            let inputs = unsafe { format.inputs(x.as_ptr().add(((round & groups) + r) * F::GROUP)) };
            for (sum, &weights) in row.iter_mut().zip(&weights) {
                *sum = format.dot(*sum, inputs, weights);
            }
        }
    }
    let lanes = format.lanes();
    let total = sums.iter().flatten().map(|&sum| lanes.sum(format.value(sum))).sum();
    ((rounds * HEIGHT * VECTORS * F::Lanes::LANES * F::GROUP * 2) as u64, total)
}
