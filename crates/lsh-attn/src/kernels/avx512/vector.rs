//! Sixteen lanes.

use core::arch::x86_64::*;

use crate::kernels::vector::{Vector, instructions};

impl Vector for __m512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        instructions!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        instructions!(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        instructions!({
            let bits = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        })
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> [Self; 2] {
        instructions!(widened(_mm512_loadu_si512(from.cast())))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        instructions!(_mm512_storeu_ps(to, self))
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        instructions!(_mm512_add_ps(self, other))
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        instructions!(_mm512_mul_ps(self, other))
    }

    #[inline(always)]
    fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        instructions!(_mm512_fmadd_ps(a, b, sum))
    }

    #[inline(always)]
    fn least(self, other: Self) -> Self {
        instructions!(_mm512_min_ps(self, other))
    }

    #[inline(always)]
    fn greatest(self, other: Self) -> Self {
        instructions!(_mm512_max_ps(self, other))
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        instructions!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        instructions!({
            let exponents = _mm512_add_epi32(_mm512_cvtps_epi32(self), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponents))
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        instructions!(_mm512_reduce_add_ps(self))
    }

    /// Four at a time by halves that are added pairwise.
    #[inline(always)]
    fn sums<const R: usize>(registers: [Self; R]) -> [f32; R] {
        let mut sums = [0.0; R];
        // SAFETY: callers have the features (`Vector`), and four lanes are written where there are four.
        unsafe {
            if R == 4 {
                let mut eights = [_mm256_setzero_ps(); 4];
                for (eight, x) in eights.iter_mut().zip(registers) {
                    *eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
                }
                let [a, b, c, d] = eights;
                let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let fours = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
                _mm_storeu_ps(sums.as_mut_ptr(), fours);
            } else {
                for (sum, register) in sums.iter_mut().zip(registers) {
                    *sum = register.sum();
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn top(self) -> f32 {
        instructions!(_mm512_reduce_max_ps(self))
    }
}

/// The lower halves, and the upper ones.
///
/// # Safety
/// - for callers that have the features.
#[inline(always)]
pub(super) unsafe fn widened(pairs: __m512i) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let upper = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xFFFF));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(upper)]
    }
}
