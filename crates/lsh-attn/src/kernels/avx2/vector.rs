//! Eight lanes. A bf16 vector widens to f32 by a shift, so rows are read at two bytes an element.

use core::arch::x86_64::*;

use crate::kernels::vector::{Vector, instructions};

impl Vector for __m256 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        instructions!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        instructions!(_mm256_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        instructions!({
            let bits = _mm_loadu_si128(from.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        })
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> [Self; 2] {
        instructions!({
            let pairs = _mm256_loadu_si256(from.cast());
            let upper = _mm256_and_si256(pairs, _mm256_set1_epi32(!0xFFFF));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(upper)]
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        instructions!(_mm256_storeu_ps(to, self))
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        instructions!(_mm256_add_ps(self, other))
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        instructions!(_mm256_mul_ps(self, other))
    }

    #[inline(always)]
    fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        instructions!(_mm256_fmadd_ps(a, b, sum))
    }

    #[inline(always)]
    fn least(self, other: Self) -> Self {
        instructions!(_mm256_min_ps(self, other))
    }

    #[inline(always)]
    fn greatest(self, other: Self) -> Self {
        instructions!(_mm256_max_ps(self, other))
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        instructions!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        instructions!({
            let exponents = _mm256_add_epi32(_mm256_cvtps_epi32(self), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponents))
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        instructions!({
            let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn top(self) -> f32 {
        instructions!({
            let four = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
