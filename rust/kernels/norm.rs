//! LayerNorm, alone or after a residual sum.

use super::lanes::{Kernel, Lanes};

/// Each row of x: LayerNorm(x + residual) * gamma + beta, in place. Two passes over a row that is in L1: the variance is of
/// the differences from the mean, never E[x^2] - E[x]^2, which cancels.
pub(super) struct LayerNorm<'a> {
    /// [rows, width]
    pub x: &'a mut [f32],
    /// [rows, width]
    pub residual: Option<&'a [f32]>,
    pub width: usize,
    /// [width]
    pub gamma: &'a [f32],
    /// [width]
    pub beta: &'a [f32],
    pub eps: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let width = self.width;
        let (gamma, beta) = (&self.gamma[..width], &self.beta[..width]);
        for (r, row) in self.x.chunks_exact_mut(width).enumerate() {
            let sum = match self.residual {
                Some(residual) => add(lanes, row, &residual[r * width..(r + 1) * width]),
                None => sum(lanes, row),
            };
            let mean = sum / width as f32;
            let variance = squares(lanes, row, mean) / width as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            let (mean, scale) = (lanes.splat(mean), lanes.splat(scale));
            let parameters = gamma.chunks(L::LANES).zip(beta.chunks(L::LANES));
            for (x, (gamma, beta)) in row.chunks_mut(L::LANES).zip(parameters) {
                let normal = lanes.mul(lanes.sub(lanes.read(x), mean), scale);
                lanes.write(lanes.mul_add(normal, lanes.read(gamma), lanes.read(beta)), x);
            }
        }
    }
}

/// row += residual; the sum of the result.
#[inline(always)]
fn add<L: Lanes>(lanes: L, row: &mut [f32], residual: &[f32]) -> f32 {
    let mut total = lanes.splat(0.0);
    for (x, residual) in row.chunks_mut(L::LANES).zip(residual.chunks(L::LANES)) {
        let sum = lanes.add(lanes.read(x), lanes.read(residual));
        lanes.write(sum, x);
        total = lanes.add(total, sum);
    }
    lanes.sum(total)
}

#[inline(always)]
fn sum<L: Lanes>(lanes: L, row: &[f32]) -> f32 {
    let mut total = lanes.splat(0.0);
    for x in row.chunks(L::LANES) {
        total = lanes.add(total, lanes.read(x));
    }
    lanes.sum(total)
}

/// The sum of (x - mean)^2.
#[inline(always)]
fn squares<L: Lanes>(lanes: L, row: &[f32], mean: f32) -> f32 {
    let mean = lanes.splat(mean);
    let mut total = lanes.splat(0.0);
    for x in row.chunks(L::LANES) {
        // The lanes after the row's end would read as -mean.
        let difference = lanes.first(lanes.sub(lanes.read(x), mean), x.len());
        total = lanes.mul_add(difference, difference, total);
    }
    lanes.sum(total)
}
