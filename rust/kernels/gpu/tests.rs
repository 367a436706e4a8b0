//! Every kernel (attention in attention_tests.rs), as its text is, run by the twin against the oracle: in each
//! precision, and with threads in several orders, whose results must be the same to the bit.

#[path = "attention_tests.rs"]
mod attention;

use std::sync::Arc;

use half::{bf16, f16};

use super::twin::{Twin, rounded};
use super::*;
use crate::kernels::{Activation, scalar};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];
const ORDERS: [u32; 4] = [0, 1, 2, 3];

struct Bench {
    twin: Option<Twin>,
    gpu: Gpu,
    queue: Queue,
}

/// Values as the GPU has them: rounded to a precision, in memory of their own.
struct There {
    buffer: Buffer,
    precision: Precision,
    values: Vec<f32>,
}

impl There {
    fn slice(&self) -> Slice {
        self.buffer.slice(self.precision)
    }
}

fn on_twin() -> Bench {
    let twin = Twin::default();
    let gpu = Gpu::of(Arc::new(twin.clone()));
    let queue = gpu.queue().unwrap();
    Bench { twin: Some(twin), gpu, queue }
}

/// On the twin, and on the first GPU where this build and this machine have one.
fn everywhere(test: impl Fn(&Bench)) {
    test(&on_twin());
    if count("cuda").is_ok() {
        let gpu = Gpu::open("cuda", 0).unwrap();
        let queue = gpu.queue().unwrap();
        test(&Bench { twin: None, gpu, queue });
    }
}

/// Numbers between -1 and 1, other ones for each seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl Bench {
    fn put(&self, values: &[f32], precision: Precision) -> There {
        let (bytes, values): (Vec<u8>, Vec<f32>) = match precision {
            Precision::F32 => (values.iter().flat_map(|v| v.to_ne_bytes()).collect(), values.to_vec()),
            Precision::F16 => {
                let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                (
                    halves.iter().flat_map(|h| h.to_ne_bytes()).collect(),
                    halves.iter().map(|h| h.to_f32()).collect(),
                )
            }
            Precision::Bf16 => {
                let halves: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
                (
                    halves.iter().flat_map(|h| h.to_ne_bytes()).collect(),
                    halves.iter().map(|h| h.to_f32()).collect(),
                )
            }
        };
        let buffer = self.gpu.buffer(bytes.len()).unwrap();
        self.queue.write(&buffer, 0, &bytes).unwrap();
        There { buffer, precision, values }
    }

    fn random(&self, count: usize, precision: Precision, seed: u64) -> There {
        self.put(&numbers(count, seed), precision)
    }

    fn words(&self, block: &[u32]) -> There {
        let bytes: Vec<u8> = block.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let buffer = self.gpu.buffer(bytes.len()).unwrap();
        self.queue.write(&buffer, 0, &bytes).unwrap();
        There { buffer, precision: Precision::F32, values: Vec::new() }
    }

    fn empty(&self, count: usize, precision: Precision) -> There {
        There { buffer: self.gpu.buffer(count * precision.size()).unwrap(), precision, values: Vec::new() }
    }

    fn get(&self, there: &There) -> Vec<f32> {
        let mut words = vec![0.0f32; there.buffer.bytes() / 4];
        self.queue.read(there.buffer.slice(Precision::F32), &mut words).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let halves = bytes.as_chunks::<2>().0;
        match there.precision {
            Precision::F32 => words,
            Precision::F16 => halves.iter().map(|raw| f16::from_ne_bytes(*raw).to_f32()).collect(),
            Precision::Bf16 => halves.iter().map(|raw| bf16::from_ne_bytes(*raw).to_f32()).collect(),
        }
    }

    /// What `run` makes of an empty buffer, the same whatever the threads' order.
    fn made(&self, count: usize, precision: Precision, run: impl Fn(Slice) -> Outcome<()>) -> Vec<f32> {
        let results = ORDERS.map(|order| {
            if let Some(twin) = &self.twin {
                twin.order(order);
            }
            let out = self.empty(count, precision);
            run(out.slice()).unwrap();
            self.get(&out)
        });
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for result in &results {
            assert_eq!(bits(result), bits(&results[0]), "threads in another order");
        }
        results.into_iter().next().unwrap()
    }
}

/// The relative distance of two neighbours in a precision.
fn step(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f64::from(f32::EPSILON),
        Precision::F16 => 2f64.powi(-10),
        Precision::Bf16 => 2f64.powi(-7),
    }
}

/// Within so many steps of what is wanted, or of 1 where that is less.
fn assert_within(steps: f64, got: &[f32], want: &[f64], precision: Precision, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        let bar = steps * step(precision) * want.abs().max(1.0);
        assert!(off <= bar, "{what}, {precision:?}, element {i}: {got} for {want}");
    }
}

/// A result is rounded once; in f32 its sums are, at every step.
fn assert_near(got: &[f32], want: &[f64], precision: Precision, what: &str) {
    assert_within(if precision == Precision::F32 { 40.0 } else { 1.0 }, got, want, precision, what);
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The block of a wave of sequences of these lengths, and where they start.
fn wave(lengths: &[usize], vocabulary: u32) -> (Wave, Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + *length as u32);
    }
    let tokens = starts[lengths.len()];
    let ids: Vec<u32> = (0..tokens).map(|i| i * 7 % vocabulary).collect();
    let places: Vec<u32> = (0..tokens).map(|i| i * 5 % 11).collect();
    let kinds: Vec<u8> = (0..tokens).map(|i| (i % 3 == 0).into()).collect();
    let (wave, mut block) = (Wave::of(&starts), Vec::new());
    pack(&ids, &places, &kinds, &starts, wave, &mut block);
    (wave, block, starts)
}

#[test]
fn the_twin_rounds_as_ieee_says() {
    let mut values: Vec<f32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect();
    // What lies between two halves, and right beside the middle.
    for bits in (0..0x7c00u16).step_by(3) {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let middle = low + (high - low) / 2.0;
        values.extend([middle, f32::from_bits(middle.to_bits() + 1), -f32::from_bits(middle.to_bits() - 1)]);
    }
    values.extend([65519.9, 65520.0, 1e9, -1e9, 1e-30, -0.0]);
    for value in values {
        let (half, brain, back) = rounded(value);
        if value.is_nan() {
            assert!(back.is_nan() && bf16::from_bits(brain).is_nan());
            continue;
        }
        assert_eq!(half, f16::from_f32(value).to_bits(), "{value} to f16");
        assert_eq!(brain, bf16::from_f32(value).to_bits(), "{value} to bf16");
        assert_eq!(back.to_bits(), f16::from_bits(half).to_f32().to_bits(), "{value} and back");
    }
}

#[test]
fn embeddings_are_summed_and_normalized() {
    everywhere(|bench| {
        for precision in PRECISIONS {
            for (width, with_types) in [(4, true), (64, true), (140, false), (384, true)] {
                let (wave, block, _) = wave(&[1, 6, 2], 30);
                let [words, positions, types] = [(30, 1), (11, 2), (2, 3)]
                    .map(|(rows, seed)| bench.random(rows * width, precision, seed));
                let [gamma, beta] = [4, 5].map(|seed| bench.random(width, Precision::F32, seed));
                let there = bench.words(&block);
                let tables = Tables {
                    words: words.slice(),
                    positions: positions.slice(),
                    types: with_types.then(|| types.slice()),
                };
                let norm = LayerNorm { gamma: gamma.slice(), beta: beta.slice(), eps: 1e-5 };
                let got = bench.made(wave.tokens * width, precision, |out| {
                    bench.queue.embed(&tables, there.slice(), &wave, &norm, out)
                });
                let mut sums = Vec::new();
                for token in 0..wave.tokens {
                    let of =
                        |table: &There, at: u32, i: usize| f64::from(table.values[at as usize * width + i]);
                    let [id, place, kind] = [0, 1, 2].map(|part| block[part * wave.tokens + token]);
                    for i in 0..width {
                        let type_ = if with_types { of(&types, kind, i) } else { 0.0 };
                        sums.push(of(&words, id, i) + of(&positions, place, i) + type_);
                    }
                }
                let want = scalar::layer_norm(&sums, &gamma.values, &beta.values, 1e-5);
                assert_near(&got, &want, precision, &format!("embeddings of {width}"));
            }
        }
    });
}

#[test]
fn bias_and_residual_are_added_and_normalized_into_a_buffer_of_their_own_or_in_place() {
    everywhere(|bench| {
        for precision in PRECISIONS {
            for (rows, width) in [(1, 8), (5, 64), (9, 768)] {
                let [x, residual] = [1, 2].map(|seed| bench.random(rows * width, precision, seed));
                let [bias, gamma, beta] = [3, 4, 5].map(|seed| bench.random(width, Precision::F32, seed));
                let norm = LayerNorm { gamma: gamma.slice(), beta: beta.slice(), eps: 1e-12 };
                let sum = |i: usize| {
                    f64::from(x.values[i]) + f64::from(residual.values[i]) + f64::from(bias.values[i % width])
                };
                let sums: Vec<f64> = (0..rows * width).map(sum).collect();
                let want = scalar::layer_norm(&sums, &gamma.values, &beta.values, 1e-12);
                for into in [precision, Precision::F32] {
                    let got = bench.made(rows * width, into, |out| {
                        bench.queue.add_norm(x.slice(), bias.slice(), residual.slice(), &norm, rows, out)
                    });
                    assert_near(&got, &want, into, "add-norm");
                }
                bench
                    .queue
                    .add_norm(x.slice(), bias.slice(), residual.slice(), &norm, rows, x.slice())
                    .unwrap();
                assert_near(&bench.get(&x), &want, precision, "add-norm in place");
            }
        }
    });
}

#[test]
fn activations_follow_the_bias() {
    everywhere(|bench| {
        let all =
            [Activation::None, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];
        for precision in PRECISIONS {
            for activation in all {
                let (rows, width) = (3, 176);
                let values: Vec<f32> = numbers(rows * width, 7).iter().map(|x| x * 6.0).collect();
                let bias = bench.random(width, Precision::F32, 8);
                let x = bench.put(&values, precision);
                bench.queue.activate(x.slice(), bias.slice(), activation, rows).unwrap();
                let want: Vec<f64> = (0..rows * width)
                    .map(|i| {
                        scalar::activation(
                            f64::from(x.values[i]) + f64::from(bias.values[i % width]),
                            activation,
                        )
                    })
                    .collect();
                assert_near(&bench.get(&x), &want, precision, &format!("{activation:?}"));
            }
        }
    });
}

#[test]
fn first_rows_are_gathered() {
    everywhere(|bench| {
        let (wave, block, starts) = wave(&[3, 1, 4, 1, 5], 30);
        let there = bench.words(&block);
        for precision in PRECISIONS {
            let x = bench.random(wave.tokens * 12, precision, 31);
            let got = bench.made(wave.sequences * 12, precision, |out| {
                bench.queue.gather(x.slice(), there.slice(), &wave, 12, out)
            });
            let rows = starts[..wave.sequences].iter().map(|&start| &x.values[start as usize * 12..][..12]);
            assert_eq!(got, rows.collect::<Vec<_>>().concat());
        }
    });
}

#[test]
fn products_are_the_oracles() {
    everywhere(|bench| {
        for precision in PRECISIONS {
            let (rows, inputs, outputs) = (5, 44, 6);
            let x = bench.random(rows * inputs, precision, 41);
            let weight = bench.random(outputs * inputs, precision, 42);
            let got = bench.made(rows * outputs, precision, |out| {
                bench.queue.product(x.slice(), weight.slice(), rows, inputs, out)
            });
            let want =
                scalar::linear(&x.values, &weight.values, &vec![0.0; outputs], inputs, Activation::None);
            assert_near(&got, &want, precision, "product");
        }
    });
}

#[test]
#[should_panic(expected = "a slice of")]
fn a_buffer_too_short_for_its_shape_is_refused() {
    let bench = on_twin();
    let (x, bias) = (bench.random(60, Precision::F16, 1), bench.random(16, Precision::F32, 2));
    bench.queue.activate(x.slice(), bias.slice(), Activation::None, 4).unwrap();
}

#[test]
fn memory_has_an_end_and_comes_back() {
    let bench = on_twin();
    let twin = bench.twin.clone().unwrap();
    twin.limit(1000);
    let some = bench.gpu.buffer(600).unwrap();
    assert!(matches!(bench.gpu.buffer(600), Err(GpuError::Memory)));
    drop(some);
    assert!(bench.gpu.buffer(600).is_ok());
    assert_eq!(twin.used(), 0);
}
