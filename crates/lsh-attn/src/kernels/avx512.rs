//! AVX-512 (F, BW, VL, DQ): 16 f32 lanes. The shapes are those of `avx2`, with registers twice as wide and twice as
//! many.

use core::arch::x86_64::*;

pub(super) mod bf16;
mod collisions;
mod sketch;

use self::collisions::take_repeated;
use self::sketch::{draw_keys, rotate, sketch_encode, sketch_weights};
use super::{GATHER_AHEAD, GemmShape, Isa, PANEL, RowKernels, STREAM_AHEAD, Table, avx2, prefetch, scalar};
use crate::hash::{HashPlan, LANES, Lanes};
use crate::inclusion::NODES;

pub(super) static TABLE: Table = BASE;

const BASE: Table = Table {
    isa: Isa::Avx512,
    hash,
    take_repeated,
    ln_inclusion,
    rotate,
    sketch_encode,
    sketch_weights,
    draw_keys,
    value_encode: avx2::values::encode,
    value_sums: avx2::values::sums,
    bf16: RowKernels { dot_gathered, add_gathered, dot_block, add_block },
    // Whoever has AVX-512 has AVX2. Nobody has measured yet what wider ones would gain.
    int8: super::avx2::int8::KERNELS,
    max,
    exp_sum,
    narrow,
    gemm,
};

/// f32 lanes of a register.
const WIDTH: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn hash(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    scalar::hash_body(plan, input, work, codes);
}

/// Sixteen bf16 at `from`, widened.
///
/// # Safety
/// - `from` is valid for reads of 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_bf16(from: *const u16) -> __m512 {
    // SAFETY: the caller's promise.
    let bits = unsafe { _mm256_loadu_si256(from.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn ln_inclusion(nodes: &[f32; NODES], cosines: &mut [f32]) {
    scalar::ln_inclusion_body(nodes, cosines);
}

/// Rows whose products with a group of queries are summed together.
const ROWS: usize = 4;

/// The sum of each register's lanes: four at a time by halves that are added pairwise.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn lane_sums<const R: usize>(x: [__m512; R]) -> [f32; R] {
    if R != ROWS {
        return x.map(|x| _mm512_reduce_add_ps(x));
    }
    let mut eights = [_mm256_setzero_ps(); ROWS];
    for (eight, x) in eights.iter_mut().zip(x) {
        *eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    }
    let [a, b, c, d] = eights;
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut out = [0.0; ROWS];
    // SAFETY: four lanes.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    std::array::from_fn(|r| out[r])
}

/// # Safety
/// - `q` is `[g, head_dim]`, `out` `[g, n]` with n at most as many as ids, and rows of every id are within `rows`;
/// - `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    by_query_groups!(q.len() / head_dim, dot_gathered_of, q, rows, head_dim, ids, out)
}

/// # Safety
/// - as [`dot_gathered`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_gathered_of<const G: usize>(
    first: usize,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    ids: &[u16],
    out: &mut [f32],
) {
    let count = out.len() / (q.len() / head_dim);
    let q = &q[first * head_dim..];
    let mut i = 0;
    // Several rows at a time: the sums of their lanes are then made together.
    while i < count {
        // SAFETY: ids i..i + R exist, and places for them in each query's results.
        unsafe {
            let out = out.as_mut_ptr().add(first * count + i);
            if first == 0 {
                prefetch::units_gathered(rows, 2 * head_dim, ids.iter().skip(i + GATHER_AHEAD).take(ROWS));
            }
            if count - i >= ROWS {
                dot_rows::<G, ROWS>(q, rows, head_dim, &ids[i..], out, count);
                i += ROWS;
            } else {
                dot_rows::<G, 1>(q, rows, head_dim, &ids[i..], out, count);
                i += 1;
            }
        }
    }
}

/// The products of R rows with G queries; results of one query are `stride` from the next one's.
///
/// # Safety
/// - `q` has G queries, `ids` R ids of rows, and `out` a place for each product.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_rows<const G: usize, const R: usize>(
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    ids: &[u16],
    out: *mut f32,
    stride: usize,
) {
    let from: [*const u16; R] =
        std::array::from_fn(|r| rows.as_ptr().wrapping_add(usize::from(ids[r]) * 2 * head_dim));
    let mut sums = [[_mm512_setzero_ps(); R]; G];
    for j in (0..head_dim).step_by(WIDTH) {
        // SAFETY: j + WIDTH <= head_dim, in each row and each query (caller).
        unsafe {
            let mut k = [_mm512_setzero_ps(); R];
            for (k, from) in k.iter_mut().zip(from) {
                *k = load_bf16(from.add(j));
            }
            for (g, sums) in sums.iter_mut().enumerate() {
                let q = _mm512_loadu_ps(q.as_ptr().add(g * head_dim + j));
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = _mm512_fmadd_ps(q, k, *sum);
                }
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (r, sum) in lane_sums(sums).into_iter().enumerate() {
            // SAFETY: there is a place for row r of query g (caller).
            unsafe { *out.add(g * stride + r) = sum };
        }
    }
}

/// # Safety
/// - `acc` is `[g, head_dim]`, `weights` `[g, n]` for n ids, and rows of every id are within `rows`;
/// - `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    by_query_groups!(acc.len() / head_dim, add_gathered_of, acc, rows, head_dim, ids, weights)
}

/// # Safety
/// - as [`add_gathered`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_gathered_of<const G: usize>(
    first: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    ids: &[u16],
    weights: &[f32],
) {
    let (acc, weights) = (&mut acc[first * head_dim..], &weights[first * ids.len()..]);
    let mut at = 0;
    while at < head_dim {
        // SAFETY: the next P registers of V are within the head, the rest is the caller's promise.
        unsafe {
            if G == 1 && head_dim - at >= 8 * WIDTH {
                add_columns::<G, 8>(at, acc, rows, head_dim, ids, weights);
                at += 8 * WIDTH;
            } else if head_dim - at >= 4 * WIDTH {
                add_columns::<G, 4>(at, acc, rows, head_dim, ids, weights);
                at += 4 * WIDTH;
            } else {
                add_columns::<G, 1>(at, acc, rows, head_dim, ids, weights);
                at += WIDTH;
            }
        }
    }
}

/// P registers of V from element `at` on, for G queries: sums stay in registers while all rows pass.
///
/// # Safety
/// - as [`add_gathered`] for G queries, and P registers from `at` on are within a head.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_columns<const G: usize, const P: usize>(
    at: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    ids: &[u16],
    weights: &[f32],
) {
    let mut sums = [[_mm512_setzero_ps(); P]; G];
    for (i, &id) in ids.iter().enumerate() {
        let v = rows.as_ptr().wrapping_add((2 * usize::from(id) + 1) * head_dim + at);
        // SAFETY: P registers of the row of `id`, and a weight for each query (caller).
        unsafe {
            let mut parts = [_mm512_setzero_ps(); P];
            for (p, part) in parts.iter_mut().enumerate() {
                *part = load_bf16(v.add(p * WIDTH));
            }
            for (g, sums) in sums.iter_mut().enumerate() {
                let weight = _mm512_set1_ps(*weights.get_unchecked(g * ids.len() + i));
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = _mm512_fmadd_ps(weight, part, *sum);
                }
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (p, sum) in sums.into_iter().enumerate() {
            // SAFETY: P registers from `at` on of query g.
            unsafe {
                let to = acc.as_mut_ptr().add(g * head_dim + at + p * WIDTH);
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
            }
        }
    }
}

/// # Safety
/// - `q` is `[g, head_dim]`, `rows` `[n, 2 * head_dim]`, `out` `[g, n]`; `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    by_query_groups!(q.len() / head_dim, dot_block_of, q, rows, head_dim, out)
}

/// # Safety
/// - as [`dot_block`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_block_of<const G: usize>(
    first: usize,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    out: &mut [f32],
) {
    let count = rows.len() / (2 * head_dim);
    for i in 0..count {
        prefetch::far(rows.as_ptr().wrapping_add(i * 2 * head_dim + STREAM_AHEAD), 2 * head_dim);
        let mut sums = [_mm512_setzero_ps(); G];
        for j in (0..head_dim).step_by(WIDTH) {
            // SAFETY: i < count and j + 16 <= head_dim, in row i and in query first + g.
            unsafe {
                let k = load_bf16(rows.as_ptr().add(i * 2 * head_dim + j));
                for (g, sum) in sums.iter_mut().enumerate() {
                    let q = _mm512_loadu_ps(q.as_ptr().add((first + g) * head_dim + j));
                    *sum = _mm512_fmadd_ps(q, k, *sum);
                }
            }
        }
        for (g, &sum) in sums.iter().enumerate() {
            out[(first + g) * count + i] = _mm512_reduce_add_ps(sum);
        }
    }
}

/// # Safety
/// - `acc` is `[g, head_dim]`, `rows` `[n, 2 * head_dim]`, `weights` `[g, n]`; `head_dim` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    by_query_groups!(acc.len() / head_dim, add_block_of, acc, rows, head_dim, weights)
}

/// # Safety
/// - as [`add_block`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_block_of<const G: usize>(
    first: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    weights: &[f32],
) {
    let count = rows.len() / (2 * head_dim);
    for j in (0..head_dim).step_by(WIDTH) {
        let mut sums = [_mm512_setzero_ps(); G];
        for i in 0..count {
            // SAFETY: i < count and j + 16 <= head_dim, in the V of row i; weights has `[g, n]` elements.
            unsafe {
                let v = load_bf16(rows.as_ptr().add((2 * i + 1) * head_dim + j));
                for (g, sum) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_ps(*weights.get_unchecked((first + g) * count + i));
                    *sum = _mm512_fmadd_ps(weight, v, *sum);
                }
            }
        }
        for (g, &sum) in sums.iter().enumerate() {
            // SAFETY: j + 16 <= head_dim, in query first + g.
            unsafe {
                let to = acc.as_mut_ptr().add((first + g) * head_dim + j);
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn max(x: &[f32]) -> f32 {
    let chunks = x.chunks_exact(WIDTH);
    let rest = scalar::max(chunks.remainder());
    let greatest = chunks.fold(_mm512_set1_ps(f32::NEG_INFINITY), |greatest, chunk| {
        // SAFETY: a chunk has 16 elements.
        _mm512_max_ps(greatest, unsafe { _mm512_loadu_ps(chunk.as_ptr()) })
    });
    rest.max(_mm512_reduce_max_ps(greatest))
}

/// exp of 16 floats: 2^n times a degree-6 polynomial of the remainder in [-ln2/2, ln2/2] (relative error below
/// 2e-7, the remainder's two-part reduction included).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0)), _mm512_set1_ps(-87.3));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        x,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(super::LN2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(super::LN2_LOW), r);
    let mut p = _mm512_set1_ps(super::EXP_POLYNOMIAL[0]);
    for &coefficient in &super::EXP_POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
    }
    let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)));
    _mm512_mul_ps(p, _mm512_castsi512_ps(power))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut sums = _mm512_setzero_ps();
    let mut chunks = x.chunks_exact_mut(WIDTH);
    for chunk in &mut chunks {
        // SAFETY: a chunk has 16 elements.
        unsafe {
            let y = exp(_mm512_sub_ps(_mm512_loadu_ps(chunk.as_ptr()), _mm512_set1_ps(max)));
            _mm512_storeu_ps(chunk.as_mut_ptr(), y);
            sums = _mm512_add_ps(sums, y);
        }
    }
    _mm512_reduce_add_ps(sums) + scalar::exp_sum(chunks.into_remainder(), max)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn narrow(x: &[f32], out: &mut [u16]) {
    scalar::narrow_body(x, out);
}

/// # Safety
/// - `a`, `b` and `c` have the lengths that the shape calls for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn gemm(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    for column in (0..shape.n).step_by(PANEL) {
        let mut row = 0;
        while row < shape.m {
            // SAFETY: rows `row..row + R` exist, the rest is the caller's promise.
            unsafe {
                match shape.m - row {
                    8.. => {
                        gemm_rows::<8>(row, column, shape, a, b, c);
                        row += 8
                    }
                    _ => {
                        gemm_rows::<1>(row, column, shape, a, b, c);
                        row += 1
                    }
                }
            }
        }
    }
}

/// R rows by 16 columns of C stay in registers, with even and odd products apart: 2 R sums hide the multiply-add's latency.
///
/// # Safety
/// - as [`gemm`], and rows `row..row + R` and the panel at `column` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn gemm_rows<const R: usize>(
    row: usize,
    column: usize,
    shape: GemmShape,
    a: &[u16],
    b: &[u32],
    c: &mut [f32],
) {
    let GemmShape { n, k, .. } = shape;
    let upper = _mm512_set1_epi32(!0xFFFF);
    let even = |pairs: __m512i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
    let odd = |pairs: __m512i| _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
    // SAFETY: all offsets stay inside A, B and C (caller).
    unsafe {
        let to = c.as_mut_ptr().add(row * n + column);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let a: *const i32 = a.as_ptr().add(row * k).cast();
        let b: *const __m512i = b.as_ptr().add(column * k / 2).cast();
        for i in 0..k / 2 {
            let pairs = _mm512_loadu_si512(b.add(i));
            let (b_even, b_odd) = (even(pairs), odd(pairs));
            for (r, sum) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(a.add(r * k / 2 + i).read_unaligned());
                sum[0] = _mm512_fmadd_ps(even(a), b_even, sum[0]);
                sum[1] = _mm512_fmadd_ps(odd(a), b_odd, sum[1]);
            }
        }
        for (r, [even, odd]) in sums.into_iter().enumerate() {
            let to = to.add(r * n);
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_add_ps(even, odd)));
        }
    }
}
