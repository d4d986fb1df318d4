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
