//! Small blocks: 32 quants of sixteen rows are eight registers of bytes.

use core::arch::x86_64::*;

use super::lanes::{RowLanes, dot, store};
use crate::activations::{Activations, BLOCK, Factors};
use crate::blocks::{IQ4_NL_VALUES, small_zero};
use crate::kernels::{ROW_GROUP, by_token_groups, format};

/// Whether quants have a sign. Instructions for bytes take weights without one, so these are 128 more than they mean.
const fn is_signed(format: u8) -> bool {
    matches!(format, format::Q8_0 | format::IQ4_NL)
}

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks; `PACKED` bytes are of a packed matrix.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) unsafe fn blocks<const FORMAT: u8, const PACKED: bool>(
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    by_token_groups!(x.tokens, blocks_of::<FORMAT, PACKED>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn blocks_of<const FORMAT: u8, const PACKED: bool, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, rows) in bytes.chunks(ROW_GROUP * row_bytes).enumerate() {
        let height = rows.len() / row_bytes;
        let rows = RowLanes::<PACKED>::new(rows, row_bytes);
        let mut sums = [_mm512_setzero_ps(); T];
        for i in 0..count {
            rows.prefetch(i * block_bytes, block_bytes);
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let (scales, offsets) = factors::<FORMAT, PACKED>(&rows, i * block_bytes);
                let weights = quads::<FORMAT, PACKED>(&rows, i * block_bytes);
                for (t, sum) in sums.iter_mut().enumerate() {
                    let at = (first + t) * count + i;
                    let mut product = dot(&weights, x.bytes.get_unchecked(at), 0);
                    if is_signed(FORMAT) {
                        let excess = _mm512_set1_epi32(128 * *x.quant_sums.get_unchecked(at));
                        product = _mm512_sub_epi32(product, excess);
                    }
                    let Factors { scale, sum: x_sum } = *x.factors.get_unchecked(at);
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, *sum);
                    if !is_signed(FORMAT) {
                        *sum = _mm512_fmadd_ps(offsets, _mm512_set1_ps(x_sum), *sum);
                    }
                }
            }
        }
        for (t, sum) in sums.into_iter().enumerate() {
            store(sum, &mut y[first + t][number * ROW_GROUP..][..height]);
        }
    }
}

/// Scales and offsets of the rows' blocks at byte `at`.
///
/// # Safety
/// - every row has a block of the format there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn factors<const FORMAT: u8, const PACKED: bool>(
    rows: &RowLanes<PACKED>,
    at: usize,
) -> (__m512, __m512) {
    // SAFETY: a block of any format has sixteen bytes (caller).
    let (scales, second) = unsafe { rows.halves(at) };
    let offsets = match FORMAT {
        format::Q4_0 | format::Q5_0 => _mm512_mul_ps(scales, _mm512_set1_ps(-small_zero(FORMAT))),
        format::Q4_1 | format::Q5_1 => second,
        _ => _mm512_setzero_ps(),
    };
    (scales, offsets)
}

/// The quants of the rows' blocks at byte `at`, four elements a register.
///
/// # Safety
/// - as [`factors`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn quads<const FORMAT: u8, const PACKED: bool>(
    rows: &RowLanes<PACKED>,
    at: usize,
) -> [__m512i; BLOCK / 4] {
    if FORMAT == format::Q8_0 {
        // SAFETY: a block's quants are 32 bytes from its third on (caller).
        let (low, high) = unsafe { (rows.turned(at + 2), rows.turned(at + 18)) };
        let sign = _mm512_set1_epi8(-128);
        return std::array::from_fn(|quad| {
            _mm512_xor_si512(if quad < 4 { low[quad] } else { high[quad - 4] }, sign)
        });
    }
    let nibbles_at = match FORMAT {
        format::Q4_1 => 4,
        format::Q5_0 => 6,
        format::Q5_1 => 8,
        _ => 2,
    };
    let five_bits = matches!(FORMAT, format::Q5_0 | format::Q5_1);
    // SAFETY: a block has 16 bytes of nibbles, and fifth bits in the four before them (caller).
    let (turned, fifths) = unsafe {
        let fifths = if five_bits { rows.words(at + nibbles_at - 4) } else { _mm512_setzero_si512() };
        (rows.turned(at + nibbles_at), fifths)
    };
    let low = _mm512_set1_epi8(15);
    std::array::from_fn(|quad| {
        let bytes = turned[quad % 4];
        let bytes = if quad < 4 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
        let nibbles = _mm512_and_si512(bytes, low);
        if FORMAT == format::IQ4_NL {
            let values = IQ4_NL_VALUES.map(|value| value ^ -128);
            // SAFETY: 16 values.
            let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
            return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), nibbles);
        }
        if five_bits { with_fifth_bits(nibbles, fifths, quad) } else { nibbles }
    })
}

/// The nibbles of elements 4 `quad` to 4 `quad` + 3, and 16 more in those whose bit in the lane of `bits` is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn with_fifth_bits(nibbles: __m512i, bits: __m512i, quad: usize) -> __m512i {
    let lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c));
    let byte = _mm512_set1_epi32(0x0101_0101 * (quad / 2) as i32);
    let spread = _mm512_shuffle_epi8(bits, _mm512_add_epi8(byte, lanes));
    let own = _mm512_set1_epi32(if quad.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
    let set = _mm512_test_epi8_mask(spread, own);
    _mm512_mask_add_epi8(nibbles, set, nibbles, _mm512_set1_epi8(16))
}
