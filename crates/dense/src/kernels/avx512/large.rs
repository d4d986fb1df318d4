//! Large blocks: the scales of sixteen rows' groups, and their quants by columns of 16 bytes, of which each group has its own bits.

use core::arch::x86_64::*;

use super::lanes::{RowLanes, Turned, dot, lower_halves, store, upper_halves};
use crate::activations::{Activations, BLOCK};
use crate::blocks::{GROUP, LARGE, large_bytes, layout};
use crate::kernels::{ROW_GROUP, by_token_groups, format};

const GROUPS: usize = LARGE / GROUP;

/// What the sums of a block go into.
struct Block<'a, const T: usize> {
    x: &'a Activations,
    /// Its number in each token's vector.
    at: [usize; T],
    scales: [__m512; GROUPS],
    minima: [__m512; GROUPS],
    sums: &'a mut [__m512; T],
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
    let count = x.size / LARGE;
    let block_bytes = large_bytes(FORMAT);
    let part = block_bytes.div_ceil(columns(FORMAT));
    for (number, rows) in bytes.chunks(ROW_GROUP * row_bytes).enumerate() {
        let height = rows.len() / row_bytes;
        let rows = RowLanes::<PACKED>::new(rows, row_bytes);
        let mut sums = [_mm512_setzero_ps(); T];
        for i in 0..count {
            let from = i * block_bytes;
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let (scales, minima) = factors::<FORMAT, PACKED>(&rows, from);
                let at = std::array::from_fn(|t| (first + t) * count + i);
                let mut block = Block { x, at, scales, minima, sums: &mut sums };
                for column in 0..columns(FORMAT) {
                    // Not all at once: a core has no room for so many misses, and waits.
                    rows.prefetch(from + column * part, part);
                    block.add_column::<FORMAT, PACKED>(&rows, from, column);
                }
            }
        }
        for (t, sum) in sums.into_iter().enumerate() {
            store(sum, &mut y[first + t][number * ROW_GROUP..][..height]);
        }
    }
}

/// Columns of 16 bytes that hold the lower bits of a block's quants.
const fn columns(format: u8) -> usize {
    match format {
        format::Q2_K | format::Q3_K => 4,
        _ => 8,
    }
}

impl<const T: usize> Block<'_, T> {
    /// Adds the products of the groups that a column has.
    ///
    /// # Safety
    /// - every row has a block of the format at byte `from`, and every token the block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add_column<const FORMAT: u8, const PACKED: bool>(
        &mut self,
        rows: &RowLanes<PACKED>,
        from: usize,
        column: usize,
    ) {
        let layout = layout(FORMAT);
        // SAFETY: columns of the layout are within the block (caller).
        let turned = |at: usize| unsafe { rows.turned(from + at) };
        let low = turned(layout.low + 16 * column);
        let half = column % 2;
        // The stretch of 32 elements that has the column's lowest bits, how far it is to the next one's stretch, and the column with the
        // higher bits of the stretches, shifted down by what stretches before them have there.
        let (stretch, apart, high) = match FORMAT {
            format::Q2_K => (4 * (column / 2), 1, low),
            format::Q3_K => {
                let stretch = 4 * (column / 2);
                (stretch, 1, shifted(turned(layout.high + 16 * half), stretch))
            }
            format::Q4_K => (2 * (column / 2), 1, low),
            format::Q5_K => {
                let stretch = 2 * (column / 2);
                (stretch, 1, shifted(turned(layout.high + 16 * half), stretch))
            }
            _ => {
                let (part, pair) = (column / 4, column % 4 / 2);
                (4 * part + pair, 2, shifted(turned(layout.high + 32 * part + 16 * half), 2 * pair))
            }
        };
        // SAFETY: the groups are the block's (caller).
        unsafe {
            let group = |step: usize| 2 * (stretch + step * apart) + half;
            self.add(group(0), &quants::<FORMAT, 0>(low, high));
            self.add(group(1), &quants::<FORMAT, 1>(low, high));
            if columns(FORMAT) == 4 {
                self.add(group(2), &quants::<FORMAT, 2>(low, high));
                self.add(group(3), &quants::<FORMAT, 3>(low, high));
            }
        }
    }

    /// Adds the products of a group's weights.
    ///
    /// # Safety
    /// - the block has the group, and every token the block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add(&mut self, group: usize, weights: &Turned) {
        let (scales, minima) = (self.scales[group], self.minima[group]);
        for (&at, sum) in self.at.iter().zip(self.sums.iter_mut()) {
            // SAFETY: activations have blocks of 32 and sums of 16 for all elements (caller).
            unsafe {
                let block = at * (LARGE / BLOCK) + group / 2;
                let product = dot(weights, self.x.bytes.get_unchecked(block), GROUP * (group % 2));
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(self.x.factors.get_unchecked(block).scale));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, *sum);
                let x_sum = *self.x.group_sums.get_unchecked(at * GROUPS + group);
                *sum = _mm512_fnmadd_ps(minima, _mm512_set1_ps(x_sum), *sum);
            }
        }
    }
}

/// The 16 elements of a column's stretch `S`, as bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quants<const FORMAT: u8, const S: u32>(low: Turned, high: Turned) -> Turned {
    // Shifts are of 16 bits; the mask takes away what came from the byte above.
    macro_rules! bits {
        ($bytes:expr, $width:literal, $mask:literal) => {
            _mm512_and_si512(
                match S {
                    0 => $bytes,
                    1 => _mm512_srli_epi16::<{ $width }>($bytes),
                    2 => _mm512_srli_epi16::<{ 2 * $width }>($bytes),
                    _ => _mm512_srli_epi16::<{ 3 * $width }>($bytes),
                },
                _mm512_set1_epi8($mask),
            )
        };
    }
    std::array::from_fn(|i| match FORMAT {
        format::Q2_K => bits!(low[i], 2, 3),
        format::Q3_K => _mm512_or_si512(bits!(low[i], 2, 3), _mm512_slli_epi16::<2>(bits!(high[i], 1, 1))),
        format::Q4_K => bits!(low[i], 4, 15),
        format::Q5_K => _mm512_or_si512(bits!(low[i], 4, 15), _mm512_slli_epi16::<4>(bits!(high[i], 1, 1))),
        _ => _mm512_or_si512(bits!(low[i], 4, 15), _mm512_slli_epi16::<4>(bits!(high[i], 4, 3))),
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn shifted(bytes: Turned, by: usize) -> Turned {
    let by = _mm_cvtsi64_si128(by as i64);
    bytes.map(|bytes| _mm512_srl_epi16(bytes, by))
}

/// Scales and minima of all groups: `blocks::codes` of sixteen rows, times the blocks' own.
///
/// # Safety
/// - every row has a block of the format at byte `from`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn factors<const FORMAT: u8, const PACKED: bool>(
    rows: &RowLanes<PACKED>,
    from: usize,
) -> ([__m512; GROUPS], [__m512; GROUPS]) {
    let layout = layout(FORMAT);
    let word = |bits: u32| _mm512_set1_epi32(bits as i32);
    let nibbles = |words: __m512i| _mm512_and_si512(words, word(0x0f0f_0f0f));
    let six = |words: __m512i| _mm512_and_si512(words, word(0x3f3f_3f3f));
    let or = |a, b| _mm512_or_si512(a, b);
    let zero = _mm512_setzero_si512();
    // SAFETY: sixteen bytes from the scales of groups on are within a block, and so are sixteen that end with its scale or start there.
    let ([a, b, c, d], scale, minimum) = unsafe {
        let codes = if FORMAT == format::Q3_K {
            // Twelve bytes, before the scale.
            let words = [0, 4, 8].map(|word| rows.last_words(from + layout.scales + word));
            [words[0], words[1], words[2], zero]
        } else {
            rows.turned(from + layout.scales)
        };
        if layout.zero > 0.0 {
            let scale = rows.last_half(from + layout.scale);
            (codes, scale, _mm512_mul_ps(scale, _mm512_set1_ps(layout.zero)))
        } else {
            let halves =
                if layout.scale == 0 { rows.words(from) } else { rows.last_words(from + layout.scale) };
            (codes, lower_halves(halves), upper_halves(halves))
        }
    };
    let (scales, minima) = match FORMAT {
        format::Q2_K => {
            let words = [a, b, c, d];
            (words.map(nibbles), words.map(|words| nibbles(_mm512_srli_epi32::<4>(words))))
        }
        format::Q3_K => {
            let top = |words| _mm512_slli_epi32::<4>(_mm512_and_si512(words, word(0x0303_0303)));
            let scales = [
                or(nibbles(a), top(c)),
                or(nibbles(b), top(_mm512_srli_epi32::<2>(c))),
                or(nibbles(_mm512_srli_epi32::<4>(a)), top(_mm512_srli_epi32::<4>(c))),
                or(nibbles(_mm512_srli_epi32::<4>(b)), top(_mm512_srli_epi32::<6>(c))),
            ];
            let scales = scales.map(|scales| _mm512_sub_epi8(scales, _mm512_set1_epi8(32)));
            (scales, scales)
        }
        format::Q4_K | format::Q5_K => {
            let top = |words| _mm512_and_si512(_mm512_srli_epi32::<2>(words), word(0x3030_3030));
            let scales = [six(a), or(nibbles(c), top(a)), zero, zero];
            let minima = [six(b), or(nibbles(_mm512_srli_epi32::<4>(c)), top(b)), zero, zero];
            (scales, minima)
        }
        _ => ([a, b, c, d], [a, b, c, d]),
    };
    let wide = crate::blocks::wide_groups(FORMAT);
    let spread = |codes: Turned, factor: __m512| {
        std::array::from_fn(|group| {
            let place = if wide { group / 2 } else { group };
            let above = _mm_cvtsi64_si128(24 - 8 * (place as i64 % 4));
            let code = _mm512_srai_epi32::<24>(_mm512_sll_epi32(codes[place / 4], above));
            _mm512_mul_ps(_mm512_cvtepi32_ps(code), factor)
        })
    };
    (spread(scales, scale), spread(minima, minimum))
}
