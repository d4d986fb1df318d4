//! Portable Rust: loops over lanes, of which the compiler makes vectors, and vectors of 128 bits. Of what is bit-exact on every instruction
//! set, this is the meaning.

pub(super) mod draw;
mod int8;
mod scan;
pub(super) mod values;
mod vector;

use super::bf16_rows::{self, Gathered, Straight};
use super::{GemmShape, Isa, RowKernels, Table, exponentials};
use crate::hash::{HashPlan, LANES, Lanes};
use crate::inclusion::{NODES, interpolate};
use crate::rounding;
use crate::sketch::{code_bytes, middle};
use bytemuck::cast;
use half::f16;
use wide::{f32x4, i16x8, u16x8};

pub(super) static TABLE: Table = Table {
    isa: Isa::Scalar,
    hash,
    take_repeated,
    ln_inclusion,
    rotate,
    sketch_encode,
    sketch_weights: scan::sketch_weights,
    draw_keys: draw::keys,
    value_encode: values::encode,
    value_sums: values::sums,
    bf16: RowKernels { dot_gathered, add_gathered, dot_block, add_block },
    int8: int8::KERNELS,
    max,
    exp_sum,
    narrow,
    gemm,
};

fn hash(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    hash_body(plan, input, work, codes);
}

fn take_repeated(counts: &mut [u8], out: &mut Vec<u16>) {
    for (place, count) in counts.iter_mut().enumerate() {
        if *count >= 2 {
            out.push(place as u16);
        }
        *count = 0;
    }
}

fn ln_inclusion(nodes: &[f32; NODES], cosines: &mut [f32]) {
    ln_inclusion_body(nodes, cosines);
}

/// Inlined into each instruction set's `ln_inclusion`.
#[inline(always)]
pub(super) fn ln_inclusion_body(nodes: &[f32; NODES], cosines: &mut [f32]) {
    cosines.iter_mut().for_each(|x| *x = interpolate(nodes, *x));
}

fn rotate(signs: &[f32], x: &mut [Lanes]) {
    rotate_body(signs, x);
}

/// Inlined into each instruction set's `rotate`.
#[inline(always)]
pub(super) fn rotate_body(signs: &[f32], x: &mut [Lanes]) {
    for signs in signs.chunks_exact(x.len()) {
        for (x, sign) in x.iter_mut().zip(signs) {
            x.0.iter_mut().for_each(|x| *x *= sign);
        }
        hadamard(x);
    }
}

fn sketch_encode(bits: u32, x: &[Lanes], block: &mut [u8]) {
    encode_body(bits, x, block);
}

/// Steps between code values that are tried, in units of the key's root mean square: the best one differs from key to
/// key by how far its greatest elements reach.
fn steps(bits: u32) -> &'static [f32] {
    match bits {
        1 => &[1.0],
        2 => &[0.8, 0.95, 1.1],
        4 => &[0.25, 0.29, 0.335, 0.38, 0.44],
        _ => &[0.02, 0.024, 0.028, 0.033, 0.04],
    }
}

/// How 16 vectors, one a lane, are rounded: for each the step with the best cosine between it and its code.
pub(super) struct Rounding {
    middle: f32,
    top: f32,
    /// 1 / step of each vector.
    inverse: Lanes,
    /// <x, x>, <x, code> and <code, code>, of codes less their middle. The latter two are 0 for a vector of zeros.
    pub square: Lanes,
    pub product: Lanes,
    pub length: Lanes,
}

impl Rounding {
    #[inline(always)]
    pub fn of(bits: u32, x: &[Lanes]) -> Rounding {
        let (middle, top) = (middle(bits), ((1u32 << bits) - 1) as f32);
        let zeros = Lanes([0.0; LANES]);
        let (square, product, length) = (zeros, zeros, zeros);
        let mut best = Rounding { middle, top, inverse: zeros, square, product, length };
        for x in x {
            for (square, x) in best.square.0.iter_mut().zip(x.0) {
                *square += x * x;
            }
        }
        let mut cosine = [0.0f32; LANES];
        for step in steps(bits) {
            let mut tried = [0.0f32; LANES];
            let (mut product, mut length) = ([0.0f32; LANES], [0.0f32; LANES]);
            for (tried, square) in tried.iter_mut().zip(best.square.0) {
                let size = step * (square / x.len() as f32).sqrt();
                *tried = if size > 0.0 { 1.0 / size } else { 0.0 };
            }
            for x in x {
                for lane in 0..LANES {
                    let value = rounded(middle, top, x.0[lane], tried[lane]) - middle;
                    product[lane] += x.0[lane] * value;
                    length[lane] += value * value;
                }
            }
            for lane in 0..LANES {
                // The square of the cosine, times the vector's own length.
                let good = product[lane] * product[lane] / length[lane];
                if good > cosine[lane] {
                    cosine[lane] = good;
                    best.product.0[lane] = product[lane];
                    best.length.0[lane] = length[lane];
                    best.inverse.0[lane] = tried[lane];
                }
            }
        }
        best
    }

    /// The code of an element of a vector.
    #[inline(always)]
    pub fn code(&self, lane: usize, x: f32) -> u8 {
        rounded(self.middle, self.top, x, self.inverse.0[lane]) as u8
    }
}

#[inline(always)]
fn rounded(middle: f32, top: f32, x: f32, inverse: f32) -> f32 {
    (x * inverse + (middle + 0.5)).max(0.0).min(top + 0.5) as i32 as f32
}

/// Inlined into each instruction set's `sketch_encode`.
#[inline(always)]
pub(super) fn encode_body(bits: u32, x: &[Lanes], block: &mut [u8]) {
    let rounding = Rounding::of(bits, x);
    let (codes, factors) = block.split_at_mut(code_bytes(x.len(), bits));
    codes.fill(0);
    let groups = (8 / bits) as usize;
    for (dim, x) in x.iter().enumerate() {
        let (line, shift) = (dim / 4 / groups, (dim / 4 % groups) as u32 * bits);
        for lane in 0..LANES {
            codes[line * 64 + lane * 4 + dim % 4] |= rounding.code(lane, x.0[lane]) << shift;
        }
    }
    for (lane, out) in factors.chunks_exact_mut(2).enumerate() {
        let product = rounding.product.0[lane];
        let factor = if product > 0.0 { rounding.square.0[lane] / product } else { 0.0 };
        // Factors of keys whose elements are all but equal, or huge, stay finite.
        out.copy_from_slice(&f16::from_f32(factor.min(65_000.0)).to_le_bytes());
    }
}

/// The factors of a block's keys or values, which come after its codes.
fn factors(block: &[u8]) -> [f32; LANES] {
    let factors = block[block.len() - 2 * LANES..].as_chunks().0;
    std::array::from_fn(|lane| f16::from_le_bytes(factors[lane]).to_f32())
}

/// The codes of so many bits that bytes have after the first `shift`, as 16 bits: of the even bytes, and of the odd ones.
#[inline(always)]
fn codes_of_bytes(bytes: u16x8, shift: u32, bits: u32) -> [i16x8; 2] {
    // The mask takes away what came from the byte above.
    let codes = (bytes >> shift) & u16x8::splat(((1 << bits) - 1) * 0x0101);
    [cast(codes & u16x8::splat(0xff)), cast(codes >> 8)]
}

/// Inlined into each instruction set's `hash`, where the compiler turns the loops over lanes into its vectors.
#[inline(always)]
pub(super) fn hash_body(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    codes.fill([0; LANES]);
    for rotation in plan.rotations() {
        for (round, signs) in rotation.signs.chunks_exact(input.len()).enumerate() {
            for (index, &sign) in signs.iter().enumerate() {
                let source = if round == 0 { &input[index] } else { &work[index] };
                work[index] = Lanes(source.0.map(|x| x * sign));
            }
            hadamard(work);
        }
        for bit in rotation.bits {
            let code = &mut codes[usize::from(bit.table)];
            for (lane, x) in work[usize::from(bit.dim)].0.iter().enumerate() {
                code[lane] |= ((x.to_bits() >> 31) as u16) << bit.shift;
            }
        }
    }
}

/// Fast Hadamard transform over the first index, unnormalised, in place: two levels a pass.
#[inline(always)]
pub(super) fn hadamard(x: &mut [Lanes]) {
    let mut half = 1;
    while half * 4 <= x.len() {
        for block in x.chunks_exact_mut(half * 4) {
            let (low, high) = block.split_at_mut(half * 2);
            let (x0, x1) = low.split_at_mut(half);
            let (x2, x3) = high.split_at_mut(half);
            for (((x0, x1), x2), x3) in x0.iter_mut().zip(x1).zip(x2).zip(x3) {
                for lane in 0..LANES {
                    let (a, b) = (x0.0[lane] + x1.0[lane], x0.0[lane] - x1.0[lane]);
                    let (c, d) = (x2.0[lane] + x3.0[lane], x2.0[lane] - x3.0[lane]);
                    x0.0[lane] = a + c;
                    x1.0[lane] = b + d;
                    x2.0[lane] = a - c;
                    x3.0[lane] = b - d;
                }
            }
        }
        half *= 4;
    }
    if half < x.len() {
        let (low, high) = x.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            for lane in 0..LANES {
                (a.0[lane], b.0[lane]) = (a.0[lane] + b.0[lane], a.0[lane] - b.0[lane]);
            }
        }
    }
}

/// # Safety
/// - as [`bf16_rows::dot`], for the rows of `ids`.
unsafe fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<f32x4, _, 2>(Gathered(ids), q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for the rows of `ids`.
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<f32x4, _, 2>(Gathered(ids), acc, rows, head_dim, weights) }
}

/// # Safety
/// - as [`bf16_rows::dot`], for all rows.
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<f32x4, _, 1>(Straight, q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for all rows.
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<f32x4, _, 2>(Straight, acc, rows, head_dim, weights) }
}

fn max(x: &[f32]) -> f32 {
    // SAFETY: every processor has these vectors.
    unsafe { exponentials::max::<f32x4>(x) }
}

fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    // SAFETY: every processor has these vectors.
    unsafe { exponentials::exp_sum::<f32x4>(x, max) }
}

fn narrow(x: &[f32], out: &mut [u16]) {
    narrow_body(x, out);
}

#[inline(always)]
pub(super) fn narrow_body(x: &[f32], out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = rounding::narrow(x);
    }
}

/// # Safety
/// - as `kernels::gemm::gemm`.
unsafe fn gemm(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { super::gemm::gemm::<f32x4>(shape, a, b, c) }
}
