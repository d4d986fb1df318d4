//! Synthetic rows for the benches.

use lsh_attn::mix::normals;
use lsh_attn::rows::{RowType, Rows};

/// `count` rows of a type, as they are stored.
pub fn stored(row_type: RowType, seed: u64, count: usize, head_dim: usize) -> Vec<u16> {
    let units = row_type.units(head_dim);
    let mut stored = vec![0; count * units];
    let numbers = normals(seed, count * 2 * head_dim);
    for (row, numbers) in stored.chunks_exact_mut(units).zip(numbers.chunks_exact(2 * head_dim)) {
        let (k, v) = numbers.split_at(head_dim);
        row_type.encode(k, v, row);
    }
    stored
}

/// Rows in bf16 as the crates take them.
pub fn bf16(stored: &[u16], head_dim: usize) -> Rows<'_> {
    Rows::new(RowType::Bf16, head_dim, stored)
}
