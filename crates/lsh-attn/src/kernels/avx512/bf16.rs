//! AVX-512 with products of bf16: two of them and their sum in one instruction.

use core::arch::x86_64::*;

use super::super::{GemmShape, Isa, PANEL, Table};
use super::BASE;
use crate::hash::LANES;

pub(in super::super) static TABLE: Table = Table { isa: Isa::Avx512Bf16, narrow, gemm, ..BASE };

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn narrow(x: &[f32], out: &mut [u16]) {
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mask = if x.len() == LANES { !0 } else { (1u16 << x.len()) - 1 };
        // SAFETY: lanes of the mask are within both chunks, which are of one length.
        unsafe {
            let narrowed = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x.as_ptr()));
            let bits = std::mem::transmute::<__m256bh, __m256i>(narrowed);
            _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), mask, bits);
        }
    }
}

/// # Safety
/// - `a`, `b` and `c` have the lengths that the shape calls for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn gemm(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    // Two panels at a time, which stay in a near cache while all rows pass.
    let twos = shape.n / (2 * PANEL) * 2 * PANEL;
    // SAFETY: whole panels, the rest is the caller's promise.
    unsafe {
        for column in (0..twos).step_by(2 * PANEL) {
            gemm_panels::<2>(column, shape, a, b, c);
        }
        if twos < shape.n {
            gemm_panels::<1>(twos, shape, a, b, c);
        }
    }
}

/// # Safety
/// - as [`gemm`], and P panels from `column` on exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn gemm_panels<const P: usize>(column: usize, shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    let mut row = 0;
    while row < shape.m {
        // SAFETY: rows `row..row + R` exist, the rest is the caller's promise.
        unsafe {
            match shape.m - row {
                12.. => {
                    gemm_rows::<P, 12>(row, column, shape, a, b, c);
                    row += 12
                }
                4.. => {
                    gemm_rows::<P, 4>(row, column, shape, a, b, c);
                    row += 4
                }
                _ => {
                    gemm_rows::<P, 1>(row, column, shape, a, b, c);
                    row += 1
                }
            }
        }
    }
}

/// R rows by P panels of C stay in registers; 24 of them hide the instruction's latency and use each load of B twelve times.
///
/// # Safety
/// - as [`gemm_panels`], and rows `row..row + R` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn gemm_rows<const P: usize, const R: usize>(
    row: usize,
    column: usize,
    shape: GemmShape,
    a: &[u16],
    b: &[u32],
    c: &mut [f32],
) {
    let GemmShape { n, k, .. } = shape;
    // SAFETY: all offsets stay inside A, B and C (caller).
    unsafe {
        let to = c.as_mut_ptr().add(row * n + column);
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(to.add(r * n + p * PANEL));
            }
        }
        let a: *const i32 = a.as_ptr().add(row * k).cast();
        let b = b.as_ptr().add(column * k / 2);
        for i in 0..k / 2 {
            let mut panels = [_mm512_setzero_si512(); P];
            for (p, panel) in panels.iter_mut().enumerate() {
                *panel = _mm512_loadu_si512(b.add((p * k / 2 + i) * PANEL).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(a.add(r * k / 2 + i).read_unaligned());
                for (sum, panel) in sums.iter_mut().zip(panels) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(a), pairs(panel));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.add(r * n + p * PANEL), sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: 32 bf16 are 512 bits.
    unsafe { std::mem::transmute(bits) }
}
