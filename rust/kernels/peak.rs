//! The most that these lanes can do: what the benches measure the others against.

use std::hint::black_box;

use super::lanes::{Kernel, Lanes};

/// Independent chains: at two a cycle with a latency of four or five, ten keep the units busy.
const CHAINS: usize = 12;

/// Multiply-adds that never leave the registers.
pub(super) struct Peak {
    pub rounds: usize,
}

impl Kernel for Peak {
    /// The floating-point operations done (2 a multiply-add), and a value that keeps them from being optimized away.
    type Output = (u64, f32);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (u64, f32) {
        // Values that the compiler can't know; chains that it knew to be equal it would make one.
        let (a, b) = (lanes.splat(black_box(0.999_999)), lanes.splat(black_box(1e-6)));
        let mut chains = [lanes.splat(0.0); CHAINS];
        for chain in &mut chains {
            *chain = lanes.splat(black_box(1.0));
        }
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = lanes.mul_add(*chain, a, b);
            }
        }
        let total = chains.iter().fold(0.0, |total, &chain| total + lanes.sum(chain));
        ((self.rounds * CHAINS * L::LANES * 2) as u64, total)
    }
}
