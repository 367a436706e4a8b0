//! Every kernel, on every instruction set that the machine has, against the oracle; and each row alone against the same
//! row in a batch, to the bit.

use proptest::prelude::*;

use super::{Activation, AttentionScratch, Compute, Isa, Kernels, NarrowKernels, Precision, scalar};

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];

/// `len` values in -scale..scale, from a seed (xorshift; proptest's own vectors are slow to make at these sizes).
pub(super) fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (got as f64 - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "{what}[{i}]: {got} for {want}");
    }
}

#[track_caller]
pub(super) fn assert_same(a: &[f32], b: &[f32], what: &str) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b), "{what}");
}

/// [0, lengths[0], lengths[0] + lengths[1], ..]
pub(super) fn ends(lengths: &[usize]) -> Vec<u32> {
    let mut ends = vec![0];
    for &length in lengths {
        ends.push(ends[ends.len() - 1] + length as u32);
    }
    ends
}

/// linear against the oracle, with strides wider than the rows and what lies between them left alone; then each row alone,
/// and the columns in two parts.
fn check_linear(kernels: Kernels, rows: usize, n: usize, k: usize, act: Activation, seed: u64) {
    let what = format!("{} linear {rows} x {n} x {k} {act:?}", kernels.name());
    let (x, weight) = (random(seed, rows * k, 1.0), random(seed + 1, n * k, 1.0 / (k as f32).sqrt()));
    let bias = random(seed + 2, n, 1.0);
    let packed = kernels.pack(&weight, n, k);
    let (ldx, ldo) = (k + 3, n + 5);
    let mut strided = vec![f32::NAN; rows * ldx];
    for (to, from) in strided.chunks_mut(ldx).zip(x.chunks(k)) {
        to[..k].copy_from_slice(from);
    }
    let mut out = vec![7.0; rows * ldo];
    kernels.linear(&strided, ldx, rows, &packed, &bias, act, &mut out, ldo);
    assert!(out.chunks(ldo).all(|row| row[n..].iter().all(|&x| x == 7.0)), "{what} wrote past its columns");
    let dense: Vec<f32> = out.chunks(ldo).flat_map(|row| row[..n].to_vec()).collect();
    assert_close(&dense, &scalar::linear(&x, &weight, &bias, k, act), 4e-6, &what);

    let mut alone = vec![0.0; n];
    for (row, want) in x.chunks(k).zip(dense.chunks(n)) {
        kernels.linear(row, k, 1, &packed, &bias, act, &mut alone, n);
        assert_same(&alone, want, &what);
    }
    let cut = (n / 2).next_multiple_of(packed.panel()).min(n);
    for columns in [0..cut, cut..n] {
        let mut part = vec![0.0; rows * columns.len()];
        kernels.linear_columns(&x, k, rows, &packed, &bias, act, columns.clone(), &mut part, columns.len());
        let want: Vec<f32> = dense.chunks(n).flat_map(|row| row[columns.clone()].to_vec()).collect();
        assert_same(&part, &want, &what);
    }
}

fn check_norm(kernels: Kernels, rows: usize, width: usize, seed: u64) {
    let what = format!("{} norm {rows} x {width}", kernels.name());
    let (x, residual) = (random(seed, rows * width, 3.0), random(seed + 1, rows * width, 2.0));
    let (gamma, beta) = (random(seed + 2, width, 1.5), random(seed + 3, width, 1.0));
    let mut got = x.clone();
    kernels.add_layer_norm(&mut got, &residual, width, &gamma, &beta, 1e-5);
    let sum: Vec<f64> = x.iter().zip(&residual).map(|(&x, &r)| x as f64 + r as f64).collect();
    assert_close(&got, &scalar::layer_norm(&sum, &gamma, &beta, 1e-5), 1e-5, &what);
    for r in 0..rows {
        let row = r * width..(r + 1) * width;
        let mut alone = x[row.clone()].to_vec();
        kernels.add_layer_norm(&mut alone, &residual[row.clone()], width, &gamma, &beta, 1e-5);
        assert_same(&alone, &got[row], &what);
    }
    let mut plain = x.clone();
    kernels.layer_norm(&mut plain, width, &gamma, &beta, 1e-5);
    let x: Vec<f64> = x.iter().map(|&x| x as f64).collect();
    assert_close(&plain, &scalar::layer_norm(&x, &gamma, &beta, 1e-5), 1e-5, &what);
}

/// All ways of computing attention: each instruction set's in f32, and the one on tiles where there is it.
pub(super) fn attentions() -> Vec<Compute> {
    let full = Kernels::available().into_iter().map(|kernels| Compute { kernels, narrow: None });
    let tiles =
        [Precision::Bf16, Precision::Int8].into_iter().filter_map(|of| NarrowKernels::new(Isa::Amx, of));
    full.chain(tiles.map(|narrow| Compute { kernels: Kernels::detect(), narrow: Some(narrow) })).collect()
}

pub(super) fn name(compute: &Compute) -> &'static str {
    compute.narrow.map_or(compute.kernels.name(), |narrow| narrow.name())
}

fn check_attention(kernels: Compute, lengths: &[usize], heads: usize, head_dim: usize, seed: u64) {
    let what = format!("{} attention {lengths:?} x {heads} x {head_dim}", name(&kernels));
    // Values are up to 1.5, and bf16 has 8 bits of them.
    let tolerance = if kernels.narrow.is_some() { 2e-2 } else { 4e-6 };
    let (ends, width) = (ends(lengths), heads * head_dim);
    let tokens = lengths.iter().sum::<usize>();
    let mut qkv = random(seed, tokens * 3 * width, 1.5);
    for token in qkv.chunks_mut(3 * width) {
        token[..width].iter_mut().for_each(|q| *q *= 2.0 / (head_dim as f32).sqrt());
    }
    // Scratch that an earlier, larger batch has used.
    let mut scratch = AttentionScratch::default();
    let mut out = vec![0.0; 90 * width];
    kernels.attention(&vec![f32::NAN; 3 * 90 * width], &[0, 90], heads, head_dim, &mut out, &mut scratch);
    let mut out = vec![f32::NAN; tokens * width];
    kernels.attention(&qkv, &ends, heads, head_dim, &mut out, &mut scratch);
    assert_close(&out, &scalar::attention(&qkv, &ends, heads, head_dim), tolerance, &what);
    for bounds in ends.windows(2) {
        let (first, last) = (bounds[0] as usize, bounds[1] as usize);
        let mut alone = vec![0.0; (last - first) * width];
        let part = &qkv[first * 3 * width..last * 3 * width];
        let fresh = &mut AttentionScratch::default();
        kernels.attention(part, &[0, bounds[1] - bounds[0]], heads, head_dim, &mut alone, fresh);
        assert_same(&alone, &out[first * width..last * width], &what);
    }
}

fn check_cls(kernels: Kernels, lengths: &[usize], heads: usize, head_dim: usize, seed: u64) {
    let what = format!("{} cls {lengths:?} x {heads} x {head_dim}", kernels.name());
    let (ends, width, sequences) = (ends(lengths), heads * head_dim, lengths.len());
    let tokens = lengths.iter().sum::<usize>();
    let (x, q) = (random(seed, tokens * width, 1.0), random(seed + 1, sequences * width, 1.0));
    let scale = 1.0 / (width as f32).sqrt();
    let (w_k, w_v) = (random(seed + 2, width * width, scale), random(seed + 3, width * width, scale));
    let v_bias = random(seed + 4, width, 1.0);
    let mut scratch = AttentionScratch::default();
    let mut out = vec![f32::NAN; sequences * width];
    kernels.cls_attention(&x, &ends, &q, &w_k, &w_v, &v_bias, heads, head_dim, &mut out, &mut scratch);
    assert_close(&out, &scalar::cls_attention(&x, &ends, &q, [&w_k, &w_v], &v_bias, heads), 1e-5, &what);
    for (s, bounds) in ends.windows(2).enumerate() {
        let part = &x[bounds[0] as usize * width..bounds[1] as usize * width];
        let (q, length) = (&q[s * width..(s + 1) * width], bounds[1] - bounds[0]);
        let mut alone = vec![0.0; width];
        let ends = [0, length];
        kernels.cls_attention(part, &ends, q, &w_k, &w_v, &v_bias, heads, head_dim, &mut alone, &mut scratch);
        assert_same(&alone, &out[s * width..(s + 1) * width], &what);
    }
}

#[test]
fn linear_at_every_height() {
    for kernels in Kernels::available() {
        for rows in (0..=13).chain([143, 144, 145, 150, 290]) {
            check_linear(kernels, rows, 50, 19, Activation::None, rows as u64);
        }
    }
}

#[test]
fn linear_at_the_models_shapes() {
    for kernels in Kernels::available() {
        for (n, k) in [(192, 64), (64, 64), (176, 64), (64, 176), (1, 64), (384, 1536), (96, 768)] {
            for rows in [1, 7, 16] {
                check_linear(kernels, rows, n, k, Activation::Gelu, n as u64);
            }
        }
    }
}

#[test]
fn attention_at_every_length() {
    for kernels in attentions() {
        for length in 0..=70 {
            check_attention(kernels, &[length], 2, 16, length as u64);
        }
        check_attention(kernels, &[300, 1, 512], 1, 64, 5);
        for lengths in [[1, 15], [16, 17], [31, 32], [33, 47], [48, 49], [64, 90]] {
            check_attention(kernels, &lengths, 2, 32, lengths[0] as u64);
        }
        check_attention(kernels, &[40, 97], 1, 128, 6);
    }
}

#[test]
fn attention_at_every_head() {
    for kernels in attentions() {
        for head_dim in 1..=72 {
            check_attention(kernels, &[21, 3], 2, head_dim, head_dim as u64);
        }
    }
}

#[test]
fn attention_of_nothing() {
    for kernels in attentions() {
        kernels.attention(&[], &[0], 2, 4, &mut [], &mut AttentionScratch::default());
        check_cls(kernels.kernels, &[], 2, 4, 1);
    }
}

#[test]
fn attention_survives_scores_of_any_size() {
    for kernels in attentions() {
        // Scores of +-1e6: the softmax is one key, and nothing overflows.
        let qkv: Vec<f32> = random(3, 20 * 3 * 8, 1.0).iter().map(|x| x * 700.0).collect();
        let mut out = vec![0.0; 20 * 8];
        kernels.attention(&qkv, &[0, 20], 1, 8, &mut out, &mut AttentionScratch::default());
        assert!(out.iter().all(|x| x.is_finite()));
        assert_close(&out, &scalar::attention(&qkv, &[0, 20], 1, 8), 2e-2, name(&kernels));
    }
}

#[test]
fn activations_are_exact_in_f32() {
    let x: Vec<f32> = (-1_200_000..=1_200_000).map(|i| i as f32 * 1e-5).collect();
    for kernels in Kernels::available() {
        for act in ACTIVATIONS {
            let mut got = x.clone();
            kernels.activate(&mut got, act);
            for (&x, &got) in x.iter().zip(&got) {
                let want = scalar::activation(x as f64, act);
                let error = (got as f64 - want).abs();
                assert!(
                    error <= 1.1e-6 * want.abs().max(1.0),
                    "{} {act:?}({x}): {got} for {want}",
                    kernels.name()
                );
            }
        }
    }
}

#[test]
fn activations_keep_the_edges() {
    for kernels in Kernels::available() {
        for act in ACTIVATIONS {
            let mut x = [0.0, f32::NAN, 1e30, -1e30, f32::INFINITY];
            kernels.activate(&mut x, act);
            let most = if act == Activation::Tanh { 1.0 } else { 1e30 };
            assert!(x[0] == 0.0 && x[1].is_nan(), "{act:?} {x:?}");
            assert!((x[2] - most).abs() <= 1e-6 * most, "{act:?} {x:?}");
            let least = if act == Activation::None { -1e30 } else { -1.0 };
            assert!(x[3] >= least, "{act:?} {x:?}");
        }
    }
}

#[test]
fn softmax_sums_to_one() {
    for kernels in Kernels::available() {
        for width in 1..=40 {
            let x = random(width as u64, 3 * width, 30.0);
            let mut got = x.clone();
            kernels.softmax(&mut got, width);
            let exact: Vec<f64> = x.iter().map(|&x| x as f64).collect();
            let want: Vec<f64> = exact.chunks(width).flat_map(scalar::softmax).collect();
            assert_close(&got, &want, 1e-6, kernels.name());
        }
    }
}

#[test]
fn exponentials_are_exact_in_f32() {
    for kernels in Kernels::available() {
        for i in 0..86_000 {
            let x = i as f32 * -1e-3;
            let mut row = [0.0, x];
            kernels.softmax(&mut row, 2);
            let (got, want) = ((row[1] / row[0]) as f64, (x as f64).exp());
            assert!((got - want).abs() <= 4e-7 * want, "{} exp({x}): {got} for {want}", kernels.name());
        }
    }
}

#[test]
#[should_panic(expected = "another instruction set")]
fn weights_of_another_instruction_set_are_refused() {
    let packed = super::PackedMatrix::new(4, 4, 5, |_, row| row.fill(0.0));
    Kernels::detect().linear(&[0.0; 4], 4, 1, &packed, &[], Activation::None, &mut [0.0; 4], 4);
}

#[test]
fn detection_finds_what_is_available() {
    let available = Kernels::available();
    assert_eq!(available[0].isa(), Isa::Scalar);
    assert_eq!(available[available.len() - 1].isa(), Kernels::detect().isa());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn linear(rows in 1usize..40, n in 1usize..200, k in 1usize..600, act in 0usize..5, seed in 0u64..1000) {
        for kernels in Kernels::available() {
            check_linear(kernels, rows, n, k, ACTIVATIONS[act], seed);
        }
    }

    #[test]
    fn norm(rows in 0usize..6, width in 1usize..900, seed in 0u64..1000) {
        for kernels in Kernels::available() {
            check_norm(kernels, rows, width, seed);
        }
    }

    #[test]
    fn attention(
        lengths in prop::collection::vec(0usize..90, 1..5), heads in 1usize..4, dim in 4usize..=64, seed in 0u64..1000,
    ) {
        for kernels in attentions() {
            check_attention(kernels, &lengths, heads, dim, seed);
        }
    }

    #[test]
    fn cls_attention(
        lengths in prop::collection::vec(1usize..70, 1..7), heads in 1usize..4, dim in 1usize..=64, seed in 0u64..1000,
    ) {
        for kernels in Kernels::available() {
            check_cls(kernels, &lengths, heads, dim, seed);
        }
    }
}
