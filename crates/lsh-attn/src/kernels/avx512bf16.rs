//! AVX-512 with dot products of bf16: straight walks over rows without widening them, at twice the multiplications an
//! instruction. Queries go in as the sum of two bf16, weights are rounded to one, as the values they meet have been.

use core::arch::x86_64::*;

use super::{GATHER_AHEAD, Isa, STREAM_AHEAD, Table, avx512};

pub(super) static TABLE: Table = Table {
    isa: Isa::Avx512Bf16,
    dot_gathered,
    add_gathered,
    dot_block,
    add_block,
    ..avx512::TABLE_OF_AVX512
};

/// bf16 elements of a register.
const WIDTH: usize = 32;
/// Rows whose weights are rounded at once.
const CHUNK: usize = 64;

/// Up to 32 bf16 at `from`; elements from `count` on are zero.
///
/// # Safety
/// - `from` is valid for reads of `count` elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn load(from: *const u16, count: usize) -> __m512i {
    let mask = if count >= WIDTH { !0 } else { (1u32 << count) - 1 };
    // SAFETY: masked lanes are not read; the others are the caller's promise.
    unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, all of whose patterns are valid.
    unsafe { core::mem::transmute(bits) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn as_bits(x: __m512bh) -> __m512i {
    // SAFETY: as above.
    unsafe { core::mem::transmute(x) }
}

/// Asks for the cache lines of `elements` bf16 at `from`, into the second-level cache.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn prefetch(from: *const u16, elements: usize) {
    for line in (0..elements).step_by(WIDTH) {
        // A prefetch never faults, so the address need not even be valid.
        _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line).cast());
    }
}

/// # Safety
/// - every id times `row_len`, plus `q.len()`, is within `rows`; `q.len()` is a multiple of 16;
/// - `out` is at most as long as `ids`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_gathered(q: &[f32], rows: &[u16], row_len: usize, ids: &[u16], out: &mut [f32]) {
    let row = |id: u16| rows.as_ptr().wrapping_add(usize::from(id) * row_len);
    let parts = q.len().div_ceil(WIDTH);
    let mut halves = [[_mm512_setzero_si512(); 2]; 256 / WIDTH];
    for (part, halves) in halves[..parts].iter_mut().enumerate() {
        // SAFETY: up to 32 elements of q, whose last part may have 16.
        *halves = unsafe { split(q.as_ptr().add(part * WIDTH), q.len() - part * WIDTH) };
    }
    for (i, (&id, out)) in ids.iter().zip(out).enumerate() {
        if let Some(&next) = ids.get(i + GATHER_AHEAD) {
            prefetch(row(next), row_len);
        }
        let mut sums = [_mm512_setzero_ps(); 2];
        for (part, halves) in halves[..parts].iter().enumerate() {
            // SAFETY: the K of the row of `id`, which is within `rows` (caller).
            let k = unsafe { as_bf16(load(row(id).add(part * WIDTH), q.len() - part * WIDTH)) };
            sums[0] = _mm512_dpbf16_ps(sums[0], as_bf16(halves[0]), k);
            sums[1] = _mm512_dpbf16_ps(sums[1], as_bf16(halves[1]), k);
        }
        *out = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    }
}

/// # Safety
/// - every id times `row_len`, plus `row_len`, is within `rows`; `acc.len()` is a multiple of 16 and at most
///   `row_len`;
/// - `weights` is as long as `ids`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], row_len: usize, ids: &[u16], weights: &[f32]) {
    let dim = acc.len();
    for first in (0..dim).step_by(4 * WIDTH) {
        let acc = &mut acc[first..dim.min(first + 4 * WIDTH)];
        let at = row_len - dim + first;
        // SAFETY: elements at..at + acc.len() of each row are its V's (caller).
        unsafe {
            match acc.len().div_ceil(WIDTH) {
                1 => add_gathered_parts::<1>(acc, rows, row_len, at, ids, weights),
                2 => add_gathered_parts::<2>(acc, rows, row_len, at, ids, weights),
                3 => add_gathered_parts::<3>(acc, rows, row_len, at, ids, weights),
                _ => add_gathered_parts::<4>(acc, rows, row_len, at, ids, weights),
            }
        }
    }
}

/// Up to P times 32 elements, whose sums stay in registers while all rows pass, two at a time.
///
/// # Safety
/// - as [`add_gathered`], for elements `at..at + acc.len()` of each row; `acc` has P parts of 32, the last of 16 or 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn add_gathered_parts<const P: usize>(
    acc: &mut [f32],
    rows: &[u16],
    row_len: usize,
    at: usize,
    ids: &[u16],
    weights: &[f32],
) {
    let values = |id: u16| rows.as_ptr().wrapping_add(usize::from(id) * row_len + at);
    let width = |part: usize| acc.len() - part * WIDTH;
    let mut sums = [[_mm512_setzero_ps(); 2]; P];
    for (ids, weights) in ids.chunks(2).zip(weights.chunks(2)) {
        let pair = weight_pair(weights);
        for (part, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the part's elements of both rows, or of the only one.
            let (one, two) = unsafe {
                let one = load(values(ids[0]).add(part * WIDTH), width(part));
                let two = match ids.get(1) {
                    Some(&id) => load(values(id).add(part * WIDTH), width(part)),
                    None => _mm512_setzero_si512(),
                };
                (one, two)
            };
            *sums = add_two_rows(*sums, pair, one, two);
        }
    }
    for (part, sums) in sums.into_iter().enumerate() {
        add_in_order(&mut acc[part * WIDTH..], sums);
    }
}

/// Weights of two rows side by side in every lane; a missing second one is zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn weight_pair(weights: &[f32]) -> __m512bh {
    let bits = |weight: f32| u32::from(half::bf16::from_f32(weight).to_bits());
    let pair = bits(weights[0]) | weights.get(1).map_or(0, |&weight| bits(weight) << 16);
    as_bf16(_mm512_set1_epi32(pair as i32))
}

/// Adds 32 elements of two rows, each times its weight. Sums are in the order that unpacking makes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn add_two_rows([low, high]: [__m512; 2], weights: __m512bh, one: __m512i, two: __m512i) -> [__m512; 2] {
    [
        _mm512_dpbf16_ps(low, weights, as_bf16(_mm512_unpacklo_epi16(one, two))),
        _mm512_dpbf16_ps(high, weights, as_bf16(_mm512_unpackhi_epi16(one, two))),
    ]
}

/// Adds sums of [`add_two_rows`] to the first 32 elements of `acc`, or to 16 where it has no more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn add_in_order(acc: &mut [f32], [low, high]: [__m512; 2]) {
    // Unpacking took elements by fours from each eighth of the register.
    let order = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    let upper = _mm512_add_epi32(order, _mm512_set1_epi32(8));
    let parts = [_mm512_permutex2var_ps(low, order, high), _mm512_permutex2var_ps(low, upper, high)];
    for (acc, sum) in acc.chunks_exact_mut(16).zip(parts) {
        // SAFETY: a chunk has 16 elements.
        unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(acc.as_ptr()), sum)) };
    }
}

/// # Safety
/// - `q` is `[g, head_dim]`, `rows` `[n, 2 * head_dim]`, `out` `[g, n]`; `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    by_query_groups!(q.len() / head_dim, dot_block_of, q, rows, head_dim, out)
}

/// # Safety
/// - as [`dot_block`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_block_of<const G: usize>(
    first: usize,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    out: &mut [f32],
) {
    let count = rows.len() / (2 * head_dim);
    let queries = q[first * head_dim..].as_ptr();
    // In registers for the head dimensions there are up to 128; 256 is the greatest.
    let mut halves = [[[_mm512_setzero_si512(); 2]; G]; 256 / WIDTH];
    for (part, halves) in halves[..head_dim.div_ceil(WIDTH)].iter_mut().enumerate() {
        for (g, halves) in halves.iter_mut().enumerate() {
            // SAFETY: up to 32 elements of query first + g, whose last part may have 16.
            *halves = unsafe { split(queries.add(g * head_dim + part * WIDTH), head_dim - part * WIDTH) };
        }
    }
    for i in 0..count {
        let row = rows.as_ptr().wrapping_add(i * 2 * head_dim);
        prefetch(row.wrapping_add(STREAM_AHEAD), 2 * head_dim);
        let mut sums = [_mm512_setzero_ps(); G];
        for (part, q) in halves[..head_dim.div_ceil(WIDTH)].iter().enumerate() {
            // SAFETY: the K of row i.
            let k = unsafe { load(row.add(part * WIDTH), head_dim - part * WIDTH) };
            for (sum, q) in sums.iter_mut().zip(q) {
                *sum = _mm512_dpbf16_ps(*sum, as_bf16(q[0]), as_bf16(k));
                *sum = _mm512_dpbf16_ps(*sum, as_bf16(q[1]), as_bf16(k));
            }
        }
        for (g, sum) in avx512::lane_sums(sums).into_iter().enumerate() {
            out[(first + g) * count + i] = sum;
        }
    }
}

/// Up to 32 floats at `from` as the sum of two bf16, which together have 16 bits: one alone would move a score of 20 by
/// 0.03.
///
/// # Safety
/// - `from` is valid for reads of the lesser of 32 and `count`, a multiple of 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn split(from: *const f32, count: usize) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    let (low, high) = unsafe {
        let high = if count >= WIDTH { _mm512_loadu_ps(from.add(16)) } else { _mm512_setzero_ps() };
        (_mm512_loadu_ps(from), high)
    };
    // What cutting the lower bits off leaves out is exact.
    let cut = |x: __m512| {
        let upper = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
        _mm512_castsi512_ps(upper)
    };
    let pack = |low: __m512, high: __m512| as_bits(_mm512_cvtne2ps_pbh(high, low));
    let (main_low, main_high) = (cut(low), cut(high));
    [pack(main_low, main_high), pack(_mm512_sub_ps(low, main_low), _mm512_sub_ps(high, main_high))]
}

/// # Safety
/// - `acc` is `[g, head_dim]`, `rows` `[n, 2 * head_dim]`, `weights` `[g, n]`; `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    by_query_groups!(acc.len() / head_dim, add_block_of, acc, rows, head_dim, weights)
}

/// # Safety
/// - as [`add_block`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn add_block_of<const G: usize>(
    first: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    weights: &[f32],
) {
    let count = rows.len() / (2 * head_dim);
    for start in (0..count).step_by(CHUNK) {
        let chunk = CHUNK.min(count - start);
        let mut pairs = [[_mm512_setzero_si512(); CHUNK / 2]; G];
        for (g, pairs) in pairs.iter_mut().enumerate() {
            let weights = &weights[(first + g) * count + start..][..chunk];
            for (pair, weights) in pairs.iter_mut().zip(weights.chunks(2)) {
                *pair = as_bits(weight_pair(weights));
            }
        }
        for j in (0..head_dim).step_by(WIDTH) {
            let width = WIDTH.min(head_dim - j);
            let mut sums = [[_mm512_setzero_ps(); 2]; G];
            for i in (0..chunk).step_by(2) {
                let v = rows.as_ptr().wrapping_add((2 * (start + i) + 1) * head_dim + j);
                // SAFETY: the V of row i, and of row i + 1 where there is one.
                let (one, two) = unsafe {
                    let two =
                        if i + 1 < chunk { load(v.add(2 * head_dim), width) } else { _mm512_setzero_si512() };
                    (load(v, width), two)
                };
                for (sums, pairs) in sums.iter_mut().zip(&pairs) {
                    *sums = add_two_rows(*sums, as_bf16(pairs[i / 2]), one, two);
                }
            }
            for (g, sums) in sums.into_iter().enumerate() {
                add_in_order(&mut acc[(first + g) * head_dim + j..][..width], sums);
            }
        }
    }
}
