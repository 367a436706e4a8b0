//! The vector that every kernel is written over, and what a kernel is.
//!
//! A value of a [`Lanes`] type is a token: it exists only where the CPU has the feature, which is what makes its
//! methods safe to call. Every method and every [`Kernel::run`] is `#[inline(always)]`, so that a kernel's whole body
//! ends up inside the one `#[target_feature]` function of its ISA file and the intrinsics inline there. Closures don't
//! (a closure has no features of its own, so the inliner sees a body full of calls and may leave it): pass types.

/// Added to a number below 2^22 in magnitude, it rounds it to a whole one, left in the low bits of the sum.
pub(super) const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

/// A piece of work that runs on any lanes.
pub(super) trait Kernel {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// A vector of f32 and the arithmetic that the kernels need.
pub(super) trait Lanes: Copy {
    /// `LANES` values of f32.
    type V: Copy;
    const LANES: usize;
    /// The product's tile: `TILE_ROWS` rows of x by `TILE_VECTORS` vectors of columns, all accumulators in registers.
    const TILE_ROWS: usize;
    const TILE_VECTORS: usize;
    /// Columns in a panel of a packed matrix.
    const PANEL: usize = Self::TILE_VECTORS * Self::LANES;

    /// Runs the kernel inside a function compiled for these lanes. A kernel calls it again for each part of itself that is
    /// written once and used with several shapes: the compiler may then keep the part apart, or join it.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, in one rounding where the machine has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is NaN. Hence `max(limit, v)` lets a NaN in `v` through.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// v * 2^n, where n is whole and `shifted` is n + [`ROUNDER`]; v and the result are normal numbers.
    fn times_exp2(self, v: Self::V, shifted: Self::V) -> Self::V;
    /// The first `count` lanes, the others zero.
    fn first(self, v: Self::V, count: usize) -> Self::V;
    /// The lanes' sum, always in the same order.
    fn sum(self, v: Self::V) -> f32;
    fn maximum(self, v: Self::V) -> f32;

    /// # Safety
    /// `from` is readable for `LANES` values.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// The first `count` (at most `LANES`) values, then zeros.
    /// # Safety
    /// `from` is readable for `count` values; it may dangle where `count` is 0.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::V;
    /// # Safety
    /// `to` is writable for `LANES` values.
    unsafe fn store(self, v: Self::V, to: *mut f32);
    /// # Safety
    /// `to` is writable for `count` values; it may dangle where `count` is 0.
    unsafe fn store_first(self, v: Self::V, to: *mut f32, count: usize);

    /// `to[c * to_stride + r] = from[r * from_stride + c]` for r and c below `LANES`.
    /// # Safety
    /// Those elements are readable and writable, and the two don't overlap.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for c in 0..Self::LANES {
            for r in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *to.add(c * to_stride + r) = *from.add(r * from_stride + c) };
            }
        }
    }

    /// The slice's values; zeros after its end. At most `LANES` values are read.
    #[inline(always)]
    fn read(self, from: &[f32]) -> Self::V {
        if from.len() >= Self::LANES {
            // SAFETY: the slice has LANES values.
            unsafe { self.load(from.as_ptr()) }
        } else {
            // SAFETY: the slice has len() values.
            unsafe { self.load_first(from.as_ptr(), from.len()) }
        }
    }

    /// Writes as many lanes as the slice has room for.
    #[inline(always)]
    fn write(self, v: Self::V, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            // SAFETY: the slice has LANES values.
            unsafe { self.store(v, to.as_mut_ptr()) }
        } else {
            // SAFETY: the slice has len() values.
            unsafe { self.store_first(v, to.as_mut_ptr(), to.len()) }
        }
    }
}

/// Asks for a cache line to be brought into L2. Any address will do.
#[inline(always)]
fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is x86_64's baseline, and a prefetch of a bad address does nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Asks for the cache lines of the tile [rows, PANEL] at `to`, which is written last: a store that waits for its line holds up all
/// that follow, a tile's sums on their way through the stack among them. Any address will do.
#[inline(always)]
pub(super) fn prefetch_tile<L: Lanes>(to: *const f32, stride: usize, rows: usize) {
    for r in 0..rows {
        for at in (0..L::PANEL).step_by(16) {
            let line = to.wrapping_add(r * stride + at);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: SSE is x86_64's baseline, and a prefetch of a bad address does nothing.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_ET0>(line.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        }
    }
}

/// When a tile asks for lines that are wanted later: evenly over its steps. All at once they fill the core's list of misses,
/// and the tile waits for memory after all.
#[derive(Clone, Copy)]
pub(super) struct Stops {
    /// Steps from one stop to the next, a multiple of those that are written out.
    pub every: usize,
    /// Lines at each stop.
    lines: usize,
}

impl Stops {
    /// For `lines` lines, or a few more, in a tile of so many steps.
    #[inline(always)]
    pub(super) fn new(lines: usize, steps: usize, unroll: usize) -> Self {
        if lines == 0 {
            return Self { every: usize::MAX / 2, lines: 0 };
        }
        let every = (steps / lines / unroll).max(1) * unroll;
        Self { every, lines: lines.div_ceil(steps.div_ceil(every).max(1)) }
    }

    /// One stop: what the next one asks for.
    #[inline(always)]
    pub(super) fn ask(self, mut coming: *const f32) -> *const f32 {
        for _ in 0..self.lines {
            prefetch(coming);
            coming = coming.wrapping_add(16);
        }
        coming
    }
}

/// Methods of a token whose bodies are intrinsics of that token's features, and nothing else.
macro_rules! proven {
    ($($(#[$about:meta])* fn $name:ident($this:ident $(, $arg:ident: $type:ty)*) -> $output:ty $body:block)*) => {
        $($(#[$about])*
        #[inline(always)]
        fn $name($this $(, $arg: $type)*) -> $output {
            // SAFETY: the intrinsics need the CPU's feature, which the token proves; they touch no memory of others.
            unsafe { $body }
        })*
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use proven;
