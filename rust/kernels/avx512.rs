//! AVX-512: 16 lanes, 32 registers.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::lanes::{Kernel, Lanes, proven};

/// Proves that the CPU has AVX-512 F, and AVX2 and FMA with it.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        (Avx2::new().is_some() && is_x86_feature_detected!("avx512f")).then_some(Self(()))
    }

    /// # Safety
    /// The CPU has AVX-512 F, AVX2 and FMA.
    pub(super) const unsafe fn assume() -> Self {
        Self(())
    }

    /// A bit for each of the first `count` lanes.
    #[inline(always)]
    fn mask(self, count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }
}

impl Lanes for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    // 24 accumulators, 3 of the panel, 1 broadcast: 28 of 32 registers. 48 divides every width of BERT's family.
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 3;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn compiled<K: Kernel>(lanes: Avx512, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: the token proves the features.
        unsafe { compiled(self, kernel) }
    }

    proven! {
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn times_exp2(self, v: __m512, shifted: __m512) -> __m512 {
            // n to the exponent's place; the rounder's own bits leave at the top.
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), n))
        }
        fn first(self, v: __m512, count: usize) -> __m512 { _mm512_maskz_mov_ps(self.mask(count), v) }
        fn sum(self, v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
        fn maximum(self, v: __m512) -> f32 { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        // SAFETY: the token's features; a masked lane is not read.
        unsafe { _mm512_maskz_loadu_ps(self.mask(count), from) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut f32) {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: __m512, to: *mut f32, count: usize) {
        // SAFETY: the token's features; a masked lane is not written.
        unsafe { _mm512_mask_storeu_ps(to, self.mask(count), v) }
    }

    /// Four of AVX2's 8 x 8.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: this token proves AVX2 too; the four blocks lie within the caller's 16 x 16.
        unsafe {
            let half = Avx2::assume();
            for r in [0, 8] {
                for c in [0, 8] {
                    half.transpose(
                        from.add(r * from_stride + c),
                        from_stride,
                        to.add(c * to_stride + r),
                        to_stride,
                    );
                }
            }
        }
    }
}
