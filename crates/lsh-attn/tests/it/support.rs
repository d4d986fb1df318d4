//! Seeded data for the tests.

use lsh_attn::mix::{derive_seed, mix64};
use lsh_attn::rows::{RowType, Rows};

/// A stream of numbers that depends on its seed alone.
pub struct Random {
    seed: u64,
    count: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { seed, count: 0 }
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.count += 1;
        ((mix64(derive_seed(self.seed, self.count)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// Rows `[n, units]` of a type from keys and values `[n, dim]`.
pub fn rows_of(row_type: RowType, keys: &[f32], values: &[f32], dim: usize) -> Vec<u16> {
    let units = row_type.units(dim);
    let mut rows = vec![0; keys.len() / dim * units];
    for ((row, k), v) in
        rows.chunks_exact_mut(units).zip(keys.chunks_exact(dim)).zip(values.chunks_exact(dim))
    {
        row_type.encode(k, v, row);
    }
    rows
}

/// Rows `[n, 2 * dim]` in bf16 from keys and values `[n, dim]`.
pub fn rows(keys: &[f32], values: &[f32], dim: usize) -> Vec<u16> {
    rows_of(RowType::Bf16, keys, values, dim)
}

/// Rows `[n, 2 * dim]` in bf16 as the crate takes them.
pub fn bf16(rows: &[u16], dim: usize) -> Rows<'_> {
    Rows::new(RowType::Bf16, dim, rows)
}
