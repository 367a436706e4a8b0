//! Narrow formats in plain Rust: for tests, and for who asks for them where the CPU has no instruction of their kind.

use super::format::{Format, FormatKernel, Precision, bf16_bits};
use super::portable::Portable;

#[derive(Clone, Copy)]
pub(super) struct Int8;

#[derive(Clone, Copy)]
pub(super) struct Bf16;

/// A group of 2 for each of 8 columns.
type Pairs<T> = [[T; 2]; 8];

impl Format for Int8 {
    type Lanes = Portable;
    type Input = u8;
    type Weight = i8;
    type X = [u8; 2];
    type W = Pairs<i8>;
    type Sum = [i32; 8];
    const GROUP: usize = 2;
    const PRECISION: Precision = Precision::Int8;

    fn lanes(self) -> Portable {
        Portable {}
    }
    #[inline(never)]
    fn run<K: FormatKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn zero(self) -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    fn dot(self, mut sum: [i32; 8], x: [u8; 2], w: Pairs<i8>) -> [i32; 8] {
        for (sum, w) in sum.iter_mut().zip(&w) {
            *sum += i32::from(x[0]) * i32::from(w[0]) + i32::from(x[1]) * i32::from(w[1]);
        }
        sum
    }
    #[inline(always)]
    fn value(self, sum: [i32; 8]) -> [f32; 8] {
        sum.map(|sum| sum as f32)
    }
    #[inline(always)]
    fn weight(self, x: f32) -> i8 {
        x.round_ties_even() as i8
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u8) -> [u8; 2] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; 2]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> Pairs<i8> {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Pairs<i8>>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, v: [f32; 8], to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u8; 8]>().write_unaligned(v.map(|x| x.round_ties_even() as u8)) }
    }
}

impl Format for Bf16 {
    type Lanes = Portable;
    type Input = u16;
    type Weight = u16;
    type X = [f32; 2];
    type W = Pairs<u16>;
    type Sum = [f32; 8];
    const GROUP: usize = 2;
    const PRECISION: Precision = Precision::Bf16;

    fn lanes(self) -> Portable {
        Portable {}
    }
    #[inline(never)]
    fn run<K: FormatKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn zero(self) -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    fn dot(self, mut sum: [f32; 8], x: [f32; 2], w: Pairs<u16>) -> [f32; 8] {
        for (sum, w) in sum.iter_mut().zip(&w) {
            *sum += x[0] * widened(w[0]);
            *sum += x[1] * widened(w[1]);
        }
        sum
    }
    #[inline(always)]
    fn value(self, sum: [f32; 8]) -> [f32; 8] {
        sum
    }
    #[inline(always)]
    fn weight(self, x: f32) -> u16 {
        bf16_bits(x)
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u16) -> [f32; 2] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u16; 2]>().read_unaligned() }.map(widened)
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const u16) -> Pairs<u16> {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Pairs<u16>>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, v: [f32; 8], to: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u16; 8]>().write_unaligned(v.map(bf16_bits)) }
    }
}

#[inline(always)]
fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
