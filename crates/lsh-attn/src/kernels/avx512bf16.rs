//! AVX-512 with dot products of bf16: straight walks over rows without widening them, at twice the multiplications an
//! instruction. Queries go in as the sum of two bf16, weights are rounded to one, as the values they meet have been.

use core::arch::x86_64::*;

use super::{Isa, STREAM_AHEAD, Table, avx512};

pub(super) static TABLE: Table =
    Table { isa: Isa::Avx512Bf16, dot_block, add_block, ..avx512::TABLE_OF_AVX512 };

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
    let pack = |low: __m512, high: __m512| {
        // SAFETY: both are 512 bits, all of whose patterns are valid.
        unsafe { core::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    };
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
        // Weights of two rows side by side; an odd last row meets a zero.
        let mut pairs = [[0u32; CHUNK / 2]; G];
        for (g, pairs) in pairs.iter_mut().enumerate() {
            let weights = &weights[(first + g) * count + start..][..chunk];
            for (pair, weights) in pairs.iter_mut().zip(weights.chunks(2)) {
                let bits = |weight: f32| u32::from(half::bf16::from_f32(weight).to_bits());
                *pair = bits(weights[0]) | weights.get(1).map_or(0, |&weight| bits(weight) << 16);
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
                let halves = [_mm512_unpacklo_epi16(one, two), _mm512_unpackhi_epi16(one, two)];
                for (sums, pairs) in sums.iter_mut().zip(&pairs) {
                    let weights = as_bf16(_mm512_set1_epi32(pairs[i / 2] as i32));
                    sums[0] = _mm512_dpbf16_ps(sums[0], weights, as_bf16(halves[0]));
                    sums[1] = _mm512_dpbf16_ps(sums[1], weights, as_bf16(halves[1]));
                }
            }
            for (g, [low, high]) in sums.into_iter().enumerate() {
                let to = acc[(first + g) * head_dim + j..].as_mut_ptr();
                // Unpacking took elements by fours from each eighth of the register.
                let order = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
                let upper = _mm512_add_epi32(order, _mm512_set1_epi32(8));
                let parts =
                    [_mm512_permutex2var_ps(low, order, high), _mm512_permutex2var_ps(low, upper, high)];
                for (part, sum) in parts.into_iter().enumerate().take(width / 16) {
                    // SAFETY: 16 of the head's elements.
                    unsafe {
                        let to = to.add(16 * part);
                        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
                    }
                }
            }
        }
    }
}
