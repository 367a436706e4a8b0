//! exp, erf, tanh and the activations made of them, on lanes.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};
use std::marker::PhantomData;

use super::lanes::{Kernel, Lanes, ROUNDER};
use super::place::Place;

/// What follows a linear layer, elementwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    None,
    /// x * Phi(x) by erf, as the checkpoints were trained.
    Gelu,
    /// The tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    Relu,
    Tanh,
}

/// A function of one vector, as a type (a closure would lose the target's features).
trait Function {
    fn of<L: Lanes>(lanes: L, x: L::V) -> L::V;
}

/// Horner's rule; the highest power first.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(lanes: L, x: L::V, coefficients: [f32; N]) -> L::V {
    let mut sum = lanes.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = lanes.mul_add(sum, x, lanes.splat(coefficient));
    }
    sum
}

/// `limit` at most in magnitude; NaN stays.
#[inline(always)]
fn clamp<L: Lanes>(lanes: L, x: L::V, limit: f32) -> L::V {
    lanes.min(lanes.splat(limit), lanes.max(lanes.splat(-limit), x))
}

/// e^x for x at most 0, within 2 ulp down to e^-86, which every lower x gives. x = n ln 2 + r, Cephes' polynomial in r, times
/// 2^n by adding n to the exponent. NaN stays.
#[inline(always)]
pub(super) fn exp_negative<L: Lanes>(lanes: L, x: L::V) -> L::V {
    const LN2_HIGH: f32 = 0.693_359_4; // its product with a small whole number is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = lanes.max(lanes.splat(-86.0), x);
    let shifted = lanes.mul_add(x, lanes.splat(LOG2_E), lanes.splat(ROUNDER));
    let n = lanes.sub(shifted, lanes.splat(ROUNDER));
    let r = lanes.mul_add(n, lanes.splat(-LN2_HIGH), x);
    let r = lanes.mul_add(n, lanes.splat(-LN2_LOW), r);
    let near_one = polynomial(
        lanes,
        r,
        [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0],
    );
    lanes.times_exp2(near_one, shifted)
}

/// erf, within 4e-7. The odd rational of degree 9 over 12 that Eigen and XLA use; beyond 3.83 it is 1 in f32. Their earlier
/// one, 13 over 8, was tried: the same work, a little less exact.
#[inline(always)]
fn erf<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let x = clamp(lanes, x, 3.832_507);
    let x2 = lanes.mul(x, x);
    let above = polynomial(
        lanes,
        x2,
        [2.290_506_6e-4, 3.408_291_1e-3, 5.095_569_5e-2, 1.852_083_2e-1, FRAC_2_SQRT_PI],
    );
    let below = polynomial(
        lanes,
        x2,
        [-1.179_160_3e-7, 2.354_796_6e-5, 1.017_962_5e-3, 1.407_047e-2, 1.109_850_5e-1, 4.974_692_5e-1, 1.0],
    );
    lanes.div(lanes.mul(x, above), below)
}

/// tanh, within 5e-7. Eigen's odd rational of degree 13 over 6; beyond 7.9 it is 1 in f32.
#[inline(always)]
fn tanh<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let x = clamp(lanes, x, 7.905_311);
    let x2 = lanes.mul(x, x);
    let above = polynomial(
        lanes,
        x2,
        [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619_3e-4,
            4.893_524_6e-3,
        ],
    );
    let below = polynomial(lanes, x2, [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]);
    lanes.div(lanes.mul(x, above), below)
}

/// Below it both GELUs are within 2e-7 of 0, and x is clamped to it: the rationals saturate a few ulps short of -1, and x
/// times those would grow with -x.
const GELU_FLOOR: f32 = -5.42;

struct Gelu;
impl Function for Gelu {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, x: L::V) -> L::V {
        let x = lanes.max(lanes.splat(GELU_FLOOR), x);
        let half = lanes.mul(x, lanes.splat(0.5));
        let erf = erf(lanes, lanes.mul(x, lanes.splat(FRAC_1_SQRT_2)));
        lanes.mul_add(half, erf, half)
    }
}

struct GeluTanh;
impl Function for GeluTanh {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, x: L::V) -> L::V {
        const SQRT_2_OVER_PI: f32 = 0.797_884_6;
        let x = lanes.max(lanes.splat(GELU_FLOOR), x);
        let half = lanes.mul(x, lanes.splat(0.5));
        let factor = polynomial(lanes, lanes.mul(x, x), [0.044_715 * SQRT_2_OVER_PI, SQRT_2_OVER_PI]);
        lanes.mul_add(half, tanh(lanes, lanes.mul(x, factor)), half)
    }
}

struct Relu;
impl Function for Relu {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, x: L::V) -> L::V {
        lanes.max(lanes.splat(0.0), x)
    }
}

struct Tanh;
impl Function for Tanh {
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, x: L::V) -> L::V {
        tanh(lanes, x)
    }
}

/// The activation over a block of rows, in place.
pub(super) struct Activate<'a> {
    pub x: Place<'a>,
    pub activation: Activation,
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.activation {
            Activation::None => {}
            Activation::Gelu => lanes.run(Map::<Gelu>(self, PhantomData)),
            Activation::GeluTanh => lanes.run(Map::<GeluTanh>(self, PhantomData)),
            Activation::Relu => lanes.run(Map::<Relu>(self, PhantomData)),
            Activation::Tanh => lanes.run(Map::<Tanh>(self, PhantomData)),
        }
    }
}

struct Map<'a, F>(Activate<'a>, PhantomData<F>);

impl<F: Function> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let x = &mut self.0.x;
        for row in 0..x.rows() {
            let mut vectors = x.row(row).chunks_exact_mut(L::LANES);
            for chunk in &mut vectors {
                lanes.write(F::of(lanes, lanes.read(chunk)), chunk);
            }
            let tail = vectors.into_remainder();
            if !tail.is_empty() {
                lanes.write(F::of(lanes, lanes.read(tail)), tail);
            }
        }
    }
}
