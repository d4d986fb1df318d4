//! Synthetic rows for the benches.

use lsh_attn::mix::normals;

/// `count` rows of K and V in bf16, `[count, 2 * head_dim]`.
pub fn rows(seed: u64, count: usize, head_dim: usize) -> Vec<u16> {
    normals(seed, count * 2 * head_dim).into_iter().map(|x| (x.to_bits() >> 16) as u16).collect()
}
