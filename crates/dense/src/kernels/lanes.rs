//! Sixteen rows of weights side by side, a 32-bit lane each: no sum is across lanes, and what brings quants into lanes is shared by tokens.

use lsh_attn::kernels::prefetch;

use super::{ROW_GROUP, STREAM_AHEAD};
use crate::activations::{Activations, BLOCK};

/// What an instruction set that multiplies 16 bits by 16 does with sixteen lanes.
///
/// Its functions are for callers alone that have the instruction set's features, and are inlined into them.
pub(super) trait Lanes {
    /// 32 bits of each row: four bytes, or two numbers of 16 bits.
    type Words: Copy;
    /// An f32 of each row.
    type Numbers: Copy;

    /// The words of sixteen rows, one after the other.
    fn words(from: &[u8; 4 * ROW_GROUP]) -> Self::Words;
    /// The numbers of sixteen rows, in f16.
    fn halves(from: &[u8; 2 * ROW_GROUP]) -> Self::Numbers;
    /// The numbers in f16 that are the lower halves of words, and those that are the upper ones.
    fn both_halves(words: Self::Words) -> [Self::Numbers; 2];
    /// The same word for all rows.
    fn splat(word: u32) -> Self::Words;
    /// The same number for all rows.
    fn number(number: f32) -> Self::Numbers;

    fn and(a: Self::Words, b: Self::Words) -> Self::Words;
    fn or(a: Self::Words, b: Self::Words) -> Self::Words;
    /// Each byte by itself.
    fn sub_bytes(a: Self::Words, b: Self::Words) -> Self::Words;
    /// Zeros come from the left.
    fn shifted_right(words: Self::Words, by: u32) -> Self::Words;
    fn shifted_left(words: Self::Words, by: u32) -> Self::Words;
    /// The highest bit comes from the left.
    fn arithmetic_right(words: Self::Words, by: u32) -> Self::Words;
    /// Bytes as numbers of 16 bits: the first and third of each row, and the second and fourth.
    fn pairs(bytes: Self::Words) -> [Self::Words; 2];
    /// The same of bytes with a sign.
    fn signed_pairs(bytes: Self::Words) -> [Self::Words; 2];
    /// The value that each byte, below 16, is the number of.
    fn looked_up(values: &[i8; 16], bytes: Self::Words) -> Self::Words;
    /// sums + weights . x, pairs of 16 bits with a sign; a row's products and their sum are its lane's.
    fn add_products(sums: Self::Words, weights: Self::Words, x: [i16; 2]) -> Self::Words;

    /// Words with a sign as f32.
    fn numbers(words: Self::Words) -> Self::Numbers;
    fn times(a: Self::Numbers, b: Self::Numbers) -> Self::Numbers;
    /// a b + sum, rounded once or twice.
    fn multiply_add(a: Self::Numbers, b: Self::Numbers, sum: Self::Numbers) -> Self::Numbers;
    fn stored(numbers: Self::Numbers) -> [f32; ROW_GROUP];
}

/// Sixteen packed rows: what they have at a byte of theirs begins at sixteen times its number (`crate::packed`).
#[derive(Clone, Copy)]
pub(super) struct PackedRows(*const u8);

impl PackedRows {
    pub(super) fn new(rows: &[u8]) -> PackedRows {
        PackedRows(rows.as_ptr())
    }

    /// Asks for memory that rows to come have, as much as all rows have in bytes `from..from + bytes` of theirs.
    #[inline(always)]
    pub(super) fn prefetch(self, from: usize, bytes: usize) {
        prefetch::far(self.0.wrapping_add(ROW_GROUP * from + STREAM_AHEAD), ROW_GROUP * bytes);
    }

    /// The four bytes from `at` on of each row.
    ///
    /// # Safety
    /// - `at` is where one of the rows' words begins.
    #[inline(always)]
    pub(super) unsafe fn word<L: Lanes>(self, at: usize) -> L::Words {
        // SAFETY: a word of sixteen rows (caller).
        L::words(unsafe { &*self.0.add(ROW_GROUP * at).cast() })
    }

    /// The number in f16 at byte `at` of each row.
    ///
    /// # Safety
    /// - `at` is where one of the rows' numbers begins.
    #[inline(always)]
    pub(super) unsafe fn half<L: Lanes>(self, at: usize) -> L::Numbers {
        // SAFETY: a number of sixteen rows (caller).
        L::halves(unsafe { &*self.0.add(ROW_GROUP * at).cast() })
    }
}

/// Adds the products of four weights of each row, as pairs, with the four quants `quad` of the tokens' blocks.
///
/// # Safety
/// - the activations have the blocks, and these the quad.
#[inline(always)]
pub(super) unsafe fn add_quad<L: Lanes, const T: usize>(
    products: &mut [L::Words; T],
    weights: [L::Words; 2],
    x: &Activations,
    blocks: [usize; T],
    quad: usize,
) {
    for (product, block) in products.iter_mut().zip(blocks) {
        for (pair, weights) in weights.into_iter().enumerate() {
            let at = block * BLOCK + 4 * quad + 2 * pair;
            // SAFETY: two quants of the block (caller).
            let x = unsafe { *x.quants.as_ptr().add(at).cast::<[i16; 2]>() };
            *product = L::add_products(*product, weights, x);
        }
    }
}
