//! The oracle: every kernel as its formula reads, in f64, one element at a time.

use super::Activation;

/// erf by its series near 0 and by Lentz's continued fraction of erfc far from it.
pub(super) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..100 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return (sum * 2.0 / std::f64::consts::PI.sqrt()).copysign(x);
    }
    // erfc(a) = exp(-a^2) / sqrt(pi) / (a + (1/2) / (a + (2/2) / (a + (3/2) / ...)))
    let fraction = (1..100).rev().fold(a, |below, n| a + n as f64 / 2.0 / below);
    (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / fraction).copysign(x)
}

pub(super) fn activation(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}

/// x [rows, k], weight [n, k], bias [n]: [rows, n].
pub(super) fn linear(x: &[f32], weight: &[f32], bias: &[f32], k: usize, act: Activation) -> Vec<f64> {
    let row = |x| weight.chunks(k).zip(bias).map(move |(w, &b)| activation(dot(x, w) + b as f64, act));
    x.chunks(k).flat_map(row).collect()
}

/// x [rows, width], after the residual sum if there is one.
pub(super) fn layer_norm(x: &[f64], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f64> {
    let width = gamma.len();
    let mut out = Vec::new();
    for row in x.chunks(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + eps as f64).sqrt();
        out.extend((0..width).map(|i| (row[i] - mean) * scale * gamma[i] as f64 + beta[i] as f64));
    }
    out
}

pub(super) fn softmax(row: &[f64]) -> Vec<f64> {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(x));
    let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
    row.iter().map(|x| (x - most).exp() / sum).collect()
}

/// qkv [tokens, 3, heads, head_dim]: [tokens, heads, head_dim].
pub(super) fn attention(qkv: &[f32], cu_seqlens: &[u32], heads: usize, head_dim: usize) -> Vec<f64> {
    let width = heads * head_dim;
    let at = |token: usize, part: usize, head: usize| {
        &qkv[token * 3 * width + part * width + head * head_dim..][..head_dim]
    };
    let mut out = Vec::new();
    for ends in cu_seqlens.windows(2) {
        let sequence = ends[0] as usize..ends[1] as usize;
        for token in sequence.clone() {
            for head in 0..heads {
                let scores: Vec<f64> =
                    sequence.clone().map(|t| dot(at(token, 0, head), at(t, 1, head))).collect();
                let weights = softmax(&scores);
                for d in 0..head_dim {
                    let value = |(t, p): (usize, &f64)| p * at(t, 2, head)[d] as f64;
                    out.push(sequence.clone().zip(&weights).map(value).sum());
                }
            }
        }
    }
    out
}

/// The first row of each sequence against its keys and values, which are formed here: x [tokens, width], q [sequences, width].
pub(super) fn cls_attention(
    x: &[f32],
    cu_seqlens: &[u32],
    q: &[f32],
    [w_k, w_v]: [&[f32]; 2],
    v_bias: &[f32],
    heads: usize,
) -> Vec<f64> {
    let width = v_bias.len();
    let head_dim = width / heads;
    let mut out = Vec::new();
    for (ends, q) in cu_seqlens.windows(2).zip(q.chunks(width)) {
        let rows: Vec<&[f32]> = x.chunks(width).take(ends[1] as usize).skip(ends[0] as usize).collect();
        let project = |w: &[f32], x: &[f32]| -> Vec<f64> { w.chunks(width).map(|w| dot(w, x)).collect() };
        let keys: Vec<Vec<f64>> = rows.iter().map(|x| project(w_k, x)).collect();
        let values: Vec<Vec<f64>> = rows.iter().map(|x| project(w_v, x)).collect();
        for head in 0..heads {
            let part = head * head_dim..(head + 1) * head_dim;
            let score = |key: &Vec<f64>| part.clone().map(|i| q[i] as f64 * key[i]).sum();
            let weights = softmax(&keys.iter().map(score).collect::<Vec<f64>>());
            for i in part {
                let sum: f64 = weights.iter().zip(&values).map(|(p, value)| p * value[i]).sum();
                out.push(sum + v_bias[i] as f64);
            }
        }
    }
    out
}
