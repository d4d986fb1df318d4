//! Synthetic rows for the benches.

use lsh_attn::mix::{derive_seed, mix64};

/// `count` numbers, roughly normal (the sum of four uniforms), by `seed`.
pub fn normals(seed: u64, count: usize) -> Vec<f32> {
    let normal = |index: usize| {
        let bits = mix64(derive_seed(seed, index as u64));
        let sum: f32 = (0..4).map(|part| ((bits >> (16 * part)) & 0xFFFF) as f32 / 65_536.0 - 0.5).sum();
        sum * 1.732
    };
    (0..count).map(normal).collect()
}

/// `count` rows of K and V in bf16, `[count, 2 * head_dim]`.
pub fn rows(seed: u64, count: usize, head_dim: usize) -> Vec<u16> {
    normals(seed, count * 2 * head_dim).into_iter().map(|x| (x.to_bits() >> 16) as u16).collect()
}
