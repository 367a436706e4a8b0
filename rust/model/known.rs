//! What weights tell of the activations that they will make, before any data: int8's steps are chosen by it.
//!
//! LayerNorm's results have mean beta and standard deviation gamma, element by element, as far as what it normalizes is
//! evenly spread; a product of those then has W beta + b, and the root of the sum of (W gamma)^2 where the elements are
//! independent. Neither is exact, and neither need be: a bad guess costs steps, never correctness.

use crate::kernels::{Activation, Compute, Inputs};
use crate::weights::View;

/// Mean and standard deviation of each output of a layer [n, k] whose inputs are `known` (center 0 and spread 1 where
/// they are not).
fn product(weight: &View, bias: &[f32], known: &Inputs) -> (Vec<f32>, Vec<f32>) {
    let mut row = vec![0.0; weight.row_len()];
    let of = |values: &[f32], i: usize, default: f32| values.get(i).copied().unwrap_or(default);
    let one = |output: usize| {
        weight.read_row(output, &mut row);
        let (mut mean, mut variance) = (bias[output], 0.0f32);
        for (i, &w) in row.iter().enumerate() {
            mean += w * of(&known.center, i, 0.0);
            variance += (w * of(&known.spread, i, 1.0)).powi(2);
        }
        (mean, variance.sqrt())
    };
    (0..weight.rows()).map(one).unzip()
}

/// Attention's results are averages of values: around the value's bias and W_v beta, and no further off than a value is.
pub fn attended(compute: Compute, value: &View, bias: &View, known: &Inputs) -> Inputs {
    if !compute.assumes() {
        return Inputs::default();
    }
    let (center, spread) = product(value, &bias.to_vec(), known);
    Inputs { center, spread }
}

/// Three standard deviations up, an activation is about as far from 0 as it gets; GELU's least is -0.17. It has no center
/// to take away: most of its values are next to 0, and a row's steps begin at its own least.
pub fn activated(weight: &View, bias: &[f32], known: &Inputs, activation: Activation) -> Inputs {
    let (mean, deviation) = product(weight, bias, known);
    let least = if activation == Activation::Relu { 0.0 } else { 0.17 };
    let spread = mean.iter().zip(&deviation).map(|(mean, deviation)| (mean + 3.0 * deviation).max(least));
    Inputs { center: Vec::new(), spread: spread.collect() }
}
