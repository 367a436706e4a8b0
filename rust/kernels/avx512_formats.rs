//! Narrow formats with AVX-512: `vpdpbusd` (VNNI) and `vdpbf16ps` (BF16).

use std::arch::x86_64::*;
use std::mem::transmute;

use super::avx512::Avx512;
use super::format::{Format, FormatKernel, Precision, bf16_bits, compiled_run};
use super::lanes::proven;

/// Proves that the CPU has AVX-512 VNNI, and AVX-512 F with it.
#[derive(Clone, Copy)]
pub(super) struct Int8(Avx512);

/// Proves that the CPU has AVX-512 BF16, and AVX-512 F with it.
#[derive(Clone, Copy)]
pub(super) struct Bf16(Avx512);

impl Int8 {
    pub(super) fn new() -> Option<Self> {
        Avx512::new().filter(|_| is_x86_feature_detected!("avx512vnni")).map(Self)
    }

    /// # Safety
    /// The CPU has AVX-512 VNNI, AVX-512 F, AVX2 and FMA.
    pub(super) const unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx512::assume() })
    }
}

impl Bf16 {
    pub(super) fn new() -> Option<Self> {
        Avx512::new().filter(|_| is_x86_feature_detected!("avx512bf16")).map(Self)
    }

    /// # Safety
    /// The CPU has AVX-512 BF16, AVX-512 F, AVX2 and FMA.
    pub(super) const unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx512::assume() })
    }
}

impl Format for Int8 {
    type Lanes = Avx512;
    type Input = u8;
    type Weight = i8;
    type X = __m512i;
    type W = __m512i;
    type Sum = __m512i;
    const GROUP: usize = 4;
    const PRECISION: Precision = Precision::Int8;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }
    compiled_run!("avx512vnni,avx512f,avx2,fma", self);

    proven! {
        fn zero(self) -> __m512i { _mm512_setzero_si512() }
        fn dot(self, sum: __m512i, x: __m512i, w: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, x, w) }
        fn value(self, sum: __m512i) -> __m512 { _mm512_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    fn weight(self, x: f32) -> i8 {
        x.round_ties_even() as i8
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u8) -> __m512i {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> __m512i {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut u8) {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
}

impl Format for Bf16 {
    type Lanes = Avx512;
    type Input = u16;
    type Weight = u16;
    type X = __m512i;
    type W = __m512i;
    type Sum = __m512;
    const GROUP: usize = 2;
    const PRECISION: Precision = Precision::Bf16;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }
    compiled_run!("avx512bf16,avx512f,avx2,fma", self);

    proven! {
        fn zero(self) -> __m512 { _mm512_setzero_ps() }
        fn dot(self, sum: __m512, x: __m512i, w: __m512i) -> __m512 {
            // The vector of bf16 is 512 bits like any other.
            _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(x), transmute::<__m512i, __m512bh>(w))
        }
    }
    #[inline(always)]
    fn value(self, sum: __m512) -> __m512 {
        sum
    }
    #[inline(always)]
    fn weight(self, x: f32) -> u16 {
        bf16_bits(x)
    }

    #[inline(always)]
    unsafe fn inputs(self, from: *const u16) -> __m512i {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn weights(self, from: *const u16) -> __m512i {
        // SAFETY: the token's features, the caller's pointer.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut u16) {
        // SAFETY: the token's features, the caller's pointer; sixteen bf16 are 256 bits.
        unsafe {
            let rounded = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(to.cast(), rounded);
        }
    }
}
