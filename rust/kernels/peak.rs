//! The most that these lanes can do: what the benches measure the others against.

use std::hint::black_box;

use super::lanes::{Kernel, Lanes};

/// Multiply-adds that never leave the registers.
pub(super) struct Peak {
    pub rounds: usize,
}

impl Kernel for Peak {
    /// The floating-point operations done (2 a multiply-add), and a value that keeps them from being optimized away.
    type Output = (u64, f32);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (u64, f32) {
        // As many chains as the product's tile has sums: enough to hide the latency, and all in registers.
        match L::TILE_ROWS * L::TILE_VECTORS {
            4 => chains::<L, 4>(lanes, self.rounds),
            8 => chains::<L, 8>(lanes, self.rounds),
            12 => chains::<L, 12>(lanes, self.rounds),
            _ => chains::<L, 24>(lanes, self.rounds),
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
