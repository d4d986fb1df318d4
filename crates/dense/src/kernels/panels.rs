//! What goes into matrix products, in bf16: loops that the compiler makes vectors of, once per instruction set, by inlining
//! them into functions that have its features.

use lsh_attn::kernels::PANEL;
use lsh_attn::rounding::{narrow, round};

use crate::activations::{BLOCK, Factors, GREATEST, Part, QuantBytes};
use crate::blocks::{self, GROUP};
use crate::kernels::GateActivation;
use crate::matrix::WeightType;

/// Two numbers as a pair of bf16, the first in the lower half.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    u32::from(narrow(even)) | u32::from(narrow(odd)) << 16
}

#[inline(always)]
pub(super) fn dequantise(kind: WeightType, blocks: &[u8], out: &mut [u16]) {
    blocks::dequantise(kind, blocks, out, narrow);
}

/// `out = x * scale * weights`, x divided by the root of its mean square plus `epsilon`.
#[inline(always)]
pub(super) fn norm(x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut squares = [0.0f32; PANEL];
    let (panels, rest) = x.as_chunks::<PANEL>();
    for x in panels {
        for (square, x) in squares.iter_mut().zip(x) {
            *square += x * x;
        }
    }
    let square: f32 = squares.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (square / x.len() as f32 + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weights) {
        *out = x * scale * weight;
    }
}

/// `gate = activation(gate) * up`.
#[inline(always)]
pub(super) fn gate(activation: GateActivation, gate: &mut [f32], up: &[f32]) {
    match activation {
        GateActivation::Silu => gated(gate, up, silu),
        GateActivation::Gelu => gated(gate, up, gelu),
    }
}

#[inline(always)]
fn gated(gate: &mut [f32], up: &[f32], activation: impl Fn(f32) -> f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = activation(*gate) * up;
    }
}

/// x sigmoid(x).
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x Phi(x) by its approximation with a tanh (Hendrycks and Gimpel 2016): x (1 + tanh z) / 2 = x sigmoid(2 z).
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    x / (1.0 + exp(-2.0 * ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// The quants of a block, its scale, and the sums of its groups.
#[inline(always)]
fn quantise_block(values: &[f32; BLOCK]) -> ([i16; BLOCK], QuantBytes, f32, [f32; BLOCK / GROUP]) {
    let mut greatest = [0.0f32; GROUP];
    let groups = values.as_chunks::<GROUP>().0;
    for group in groups {
        for (greatest, x) in greatest.iter_mut().zip(group) {
            *greatest = if x.abs() > *greatest { x.abs() } else { *greatest };
        }
    }
    let greatest = greatest.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    let inverse = if greatest > 0.0 { GREATEST / greatest } else { 0.0 };
    let mut quants = [0i16; BLOCK];
    for (quant, x) in quants.iter_mut().zip(values) {
        *quant = round(x * inverse) as i16;
    }
    let mut bytes = QuantBytes { high: [0; BLOCK], low: [0; BLOCK] };
    for ((high, low), &quant) in bytes.high.iter_mut().zip(&mut bytes.low).zip(&quants) {
        *high = ((i32::from(quant) + 128) >> 8) as i8;
        *low = quant as i8;
    }
    (quants, bytes, greatest / GREATEST, [tree_sum(groups[0]), tree_sum(groups[1])])
}

/// The sum by halves, which is how registers are summed.
#[inline(always)]
fn tree_sum(group: [f32; GROUP]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| group[i] + group[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

#[inline(always)]
pub(super) fn quantise(x: &mut Part<'_>) {
    let Part { values, quants, bytes, quant_sums, factors, group_sums } = x;
    let sums = quant_sums.iter_mut().zip(group_sums.as_chunks_mut().0);
    let quants = quants.as_chunks_mut().0.iter_mut().zip(bytes.iter_mut());
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(quants).zip(sums).zip(factors.iter_mut());
    for (((block, (quants, bytes)), (quant_sum, group_sums)), factors) in blocks {
        let scale;
        (*quants, *bytes, scale, *group_sums) = quantise_block(block);
        for four in quants.as_chunks_mut::<4>().0 {
            four.swap(1, 2);
        }
        *quant_sum = quants.iter().map(|&quant| i32::from(quant)).sum();
        *factors = Factors { scale, sum: group_sums[0] + group_sums[1] };
    }
}

/// The 16 elements of a row from `column` on.
#[inline(always)]
fn lanes(x: &[f32], n: usize, row: usize, column: usize) -> [f32; PANEL] {
    let start = row * n + column;
    x[start..start + PANEL].try_into().expect("PANEL elements")
}

#[inline(always)]
pub(super) fn norm_panel(
    x: &[f32],
    n: usize,
    column: usize,
    weights: &[f32],
    epsilon: f32,
    panel: &mut [u32],
) {
    let mut squares = [0.0f32; PANEL];
    for row in 0..weights.len() {
        for (square, x) in squares.iter_mut().zip(lanes(x, n, row, column)) {
            *square += x * x;
        }
    }
    let scales = squares.map(|square| 1.0 / (square / weights.len() as f32 + epsilon).sqrt());
    for (i, (pairs, weights)) in
        panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(weights.as_chunks::<2>().0).enumerate()
    {
        let (even, odd) = (lanes(x, n, 2 * i, column), lanes(x, n, 2 * i + 1, column));
        for lane in 0..PANEL {
            let scale = scales[lane];
            pairs[lane] = pair(even[lane] * scale * weights[0], odd[lane] * scale * weights[1]);
        }
    }
}

#[inline(always)]
pub(super) fn gate_panel(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut [u32],
) {
    match activation {
        GateActivation::Silu => gated_panel(gate, up, n, column, panel, silu),
        GateActivation::Gelu => gated_panel(gate, up, n, column, panel, gelu),
    }
}

#[inline(always)]
fn gated_panel(
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut [u32],
    activation: impl Fn(f32) -> f32,
) {
    for (i, pairs) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let [even, odd] = [2 * i, 2 * i + 1].map(|row| {
            let (gate, up) = (lanes(gate, n, row, column), lanes(up, n, row, column));
            let mut out = [0.0; PANEL];
            for lane in 0..PANEL {
                out[lane] = activation(gate[lane]) * up[lane];
            }
            out
        });
        for lane in 0..PANEL {
            pairs[lane] = pair(even[lane], odd[lane]);
        }
    }
}

/// e^x within 1e-6 of itself for |x| up to 87, beyond which it is e^-87 or e^87: 2^n times a Taylor polynomial of what is left.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a float below 2^22 in size, it leaves the float's rounding in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    // ln 2 in two parts, so that n times the first is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let polynomial = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0)))));
    polynomial * f32::from_bits((shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127)) << 23)
}

#[cfg(test)]
mod tests {
    use super::{exp, gelu, silu};

    #[test]
    fn exp_is_near_enough() {
        for i in -870..=870 {
            let x = i as f32 / 10.0 + 0.013;
            let want = f64::from(x.clamp(-87.0, 87.0)).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 4e-6, "{x}: {} {want}", exp(x));
        }
    }

    #[test]
    fn activations_are_their_formulas() {
        for i in -400..=400 {
            let x = f64::from(i) / 20.0;
            let tanh = ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh();
            for (got, want) in
                [(silu(x as f32), x / (1.0 + (-x).exp())), (gelu(x as f32), x * (1.0 + tanh) / 2.0)]
            {
                assert!((f64::from(got) - want).abs() < 1e-5 * (1.0 + x.abs()), "{x}: {got} {want}");
            }
        }
    }
}
