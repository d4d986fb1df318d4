//! Rows of 8 bits an element, and the 16 bits in which queries and weights meet them.

use half::bf16;

use crate::rounding::round;
use crate::rows::widen;

/// The greatest code: codes are symmetric about 0, so that -128 is not used.
const MOST: i32 = 127;

/// A row `[head_dim + 2]`, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct Int8Row<'a> {
    /// `[head_dim]`
    pub k: &'a [i8],
    /// `[head_dim]`
    pub v: &'a [i8],
    pub k_scale: f32,
    pub v_scale: f32,
}

impl<'a> Int8Row<'a> {
    pub fn new(row: &'a [u16]) -> Int8Row<'a> {
        let (codes, scales) = row.split_at(row.len() - 2);
        let (k, v) = bytemuck::cast_slice(codes).split_at(codes.len());
        Int8Row { k, v, k_scale: widen(scales[0]), v_scale: widen(scales[1]) }
    }

    pub fn key(self, out: &mut [f32]) {
        decode(self.k, self.k_scale, out);
    }

    pub fn value(self, out: &mut [f32]) {
        decode(self.v, self.v_scale, out);
    }
}

fn decode(codes: &[i8], scale: f32, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * scale;
    }
}

/// `row` is `[head_dim + 2]`.
pub(super) fn encode_row(k: &[f32], v: &[f32], row: &mut [u16]) {
    let (codes, scales) = row.split_at_mut(row.len() - 2);
    let (row_k, row_v) = bytemuck::cast_slice_mut(codes).split_at_mut(k.len());
    scales[0] = encode(k, row_k);
    scales[1] = encode(v, row_v);
}

/// Codes of `x`; returns their scale in bf16.
///
/// A scale has 8 bits, so it is at most 2^-9 of itself off max|x| / 127, and the greatest element at most 127.25 of it: cut to
/// 127 it is no further off than half a scale, which is what any element can be.
fn encode(x: &[f32], codes: &mut [i8]) -> u16 {
    let scale = bf16::from_f32(greatest(x) / MOST as f32);
    let inverse = finite(1.0 / scale.to_f32());
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = round(x * inverse).clamp(-MOST, MOST) as i8;
    }
    scale.to_bits()
}

/// `x` as integers of 16 bits, the greatest 32,767 in size, and the scale that makes them `x` again. What is not finite makes
/// the scale so.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], out: &mut [i16]) -> f32 {
    let greatest = greatest(x);
    let most = f32::from(i16::MAX);
    let inverse = finite(most / greatest);
    for (out, &x) in out.iter_mut().zip(x) {
        *out = round(x * inverse) as i16;
    }
    greatest / most
}

/// max|x|: sizes of floats are in the order of their bits, of which the compiler can take the maximum in vectors.
#[inline(always)]
fn greatest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |greatest, x| greatest.max(x.abs().to_bits())))
}

/// Zeros and numbers below about 1e-34 become zeros, by way of 0 for their scale's inverse.
#[inline(always)]
fn finite(inverse: f32) -> f32 {
    if inverse.is_finite() { inverse } else { 0.0 }
}
