//! Lanes in plain Rust: what a machine without AVX2 runs, in the registers that its baseline has.

use super::lanes::{Kernel, Lanes};

/// `N` lanes, a power of 2.
#[derive(Clone, Copy)]
pub(super) struct PortableLanes<const N: usize>;

/// What machines run.
pub(super) type Portable = PortableLanes<8>;
/// What stands in for AVX-512 in tests of what needs its panels.
#[cfg(test)]
pub(super) type Wide = PortableLanes<16>;

/// One lane at a time, for the compiler to join.
macro_rules! each {
    (|$lane:ident| $value:expr) => {{
        let mut result = [0.0; N];
        for ($lane, slot) in result.iter_mut().enumerate() {
            *slot = $value;
        }
        result
    }};
}

impl<const N: usize> Lanes for PortableLanes<N> {
    type V = [f32; N];
    const LANES: usize = N;
    // 8 accumulators of 16 registers of four lanes (SSE2); NEON has 32.
    const TILE_ROWS: usize = if N > 8 || cfg!(target_arch = "aarch64") { 8 } else { 4 };
    const TILE_VECTORS: usize = if N > 8 { 3 } else { 1 };

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn compiled<K: Kernel, const N: usize>(kernel: K) -> K::Output {
            kernel.run(PortableLanes::<N>)
        }
        compiled::<K, N>(kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        // Without the instruction, f32::mul_add is a call into the C library for every lane.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            each!(|i| a[i].mul_add(b[i], c[i]))
        } else {
            each!(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn times_exp2(self, v: [f32; N], shifted: [f32; N]) -> [f32; N] {
        // The rounder's own bits leave at the top.
        each!(|i| f32::from_bits(v[i].to_bits().wrapping_add(shifted[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn first(self, v: [f32; N], count: usize) -> [f32; N] {
        each!(|i| if i < count { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn sum(self, v: [f32; N]) -> f32 {
        let (mut v, mut half) = (v, N / 2);
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }
    #[inline(always)]
    fn maximum(self, v: [f32; N]) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |most, &x| if most > x { most } else { x })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; N] {
        // SAFETY: the caller's promise; unaligned reads are allowed.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> [f32; N] {
        let mut v = [0.0; N];
        for (i, slot) in v.iter_mut().enumerate().take(count) {
            // SAFETY: i < count, which the caller promises is readable.
            *slot = unsafe { *from.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(self, v: [f32; N], to: *mut f32) {
        // SAFETY: the caller's promise; unaligned writes are allowed.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: [f32; N], to: *mut f32, count: usize) {
        for (i, &x) in v.iter().enumerate().take(count) {
            // SAFETY: i < count, which the caller promises is writable.
            unsafe { *to.add(i) = x };
        }
    }
}
