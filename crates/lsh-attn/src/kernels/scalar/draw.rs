//! The walk along the line of probabilities. One body for every instruction set, whose compiler makes vectors of its loops.

use crate::hash::LANES;
use crate::rows::widen;
use crate::sketch::Draw;

/// Probabilities are counted in units of 2^-24, so that their sums along the line are exact.
const ONE: u32 = 1 << 24;

pub(in super::super) fn keys(
    weights: &[u16],
    how: Draw<'_>,
    ids: &mut Vec<u16>,
    ln_pi: &mut Vec<f32>,
) -> f64 {
    // SAFETY: the floor is in its range, as `Kernels::draw_keys` checks.
    unsafe { keys_body(weights, how, ids, ln_pi) }
}

/// Inlined into each instruction set's `draw_keys`.
///
/// # Safety
/// - `how.floor` is in [0, 1).
#[inline(always)]
pub(in super::super) unsafe fn keys_body(
    weights: &[u16],
    how: Draw<'_>,
    ids: &mut Vec<u16>,
    ln_pi: &mut Vec<f32>,
) -> f64 {
    let Draw { coefficients, floor, start, first } = how;
    let mut position = (start * f64::from(ONE)) as u32;
    let mut expected = 0u64;
    for (number, weights) in weights.chunks_exact(coefficients.len() * LANES).enumerate() {
        let mut squares = [0.0f32; LANES];
        for (weights, coefficient) in weights.chunks_exact(LANES).zip(coefficients) {
            for (square, &weight) in squares.iter_mut().zip(weights) {
                let weight = widen(weight) * coefficient;
                *square += weight * weight;
            }
        }
        let mut lengths = [0u32; LANES];
        for (length, square) in lengths.iter_mut().zip(squares) {
            // SAFETY: from the floor to one, whatever the square is, and that times ONE fits.
            *length =
                unsafe { ((square.sqrt() + floor).min(1.0) * ONE as f32).to_int_unchecked::<i32>() } as u32;
        }
        let length: u32 = lengths.iter().sum();
        expected += u64::from(length);
        if position + length < ONE {
            position += length;
            continue;
        }
        // Every key is written down, and stays if a step lands on it: no branch that nothing could foresee.
        let mut landed = [(0u16, 0u32); LANES + 1];
        let mut count = 0;
        for (key, length) in lengths.into_iter().enumerate() {
            position += length;
            landed[count] = (key as u16, length);
            count += (position / ONE) as usize;
            position %= ONE;
        }
        for &(key, length) in &landed[..count] {
            ids.push((first + number * LANES) as u16 + key);
            ln_pi.push((length as f32 / ONE as f32).ln());
        }
    }
    expected as f64 / f64::from(ONE)
}
