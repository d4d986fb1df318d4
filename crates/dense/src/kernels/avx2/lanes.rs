//! Lanes of two registers.

use core::arch::x86_64::*;

use crate::kernels::ROW_GROUP;
use crate::kernels::lanes::Lanes;

/// AVX2, FMA and F16C.
pub(super) struct Avx2;

/// The same of both registers.
macro_rules! both {
    (|$($name:ident),+| $body:expr) => {{
        // SAFETY: callers have the features (`Lanes`), and what is read or written is as long as its type says.
        unsafe {
            [
                { $(let $name = $name[0];)+ $body },
                { $(let $name = $name[1];)+ $body },
            ]
        }
    }};
}

impl Avx2 {
    /// Sixteen numbers.
    #[inline(always)]
    pub(super) fn loaded(from: &[f32; ROW_GROUP]) -> [__m256; 2] {
        let from = from.as_chunks::<8>().0;
        both!(|from| _mm256_loadu_ps(from.as_ptr()))
    }
}

impl Lanes for Avx2 {
    type Words = [__m256i; 2];
    type Numbers = [__m256; 2];

    #[inline(always)]
    fn words(from: &[u8; 4 * ROW_GROUP]) -> Self::Words {
        let from = from.as_chunks::<32>().0;
        both!(|from| _mm256_loadu_si256(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn halves(from: &[u8; 2 * ROW_GROUP]) -> Self::Numbers {
        let from = from.as_chunks::<16>().0;
        both!(|from| _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn both_halves(words: Self::Words) -> [Self::Numbers; 2] {
        [words, Self::shifted_right(words, 16)].map(|words| {
            both!(|words| {
                let places = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13);
                let lower = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(places));
                let lower = _mm256_permute4x64_epi64::<0b00_00_10_00>(lower);
                _mm256_cvtph_ps(_mm256_castsi256_si128(lower))
            })
        })
    }

    #[inline(always)]
    fn splat(word: u32) -> Self::Words {
        // SAFETY: callers have the features (`Lanes`).
        unsafe { [_mm256_set1_epi32(word as i32); 2] }
    }

    #[inline(always)]
    fn number(number: f32) -> Self::Numbers {
        // SAFETY: callers have the features (`Lanes`).
        unsafe { [_mm256_set1_ps(number); 2] }
    }

    #[inline(always)]
    fn and(a: Self::Words, b: Self::Words) -> Self::Words {
        both!(|a, b| _mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(a: Self::Words, b: Self::Words) -> Self::Words {
        both!(|a, b| _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn sub_bytes(a: Self::Words, b: Self::Words) -> Self::Words {
        both!(|a, b| _mm256_sub_epi8(a, b))
    }

    #[inline(always)]
    fn shifted_right(words: Self::Words, by: u32) -> Self::Words {
        both!(|words| _mm256_srl_epi32(words, _mm_cvtsi32_si128(by as i32)))
    }

    #[inline(always)]
    fn shifted_left(words: Self::Words, by: u32) -> Self::Words {
        both!(|words| _mm256_sll_epi32(words, _mm_cvtsi32_si128(by as i32)))
    }

    #[inline(always)]
    fn arithmetic_right(words: Self::Words, by: u32) -> Self::Words {
        both!(|words| _mm256_sra_epi32(words, _mm_cvtsi32_si128(by as i32)))
    }

    #[inline(always)]
    fn pairs(bytes: Self::Words) -> [Self::Words; 2] {
        [
            both!(|bytes| _mm256_and_si256(bytes, _mm256_set1_epi16(255))),
            both!(|bytes| _mm256_srli_epi16::<8>(bytes)),
        ]
    }

    #[inline(always)]
    fn signed_pairs(bytes: Self::Words) -> [Self::Words; 2] {
        [
            both!(|bytes| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes))),
            both!(|bytes| _mm256_srai_epi16::<8>(bytes)),
        ]
    }

    #[inline(always)]
    fn looked_up(values: &[i8; 16], bytes: Self::Words) -> Self::Words {
        both!(|bytes| {
            let values = _mm_loadu_si128(values.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), bytes)
        })
    }

    #[inline(always)]
    fn add_products(sums: Self::Words, weights: Self::Words, [a, b]: [i16; 2]) -> Self::Words {
        let x = i32::from(b) << 16 | i32::from(a as u16);
        both!(|sums, weights| _mm256_add_epi32(sums, _mm256_madd_epi16(weights, _mm256_set1_epi32(x))))
    }

    #[inline(always)]
    fn numbers(words: Self::Words) -> Self::Numbers {
        both!(|words| _mm256_cvtepi32_ps(words))
    }

    #[inline(always)]
    fn times(a: Self::Numbers, b: Self::Numbers) -> Self::Numbers {
        both!(|a, b| _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn multiply_add(a: Self::Numbers, b: Self::Numbers, sum: Self::Numbers) -> Self::Numbers {
        both!(|a, b, sum| _mm256_fmadd_ps(a, b, sum))
    }

    #[inline(always)]
    fn stored(numbers: Self::Numbers) -> [f32; ROW_GROUP] {
        // SAFETY: two registers are sixteen f32.
        unsafe { std::mem::transmute(numbers) }
    }
}
