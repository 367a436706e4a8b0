//! The attention kernels against the oracle: every head, every length, tensor cores and not.

use super::*;

/// Lengths with all that can be odd about a tile of queries and a block of keys.
const LENGTHS: [usize; 7] = [1, 5, 16, 63, 64, 65, 150];

/// Steps that attention may be off: queries are rounded again with their bias, weights are rounded, and f32 sums scores of
/// tens. In f32, and in the others.
const ATTENTION: [f64; 2] = [200.0, 6.0];

/// The oracle's attention of qkv with its bias added.
fn attended(qkv: &There, bias: &There, starts: &[u32], heads: usize, head_dim: usize) -> Vec<f64> {
    let width = bias.values.len();
    let biased: Vec<f32> = qkv.values.iter().enumerate().map(|(i, x)| x + bias.values[i % width]).collect();
    scalar::attention(&biased, starts, heads, head_dim)
}

#[test]
fn attention_of_every_head_and_every_length_is_the_oracles() {
    everywhere(|bench| {
        let (wave, block, starts) = wave(&LENGTHS, 30);
        let there = bench.words(&block);
        for precision in PRECISIONS {
            // 32 and 64 are tensor cores' in f16 and bf16.
            for (heads, head_dim) in [(2, 4), (1, 16), (2, 32), (3, 64), (1, 128)] {
                let width = heads * head_dim;
                // Scores far enough apart that some weights are next to nothing.
                let values: Vec<f32> = numbers(wave.tokens * 3 * width, 11).iter().map(|x| x * 1.5).collect();
                let qkv = bench.put(&values, precision);
                let bias = bench.random(3 * width, Precision::F32, 12);
                let got = bench.made(wave.tokens * width, precision, |out| {
                    bench.queue.attention(qkv.slice(), bias.slice(), there.slice(), &wave, heads, out)
                });
                let want = attended(&qkv, &bias, &starts, heads, head_dim);
                assert_within(
                    ATTENTION[usize::from(precision != Precision::F32)],
                    &got,
                    &want,
                    precision,
                    &format!("{heads} heads of {head_dim}"),
                );
            }
        }
    });
}

#[test]
fn a_sequences_attention_has_the_same_bits_in_any_company() {
    everywhere(|bench| {
        let (heads, head_dim) = (2, 32);
        let width = heads * head_dim;
        for precision in PRECISIONS {
            let bias = bench.random(3 * width, Precision::F32, 12);
            let run = |lengths: &[usize], values: &[f32]| {
                let (wave, block, _) = wave(lengths, 30);
                let (there, qkv) = (bench.words(&block), bench.put(values, precision));
                let out = bench.empty(wave.tokens * width, precision);
                bench
                    .queue
                    .attention(qkv.slice(), bias.slice(), there.slice(), &wave, heads, out.slice())
                    .unwrap();
                bench.get(&out)
            };
            let values = numbers((70 + 33) * 3 * width, 13);
            let (first, second) = values.split_at(70 * 3 * width);
            let together = run(&[70, 33], &values);
            let swapped = run(&[33, 70], &[second, first].concat());
            assert_eq!(together, [run(&[70], first), run(&[33], second)].concat());
            assert_eq!(together, [&swapped[33 * width..], &swapped[..33 * width]].concat());
        }
    });
}

#[test]
fn scores_as_far_apart_as_they_get_give_no_nan() {
    everywhere(|bench| {
        let (wave, block, starts) = wave(&[100], 30);
        let there = bench.words(&block);
        for precision in PRECISIONS {
            let values: Vec<f32> = numbers(100 * 3 * 64, 14).iter().map(|x| x * 40.0).collect();
            let (qkv, bias) = (bench.put(&values, precision), bench.put(&[0.0; 3 * 64], Precision::F32));
            for heads in [1, 2, 4] {
                let got = bench.made(100 * 64, precision, |out| {
                    bench.queue.attention(qkv.slice(), bias.slice(), there.slice(), &wave, heads, out)
                });
                let want: Vec<f64> =
                    attended(&qkv, &bias, &starts, heads, 64 / heads).iter().map(|x| x / 40.0).collect();
                let got: Vec<f32> = got.iter().map(|x| x / 40.0).collect();
                // Of scores in the thousands f32 keeps no more than thousandths.
                assert_within(2e-2 / step(precision).min(1e-2), &got, &want, precision, "far apart");
            }
        }
    });
}

#[test]
fn the_cls_rows_attention_is_that_of_first_rows() {
    everywhere(|bench| {
        let (wave, block, starts) = wave(&LENGTHS, 30);
        let there = bench.words(&block);
        for precision in PRECISIONS {
            for (heads, head_dim) in [(3, 16), (2, 32), (2, 64)] {
                let width = heads * head_dim;
                let kv = bench.random(wave.tokens * 2 * width, precision, 21);
                let q = bench.random(wave.sequences * width, precision, 22);
                let value_bias = bench.random(width, Precision::F32, 23);
                let got = bench.made(wave.sequences * width, precision, |out| {
                    let (q, kv, bias) = (q.slice(), kv.slice(), value_bias.slice());
                    bench.queue.cls_attention(q, kv, bias, there.slice(), &wave, heads, out)
                });
                // All rows with their sequence's query: of the oracle's results the first row's are wanted.
                let mut qkv = Vec::new();
                for (sequence, ends) in starts.windows(2).enumerate() {
                    for token in ends[0] as usize..ends[1] as usize {
                        qkv.extend(&q.values[sequence * width..][..width]);
                        qkv.extend(&kv.values[token * 2 * width..][..2 * width]);
                    }
                }
                let all = scalar::attention(&qkv, &starts, heads, head_dim);
                let bias = f64s(&value_bias.values);
                let want: Vec<f64> = starts[..wave.sequences]
                    .iter()
                    .flat_map(|&start| (0..width).map(move |i| (start as usize, i)))
                    .map(|(start, i)| all[start * width + i] + bias[i])
                    .collect();
                assert_within(
                    ATTENTION[usize::from(precision != Precision::F32)],
                    &got,
                    &want,
                    precision,
                    &format!("{heads} heads of {head_dim}"),
                );
            }
        }
    });
}
