//! AVX2 and FMA: 8 f32 lanes.

use core::arch::x86_64::*;

pub(super) mod int8;
mod sketch;
pub(super) mod values;
mod vector;

use self::sketch::{draw_keys, rotate, sketch_encode, sketch_weights};
use super::bf16_rows::{self, Gathered, Straight};
use super::{GemmShape, Isa, RowKernels, Table, exponentials, scalar};
use crate::hash::{HashPlan, LANES, Lanes};
use crate::inclusion::NODES;

pub(super) static TABLE: Table = Table {
    isa: Isa::Avx2,
    hash,
    take_repeated,
    ln_inclusion,
    rotate,
    sketch_encode,
    sketch_weights,
    draw_keys,
    value_encode: values::encode,
    value_sums: values::sums,
    bf16: RowKernels { dot_gathered, add_gathered, dot_block, add_block },
    int8: int8::KERNELS,
    max,
    exp_sum,
    narrow,
    gemm,
};

#[target_feature(enable = "avx2,fma")]
fn hash(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    scalar::hash_body(plan, input, work, codes);
}

#[target_feature(enable = "avx2,fma")]
fn take_repeated(counts: &mut [u8], out: &mut Vec<u16>) {
    for (chunk, counts) in counts.chunks_exact_mut(32).enumerate() {
        // SAFETY: a chunk has 32 bytes.
        let mut repeated = unsafe {
            let from = counts.as_mut_ptr().cast();
            let values = _mm256_loadu_si256(from);
            _mm256_storeu_si256(from, _mm256_setzero_si256());
            // Unsigned: at least 2 is where the greater of it and 2 is itself.
            let least = _mm256_max_epu8(values, _mm256_set1_epi8(2));
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(values, least)) as u32
        };
        while repeated != 0 {
            out.push((32 * chunk) as u16 + repeated.trailing_zeros() as u16);
            repeated &= repeated - 1;
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn ln_inclusion(nodes: &[f32; NODES], cosines: &mut [f32]) {
    scalar::ln_inclusion_body(nodes, cosines);
}

/// # Safety
/// - as [`bf16_rows::dot`], for the rows of `ids`.
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<__m256, _, 2>(Gathered(ids), q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for the rows of `ids`.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<__m256, _, 2>(Gathered(ids), acc, rows, head_dim, weights) }
}

/// # Safety
/// - as [`bf16_rows::dot`], for all rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<__m256, _, 1>(Straight, q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for all rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<__m256, _, 2>(Straight, acc, rows, head_dim, weights) }
}

#[target_feature(enable = "avx2,fma")]
fn max(x: &[f32]) -> f32 {
    // SAFETY: the features are this function's.
    unsafe { exponentials::max::<__m256>(x) }
}

#[target_feature(enable = "avx2,fma")]
fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    // SAFETY: the features are this function's.
    unsafe { exponentials::exp_sum::<__m256>(x, max) }
}

#[target_feature(enable = "avx2,fma")]
fn narrow(x: &[f32], out: &mut [u16]) {
    scalar::narrow_body(x, out);
}

/// # Safety
/// - as `kernels::gemm::gemm`.
#[target_feature(enable = "avx2,fma")]
unsafe fn gemm(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { super::gemm::gemm::<__m256>(shape, a, b, c) }
}
