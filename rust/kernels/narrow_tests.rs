//! Narrow products, on every instruction set that the machine has: int8 to the bit against whole numbers, both against the
//! oracle within what their steps allow, and each row alone against the same row in a batch.

use proptest::prelude::*;

use super::narrow_kernels::Limits;
use super::tests::{assert_same, random};
use super::{Activation, Inputs, Isa, NarrowInputs, NarrowKernels, NarrowMatrix, Precision, scalar};

const PRECISIONS: [Precision; 2] = [Precision::Bf16, Precision::Int8];

fn all() -> impl Iterator<Item = NarrowKernels> {
    PRECISIONS.into_iter().flat_map(NarrowKernels::available)
}

fn pack(kernels: NarrowKernels, weight: &[f32], n: usize, k: usize, inputs: &Inputs) -> NarrowMatrix {
    kernels.pack(n, k, inputs, |row, out| out.copy_from_slice(&weight[row * k..(row + 1) * k]))
}

/// [rows, n], through a scratch that an earlier, larger batch has used.
fn linear(
    kernels: NarrowKernels,
    x: &[f32],
    rows: usize,
    w: &NarrowMatrix,
    bias: &[f32],
    act: Activation,
) -> Vec<f32> {
    let mut inputs = NarrowInputs::default();
    kernels.quantize(&vec![3.0; (rows + 3) * w.k()], w.k(), rows + 3, w, &mut inputs);
    kernels.quantize(x, w.k(), rows, w, &mut inputs);
    let mut out = vec![f32::NAN; rows * w.n()];
    kernels.linear(&inputs, rows, w, bias, act, 0..w.n(), &mut out, w.n());
    out
}

/// Inputs that are whole and span all steps in every block, weights that are whole and reach the greatest: every step is 1,
/// and a block's product is the integers' own. `greatest`: all inputs are, and the weights as great as they may be together,
/// which is what overflows where sums are kept in 16 bits.
fn check_exact(kernels: NarrowKernels, rows: usize, n: usize, k: usize, greatest: bool, seed: u64) {
    let what = format!("{} int8 {rows} x {n} x {k}", kernels.name());
    let Limits { input: most, weight: heaviest, together, block: length } = kernels.limits();
    // Of the weights beside a block's heaviest, and of the others.
    let (beside, others) = (heaviest.min((together - heaviest) / 15.0), heaviest.min(together / 16.0));
    let spread = |x: &f32| ((x + 1.0) / 2.0 * (most + 0.8) - 0.4).round();
    let mut x: Vec<f32> = random(seed, rows * k, 1.0).iter().map(spread).collect();
    let mut weight = random(seed + 1, n * k, 1.0);
    for (i, row) in weight.chunks_mut(k).enumerate() {
        for block in row.chunks_mut(length) {
            for (j, w) in block.iter_mut().enumerate() {
                let limit = if j < 32 { beside } else { others }.floor();
                *w = if greatest {
                    limit.copysign(1.0 - (i % 3) as f32)
                } else {
                    (*w * (limit + 0.4)).round()
                };
            }
            block[0] = if i % 2 == 0 { heaviest } else { -heaviest };
        }
    }
    if greatest {
        x.fill(most);
    }
    for block in x.chunks_mut(k).flat_map(|row| row.chunks_mut(length)) {
        (block[0], block[block.len() - 1]) = (0.0, most);
    }
    let packed = pack(kernels, &weight, n, k, &Inputs::default());
    let got = linear(kernels, &x, rows, &packed, &[], Activation::None);
    let block = |(x, w): (&[f32], &[f32])| x.iter().zip(w).map(|(&x, &w)| x as i64 * w as i64).sum::<i64>();
    let dot = |x: &[f32], w: &[f32]| {
        x.chunks(length).zip(w.chunks(length)).map(block).fold(0.0, |sum, dot| sum + dot as f32)
    };
    let want: Vec<f32> = x.chunks(k).flat_map(|x| weight.chunks(k).map(move |w| dot(x, w))).collect();
    assert_same(&got, &want, &what);
}

/// Weights whose sums would overflow at the finest steps: they are packed in coarser ones, all of them, and meet the greatest
/// inputs. A sum that wraps is off by half of what sums may be, not by a step.
fn check_crowded(kernels: NarrowKernels, weight: impl Fn(usize) -> f32) {
    let (n, k) = (40, 3 * 128 + 50);
    let weight: Vec<f32> = (0..n * k).map(|i| weight(i) * if i / k % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let mut x = vec![7.0; 5 * k];
    x.iter_mut().step_by(128).for_each(|x| *x = 0.0);
    let packed = pack(kernels, &weight, n, k, &Inputs::default());
    let got = linear(kernels, &x, 5, &packed, &[], Activation::None);
    let want = scalar::linear(&x, &weight, &vec![0.0; n], k, Activation::None);
    assert_eq!(got.len(), want.len());
    for (&got, want) in got.iter().zip(want) {
        assert!((f64::from(got) / want - 1.0).abs() < 0.05, "{}: {got}, not {want}", kernels.name());
    }
}

/// Against f64, within the steps: the worst that roundings of inputs and weights can add up to in a row is never met.
fn check_close(kernels: NarrowKernels, rows: usize, n: usize, k: usize, act: Activation, seed: u64) {
    let what = format!("{} {:?} {rows} x {n} x {k} {act:?}", kernels.name(), kernels.precision());
    let weight = random(seed, n * k, 1.0 / (k as f32).sqrt());
    let bias = random(seed + 1, n, 1.0);
    let inputs = Inputs { center: random(seed + 2, k, 2.0), spread: random(seed + 3, k, 3.0) };
    let noise = random(seed + 4, rows * k, 1.0);
    let known = inputs.center.iter().zip(&inputs.spread).cycle();
    let x: Vec<f32> = noise.iter().zip(known).map(|(x, (c, s))| x * s + c).collect();
    let packed = pack(kernels, &weight, n, k, &inputs);
    let corrected: Vec<f32> = match packed.correction() {
        [] => bias.clone(),
        correction => bias.iter().zip(correction).map(|(b, c)| b + c).collect(),
    };
    let got = linear(kernels, &x, rows, &packed, &corrected, act);
    let want = scalar::linear(&x, &weight, &bias, k, act);
    // Outputs are of size 1 or so; rounding to the steps averages over k.
    let tolerance = match kernels.precision() {
        Precision::Int8 if kernels.limits().input < 255.0 => 0.24,
        Precision::Int8 => 0.12,
        Precision::Bf16 => 0.04,
    };
    let worst = got.iter().zip(&want).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    assert!(worst < tolerance, "{what}: off by {worst}");

    for (x, want) in x.chunks(k).zip(got.chunks(n)) {
        assert_same(&linear(kernels, x, 1, &packed, &corrected, act), want, &what);
    }
    let cut = (n / 2).next_multiple_of(packed.panel()).min(n);
    let mut quantized = NarrowInputs::default();
    kernels.quantize(&x, k, rows, &packed, &mut quantized);
    for columns in [0..cut, cut..n] {
        let ldo = columns.len() + 3;
        let mut part = vec![7.0; rows * ldo];
        kernels.linear(&quantized, rows, &packed, &corrected, act, columns.clone(), &mut part, ldo);
        assert!(
            part.chunks(ldo).all(|row| row[columns.len()..] == [7.0; 3]),
            "{what} wrote past its columns"
        );
        for (part, whole) in part.chunks(ldo).zip(got.chunks(n)) {
            assert_same(&part[..columns.len()], &whole[columns.clone()], &what);
        }
    }
}

#[test]
fn int8_is_exact_on_every_tail() {
    for kernels in NarrowKernels::available(Precision::Int8) {
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13] {
            for (n, k) in [(1, 2), (16, 32), (47, 33), (48, 64), (49, 3), (96, 300), (17, 130)] {
                check_exact(kernels, rows, n, k, false, (rows * n * k) as u64);
                check_exact(kernels, rows, n, k, true, (rows * n * k) as u64);
            }
        }
        check_exact(kernels, 7, 50, 3072, true, 1);
        check_exact(kernels, 200, 50, 768, false, 2);
    }
}

/// k in whole tiles, which is what AMX takes, and rows and columns about theirs.
#[test]
fn products_of_whole_tiles_at_every_edge() {
    for rows in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97] {
        for (n, k) in [(1, 64), (16, 128), (47, 192), (48, 320), (49, 64), (100, 768)] {
            for kernels in NarrowKernels::available(Precision::Int8) {
                check_exact(kernels, rows, n, k, rows % 2 == 0, (rows * n * k) as u64);
            }
            for kernels in all() {
                check_close(kernels, rows, n, k, Activation::Gelu, (rows * n + k) as u64);
            }
        }
    }
    // More rows than a block of L2 holds.
    for kernels in all() {
        check_close(kernels, 330, 50, 1536, Activation::None, 9);
    }
}

/// What a packed checkpoint has: the same panels with tiles and without, and int8's scores to the bit the same.
#[test]
fn tiles_change_no_bit_of_int8() {
    let (weight, x) = (random(1, 100 * 768, 0.1), random(2, 70 * 768, 3.0));
    let [with, without] = [Isa::Amx, Isa::Avx512].map(|isa| NarrowKernels::new(isa, Precision::Int8));
    if let (Some(with), Some(without)) = (with, without) {
        let packed = [with, without].map(|kernels| pack(kernels, &weight, 100, 768, &Inputs::default()));
        assert_eq!(packed[0].as_bytes(), packed[1].as_bytes());
        let [a, b] = [(with, &packed[1]), (without, &packed[0])]
            .map(|(kernels, packed)| linear(kernels, &x, 70, packed, &[], Activation::None));
        assert_same(&a, &b, "with tiles and without");
    }
}

#[test]
fn weights_that_crowd_do_not_overflow() {
    for kernels in NarrowKernels::available(Precision::Int8) {
        check_crowded(kernels, |_| 0.3);
        check_crowded(kernels, |i| if i % 4 < 2 { 1.0 } else { 0.01 });
        check_crowded(kernels, |i| if i % 32 < 8 { 5.0 } else { 0.9 });
        check_crowded(kernels, |i| 1.0 + (i % 7) as f32 / 7.0);
    }
}

#[test]
fn narrow_products_are_close() {
    for kernels in all() {
        for activation in [Activation::None, Activation::Gelu] {
            check_close(kernels, 7, 40, 768, activation, 3);
            check_close(kernels, 97, 33, 200, activation, 4);
        }
    }
}

#[test]
fn nothing_known_and_nothing_there() {
    for kernels in all() {
        // A row of one value, and an output of no weights.
        let packed = pack(kernels, &[0.0; 32], 2, 16, &Inputs::default());
        assert_eq!(linear(kernels, &[0.0; 16], 1, &packed, &[1.0, 2.0], Activation::None), [1.0, 2.0]);
        assert!(linear(kernels, &[], 0, &packed, &[1.0, 2.0], Activation::None).is_empty());
        let ones = pack(kernels, &[1.0; 32], 2, 16, &Inputs::default());
        assert_eq!(linear(kernels, &[2.0; 16], 1, &ones, &[], Activation::None), [32.0, 32.0]);
    }
}

#[test]
fn inputs_that_are_not_finite_are_not_hidden() {
    for kernels in all() {
        let packed = pack(kernels, &random(1, 16 * 20, 1.0), 16, 20, &Inputs::default());
        for x in [f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = random(2, 20, 1.0);
            row[19] = x;
            let out = linear(kernels, &row, 1, &packed, &[], Activation::None);
            assert!(out.iter().all(|y| !y.is_finite()), "{}: {x} gave {out:?}", kernels.name());
        }
        let out = linear(kernels, &[f32::NAN; 20], 1, &packed, &[], Activation::None);
        assert!(out.iter().all(|y| !y.is_finite()), "{}: NaN gave {out:?}", kernels.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn narrow_products(rows in 1..40usize, n in 1..120usize, k in 2..400usize, act in 0..2usize, seed: u64) {
        let act = [Activation::None, Activation::Gelu][act];
        for kernels in NarrowKernels::available(Precision::Int8) {
            check_exact(kernels, rows, n, k, seed % 2 == 0, seed >> 1);
        }
        if k >= 64 {
            for kernels in all() {
                check_close(kernels, rows, n, k, act, seed >> 1);
            }
        }
    }
}
