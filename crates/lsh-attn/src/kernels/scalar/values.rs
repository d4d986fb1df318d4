//! Codes of values: rounding them, and their sums weighted by estimates.

use bytemuck::cast;
use half::f16;
use wide::{i16x8, u16x8};

use super::super::LEAST_WEIGHT;
use super::{Rounding, codes_of_bytes, factors};
use crate::hash::{LANES, Lanes};
use crate::rounding::round;
use crate::rows::widen;
use crate::sketch::{ValueWeights, block_bytes, code_bytes, middle, value_code};

pub(in super::super) fn encode(bits: u32, x: &[Lanes], block: &mut [u8]) {
    encode_body(bits, x, block);
}

/// Inlined into each instruction set's `value_encode`.
#[inline(always)]
pub(in super::super) fn encode_body(bits: u32, x: &[Lanes], block: &mut [u8]) {
    let rounding = Rounding::of(bits, x);
    let (codes, factors) = block.split_at_mut(code_bytes(x.len(), bits));
    codes.fill(0);
    for (dim, x) in x.iter().enumerate() {
        for lane in 0..LANES {
            let (byte, shift) = value_code(bits, dim, lane);
            codes[byte] |= rounding.code(lane, x.0[lane]) << shift;
        }
    }
    for (lane, out) in factors.chunks_exact_mut(2).enumerate() {
        let length = rounding.length.0[lane];
        let factor = if length > 0.0 { rounding.product.0[lane] / length } else { 0.0 };
        out.copy_from_slice(&f16::from_f32(factor.min(65_000.0)).to_le_bytes());
    }
}

pub(in super::super) fn sums(bits: u32, padded_dim: usize, values: &[u8], weights: &[u16], num: &mut [f32]) {
    let block_weights = num.len() / padded_dim * LANES;
    let values = values.chunks_exact(block_bytes(padded_dim, bits));
    for (values, weights) in values.zip(weights.chunks_exact(block_weights)) {
        for (weights, num) in weights.chunks_exact(LANES).zip(num.chunks_exact_mut(padded_dim)) {
            add(bits, values, &rounded(bits, weights, values), num);
        }
    }
}

/// Weights times the factors of a block of values, in 7 bits.
pub(in super::super) fn rounded(bits: u32, weights: &[u16], values: &[u8]) -> ValueWeights {
    let factors = factors(values);
    let weighted: [f32; LANES] = std::array::from_fn(|lane| widen(weights[lane]) * factors[lane]);
    let greatest = weighted.iter().copied().fold(0.0, f32::max);
    if greatest < LEAST_WEIGHT {
        return ValueWeights::default();
    }
    let inverse = 127.0 / greatest;
    let quants = weighted.map(|weight| round(weight * inverse) as i8);
    let sum: i32 = quants.iter().map(|&quant| i32::from(quant)).sum();
    ValueWeights { quants, scale: greatest / 127.0, zero: middle(bits) * sum as f32 }
}

/// Adds a block's weighted values to `num` `[padded_dim]`, 32 elements at a time.
fn add(bits: u32, values: &[u8], weights: &ValueWeights, num: &mut [f32]) {
    let codes = &values[..code_bytes(num.len(), bits)];
    for (lines, num) in codes.chunks_exact(64 * bits as usize).zip(num.chunks_exact_mut(32)) {
        // Sums over 8 pairs of keys, each at most 2 * 15 * 127, fit 16 bits.
        let mut products = [i16x8::ZERO; 4];
        let mut pairs = weights.quants.as_chunks().0.iter();
        for line in lines.as_chunks::<64>().0 {
            let words: [u16x8; 4] = cast(*line);
            for (position, &[even, odd]) in (0..8 / bits).zip(&mut pairs) {
                let weights = [even, odd].map(|weight| i16x8::splat(i16::from(weight)));
                for (product, words) in products.iter_mut().zip(words) {
                    let [even, odd] = codes_of_bytes(words, position * bits, bits);
                    *product += even * weights[0] + odd * weights[1];
                }
            }
        }
        for (num, product) in num.iter_mut().zip(cast::<[i16x8; 4], [i16; 32]>(products)) {
            *num = (f32::from(product) - weights.zero).mul_add(weights.scale, *num);
        }
    }
}
