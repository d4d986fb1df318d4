//! Large blocks: the scales of sixteen rows' groups, and their quants by pairs of columns of 16 bytes, of which each stretch of 32 elements
//! has its own bits.

use core::arch::x86_64::*;

use super::lanes::{Lanes, Numbers, RowLanes, add_products, lower_halves, store, unsigned, upper_halves};
use crate::activations::{Activations, BLOCK};
use crate::blocks::{GROUP, LARGE, large_bytes, layout, wide_groups};
use crate::kernels::{ROW_GROUP, by_token_groups, format};

const GROUPS: usize = LARGE / GROUP;

/// What the sums of a block go into.
struct Block<'a, const T: usize> {
    x: &'a Activations,
    /// Its number in each token's vector.
    at: [usize; T],
    factors: &'a Factors,
    sums: &'a mut [Numbers; T],
}

/// Scales and minima of groups; where groups are of 32 elements, there are half as many.
struct Factors {
    scales: [Numbers; GROUPS],
    minima: [Numbers; GROUPS],
}

/// Two columns of 16 bytes.
type Columns = [[Lanes; 4]; 2];

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
    let count = x.size / LARGE;
    let block_bytes = large_bytes(FORMAT);
    let part = block_bytes.div_ceil(pairs_of_columns(FORMAT));
    for (number, rows) in bytes.chunks(ROW_GROUP * row_bytes).enumerate() {
        let height = rows.len() / row_bytes;
        let rows = RowLanes::<PACKED>::new(rows, row_bytes);
        let mut sums = [[_mm256_setzero_ps(); 2]; T];
        for i in 0..count {
            let from = i * block_bytes;
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let factors = factors::<FORMAT, PACKED>(&rows, from);
                let at = std::array::from_fn(|t| (first + t) * count + i);
                let mut block = Block { x, at, factors: &factors, sums: &mut sums };
                for pair in 0..pairs_of_columns(FORMAT) {
                    // Not all at once: a core has no room for so many misses, and waits.
                    rows.prefetch(from + pair * part, part);
                    block.add_columns::<FORMAT, PACKED>(&rows, from, pair);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            store(sums, &mut y[first + t][number * ROW_GROUP..][..height]);
        }
    }
}

/// Pairs of columns of 16 bytes that hold the lower bits of a block's quants.
const fn pairs_of_columns(format: u8) -> usize {
    match format {
        format::Q2_K | format::Q3_K => 2,
        _ => 4,
    }
}

impl<const T: usize> Block<'_, T> {
    /// Adds the products of the stretches that a pair of columns has.
    ///
    /// # Safety
    /// - every row has a block of the format at byte `from`, and every token the block.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_columns<const FORMAT: u8, const PACKED: bool>(
        &mut self,
        rows: &RowLanes<PACKED>,
        from: usize,
        pair: usize,
    ) {
        let layout = layout(FORMAT);
        // SAFETY: columns of the layout are within the block (caller).
        let columns = |at: usize| [0, 16].map(|column| unsafe { rows.turned(from + at + column) });
        let low = columns(layout.low + 32 * pair);
        // The stretch that has the columns' lowest bits, how far it is to the next one's stretch, and the columns with the higher bits of
        // the stretches, shifted down by what stretches before them have there.
        let (stretch, apart, high) = match FORMAT {
            format::Q2_K => (4 * pair, 1, low),
            format::Q3_K => (4 * pair, 1, shifted(columns(layout.high), 4 * pair)),
            format::Q4_K => (2 * pair, 1, low),
            format::Q5_K => (2 * pair, 1, shifted(columns(layout.high), 2 * pair)),
            _ => {
                let high = columns(layout.high + 32 * (pair / 2));
                (4 * (pair / 2) + pair % 2, 2, shifted(high, 2 * (pair % 2)))
            }
        };
        // SAFETY: the stretches are the block's (caller).
        unsafe {
            self.add::<FORMAT, 0>(stretch, &low, &high);
            self.add::<FORMAT, 1>(stretch + apart, &low, &high);
            if pairs_of_columns(FORMAT) == 2 {
                self.add::<FORMAT, 2>(stretch + 2 * apart, &low, &high);
                self.add::<FORMAT, 3>(stretch + 3 * apart, &low, &high);
            }
        }
    }

    /// Adds the products of a stretch, whose bits are the columns' stretch `S`.
    ///
    /// # Safety
    /// - the block has the stretch, and every token the block.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const FORMAT: u8, const S: u32>(&mut self, stretch: usize, low: &Columns, high: &Columns) {
        let blocks = self.at.map(|at| at * (LARGE / BLOCK) + stretch);
        let mut products = [[_mm256_setzero_si256(); 2]; T];
        for column in 0..2 {
            for word in 0..4 {
                let (low, high) = (low[column][word], high[column][word]);
                let weights = [0, 1].map(|half| unsigned(quants::<FORMAT, S>(low[half], high[half])));
                // SAFETY: the quants are the blocks' (caller).
                unsafe { add_products(&mut products, weights, self.x, blocks, 4 * column + word) };
            }
            if !wide_groups(FORMAT) {
                let group = 2 * stretch + column;
                // SAFETY: activations have sums of 16 for all elements (caller).
                let sums = self.at.map(|at| unsafe { *self.x.group_sums.get_unchecked(at * GROUPS + group) });
                // SAFETY: the caller's promise.
                unsafe { self.scale(group, products, blocks, sums) };
                products = [[_mm256_setzero_si256(); 2]; T];
            }
        }
        if wide_groups(FORMAT) {
            // SAFETY: the caller's promise.
            unsafe {
                let sums = blocks.map(|block| self.x.factors.get_unchecked(block).sum);
                self.scale(stretch, products, blocks, sums);
            }
        }
    }

    /// Adds a group's products times its scale and those of the tokens' blocks, and takes its minimum times the sums of the tokens' elements.
    ///
    /// # Safety
    /// - the activations have the blocks.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(&mut self, group: usize, products: [Lanes; T], blocks: [usize; T], x_sums: [f32; T]) {
        let Factors { scales, minima } = self.factors;
        for t in 0..T {
            // SAFETY: the caller's promise.
            let x_scale = _mm256_set1_ps(unsafe { self.x.factors.get_unchecked(blocks[t]).scale });
            for half in 0..2 {
                let scale = _mm256_mul_ps(scales[group][half], x_scale);
                let product = _mm256_cvtepi32_ps(products[t][half]);
                let sum = _mm256_fmadd_ps(product, scale, self.sums[t][half]);
                self.sums[t][half] = _mm256_fnmadd_ps(minima[group][half], _mm256_set1_ps(x_sums[t]), sum);
            }
        }
    }
}

/// Elements of a column's stretch `S`, as bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quants<const FORMAT: u8, const S: u32>(low: __m256i, high: __m256i) -> __m256i {
    // Shifts are of 16 bits; the mask takes away what came from the byte above.
    macro_rules! bits {
        ($bytes:expr, $width:literal, $mask:literal) => {
            _mm256_and_si256(
                match S {
                    0 => $bytes,
                    1 => _mm256_srli_epi16::<{ $width }>($bytes),
                    2 => _mm256_srli_epi16::<{ 2 * $width }>($bytes),
                    _ => _mm256_srli_epi16::<{ 3 * $width }>($bytes),
                },
                _mm256_set1_epi8($mask),
            )
        };
    }
    match FORMAT {
        format::Q2_K => bits!(low, 2, 3),
        format::Q3_K => _mm256_or_si256(bits!(low, 2, 3), _mm256_slli_epi16::<2>(bits!(high, 1, 1))),
        format::Q4_K => bits!(low, 4, 15),
        format::Q5_K => _mm256_or_si256(bits!(low, 4, 15), _mm256_slli_epi16::<4>(bits!(high, 1, 1))),
        _ => _mm256_or_si256(bits!(low, 4, 15), _mm256_slli_epi16::<4>(bits!(high, 4, 3))),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shifted(columns: Columns, by: usize) -> Columns {
    let by = _mm_cvtsi64_si128(by as i64);
    columns.map(|words| words.map(|lanes| lanes.map(|bytes| _mm256_srl_epi16(bytes, by))))
}

/// Scales and minima of all groups: `blocks::codes` of sixteen rows, times the blocks' own.
///
/// # Safety
/// - every row has a block of the format at byte `from`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn factors<const FORMAT: u8, const PACKED: bool>(rows: &RowLanes<PACKED>, from: usize) -> Factors {
    let layout = layout(FORMAT);
    // SAFETY: the scales of groups are within a block, and so is its own.
    let (codes, scale, minimum) = unsafe {
        let codes: [Lanes; 4] = std::array::from_fn(|i| {
            // Q3_K has three words.
            rows.words(from + layout.scales + 4 * if FORMAT == format::Q3_K { i.min(2) } else { i })
        });
        if layout.zero > 0.0 {
            let scale = rows.last_half(from + layout.scale);
            let zero = _mm256_set1_ps(layout.zero);
            (codes, scale, scale.map(|scale| _mm256_mul_ps(scale, zero)))
        } else {
            let halves = rows.words(from + layout.scale);
            (codes, halves.map(|words| lower_halves(words)), halves.map(|words| upper_halves(words)))
        }
    };
    let mut factors =
        Factors { scales: [[_mm256_setzero_ps(); 2]; GROUPS], minima: [[_mm256_setzero_ps(); 2]; GROUPS] };
    for half in 0..2 {
        let (scales, minima) = codes_of::<FORMAT>(codes.map(|words| words[half]));
        for group in 0..if wide_groups(FORMAT) { GROUPS / 2 } else { GROUPS } {
            factors.scales[group][half] = number(scales, group, scale[half]);
            factors.minima[group][half] = number(minima, group, minimum[half]);
        }
    }
    factors
}

/// The code of a group, times what its block has for all of them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn number(codes: [__m256i; 4], group: usize, factor: __m256) -> __m256 {
    let above = _mm_cvtsi64_si128(24 - 8 * (group as i64 % 4));
    let code = _mm256_srai_epi32::<24>(_mm256_sll_epi32(codes[group / 4], above));
    _mm256_mul_ps(_mm256_cvtepi32_ps(code), factor)
}

/// The codes of scales and of minima, of four groups a word, of the words that a format has them in.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_of<const FORMAT: u8>([a, b, c, d]: [__m256i; 4]) -> ([__m256i; 4], [__m256i; 4]) {
    let word = |bits: u32| _mm256_set1_epi32(bits as i32);
    let nibbles = |words: __m256i| _mm256_and_si256(words, word(0x0f0f_0f0f));
    let six = |words: __m256i| _mm256_and_si256(words, word(0x3f3f_3f3f));
    let or = |a, b| _mm256_or_si256(a, b);
    let zero = _mm256_setzero_si256();
    match FORMAT {
        format::Q2_K => {
            let words = [a, b, c, d];
            (words.map(nibbles), words.map(|words| nibbles(_mm256_srli_epi32::<4>(words))))
        }
        format::Q3_K => {
            let top = |words| _mm256_slli_epi32::<4>(_mm256_and_si256(words, word(0x0303_0303)));
            let scales = [
                or(nibbles(a), top(c)),
                or(nibbles(b), top(_mm256_srli_epi32::<2>(c))),
                or(nibbles(_mm256_srli_epi32::<4>(a)), top(_mm256_srli_epi32::<4>(c))),
                or(nibbles(_mm256_srli_epi32::<4>(b)), top(_mm256_srli_epi32::<6>(c))),
            ];
            let scales = scales.map(|scales| _mm256_sub_epi8(scales, _mm256_set1_epi8(32)));
            (scales, scales)
        }
        format::Q4_K | format::Q5_K => {
            let top = |words| _mm256_and_si256(_mm256_srli_epi32::<2>(words), word(0x3030_3030));
            let scales = [six(a), or(nibbles(c), top(a)), zero, zero];
            let minima = [six(b), or(nibbles(_mm256_srli_epi32::<4>(c)), top(b)), zero, zero];
            (scales, minima)
        }
        _ => ([a, b, c, d], [a, b, c, d]),
    }
}
