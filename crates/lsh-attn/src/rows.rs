//! Rows: the K and V of one token, side by side in bf16.

use half::bf16;

/// Writes `k` and `v` (each `[head_dim]`, f32) as one row `[2 * head_dim]`, rounded to nearest even.
///
/// # Panics
/// If the lengths do not agree.
pub fn encode_row(k: &[f32], v: &[f32], row: &mut [u16]) {
    let (row_k, row_v) = row.split_at_mut(k.len());
    assert_eq!(row_v.len(), v.len(), "a row holds K and V of the same head dimension");
    for (out, &x) in row_k.iter_mut().zip(k).chain(row_v.iter_mut().zip(v)) {
        *out = bf16::from_f32(x).to_bits();
    }
}

/// The exact value of a bf16 bit pattern.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Mean of the keys of `rows` `[n, 2 * dim]`, accumulated in f64: the centre of an index. Zeros where there are none.
pub fn mean_key(rows: &[u16], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; dim];
    for row in rows.chunks_exact(2 * dim) {
        for (sum, &k) in sum.iter_mut().zip(row) {
            *sum += f64::from(widen(k));
        }
    }
    let count = (rows.len() / (2 * dim)).max(1) as f64;
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}
