//! AVX2 and FMA: 8 lanes, 16 registers.

use std::arch::x86_64::*;

use super::lanes::{Kernel, Lanes, proven};

/// Proves that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    /// # Safety
    /// The CPU has AVX2 and FMA.
    pub(super) const unsafe fn assume() -> Self {
        Self(())
    }

    proven! {
        /// All ones in the first `count` lanes.
        fn mask(self, count: usize) -> __m256i {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane)
        }
    }
}

impl Lanes for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    // 12 accumulators, 2 of the panel, 1 broadcast: 15 of 16 registers.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: the token proves the features.
        unsafe { compiled(self, kernel) }
    }

    proven! {
        fn splat(self, x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn max(self, a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn min(self, a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn times_exp2(self, v: __m256, shifted: __m256) -> __m256 {
            // n to the exponent's place; the rounder's own bits leave at the top.
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n))
        }
        fn first(self, v: __m256, count: usize) -> __m256 {
            _mm256_and_ps(v, _mm256_castsi256_ps(self.mask(count)))
        }
        fn sum(self, v: __m256) -> f32 {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
        fn maximum(self, v: __m256) -> f32 {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: the token's features; a masked lane is not read.
        unsafe { _mm256_maskload_ps(from, self.mask(count)) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m256, to: *mut f32) {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: __m256, to: *mut f32, count: usize) {
        // SAFETY: the token's features; a masked lane is not written.
        unsafe { _mm256_maskstore_ps(to, self.mask(count), v) }
    }

    /// 8 x 8 in registers: pairs, then quads, then halves. Element by element, attention
    /// at 64 tokens takes a twentieth longer.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the token's features; rows 0..8 of 8 values, as the caller promises.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(r * from_stride));
            }
            let mut pairs = rows;
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            let mut quads = pairs;
            for i in 0..2 {
                for j in 0..2 {
                    let (a, b) = (pairs[4 * i + j], pairs[4 * i + 2 + j]);
                    quads[4 * i + 2 * j] = _mm256_shuffle_ps::<0x44>(a, b);
                    quads[4 * i + 2 * j + 1] = _mm256_shuffle_ps::<0xEE>(a, b);
                }
            }
            for i in 0..4 {
                let (a, b) = (quads[i], quads[4 + i]);
                _mm256_storeu_ps(to.add(i * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to.add((4 + i) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}
