//! Lanes in plain Rust: what a machine without AVX2 runs, in the registers that its baseline has.

use super::lanes::{Kernel, Lanes};

#[derive(Clone, Copy)]
pub(super) struct Portable;

type V = [f32; 8];

/// One lane at a time, for the compiler to join.
macro_rules! each {
    (|$lane:ident| $value:expr) => {{
        let mut result = [0.0; 8];
        for ($lane, slot) in result.iter_mut().enumerate() {
            *slot = $value;
        }
        result
    }};
}

impl Lanes for Portable {
    type V = V;
    const LANES: usize = 8;
    // 8 accumulators of 16 registers of four lanes (SSE2); NEON has 32.
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn compiled<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Portable)
        }
        compiled(kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 8]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each!(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each!(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each!(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each!(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // Without the instruction, f32::mul_add is a call into the C library for every lane.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            each!(|i| a[i].mul_add(b[i], c[i]))
        } else {
            each!(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each!(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each!(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn times_exp2(self, v: V, shifted: V) -> V {
        // The rounder's own bits leave at the top.
        each!(|i| f32::from_bits(v[i].to_bits().wrapping_add(shifted[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn first(self, v: V, count: usize) -> V {
        each!(|i| if i < count { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        let [a, b, c, d] = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
        (a + c) + (b + d)
    }
    #[inline(always)]
    fn maximum(self, v: V) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |most, &x| if most > x { most } else { x })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise; unaligned reads are allowed.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> V {
        let mut v = [0.0; 8];
        for (i, slot) in v.iter_mut().enumerate().take(count) {
            // SAFETY: i < count, which the caller promises is readable.
            *slot = unsafe { *from.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(self, v: V, to: *mut f32) {
        // SAFETY: the caller's promise; unaligned writes are allowed.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: V, to: *mut f32, count: usize) {
        for (i, &x) in v.iter().enumerate().take(count) {
            // SAFETY: i < count, which the caller promises is writable.
            unsafe { *to.add(i) = x };
        }
    }
}
