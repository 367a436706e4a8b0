//! Narrow formats with AVX2.
//!
//! int8: `vpmaddubsw` multiplies u8 by i8 and adds pairs in 16 bits; eight of those are added there before one `vpmaddwd` widens
//! them, which takes 17 instructions for 8 multiplications. That this never overflows is seen to when weights are packed: see
//! `together`. Real weights, many small and few large, keep as many levels by it as by a bound on each of them alone, 63 for two
//! multiplications at a time, which was here before and took 20 instructions and about an eighth more time. Inputs and
//! weights of 8 bits were tried, widened to 16 and multiplied by `vpmaddwd`: 32 instructions.
//!
//! bf16: widened to f32 when loaded; this saves memory, not time.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::format::{Format, FormatKernel, Precision, UNROLL, bf16_bits, compiled_run};
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
    // 8 sums of 16 bits and 8 of 32 take turns in 16 registers. 3 rows and 5 were tried: as fast.
    const TILE_ROWS: usize = 4;
    const GREATEST: (f32, f32) = (127.0, 127.0);
    const BLOCK: usize = 128;
    const TOGETHER: f32 = 258.0;

    /// In [`UNROLL`] groups every four bytes of weights have two sums of 16 bits, one of the first two and one of the others. An
    /// input is at most 127, and 127 * 258 is the most that such a sum holds.
    #[inline(always)]
    fn together(weights: &[f32]) -> f32 {
        let mut most = 0.0f32;
        for run in weights.chunks(Self::GROUP * UNROLL) {
            let (mut above, mut below) = ([0.0f32; 4], [0.0f32; 4]);
            let (steps, rest) = run.as_chunks::<4>();
            for step in steps {
                for j in 0..4 {
                    above[j] += step[j].max(0.0);
                    below[j] -= step[j].min(0.0);
                }
            }
            for (j, w) in rest.iter().enumerate() {
                above[j] += w.max(0.0);
                below[j] -= w.min(0.0);
            }
            for sums in [above, below] {
                most = most.max(sums[0] + sums[1]).max(sums[2] + sums[3]);
            }
        }
        most
    }

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

    // Safety: the trait's.
    #[inline(always)]
    unsafe fn add_groups<const HEIGHT: usize, const VECTORS: usize>(
        self,
        rows: &[*const u8; HEIGHT],
        group: usize,
        w: *const i8,
        sums: &mut [[__m256i; VECTORS]; HEIGHT],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut pairs = [[_mm256_setzero_si256(); VECTORS]; HEIGHT];
            for step in 0..2 * UNROLL {
                let at = w.add(step / 2 * VECTORS * 64 + step % 2 * 32);
                let mut weights = [_mm256_setzero_si256(); VECTORS];
                for (v, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm256_loadu_si256(at.add(v * 64).cast());
                }
                for (&row, pairs) in rows.iter().zip(&mut pairs) {
                    let x = row.add(group * Self::GROUP + step * 4).cast::<i32>();
                    let x = _mm256_set1_epi32(x.read_unaligned());
                    for (pairs, &weights) in pairs.iter_mut().zip(&weights) {
                        *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(x, weights));
                    }
                }
            }
            let ones = _mm256_set1_epi16(1);
            for (sums, pairs) in sums.iter_mut().zip(&pairs) {
                for (sum, &pairs) in sums.iter_mut().zip(pairs) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
            }
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
