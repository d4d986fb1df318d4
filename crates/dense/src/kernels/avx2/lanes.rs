//! Rows in lanes of two registers.

use core::arch::x86_64::*;

use crate::activations::{Activations, BLOCK};
use crate::kernels::{ROW_GROUP, lanes};

/// Rows of a register.
const HALF: usize = ROW_GROUP / 2;

/// One register for the first eight rows, one for the others.
pub(super) type Lanes = [__m256i; 2];

/// The same of numbers.
pub(super) type Numbers = [__m256; 2];

/// Rows of weights in lanes.
pub(super) type RowLanes<const PACKED: bool> = lanes::RowLanes<HALF, PACKED>;

impl<const PACKED: bool> RowLanes<PACKED> {
    /// Bytes `at..at + 16` of each row: the bytes `at + 4i` to `at + 4i + 3` of a row are in its lane of the i-th.
    ///
    /// # Safety
    /// - every row has the bytes, and `at` is where one of a packed block's words begins.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn turned(&self, at: usize) -> [Lanes; 4] {
        if PACKED {
            // SAFETY: the caller's promise.
            return std::array::from_fn(|i| unsafe { self.words(at + 4 * i) });
        }
        // SAFETY: the caller's promise.
        let [first, second] = std::array::from_fn(|half| unsafe { self.turned_half(half, at) });
        std::array::from_fn(|i| [first[i], second[i]])
    }

    /// The first four of bytes `at..at + 16` alone.
    ///
    /// # Safety
    /// - as [`RowLanes::turned`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn words(&self, at: usize) -> Lanes {
        std::array::from_fn(|half| {
            if PACKED {
                // SAFETY: a word of sixteen rows (caller).
                return unsafe { _mm256_loadu_si256(self.first.add(ROW_GROUP * at + 32 * half).cast()) };
            }
            // SAFETY: the caller's promise.
            let word =
                |row: usize| unsafe { self.starts[HALF * half + row].add(at).cast::<i32>().read_unaligned() };
            _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
        })
    }

    /// The numbers in f16 at bytes `at` and `at + 2` of each row; the second is any where a packed block has none there.
    ///
    /// # Safety
    /// - every row has four bytes from `at` on, and a packed block has at least two words from there on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn halves(&self, at: usize) -> (Numbers, Numbers) {
        // SAFETY: the caller's promise.
        unsafe {
            if PACKED {
                return (self.packed_half(at), self.packed_half(at + 2));
            }
            let words = self.words(at);
            (words.map(|words| lower_halves(words)), words.map(|words| upper_halves(words)))
        }
    }

    /// The number in f16 at byte `at` of each row.
    ///
    /// # Safety
    /// - every row has the bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn last_half(&self, at: usize) -> Numbers {
        // SAFETY: the caller's promise; four bytes end with the number.
        unsafe {
            if PACKED {
                return self.packed_half(at);
            }
            self.words(at - 2).map(|words| upper_halves(words))
        }
    }

    /// # Safety
    /// - packed rows have 32 bytes there.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn packed_half(&self, at: usize) -> Numbers {
        // SAFETY: the caller's promise.
        std::array::from_fn(|half| unsafe {
            _mm256_cvtph_ps(_mm_loadu_si128(self.first.add(ROW_GROUP * at + 16 * half).cast()))
        })
    }

    /// As [`RowLanes::turned`], of eight rows.
    ///
    /// # Safety
    /// - every row has the bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn turned_half(&self, half: usize, at: usize) -> [__m256i; 4] {
        // SAFETY: the caller's promise.
        let row = |r: usize| unsafe { _mm_loadu_si128(self.starts[HALF * half + r].add(at).cast()) };
        let [a, b, c, d] = std::array::from_fn(|r| _mm256_set_m128i(row(r + 4), row(r)));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// The lower halves of all lanes as f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lower_halves(words: __m256i) -> __m256 {
    let places =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13));
    let halves = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_shuffle_epi8(words, places));
    _mm256_cvtph_ps(_mm256_castsi256_si128(halves))
}

/// The upper halves of all lanes as f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn upper_halves(words: __m256i) -> __m256 {
    lower_halves(_mm256_srli_epi32::<16>(words))
}

/// Four bytes of each lane as numbers of 16 bits: the first and third, and the second and fourth, as activations have them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unsigned(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(bytes, _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(bytes)]
}

/// The same of bytes with a sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn signed(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
}

/// Adds the products of four weights of each row, in two pairs, with the four quants `quad` of the tokens' blocks.
///
/// # Safety
/// - the activations have the blocks, and these the quad.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_products<const T: usize>(
    products: &mut [Lanes; T],
    weights: [[__m256i; 2]; 2],
    x: &Activations,
    blocks: [usize; T],
    quad: usize,
) {
    for (block, products) in blocks.into_iter().zip(products) {
        for pair in 0..2 {
            // SAFETY: two quants of the block (caller).
            let x = unsafe {
                let pair = x.quants.as_ptr().add(block * BLOCK + 4 * quad + 2 * pair);
                _mm256_set1_epi32(pair.cast::<i32>().read_unaligned())
            };
            for (product, weights) in products.iter_mut().zip(weights) {
                *product = _mm256_add_epi32(*product, _mm256_madd_epi16(weights[pair], x));
            }
        }
    }
}

/// Writes sums, a lane each, but for lanes that have no row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(sums: Numbers, y: &mut [f32]) {
    let mut lanes = [0.0f32; ROW_GROUP];
    for (sums, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<HALF>().0) {
        // SAFETY: 8 lanes.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
    }
    y.copy_from_slice(&lanes[..y.len()]);
}
