//! Small blocks: 32 quants of sixteen rows, four of each at a time as pairs of 16 bits.

use super::lanes::{Lanes, PackedRows, add_quad};
use super::{ROW_GROUP, by_token_groups, format};
use crate::activations::{Activations, BLOCK, Factors};
use crate::blocks::{IQ4_NL_VALUES, small_zero};

/// Whether quants have a sign.
const fn is_signed(format: u8) -> bool {
    matches!(format, format::Q8_0 | format::IQ4_NL)
}

const fn has_five_bits(format: u8) -> bool {
    matches!(format, format::Q5_0 | format::Q5_1)
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
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, rows) in bytes.chunks_exact(ROW_GROUP * row_bytes).enumerate() {
        let rows = PackedRows::new(rows);
        let mut sums = [L::number(0.0); T];
        for i in 0..count {
            let from = i * block_bytes;
            rows.prefetch(from, block_bytes);
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let at: [usize; T] = std::array::from_fn(|t| (first + t) * count + i);
                let products = products::<L, FORMAT, T>(rows, from, x, at);
                let scales = rows.half::<L>(from);
                let offsets = match FORMAT {
                    format::Q4_0 | format::Q5_0 => L::times(scales, L::number(-small_zero(FORMAT))),
                    format::Q4_1 | format::Q5_1 => rows.half::<L>(from + 2),
                    _ => L::number(0.0),
                };
                for t in 0..T {
                    let Factors { scale, sum: x_sum } = *x.factors.get_unchecked(at[t]);
                    let scale = L::times(scales, L::number(scale));
                    sums[t] = L::multiply_add(L::numbers(products[t]), scale, sums[t]);
                    if !is_signed(FORMAT) {
                        sums[t] = L::multiply_add(offsets, L::number(x_sum), sums[t]);
                    }
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            y[first + t][number * ROW_GROUP..][..ROW_GROUP].copy_from_slice(&L::stored(sums));
        }
    }
}

/// Products of the rows' blocks at byte `from` with the tokens' blocks `at`.
///
/// # Safety
/// - every row has a block of the format there, and the activations have the blocks.
#[inline(always)]
unsafe fn products<L: Lanes, const FORMAT: u8, const T: usize>(
    rows: PackedRows,
    from: usize,
    x: &Activations,
    at: [usize; T],
) -> [L::Words; T] {
    let mut products = [L::splat(0); T];
    if FORMAT == format::Q8_0 {
        for quad in 0..BLOCK / 4 {
            // SAFETY: a block's quants are 32 bytes from its third on; the quad is the blocks' (caller).
            unsafe {
                let weights = L::signed_pairs(rows.word::<L>(from + 2 + 4 * quad));
                add_quad::<L, T>(&mut products, weights, x, at, quad);
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
    let fifths = if has_five_bits(FORMAT) {
        // SAFETY: fifth bits are in the four bytes before nibbles (caller).
        unsafe { rows.word::<L>(from + nibbles_at - 4) }
    } else {
        L::splat(0)
    };
    for word in 0..BLOCK / 8 {
        // SAFETY: a block has 16 bytes of nibbles (caller).
        let bytes = unsafe { rows.word::<L>(from + nibbles_at + 4 * word) };
        for (quad, shift) in [(word, 0), (word + BLOCK / 8, 4)] {
            let nibbles = L::and(L::shifted_right(bytes, shift), L::splat(0x0f0f_0f0f));
            let weights = match FORMAT {
                format::IQ4_NL => L::signed_pairs(L::looked_up(&IQ4_NL_VALUES, nibbles)),
                _ if has_five_bits(FORMAT) => L::pairs(L::or(nibbles, fifth_bits::<L>(fifths, quad))),
                _ => L::pairs(nibbles),
            };
            // SAFETY: the quad is the blocks' (caller).
            unsafe { add_quad::<L, T>(&mut products, weights, x, at, quad) };
        }
    }
    products
}

/// 16 in each of a lane's four bytes whose element, from 4 * `quad` on, has its bit set in the lane of `bits`.
#[inline(always)]
fn fifth_bits<L: Lanes>(bits: L::Words, quad: usize) -> L::Words {
    // Two steps bring bits 0 to 3 to the lowest bits of the four bytes: bit i goes up by 7 i.
    let four = L::and(L::shifted_right(bits, 4 * quad as u32), L::splat(15));
    let two = L::or(four, L::shifted_left(four, 14));
    let spread = L::or(two, L::shifted_left(two, 7));
    L::shifted_left(L::and(spread, L::splat(0x0101_0101)), 4)
}
