//! Large blocks: the scales of sixteen rows' groups, and their quants by pairs of columns of 16 bytes, of which each stretch of 32 elements
//! has its own bits.

use super::lanes::{Lanes, PackedRows, add_quad};
use super::{ROW_GROUP, by_token_groups, format};
use crate::activations::{Activations, BLOCK};
use crate::blocks::{GROUP, LARGE, large_bytes, layout, wide_groups};

const GROUPS: usize = LARGE / GROUP;

/// What the sums of a block go into.
struct Block<'a, L: Lanes, const T: usize> {
    x: &'a Activations,
    /// Its number in each token's vector.
    at: [usize; T],
    factors: Factors<L>,
    sums: &'a mut [L::Numbers; T],
}

/// Scales and minima of groups; where groups are of 32 elements, there are half as many.
struct Factors<L: Lanes> {
    scales: [L::Numbers; GROUPS],
    minima: [L::Numbers; GROUPS],
}

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks; the bytes are of a packed matrix.
#[inline(always)]
pub(super) unsafe fn blocks<L: Lanes, const FORMAT: u8>(
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    by_token_groups!(x.tokens, blocks_of::<L, FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline(always)]
unsafe fn blocks_of<L: Lanes, const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    let count = x.size / LARGE;
    let block_bytes = large_bytes(FORMAT);
    let part = block_bytes.div_ceil(pairs_of_columns(FORMAT));
    for (number, rows) in bytes.chunks_exact(ROW_GROUP * row_bytes).enumerate() {
        let rows = PackedRows::new(rows);
        let mut sums = [L::number(0.0); T];
        for i in 0..count {
            let from = i * block_bytes;
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let factors = factors::<L, FORMAT>(rows, from);
                let at = std::array::from_fn(|t| (first + t) * count + i);
                let mut block = Block::<L, T> { x, at, factors, sums: &mut sums };
                for pair in 0..pairs_of_columns(FORMAT) {
                    // Not all at once: a core has no room for so many misses, and waits.
                    rows.prefetch(from + pair * part, part);
                    block.add_columns::<FORMAT>(rows, from, pair);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            y[first + t][number * ROW_GROUP..][..ROW_GROUP].copy_from_slice(&L::stored(sums));
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

impl<L: Lanes, const T: usize> Block<'_, L, T> {
    /// Adds the products of the stretches that a pair of columns has.
    ///
    /// # Safety
    /// - every row has a block of the format at byte `from`, and every token the block.
    #[inline(always)]
    unsafe fn add_columns<const FORMAT: u8>(&mut self, rows: PackedRows, from: usize, pair: usize) {
        let layout = layout(FORMAT);
        let low = from + layout.low + 32 * pair;
        // The stretch that has the columns' lowest bits, how far it is to the next one's stretch, the columns with the higher bits of the
        // stretches, and how many bits stretches before them have there.
        let (stretch, apart, high, before) = match FORMAT {
            format::Q3_K => (4 * pair, 1, layout.high, 4 * pair),
            format::Q5_K => (2 * pair, 1, layout.high, 2 * pair),
            format::Q6_K => (4 * (pair / 2) + pair % 2, 2, layout.high + 32 * (pair / 2), 2 * (pair % 2)),
            format::Q2_K => (4 * pair, 1, layout.low, 0),
            _ => (2 * pair, 1, layout.low, 0),
        };
        let high = (from + high, before as u32);
        // SAFETY: the stretches are the block's, and columns of the layout are within it (caller).
        unsafe {
            self.add::<FORMAT, 0>(stretch, rows, low, high);
            self.add::<FORMAT, 1>(stretch + apart, rows, low, high);
            if pairs_of_columns(FORMAT) == 2 {
                self.add::<FORMAT, 2>(stretch + 2 * apart, rows, low, high);
                self.add::<FORMAT, 3>(stretch + 3 * apart, rows, low, high);
            }
        }
    }

    /// Adds the products of a stretch, whose bits are the `STEP`th of the columns at byte `low` and of those at `high`, there after
    /// `before` bits.
    ///
    /// # Safety
    /// - the block has the stretch, and every token the block.
    #[inline(always)]
    unsafe fn add<const FORMAT: u8, const STEP: u32>(
        &mut self,
        stretch: usize,
        rows: PackedRows,
        low: usize,
        (high, before): (usize, u32),
    ) {
        let mut blocks = self.at;
        blocks.iter_mut().for_each(|at| *at = *at * (LARGE / BLOCK) + stretch);
        let mut products = [L::splat(0); T];
        for column in 0..2 {
            for word in 0..4 {
                let at = 16 * column + 4 * word;
                // SAFETY: the words are of the layout's columns, and the quants are the blocks' (caller).
                unsafe {
                    let high = || L::shifted_right(rows.word::<L>(high + at), before);
                    let quants = quants::<L, FORMAT, STEP>(rows.word::<L>(low + at), high);
                    add_quad::<L, T>(&mut products, L::pairs(quants), self.x, blocks, 4 * column + word);
                }
            }
            if !wide_groups(FORMAT) {
                // SAFETY: the caller's promise.
                unsafe { self.scale::<FORMAT>(2 * stretch + column, products, blocks) };
                products = [L::splat(0); T];
            }
        }
        if wide_groups(FORMAT) {
            // SAFETY: the caller's promise.
            unsafe { self.scale::<FORMAT>(stretch, products, blocks) };
        }
    }

    /// Adds a group's products times its scale and those of the tokens' blocks, and takes its minimum times the sums of the tokens' elements.
    ///
    /// # Safety
    /// - the activations have the blocks, and the block the group.
    #[inline(always)]
    unsafe fn scale<const FORMAT: u8>(&mut self, group: usize, products: [L::Words; T], blocks: [usize; T]) {
        let Factors { scales, minima } = &self.factors;
        for t in 0..T {
            // SAFETY: the caller's promise; activations have sums of 16 for all elements.
            let (x_scale, x_sum) = unsafe {
                let factors = self.x.factors.get_unchecked(blocks[t]);
                let sum = self.x.group_sums.as_ptr().add(self.at[t] * GROUPS + group);
                (factors.scale, if wide_groups(FORMAT) { factors.sum } else { *sum })
            };
            let scale = L::times(scales[group], L::number(x_scale));
            let sum = L::multiply_add(L::numbers(products[t]), scale, self.sums[t]);
            self.sums[t] = L::multiply_add(minima[group], L::number(-x_sum), sum);
        }
    }
}

/// Four elements of the `STEP`th stretch of columns, as bytes.
#[inline(always)]
fn quants<L: Lanes, const FORMAT: u8, const STEP: u32>(
    low: L::Words,
    high: impl FnOnce() -> L::Words,
) -> L::Words {
    // The mask takes away what came from the byte above.
    let bits = |words: L::Words, from: u32, mask: u32| {
        L::and(L::shifted_right(words, from), L::splat(mask * 0x0101_0101))
    };
    let low = match FORMAT {
        format::Q2_K | format::Q3_K => bits(low, 2 * STEP, 3),
        _ => bits(low, 4 * STEP, 15),
    };
    let high = match FORMAT {
        format::Q3_K => L::shifted_left(bits(high(), STEP, 1), 2),
        format::Q5_K => L::shifted_left(bits(high(), STEP, 1), 4),
        format::Q6_K => L::shifted_left(bits(high(), 4 * STEP, 3), 4),
        _ => return low,
    };
    L::or(low, high)
}

/// Scales and minima of all groups: `blocks::codes` of sixteen rows, times the blocks' own.
///
/// # Safety
/// - every row has a block of the format at byte `from`.
#[inline(always)]
unsafe fn factors<L: Lanes, const FORMAT: u8>(rows: PackedRows, from: usize) -> Factors<L> {
    let layout = layout(FORMAT);
    let at = from + layout.scales;
    // SAFETY: the scales of groups are within a block, and so is its own.
    let (codes, scale, minimum) = unsafe {
        // Q3_K has three words of codes.
        let last = if FORMAT == format::Q3_K { 8 } else { 12 };
        let codes =
            [rows.word::<L>(at), rows.word::<L>(at + 4), rows.word::<L>(at + 8), rows.word::<L>(at + last)];
        if layout.zero > 0.0 {
            let scale = rows.half::<L>(from + layout.scale);
            (codes, scale, L::times(scale, L::number(layout.zero)))
        } else {
            let [scale, minimum] = L::both_halves(rows.word::<L>(from + layout.scale));
            (codes, scale, minimum)
        }
    };
    let (scales, minima) = codes_of::<L, FORMAT>(codes);
    let mut factors = Factors { scales: [L::number(0.0); GROUPS], minima: [L::number(0.0); GROUPS] };
    for group in 0..if wide_groups(FORMAT) { GROUPS / 2 } else { GROUPS } {
        let code = |codes: &[L::Words; 4]| {
            let up = L::shifted_left(codes[group / 4], 24 - 8 * (group as u32 % 4));
            L::numbers(L::arithmetic_right(up, 24))
        };
        factors.scales[group] = L::times(code(&scales), scale);
        factors.minima[group] = L::times(code(&minima), minimum);
    }
    factors
}

/// The codes of scales and of minima, of four groups a word, of the words that a format has them in.
#[inline(always)]
fn codes_of<L: Lanes, const FORMAT: u8>(words: [L::Words; 4]) -> ([L::Words; 4], [L::Words; 4]) {
    let [a, b, c, d] = words;
    let nibbles = |words: L::Words, from: u32| L::and(L::shifted_right(words, from), L::splat(0x0f0f_0f0f));
    let zero = L::splat(0);
    match FORMAT {
        format::Q2_K => {
            let nibbles = |from| [nibbles(a, from), nibbles(b, from), nibbles(c, from), nibbles(d, from)];
            (nibbles(0), nibbles(4))
        }
        format::Q3_K => {
            let scale = |low: L::Words, top: u32| {
                let top = L::shifted_left(L::and(L::shifted_right(c, top), L::splat(0x0303_0303)), 4);
                L::sub_bytes(L::or(low, top), L::splat(0x2020_2020))
            };
            let scales = [
                scale(nibbles(a, 0), 0),
                scale(nibbles(b, 0), 2),
                scale(nibbles(a, 4), 4),
                scale(nibbles(b, 4), 6),
            ];
            (scales, scales)
        }
        format::Q4_K | format::Q5_K => {
            let six = |words: L::Words| L::and(words, L::splat(0x3f3f_3f3f));
            let top = |words: L::Words| L::and(L::shifted_right(words, 2), L::splat(0x3030_3030));
            let scales = [six(a), L::or(nibbles(c, 0), top(a)), zero, zero];
            let minima = [six(b), L::or(nibbles(c, 4), top(b)), zero, zero];
            (scales, minima)
        }
        _ => (words, words),
    }
}
