//! What goes into matrix products, in bf16: loops that the compiler makes vectors of, once per instruction set, by inlining
//! them into functions that have its features.

use lsh_attn::kernels::PANEL;
use lsh_attn::rounding::{narrow, round};

use crate::activations::{BLOCK, Factors, GREATEST, Part, QuantBytes};
use crate::blocks::{self, GROUP};
use crate::columns::{self, ColumnBlock, Panel};
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

/// The values of a panel's columns. A trait and not a closure, which would not be inlined into functions that have an instruction set's
/// features.
trait Values {
    /// Those of a feature.
    fn of(&self, feature: usize) -> [f32; PANEL];
}

/// Rounds a panel's columns to bf16, or to quants.
#[inline(always)]
fn fill(panel: &mut Panel<'_>, values: impl Values) {
    match panel {
        Panel::Pairs(pairs) => {
            for (i, pairs) in pairs.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                let (even, odd) = (values.of(2 * i), values.of(2 * i + 1));
                for lane in 0..PANEL {
                    pairs[lane] = pair(even[lane], odd[lane]);
                }
            }
        }
        Panel::Blocks(blocks) => {
            let mut block_values = [[0.0; PANEL]; BLOCK];
            for (number, block) in blocks.iter_mut().enumerate() {
                for (i, to) in block_values.iter_mut().enumerate() {
                    *to = values.of(number * BLOCK + i);
                }
                quantise_columns(&block_values, block);
            }
        }
    }
}

/// A block of features of a panel's columns, each with a scale of its own.
#[inline(always)]
fn quantise_columns(values: &[[f32; PANEL]; BLOCK], block: &mut ColumnBlock) {
    let mut greatest = [0.0f32; PANEL];
    let mut sums = [0.0f32; PANEL];
    for values in values {
        for lane in 0..PANEL {
            let size = values[lane].abs();
            greatest[lane] = if size > greatest[lane] { size } else { greatest[lane] };
            sums[lane] += values[lane];
        }
    }
    let mut inverse = [0.0f32; PANEL];
    for lane in 0..PANEL {
        inverse[lane] = if greatest[lane] > 0.0 { columns::GREATEST / greatest[lane] } else { 0.0 };
        block.scales[lane] = greatest[lane] / columns::GREATEST;
    }
    block.sums = sums;
    for (pairs, [even, odd]) in block.pairs.iter_mut().zip(values.as_chunks::<2>().0) {
        for lane in 0..PANEL {
            let [even, odd] = [even[lane], odd[lane]].map(|value| round(value * inverse[lane]) as u16);
            pairs[lane] = u32::from(even) | u32::from(odd) << 16;
        }
    }
}

#[inline(always)]
pub(super) fn norm_panel(
    x: &[f32],
    n: usize,
    column: usize,
    weights: &[f32],
    epsilon: f32,
    panel: &mut Panel<'_>,
) {
    let mut squares = [0.0f32; PANEL];
    for row in 0..weights.len() {
        for (square, x) in squares.iter_mut().zip(lanes(x, n, row, column)) {
            *square += x * x;
        }
    }
    let scales = squares.map(|square| 1.0 / (square / weights.len() as f32 + epsilon).sqrt());
    fill(panel, Normed { x, n, column, weights, scales });
}

struct Normed<'a> {
    x: &'a [f32],
    n: usize,
    column: usize,
    weights: &'a [f32],
    scales: [f32; PANEL],
}

impl Values for Normed<'_> {
    #[inline(always)]
    fn of(&self, feature: usize) -> [f32; PANEL] {
        let mut values = lanes(self.x, self.n, feature, self.column);
        let weight = self.weights[feature];
        for (value, scale) in values.iter_mut().zip(&self.scales) {
            *value = *value * scale * weight;
        }
        values
    }
}

#[inline(always)]
pub(super) fn gate_panel(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut Panel<'_>,
) {
    fill(panel, Gated { activation, gate, up, n, column });
}

struct Gated<'a> {
    activation: GateActivation,
    gate: &'a [f32],
    up: &'a [f32],
    n: usize,
    column: usize,
}

impl Values for Gated<'_> {
    #[inline(always)]
    fn of(&self, feature: usize) -> [f32; PANEL] {
        let mut values = lanes(self.gate, self.n, feature, self.column);
        gate(self.activation, &mut values, &lanes(self.up, self.n, feature, self.column));
        values
    }
}

/// Rows `[tokens, width]`, PANEL of them at most, as columns; zeros where there are fewer.
#[inline(always)]
pub(super) fn rows_panel(rows: &[f32], width: usize, panel: &mut Panel<'_>) {
    fill(panel, Transposed { rows, width });
}

struct Transposed<'a> {
    rows: &'a [f32],
    width: usize,
}

impl Values for Transposed<'_> {
    #[inline(always)]
    fn of(&self, feature: usize) -> [f32; PANEL] {
        let mut values = [0.0; PANEL];
        for (value, row) in values.iter_mut().zip(self.rows.chunks_exact(self.width)) {
            *value = row[feature];
        }
        values
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
