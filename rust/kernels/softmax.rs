//! Softmax, exact, in two passes over a row in cache.

use super::lanes::{Kernel, Lanes};
use super::math::exp_negative;

/// row = exp(row - max), and returns 1 / sum: the caller scales what it makes of the row, which is shorter.
#[inline(always)]
pub(super) fn exponentials<L: Lanes>(lanes: L, row: &mut [f32]) -> f32 {
    let whole = row.len() / L::LANES * L::LANES;
    let (vectors, tail) = row.split_at_mut(whole);
    let mut most = lanes.splat(f32::NEG_INFINITY);
    for x in vectors.chunks_exact(L::LANES) {
        most = lanes.max(most, lanes.read(x));
    }
    let most = tail.iter().fold(lanes.maximum(most), |most, &x| if most > x { most } else { x });
    let shift = lanes.splat(most);
    let mut total = lanes.splat(0.0);
    for x in vectors.chunks_exact_mut(L::LANES) {
        let e = exp_negative(lanes, lanes.sub(lanes.read(x), shift));
        lanes.write(e, x);
        total = lanes.add(total, e);
    }
    if !tail.is_empty() {
        let e = lanes.first(exp_negative(lanes, lanes.sub(lanes.read(tail), shift)), tail.len());
        lanes.write(e, tail);
        total = lanes.add(total, e);
    }
    1.0 / lanes.sum(total)
}

/// row *= factor
#[inline(always)]
pub(super) fn scale<L: Lanes>(lanes: L, row: &mut [f32], factor: f32) {
    let factor = lanes.splat(factor);
    for x in row.chunks_mut(L::LANES) {
        lanes.write(lanes.mul(lanes.read(x), factor), x);
    }
}

/// The softmax of each row of [rows, width], in place.
pub(super) struct Softmax<'a> {
    pub x: &'a mut [f32],
    pub width: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.x.chunks_exact_mut(self.width) {
            let factor = exponentials(lanes, row);
            scale(lanes, row, factor);
        }
    }
}
