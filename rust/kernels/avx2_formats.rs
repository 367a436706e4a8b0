//! Narrow formats with AVX2.
//!
//! int8: `vpmaddubsw` multiplies u8 by i8 and adds pairs in 16 bits, where they saturate; with inputs of 7 bits and weights
//! of 7 with their sign, two such sums still fit, and one `vpmaddwd` widens both. Inputs and weights of 8 bits were tried,
//! widened to 16 and multiplied by `vpmaddwd`: exact too and two thirds of the error, but with a third more multiplications and as
//! many additions, 8 instructions for what takes 5 here.
//!
//! bf16: widened to f32 when loaded; this saves memory, not time.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::format::{Format, FormatKernel, Precision, bf16_bits, compiled_run};
use super::lanes::proven;

#[derive(Clone, Copy)]
pub(super) struct Int8(Avx2);

#[derive(Clone, Copy)]
pub(super) struct Bf16(Avx2);

impl Int8 {
    pub(super) fn new(lanes: Avx2) -> Self {
        Self(lanes)
    }
}

impl Bf16 {
    pub(super) fn new(lanes: Avx2) -> Self {
        Self(lanes)
    }
}

impl Format for Int8 {
    type Lanes = Avx2;
    type Input = u8;
    type Weight = i8;
    /// The group's first four inputs, and its second.
    type X = [__m256i; 2];
    type W = [__m256i; 2];
    type Sum = __m256i;
    const GROUP: usize = 8;
    const PRECISION: Precision = Precision::Int8;
    // 8 sums, 4 of weights, 1 of ones, 3 on their way: 16 registers. 3 rows by 3 vectors with the weights read from memory by
    // the multiplication itself was tried: fewer instructions, and a fifth slower.
    const TILE_ROWS: usize = 4;
    // Two products are at most 2 * 127 * 63, and two of those added fit in 16 bits.
    const GREATEST: (f32, f32) = (127.0, 63.0);

    #[inline(always)]
    fn place(column: usize, j: usize) -> usize {
        column / 8 * 64 + j / 4 * 32 + column % 8 * 4 + j % 4
    }

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }
    compiled_run!("avx2,fma", self);

    proven! {
        fn zero(self) -> __m256i { _mm256_setzero_si256() }
        fn dot(self, sum: __m256i, x: [__m256i; 2], w: [__m256i; 2]) -> __m256i {
            let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x[0], w[0]), _mm256_maddubs_epi16(x[1], w[1]));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn value(self, sum: __m256i) -> __m256 { _mm256_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    fn weight(self, x: f32) -> i8 {
        x.round_ties_even() as i8
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u8) -> [__m256i; 2] {
        let from = from.cast::<i32>();
        // SAFETY: the token's features, the caller's pointer.
        unsafe { [_mm256_set1_epi32(from.read_unaligned()), _mm256_set1_epi32(from.add(1).read_unaligned())] }
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> [__m256i; 2] {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m256, to: *mut u8) {
        // SAFETY: the token's features, the caller's pointer.
        unsafe {
            let whole = _mm256_cvtps_epi32(v);
            let (low, high) = (_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            let words = _mm_packs_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
        }
    }
}

impl Format for Bf16 {
    type Lanes = Avx2;
    type Input = u16;
    type Weight = u16;
    /// The group's first, and its second.
    type X = [__m256; 2];
    type W = [__m256; 2];
    type Sum = __m256;
    const GROUP: usize = 2;
    const PRECISION: Precision = Precision::Bf16;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }
    compiled_run!("avx2,fma", self);

    proven! {
        fn zero(self) -> __m256 { _mm256_setzero_ps() }
        fn dot(self, sum: __m256, x: [__m256; 2], w: [__m256; 2]) -> __m256 {
            _mm256_fmadd_ps(x[1], w[1], _mm256_fmadd_ps(x[0], w[0], sum))
        }
    }
    #[inline(always)]
    fn value(self, sum: __m256) -> __m256 {
        sum
    }
    #[inline(always)]
    fn weight(self, x: f32) -> u16 {
        bf16_bits(x)
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u16) -> [__m256; 2] {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { widened(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const u16) -> [__m256; 2] {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { widened(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m256, to: *mut u16) {
        // SAFETY: the token's features, the caller's pointer.
        unsafe {
            let bits = _mm256_castps_si256(v);
            // Half of what is cut off, and one more where the last bit that stays is set: ties to even.
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            // A NaN's bits could carry into the sign.
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let whole = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC0), nan);
            let (low, high) = (_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            _mm_storeu_si128(to.cast(), _mm_packus_epi32(low, high));
        }
    }
}

/// Pairs of bf16 as f32: the low halves, and the high ones.
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widened(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(high)]
    }
}
