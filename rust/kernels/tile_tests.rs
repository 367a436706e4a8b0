//! The product and attention on tiles, everywhere: on a unit in plain Rust that multiplies as AMX does, over lanes as wide as
//! AVX-512's. What is left to a machine with AMX are its seven instructions (`narrow_tests.rs`, `tests.rs`).

use std::cell::Cell;

use proptest::prelude::*;

use super::attention::Attention;
use super::format::{Format, FormatKernel, Precision, bf16_bits};
use super::narrow::Pack;
use super::narrow_product::NarrowProduct;
use super::place::Place;
use super::portable::Wide;
use super::quantize::Quantize;
use super::tests::{assert_same, ends, random};
use super::tile_attention::TileAttention;
use super::tiles::{DEPTH, Operands, PANEL, ROWS, TILE_ROWS, TileProduct, Tiles};
use super::{Activation, AttentionScratch, Inputs, NarrowInputs, scalar};

/// Values of a narrow format: u8 by i8 in fours, or bf16 in pairs.
trait Value: Copy {
    type Input: super::matrix::Plain;
    type Weight: super::matrix::Plain;
    type Sum: Copy + Default + Into<f64>;
    const GROUP: usize;
    const PRECISION: Precision;
    fn times(sum: Self::Sum, x: Self::Input, w: Self::Weight) -> Self::Sum;
    fn value(sum: Self::Sum) -> f32;
    fn bits(sum: Self::Sum) -> u32;
    fn of_bits(bits: u32) -> Self::Sum;
    fn weight(x: f32) -> Self::Weight;
    fn input(x: f32) -> Self::Input;
}

#[derive(Clone, Copy)]
struct Bytes;
#[derive(Clone, Copy)]
struct Halves;

impl Value for Bytes {
    type Input = u8;
    type Weight = i8;
    type Sum = i32;
    const GROUP: usize = 4;
    const PRECISION: Precision = Precision::Int8;
    fn times(sum: i32, x: u8, w: i8) -> i32 {
        sum + i32::from(x) * i32::from(w)
    }
    fn value(sum: i32) -> f32 {
        sum as f32
    }
    fn bits(sum: i32) -> u32 {
        sum.cast_unsigned()
    }
    fn of_bits(bits: u32) -> i32 {
        bits.cast_signed()
    }
    fn weight(x: f32) -> i8 {
        x.round_ties_even() as i8
    }
    fn input(x: f32) -> u8 {
        x.round_ties_even() as u8
    }
}

impl Value for Halves {
    type Input = u16;
    type Weight = u16;
    type Sum = f32;
    const GROUP: usize = 2;
    const PRECISION: Precision = Precision::Bf16;
    fn times(sum: f32, x: u16, w: u16) -> f32 {
        let wide = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        sum + wide(x) * wide(w)
    }
    fn value(sum: f32) -> f32 {
        sum
    }
    fn bits(sum: f32) -> u32 {
        sum.to_bits()
    }
    fn of_bits(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
    fn weight(x: f32) -> u16 {
        bf16_bits(x)
    }
    fn input(x: f32) -> u16 {
        bf16_bits(x)
    }
}

/// The format, on lanes, and the unit of tiles.
#[derive(Clone, Copy)]
struct Twin<T>(T);

impl<T: Value> Format for Twin<T> {
    type Lanes = Wide;
    type Input = T::Input;
    type Weight = T::Weight;
    type X = [T::Input; 4];
    type W = [[T::Weight; 4]; 16];
    type Sum = [T::Sum; 16];
    const GROUP: usize = T::GROUP;
    const PRECISION: Precision = T::PRECISION;

    fn lanes(self) -> Wide {
        Wide {}
    }
    fn run<K: FormatKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    fn zero(self) -> [T::Sum; 16] {
        [T::Sum::default(); 16]
    }
    fn dot(self, mut sum: [T::Sum; 16], x: [T::Input; 4], w: [[T::Weight; 4]; 16]) -> [T::Sum; 16] {
        for (sum, w) in sum.iter_mut().zip(&w) {
            for i in 0..T::GROUP {
                *sum = T::times(*sum, x[i], w[i]);
            }
        }
        sum
    }
    fn value(self, sum: [T::Sum; 16]) -> [f32; 16] {
        sum.map(T::value)
    }
    fn weight(self, x: f32) -> T::Weight {
        T::weight(x)
    }
    unsafe fn inputs(self, from: *const T::Input) -> [T::Input; 4] {
        // SAFETY: the caller's promise, of GROUP values; the others are not used.
        std::array::from_fn(|i| unsafe { *from.add(i.min(T::GROUP - 1)) })
    }
    unsafe fn weights(self, from: *const T::Weight) -> [[T::Weight; 4]; 16] {
        let one = |column: usize, i: usize| {
            // SAFETY: the caller's promise, of LANES * GROUP values.
            unsafe { *from.add(column * T::GROUP + i.min(T::GROUP - 1)) }
        };
        std::array::from_fn(|column| std::array::from_fn(|i| one(column, i)))
    }
    unsafe fn store(self, v: [f32; 16], to: *mut T::Input) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's promise, of LANES values.
            unsafe { *to.add(i) = T::input(x) };
        }
    }
}

thread_local! {
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

impl<T: Value> Tiles for Twin<T> {
    type Format = Self;

    fn format(self) -> Self {
        self
    }

    fn configured<R>(self, work: impl FnOnce() -> R) -> R {
        assert!(!CONFIGURED.replace(true), "configured within configured");
        let done = work();
        CONFIGURED.set(false);
        done
    }

    unsafe fn multiply(self, operands: Operands, sums: *mut u32) {
        let Operands { x, stride, both, w, steps, .. } = operands;
        assert!(CONFIGURED.get() && steps > 0);
        let groups = steps * DEPTH / (T::GROUP * size_of::<T::Input>());
        for row in 0..if both { ROWS } else { TILE_ROWS } {
            let x = x.wrapping_add(row * stride).cast::<T::Input>();
            for column in 0..PANEL {
                let mut sum = T::Sum::default();
                for group in 0..groups {
                    for i in 0..T::GROUP {
                        // SAFETY: the caller's promise.
                        let (x, w) = unsafe {
                            let w = w.cast::<T::Weight>().add((group * PANEL + column) * T::GROUP + i);
                            (*x.add(group * T::GROUP + i), *w)
                        };
                        sum = T::times(sum, x, w);
                    }
                }
                // SAFETY: as above.
                unsafe { *sums.add(row * PANEL + column) = T::bits(sum) };
            }
        }
    }

    fn peak(self, _: usize) -> u64 {
        unreachable!("of no use")
    }

    unsafe fn value(self, from: *const u32) -> [f32; 16] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| T::value(T::of_bits(unsafe { *from.add(i) })))
    }
}

/// On tiles and without them, of the columns that begin at `first` panels: int8 to the bit, bf16 but for the order of sums.
fn check_product<T: Value>(of: T, rows: usize, n: usize, k: usize, first: usize, act: Activation, seed: u64) {
    let (twin, what) = (Twin(of), format!("{:?} {rows} x {n} x {k} from {first}", T::PRECISION));
    let (weight, x) = (random(seed, n * k, 1.0 / (k as f32).sqrt()), random(seed + 1, rows * k, 2.0));
    let (bias, inputs) = (random(seed + 2, n, 1.0), Inputs::default());
    let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * k..][..k]);
    let w = twin.run(Pack { n, k, inputs: &inputs, fill });
    let mut quantized = NarrowInputs::default();
    twin.run(Quantize { x: &x, ldx: k, rows, w: &w, inputs: &mut quantized });
    let columns = first * PANEL..n;
    let ldo = columns.len() + 5;
    let product = |tiled: bool| {
        let mut out = vec![7.0; rows * ldo];
        let place = Place::new(&mut out, rows, columns.len(), ldo);
        let (inputs, columns, activation) = (&quantized, columns.clone(), act);
        let product = NarrowProduct { inputs, rows, w: &w, bias: &bias, activation, columns, out: place };
        if tiled {
            TileProduct { product, tiles: twin }.run()
        } else {
            twin.run(product)
        }
        out
    };
    let (got, want) = (product(true), product(false));
    assert!(got.chunks(ldo).all(|row| row[columns.len()..] == [7.0; 5]), "{what} wrote past its columns");
    if T::PRECISION == Precision::Int8 {
        assert_same(&got, &want, &what);
    }
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-5 * (1.0 + want.abs()), "{what}: {got} for {want}");
    }
}

fn check_attention(lengths: &[usize], heads: usize, head_dim: usize, seed: u64) {
    let (ends, width, what) =
        (ends(lengths), heads * head_dim, format!("{lengths:?} x {heads} x {head_dim}"));
    let tokens = lengths.iter().sum::<usize>();
    let mut qkv = random(seed, tokens * 3 * width, 1.5);
    for token in qkv.chunks_mut(3 * width) {
        token[..width].iter_mut().for_each(|q| *q *= 2.0 / (head_dim as f32).sqrt());
    }
    // Scratch that a longer sequence of no numbers has used.
    let mut scratch = AttentionScratch::default();
    let mut attend = |qkv: &[f32], cu_seqlens: &[u32]| {
        let tokens = qkv.len() / (3 * width);
        let mut out = vec![f32::NAN; tokens * width];
        let place = Place::new(&mut out, tokens, width, width);
        let these = 0..heads;
        let attention =
            Attention { qkv, cu_seqlens, heads, head_dim, these, out: place, scratch: &mut scratch };
        TileAttention { attention, tiles: Twin(Halves) }.run();
        out
    };
    attend(&vec![f32::NAN; 3 * 130 * width], &[0, 130]);
    let got = attend(&qkv, &ends);
    for (got, want) in got.iter().zip(scalar::attention(&qkv, &ends, heads, head_dim)) {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= 2e-2, "{what}: {got} for {want}");
    }
    for bounds in ends.windows(2) {
        let (first, last) = (bounds[0] as usize, bounds[1] as usize);
        let alone = attend(&qkv[first * 3 * width..last * 3 * width], &[0, bounds[1] - bounds[0]]);
        assert_same(&alone, &got[first * width..last * width], &what);
    }
}

#[test]
fn products_at_every_edge() {
    for rows in [0, 1, 15, 16, 17, 31, 32, 33, 70] {
        for (n, k) in [(1, 64), (47, 128), (48, 192), (49, 64), (110, 320)] {
            check_product(Bytes, rows, n, k, 0, Activation::Gelu, (rows * n + k) as u64);
            check_product(Halves, rows, n, k, 0, Activation::Gelu, (rows * n + k) as u64);
        }
        check_product(Bytes, rows, 150, 128, 2, Activation::None, 1);
        check_product(Halves, rows, 150, 96, 2, Activation::None, 1);
    }
    // More rows than a block of L2 holds.
    check_product(Bytes, 170, 50, 8192, 0, Activation::None, 2);
}

#[test]
fn attention_at_every_edge() {
    for lengths in [[1, 15], [16, 17], [31, 32], [33, 47], [48, 49], [64, 90]] {
        check_attention(&lengths, 2, 32, lengths[0] as u64);
    }
    check_attention(&[130], 1, 64, 3);
    check_attention(&[40, 0, 7], 1, 96, 4);
    check_attention(&[21, 5], 1, 256, 5);
    check_attention(&[], 2, 32, 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn products(rows in 1usize..80, n in 1usize..120, steps in 1usize..7, act in 0..2usize, seed in 0u64..1000) {
        let act = [Activation::None, Activation::Gelu][act];
        check_product(Bytes, rows, n, 64 * steps, 0, act, seed);
        check_product(Halves, rows, n, 32 * steps, 0, act, seed);
    }
}
