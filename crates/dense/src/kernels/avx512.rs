//! AVX-512: a block of 32 quants is one register of 16-bit lanes.

use core::arch::x86_64::*;

use super::{STREAM_AHEAD, Table, by_token_groups, format};
use crate::activations::{Activations, BLOCK};

pub(super) static TABLE: Table = Table {
    f32: floats::<{ format::F32 }>,
    f16: floats::<{ format::F16 }>,
    bf16: floats::<{ format::BF16 }>,
    q8_0: blocks::<{ format::Q8_0 }>,
    q4_0: blocks::<{ format::Q4_0 }>,
    q4_1: blocks::<{ format::Q4_1 }>,
};

/// f32 lanes of a register.
const WIDTH: usize = 16;

/// Asks for the memory that lies [`STREAM_AHEAD`] bytes behind a row, as much as the row has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn prefetch(row: &[u8]) {
    for line in (0..row.len()).step_by(64) {
        // A prefetch never faults, so the address need not even be valid.
        _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(STREAM_AHEAD + line).cast());
    }
}

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn blocks<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [f32]) {
    by_token_groups!(x.tokens, blocks_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn blocks_of<const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [f32],
) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (row, y) in bytes.chunks_exact(row_bytes).zip(y.chunks_exact_mut(x.tokens)) {
        prefetch(row);
        let mut products = [_mm512_setzero_ps(); T];
        let mut offsets = [0.0f32; T];
        for i in 0..count {
            // SAFETY: block i of the row, and block i of each token, exist (caller).
            unsafe {
                let (quants, scale, offset) = unpack::<FORMAT>(row.as_ptr().add(i * block_bytes));
                for t in 0..T {
                    let at = (first + t) * count + i;
                    let x_quants = _mm512_loadu_si512(x.quants.as_ptr().add(at * BLOCK).cast());
                    let product = _mm512_cvtepi32_ps(_mm512_madd_epi16(quants, x_quants));
                    let scale = _mm512_set1_ps(scale * x.scales.get_unchecked(at));
                    products[t] = _mm512_fmadd_ps(product, scale, products[t]);
                    if FORMAT != format::Q8_0 {
                        offsets[t] += offset * x.sums.get_unchecked(at);
                    }
                }
            }
        }
        for t in 0..T {
            y[first + t] = _mm512_reduce_add_ps(products[t]) + offsets[t];
        }
    }
}

/// A block as 32 quants of 16 bits, scale and offset.
///
/// # Safety
/// - `block` is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn unpack<const FORMAT: u8>(block: *const u8) -> (__m512i, f32, f32) {
    // SAFETY: all within the block (caller).
    unsafe {
        let halves = _mm_cvtph_ps(_mm_loadu_si32(block));
        let scale = _mm_cvtss_f32(halves);
        if FORMAT == format::Q8_0 {
            return (_mm512_cvtepi8_epi16(_mm256_loadu_si256(block.add(2).cast())), scale, 0.0);
        }
        let (offset, first) = match FORMAT {
            format::Q4_0 => (-8.0 * scale, 2),
            _ => (_mm_cvtss_f32(_mm_movehdup_ps(halves)), 4),
        };
        let bytes = _mm_loadu_si128(block.add(first).cast());
        let low = _mm_set1_epi8(15);
        let nibbles =
            _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16::<4>(bytes), low), _mm_and_si128(bytes, low));
        (_mm512_cvtepu8_epi16(nibbles), scale, offset)
    }
}

/// # Safety
/// - as [`blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [f32]) {
    by_token_groups!(x.tokens, floats_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks_of`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn floats_of<const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [f32],
) {
    for (row, y) in bytes.chunks_exact(row_bytes).zip(y.chunks_exact_mut(x.tokens)) {
        prefetch(row);
        let mut sums = [_mm512_setzero_ps(); T];
        let mut j = 0;
        while j < x.size {
            // The last register may be partly beyond the row: masked lanes are neither read nor added.
            let mask = if x.size - j >= WIDTH { !0 } else { (1u16 << (x.size - j)) - 1 };
            // SAFETY: lanes of the mask are within the row and the token's vector (caller).
            unsafe {
                let w = match FORMAT {
                    format::F32 => _mm512_maskz_loadu_ps(mask, row.as_ptr().cast::<f32>().add(j)),
                    format::F16 => {
                        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.as_ptr().cast::<i16>().add(j)))
                    }
                    _ => {
                        let bits = _mm256_maskz_loadu_epi16(mask, row.as_ptr().cast::<i16>().add(j));
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
                    }
                };
                for (t, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_maskz_loadu_ps(mask, x.values.as_ptr().add((first + t) * x.size + j));
                    *sum = _mm512_fmadd_ps(w, x, *sum);
                }
            }
            j += WIDTH;
        }
        for t in 0..T {
            y[first + t] = _mm512_reduce_add_ps(sums[t]);
        }
    }
}
