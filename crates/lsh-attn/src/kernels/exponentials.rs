//! What a softmax needs of its scores: the greatest, and exponentials with their sum.

use super::vector::Vector;

/// ln 2 in two parts: the first has 9 trailing zero bits, so that n times it is exact for |n| < 512.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Taylor coefficients of exp, degree 6 first: the truncated term is below 1.2e-7 for |r| <= ln2 / 2.
const POLYNOMIAL: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// The greatest of `x`; negative infinity for none.
///
/// # Safety
/// - for callers that have the vector's features.
#[inline(always)]
pub(super) unsafe fn max<V: Vector>(x: &[f32]) -> f32 {
    let mut greatest = V::splat(f32::NEG_INFINITY);
    let chunks = x.chunks_exact(V::WIDTH);
    let rest = chunks.remainder();
    for chunk in chunks {
        // SAFETY: a chunk has a number for each lane.
        greatest = greatest.greatest(unsafe { V::load(chunk.as_ptr()) });
    }
    rest.iter().copied().fold(greatest.top(), f32::max)
}

/// `x[i] = exp(x[i] - max)`; returns the sum.
///
/// # Safety
/// - for callers that have the vector's features.
#[inline(always)]
pub(super) unsafe fn exp_sum<V: Vector>(x: &mut [f32], max: f32) -> f32 {
    let mut sums = V::splat(0.0);
    let mut chunks = x.chunks_exact_mut(V::WIDTH);
    for chunk in &mut chunks {
        // SAFETY: a chunk has a number for each lane.
        unsafe {
            let y = exp(V::load(chunk.as_ptr()).plus(V::splat(-max)));
            y.store(chunk.as_mut_ptr());
            sums = sums.plus(y);
        }
    }
    chunks.into_remainder().iter_mut().fold(sums.sum(), |sum, x| {
        *x = (*x - max).exp();
        sum + *x
    })
}

/// 2^n times a degree-6 polynomial of the remainder in [-ln2/2, ln2/2] (relative error below 2.5e-7, the remainder's two-part
/// reduction included).
#[inline(always)]
fn exp<V: Vector>(x: V) -> V {
    // In this order what is not a number stays that.
    let x = V::splat(-87.3).greatest(V::splat(88.0).least(x));
    let n = x.times(V::splat(std::f32::consts::LOG2_E)).rounded();
    let r = V::multiply_add(n, V::splat(-LN2_HIGH), x);
    let r = V::multiply_add(n, V::splat(-LN2_LOW), r);
    let mut p = V::splat(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = V::multiply_add(p, r, V::splat(coefficient));
    }
    p.times(n.power_of_two())
}
