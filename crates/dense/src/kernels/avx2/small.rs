//! Small blocks: 32 quants of sixteen rows, four of each at a time as pairs of 16 bits.

use core::arch::x86_64::*;

use super::lanes::{Lanes, Numbers, RowLanes, add_products, signed, store, unsigned};
use crate::activations::{Activations, BLOCK, Factors};
use crate::blocks::IQ4_NL_VALUES;
use crate::kernels::{ROW_GROUP, by_token_groups, format};

/// Whether quants have a sign.
const fn is_signed(format: u8) -> bool {
    matches!(format, format::Q8_0 | format::IQ4_NL)
}

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks; `PACKED` bytes are of a packed matrix.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
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
        let mut sums = [[_mm256_setzero_ps(); 2]; T];
        for i in 0..count {
            rows.prefetch(i * block_bytes, block_bytes);
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let at: [usize; T] = std::array::from_fn(|t| (first + t) * count + i);
                let products = products::<FORMAT, PACKED, T>(&rows, i * block_bytes, x, at);
                let (scales, offsets) = factors::<FORMAT, PACKED>(&rows, i * block_bytes);
                for (t, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                    let Factors { scale, sum: x_sum } = *x.factors.get_unchecked(at[t]);
                    for half in 0..2 {
                        let scale = _mm256_mul_ps(scales[half], _mm256_set1_ps(scale));
                        let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[half]), scale, sums[half]);
                        sums[half] = if is_signed(FORMAT) {
                            sum
                        } else {
                            _mm256_fmadd_ps(offsets[half], _mm256_set1_ps(x_sum), sum)
                        };
                    }
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            store(sums, &mut y[first + t][number * ROW_GROUP..][..height]);
        }
    }
}

/// Scales and offsets of the rows' blocks at byte `at`.
///
/// # Safety
/// - every row has a block of the format there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn factors<const FORMAT: u8, const PACKED: bool>(
    rows: &RowLanes<PACKED>,
    at: usize,
) -> (Numbers, Numbers) {
    // SAFETY: a block of any format has sixteen bytes (caller).
    let (scales, second) = unsafe { rows.halves(at) };
    let times = |factor: f32| scales.map(|scales| _mm256_mul_ps(scales, _mm256_set1_ps(factor)));
    let offsets = match FORMAT {
        format::Q4_0 => times(-8.0),
        format::Q5_0 => times(-16.0),
        format::Q4_1 | format::Q5_1 => second,
        _ => [_mm256_setzero_ps(); 2],
    };
    (scales, offsets)
}

/// Products of the rows' blocks at byte `from` with the tokens' blocks `at`.
///
/// # Safety
/// - every row has a block of the format there, and the activations have the blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<const FORMAT: u8, const PACKED: bool, const T: usize>(
    rows: &RowLanes<PACKED>,
    from: usize,
    x: &Activations,
    at: [usize; T],
) -> [Lanes; T] {
    let mut products = [[_mm256_setzero_si256(); 2]; T];
    let mut add = |quad: usize, bytes: Lanes| {
        let weights = bytes.map(|bytes| if is_signed(FORMAT) { signed(bytes) } else { unsigned(bytes) });
        // SAFETY: the quad is the blocks' (caller).
        unsafe { add_products(&mut products, weights, x, at, quad) };
    };
    if FORMAT == format::Q8_0 {
        for half in 0..2 {
            // SAFETY: a block's quants are 32 bytes from its third on (caller).
            let turned = unsafe { rows.turned(from + 2 + 16 * half) };
            for (word, bytes) in turned.into_iter().enumerate() {
                add(4 * half + word, bytes);
            }
        }
        return products;
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
        let fifths = if five_bits { rows.words(from + nibbles_at - 4) } else { [_mm256_setzero_si256(); 2] };
        (rows.turned(from + nibbles_at), fifths)
    };
    let low = _mm256_set1_epi8(15);
    for (word, bytes) in turned.into_iter().enumerate() {
        for (quad, bytes) in [(word, bytes), (word + 4, bytes.map(|bytes| _mm256_srli_epi16::<4>(bytes)))] {
            let quants = std::array::from_fn(|half| {
                let nibbles = _mm256_and_si256(bytes[half], low);
                if FORMAT == format::IQ4_NL {
                    // SAFETY: 16 values.
                    let values = unsafe { _mm_loadu_si128(IQ4_NL_VALUES.as_ptr().cast()) };
                    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles);
                }
                if five_bits { _mm256_or_si256(nibbles, fifth_bits(fifths[half], quad)) } else { nibbles }
            });
            add(quad, quants);
        }
    }
    products
}

/// 16 in each of a lane's four bytes whose element, from 4 * `quad` on, has its bit set in the lane of `bits`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(bits: __m256i, quad: usize) -> __m256i {
    let lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c));
    let byte = _mm256_set1_epi32(0x0101_0101 * (quad / 2) as i32);
    let spread = _mm256_shuffle_epi8(bits, _mm256_add_epi8(byte, lanes));
    let own = _mm256_set1_epi32(if quad.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}
