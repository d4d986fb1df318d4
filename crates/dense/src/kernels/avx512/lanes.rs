//! Sixteen rows of weights side by side, a 32-bit lane each: no sum is across lanes, and what brings quants into lanes is shared by tokens.

use core::arch::x86_64::*;

use lsh_attn::kernels::prefetch;

use crate::activations::QuantBytes;
use crate::kernels::{ROW_GROUP, STREAM_AHEAD};

/// Four bytes of each row, by their place in it.
pub(super) type Turned = [__m512i; 4];

/// Sixteen rows of blocks. Where there are fewer, the last one stands for those that are missing; packed ones are sixteen, and what they have
/// at a byte of theirs begins at sixteen times its number (`crate::packed`).
pub(super) struct RowLanes<const PACKED: bool> {
    starts: [*const u8; ROW_GROUP],
    first: *const u8,
    ahead: usize,
}

impl<const PACKED: bool> RowLanes<PACKED> {
    /// Of `rows`, which are sixteen at most.
    pub(super) fn new(rows: &[u8], row_bytes: usize) -> RowLanes<PACKED> {
        let height = rows.len() / row_bytes;
        let first = rows.as_ptr();
        RowLanes {
            starts: std::array::from_fn(|row| first.wrapping_add(row.min(height - 1) * row_bytes)),
            first,
            ahead: if PACKED { STREAM_AHEAD } else { STREAM_AHEAD.max(ROW_GROUP * row_bytes) },
        }
    }

    /// Asks for memory that rows to come have, as much as all rows have in bytes `from..from + bytes` of theirs.
    #[inline(always)]
    pub(super) fn prefetch(&self, from: usize, bytes: usize) {
        prefetch::far(self.first.wrapping_add(ROW_GROUP * from + self.ahead), ROW_GROUP * bytes);
    }

    /// Bytes `at..at + 16` of each row: register i has the bytes `at + 4i` to `at + 4i + 3` of row r in lane r.
    ///
    /// # Safety
    /// - every row has the bytes, and `at` is where one of a packed block's words begins.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn turned(&self, at: usize) -> Turned {
        if PACKED {
            // SAFETY: the caller's promise.
            return std::array::from_fn(|i| unsafe { self.words(at + 4 * i) });
        }
        // SAFETY: the caller's promise.
        let [a, b, c, d] = std::array::from_fn(|r| unsafe { self.fours(r, at) });
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }

    /// The first four of bytes `at..at + 16` alone.
    ///
    /// # Safety
    /// - as [`RowLanes::turned`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn words(&self, at: usize) -> __m512i {
        if PACKED {
            // SAFETY: a word of sixteen rows (caller).
            return unsafe { _mm512_loadu_si512(self.first.add(ROW_GROUP * at).cast()) };
        }
        // SAFETY: the caller's promise.
        let [a, b, c, d] = std::array::from_fn(|r| unsafe { self.fours(r, at) });
        _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d))
    }

    /// The last four of bytes `at - 12..at + 4` alone.
    ///
    /// # Safety
    /// - every row has the sixteen bytes; the rest as [`RowLanes::turned`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn last_words(&self, at: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { if PACKED { self.words(at) } else { self.turned(at - 12)[3] } }
    }

    /// The numbers in f16 at bytes `at` and `at + 2` of each row; the second is any where a packed block has none there.
    ///
    /// # Safety
    /// - every row has sixteen bytes from `at` on, and a packed block has at least two words from there on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn halves(&self, at: usize) -> (__m512, __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            if PACKED {
                return (self.packed_half(at), self.packed_half(at + 2));
            }
            let words = self.words(at);
            (lower_halves(words), upper_halves(words))
        }
    }

    /// The number in f16 at byte `at` of each row, the last one of a block.
    ///
    /// # Safety
    /// - every row has the sixteen bytes that end with it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn last_half(&self, at: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { if PACKED { self.packed_half(at) } else { upper_halves(self.turned(at - 14)[3]) } }
    }

    /// # Safety
    /// - packed rows have 32 bytes there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn packed_half(&self, at: usize) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(self.first.add(ROW_GROUP * at).cast()) })
    }

    /// Bytes `at..at + 16` of the rows r, r + 4, r + 8 and r + 12.
    ///
    /// # Safety
    /// - every row has the bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn fours(&self, r: usize, at: usize) -> __m512i {
        // SAFETY: the caller's promise.
        let row = |r: usize| unsafe { _mm_loadu_si128(self.starts[r].add(at).cast()) };
        let lanes = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(row(r)), row(r + 4));
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(lanes, row(r + 8)), row(r + 12))
    }
}

/// The lower halves of all lanes as f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn lower_halves(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// The upper halves of all lanes as f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn upper_halves(words: __m512i) -> __m512 {
    lower_halves(_mm512_srli_epi32::<16>(words))
}

/// The products of N fours of weights, bytes without a sign, with quants `from..from + 4 N` of a block: 64 in two instructions. N is 4
/// or 8.
///
/// # Safety
/// - `from + 4 N` is at most a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn dot<const N: usize>(weights: &[__m512i; N], x: &QuantBytes, from: usize) -> __m512i {
    macro_rules! products {
        ($bytes:expr, $($at:literal)*) => {{
            let mut product = _mm512_setzero_si512();
            let bytes = $bytes.as_ptr().wrapping_add(from);
            $(if $at < N {
                // SAFETY: four bytes within the block (caller) are read, and nothing is written. This is `_mm512_dpbusd_epi32` with
                // `_mm512_set1_epi32`, which the compiler makes loads of eight bytes and shuffles of, and a fifth slower.
                unsafe {
                    core::arch::asm!(
                        "vpdpbusd {product}, {weights}, dword ptr [{bytes} + 4 * {at}]{{1to16}}",
                        product = inout(zmm_reg) product,
                        weights = in(zmm_reg) weights[$at],
                        bytes = in(reg) bytes,
                        at = const $at,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
            })*
            product
        }};
    }
    // Two sums at once, each of which waits for itself.
    let (high, low) = (products!(x.high, 0 1 2 3 4 5 6 7), products!(x.low, 0 1 2 3 4 5 6 7));
    _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low)
}

/// Writes sums, a lane each, but for lanes that have no row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn store(sums: __m512, y: &mut [f32]) {
    let mut lanes = [0.0f32; ROW_GROUP];
    // SAFETY: 16 lanes.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
    y.copy_from_slice(&lanes[..y.len()]);
}
