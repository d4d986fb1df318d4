//! Rows of 8 bits. Codes widen to 16 bits and meet queries and weights of 16 bits, two products and their sum in one
//! instruction, where f32 products would be half as many.
//!
//! Loops instead of closures around intrinsics: a closure has the features of the function that it is in, and what it is passed
//! to has not, so that neither is inlined.

use core::arch::x86_64::*;

use super::super::{GATHER_AHEAD, INT8_CHUNK, INT8_MOST_DIM, RowKernels, STREAM_AHEAD, prefetch};
use crate::rows::{RowType, quantise, widen};

pub(in super::super) const KERNELS: RowKernels =
    RowKernels { dot_gathered, add_gathered, dot_block, add_block };

/// Codes that are widened at once.
const WIDTH: usize = 16;

/// Rows whose products with a query are summed together.
const ROWS: usize = 4;

/// # Safety
/// - `q` is `[g, head_dim]`, `out` `[g, n]` with n at most as many as ids, and rows of every id are within `rows`;
/// - `head_dim` is a multiple of 16, at most [`INT8_MOST_DIM`].
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    let units = RowType::Int8.units(head_dim);
    let ask = |i: usize| prefetch::units_gathered(rows, units, ids.iter().skip(i + GATHER_AHEAD).take(ROWS));
    // SAFETY: the caller's promise.
    unsafe { dot(q, rows, head_dim, |i| usize::from(ids[i]), ask, out) }
}

/// # Safety
/// - `q` is `[g, head_dim]`, `out` `[g, n]` for n `rows`; `head_dim` is a multiple of 16, at most [`INT8_MOST_DIM`].
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    let units = RowType::Int8.units(head_dim);
    let ask = |i: usize| prefetch::far(rows.as_ptr().wrapping_add(i * units + STREAM_AHEAD), ROWS * units);
    // SAFETY: the caller's promise.
    unsafe { dot(q, rows, head_dim, |i| i, ask, out) }
}

/// # Safety
/// - `acc` is `[g, head_dim]`, `weights` `[g, n]` for n ids, and rows of every id are within `rows`;
/// - `head_dim` is a multiple of 16.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { add(acc, rows, head_dim, |i| usize::from(ids[i]), weights) }
}

/// # Safety
/// - `acc` is `[g, head_dim]`, `weights` `[g, n]` for n `rows`; `head_dim` is a multiple of 16.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { add(acc, rows, head_dim, |i| i, weights) }
}

/// The products of the rows that `row` names; `ask(i)` asks for the memory of those which come a while after row i.
///
/// # Safety
/// - `q` is `[g, head_dim]`, `out` `[g, n]`, and the row of `row(i)` is within `rows` for every i below n;
/// - `head_dim` is a multiple of 16, at most [`INT8_MOST_DIM`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot(
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    row: impl Fn(usize) -> usize,
    ask: impl Fn(usize),
    out: &mut [f32],
) {
    let count = out.len() / (q.len() / head_dim);
    for (pair, (q, out)) in q.chunks(2 * head_dim).zip(out.chunks_mut((2 * count).max(1))).enumerate() {
        let ask = |i| {
            if pair == 0 {
                ask(i);
            }
        };
        // SAFETY: `q` is one query or two, the rest is the caller's promise.
        unsafe {
            match q.len() / head_dim {
                1 => dot_of::<1>(q, rows, head_dim, &row, ask, out),
                _ => dot_of::<2>(q, rows, head_dim, &row, ask, out),
            }
        }
    }
}

/// Two queries: with four rows that makes eight sums, and leaves registers for what is multiplied.
///
/// # Safety
/// - as [`dot`], for G queries.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_of<const G: usize>(
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    row: impl Fn(usize) -> usize,
    ask: impl Fn(usize),
    out: &mut [f32],
) {
    let units = RowType::Int8.units(head_dim);
    let count = out.len() / G;
    let mut quants = [[0; INT8_MOST_DIM]; G];
    let mut scales = [0.0; G];
    for ((q, quants), scale) in q.chunks_exact(head_dim).zip(&mut quants).zip(&mut scales) {
        *scale = quantise(q, &mut quants[..head_dim]);
    }
    for i in (0..count).step_by(ROWS) {
        ask(i);
        // Where fewer rows are left the last one is taken again.
        let mut from = [rows.as_ptr(); ROWS];
        for (r, from) in from.iter_mut().enumerate() {
            *from = from.wrapping_add(row((i + r).min(count - 1)) * units);
        }
        let mut sums = [[_mm256_setzero_si256(); ROWS]; G];
        for j in (0..head_dim).step_by(WIDTH) {
            // SAFETY: j + WIDTH <= head_dim, in each row and each query (caller).
            unsafe {
                let k = [load(from[0], j), load(from[1], j), load(from[2], j), load(from[3], j)];
                for (quants, sums) in quants.iter().zip(&mut sums) {
                    let q = _mm256_loadu_si256(quants.as_ptr().add(j).cast());
                    for (sum, k) in sums.iter_mut().zip(k) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(q, k));
                    }
                }
            }
        }
        let mut k_scales = [0.0; ROWS];
        for (scale, from) in k_scales.iter_mut().zip(from) {
            // SAFETY: the scale of K is behind the codes of a row (caller).
            *scale = widen(unsafe { from.add(head_dim).read() });
        }
        for (g, (sums, scale)) in sums.into_iter().zip(scales).enumerate() {
            let out = &mut out[g * count + i..(g + 1) * count];
            let products = scaled_sums(sums, scale, k_scales);
            match out.first_chunk_mut() {
                Some(out) => *out = products,
                None => out.copy_from_slice(&products[..out.len()]),
            }
        }
    }
}

/// Sixteen codes from element `at` on of the K of a row, widened to 16 bits.
///
/// # Safety
/// - the row has them.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load(row: *const u16, at: usize) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(row.cast::<i8>().add(at).cast()) })
}

/// The sum of each register's lanes, added pairwise, times the scales of query and K.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scaled_sums([a, b, c, d]: [__m256i; ROWS], scale: f32, k_scales: [f32; ROWS]) -> [f32; ROWS] {
    let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let mut out = [0.0; ROWS];
    // SAFETY: four lanes, of the scales and of the result.
    unsafe {
        let scales = _mm_mul_ps(_mm_set1_ps(scale), _mm_loadu_ps(k_scales.as_ptr()));
        _mm_storeu_ps(out.as_mut_ptr(), _mm_mul_ps(_mm_cvtepi32_ps(sums), scales));
    }
    out
}

/// Adds the V of the rows that `row` names, a chunk at a time.
///
/// # Safety
/// - `acc` is `[g, head_dim]`, `weights` `[g, n]`, and the row of `row(i)` is within `rows` for every i below n;
/// - `head_dim` is a multiple of 16.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add(acc: &mut [f32], rows: &[u16], head_dim: usize, row: impl Fn(usize) -> usize, weights: &[f32]) {
    let (queries, units) = (acc.len() / head_dim, RowType::Int8.units(head_dim));
    let count = weights.len() / queries;
    for first in (0..count).step_by(INT8_CHUNK) {
        let length = INT8_CHUNK.min(count - first);
        let mut chunk =
            Chunk { first, length, values: [std::ptr::null(); INT8_CHUNK], scales: [0.0; INT8_CHUNK] };
        for i in 0..length {
            let from = rows.as_ptr().wrapping_add(row(first + i) * units);
            chunk.values[i] = from.cast::<i8>().wrapping_add(head_dim);
            // SAFETY: the scale of V is the last of a row (caller).
            chunk.scales[i] = widen(unsafe { from.add(head_dim + 1).read() });
        }
        // A row without a partner is its own, of no weight.
        if length % 2 == 1 {
            chunk.values[length] = chunk.values[length - 1];
        }
        by_query_groups!(queries, add_chunk, acc, head_dim, &chunk, weights)
    }
}

/// Rows `first..first + length` of those that are added.
struct Chunk {
    first: usize,
    length: usize,
    /// Where the V of each row begins.
    values: [*const i8; INT8_CHUNK],
    /// The scale of each V.
    scales: [f32; INT8_CHUNK],
}

/// # Safety
/// - as [`add`], queries `query..query + G` exist, and so do the rows of the chunk.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_chunk<const G: usize>(
    query: usize,
    acc: &mut [f32],
    head_dim: usize,
    chunk: &Chunk,
    weights: &[f32],
) {
    let count = weights.len() / (acc.len() / head_dim);
    let mut quants = [[0; INT8_CHUNK]; G];
    let mut factors = [0.0; G];
    for (g, (quants, factor)) in quants.iter_mut().zip(&mut factors).enumerate() {
        let weights = &weights[(query + g) * count + chunk.first..][..chunk.length];
        let mut scaled = [0.0; INT8_CHUNK];
        for ((scaled, weight), scale) in scaled.iter_mut().zip(weights).zip(&chunk.scales) {
            *scaled = weight * scale;
        }
        *factor = quantise(&scaled[..chunk.length], &mut quants[..chunk.length]);
    }
    for at in (0..head_dim).step_by(WIDTH) {
        let mut sums = [[_mm256_setzero_si256(); 2]; G];
        for i in (0..chunk.length).step_by(2) {
            // SAFETY: at + WIDTH <= head_dim, in both rows; a chunk has an even number of places for rows and weights.
            unsafe {
                let a = _mm_loadu_si128(chunk.values[i].add(at).cast());
                let b = _mm_loadu_si128(chunk.values[i + 1].add(at).cast());
                // Elements of the two rows by turns: the first half, and the second.
                let halves = [
                    _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
                    _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)),
                ];
                for (quants, sums) in quants.iter().zip(&mut sums) {
                    let pair = _mm256_set1_epi32(quants.as_ptr().add(i).cast::<i32>().read_unaligned());
                    for (sum, half) in sums.iter_mut().zip(halves) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, half));
                    }
                }
            }
        }
        for (g, (sums, factor)) in sums.into_iter().zip(factors).enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                // SAFETY: at + WIDTH <= head_dim, in query `query + g`.
                unsafe {
                    let to = acc.as_mut_ptr().add((query + g) * head_dim + at + half * WIDTH / 2);
                    let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(factor));
                    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sum));
                }
            }
        }
    }
}
