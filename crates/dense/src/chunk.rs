//! Many tokens at once: the products of a long prompt's chunk, as multiplications of matrices.
//!
//! Activations are feature-major here, `[features, columns]` with a token a column, so that a product's rows are the next
//! one's; columns are padded with zeros to whole panels. Weights are dequantised to bf16 some rows at a time and meet all
//! columns of the chunk; activations are rounded to bf16 too, and products summed in f32.

use lsh_attn::kernels::{GemmShape, PANEL};

use crate::config::TransformerConfig;
use crate::kernels::GateActivation;
use crate::matrix::{Cores, Matrix};
use crate::transformer::Transformer;

/// Rows of weights that a task dequantises at a time: few enough for the second-level cache, many enough to use each load
/// of activations again.
const TASK_ROWS: usize = 48;

/// What chunks work with, kept between them.
#[derive(Debug, Default)]
pub(crate) struct ChunkScratch {
    /// The residual stream `[hidden, columns]`.
    x: Vec<f32>,
    /// What goes into a product, in panels of pairs.
    pairs: Vec<u32>,
    /// A product `[features, columns]` on its way to the tokens' order.
    product: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// `[tokens, features]`
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
}

impl Transformer {
    /// Takes many tokens at consecutive positions from `position` on through all layers, up to the last one's attention: for
    /// their rows, not for logits. `attend` as in [`Transformer::forward`].
    ///
    /// # Errors
    /// What `attend` says.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, or there is none.
    pub(crate) fn forward_chunk<E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        position: usize,
        scratch: &mut ChunkScratch,
        mut attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let TransformerConfig { hidden, heads, kv_heads, head_dim, intermediate, .. } = *self.config();
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let n = tokens.len().next_multiple_of(PANEL);
        let ChunkScratch { x, pairs, product, gate, up, q, k, v, attended } = scratch;
        x.clear();
        x.resize(hidden * n, 0.0);
        for (column, &token) in tokens.iter().enumerate() {
            for (feature, value) in self.embedding(token).into_iter().enumerate() {
                x[feature * n + column] = value;
            }
        }
        let positions: Vec<usize> = (position..position + tokens.len()).collect();
        let angles = self.angles(&positions);
        let (epsilon, activation) = (self.config().norm_epsilon, self.config().activation);

        let last = self.config().layers.len() - 1;
        for (number, layer) in self.config().layers.iter().enumerate() {
            let vectors = self.vectors(number);
            normed(cores, x, n, &vectors.attention_norm, epsilon, pairs);
            product.clear();
            product.resize((queries + 2 * keys) * n, 0.0);
            let (q_columns, rest) = product.split_at_mut(queries * n);
            let (k_columns, v_columns) = rest.split_at_mut(keys * n);
            let [query, key, value] = [layer.query, layer.key, layer.value].map(|span| self.matrix(span));
            add_products(cores, pairs, n, &mut [(query, q_columns), (key, k_columns), (value, v_columns)]);
            for (columns, rows, width) in
                [(q_columns, &mut *q, queries), (k_columns, &mut *k, keys), (v_columns, &mut *v, keys)]
            {
                by_token(cores, columns, n, width, tokens.len(), rows);
            }
            self.finish_heads(cores.kernels, number, &angles[layer.rope], (&mut *q, &mut *k, &mut *v));
            attended.resize(q.len(), 0.0);
            attend(number, q, k, v, attended)?;
            if number == last {
                break;
            }
            columns_of(cores, attended, queries, n, pairs);
            let output = self.matrix(layer.attention_output);
            add_output(
                cores,
                pairs,
                n,
                output,
                (vectors.attention_post_norm.as_deref(), epsilon),
                x,
                product,
            );

            normed(cores, x, n, &vectors.mlp_norm, epsilon, pairs);
            for out in [&mut *gate, &mut *up] {
                out.clear();
                out.resize(intermediate * n, 0.0);
            }
            let (gate_weights, up_weights) = (self.matrix(layer.gate), self.matrix(layer.up));
            add_products(cores, pairs, n, &mut [(gate_weights, &mut *gate), (up_weights, &mut *up)]);
            gated(cores, activation, gate, up, n, pairs);
            let output = self.matrix(layer.down);
            add_output(cores, pairs, n, output, (vectors.mlp_post_norm.as_deref(), epsilon), x, product);
        }
        Ok(())
    }
}

/// `y += W x` for each matrix and its `y` `[outputs, n]`, with x `[inputs, n]` in panels of pairs.
fn add_products(cores: Cores<'_>, x: &[u32], n: usize, products: &mut [(Matrix<'_>, &mut [f32])]) {
    let mut tasks = Vec::new();
    for (matrix, y) in products {
        let parts = matrix.row_groups(TASK_ROWS).zip(y.chunks_mut(TASK_ROWS * n));
        tasks.extend(parts.map(|(rows, y)| (rows, y, Vec::new())));
    }
    cores.team.each_mut(&mut tasks, |(rows, y, weights)| {
        weights.resize(rows.outputs() * rows.inputs(), 0);
        cores.kernels.dequantise(*rows, weights);
        let shape = GemmShape { m: rows.outputs(), n, k: rows.inputs() };
        cores.kernels.base().gemm(shape, weights, x, y);
    });
}

/// What a product adds to the residual stream `x` `[hidden, n]`, each column normalised where there are weights to do so;
/// `product` is scratch space.
fn add_output(
    cores: Cores<'_>,
    pairs: &[u32],
    n: usize,
    output: Matrix<'_>,
    (norm, epsilon): (Option<&[f32]>, f32),
    x: &mut [f32],
    product: &mut Vec<f32>,
) {
    let Some(weights) = norm else {
        return add_products(cores, pairs, n, &mut [(output, x)]);
    };
    product.clear();
    product.resize(x.len(), 0.0);
    add_products(cores, pairs, n, &mut [(output, &mut *product)]);
    let mut scales = vec![0.0f32; n];
    for row in product.chunks_exact(n) {
        scales.iter_mut().zip(row).for_each(|(square, y)| *square += y * y);
    }
    scales.iter_mut().for_each(|x| *x = 1.0 / (*x / weights.len() as f32 + epsilon).sqrt());
    for ((x, y), weight) in x.chunks_exact_mut(n).zip(product.chunks_exact(n)).zip(weights) {
        for ((x, y), scale) in x.iter_mut().zip(y).zip(&scales) {
            *x += y * scale * weight;
        }
    }
}

/// Each column of x, divided by its root mean square and times the norm's weights.
fn normed(cores: Cores<'_>, x: &[f32], n: usize, weights: &[f32], epsilon: f32, pairs: &mut Vec<u32>) {
    each_panel(cores, weights.len(), n, pairs, |column, panel| {
        cores.kernels.norm_panel(x, n, column, weights, epsilon, panel);
    });
}

/// activation(gate) * up.
fn gated(
    cores: Cores<'_>,
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    pairs: &mut Vec<u32>,
) {
    each_panel(cores, gate.len() / n, n, pairs, |column, panel| {
        cores.kernels.gate_panel(activation, gate, up, n, column, panel);
    });
}

/// Rows `[tokens, width]` as columns.
fn columns_of(cores: Cores<'_>, rows: &[f32], width: usize, n: usize, pairs: &mut Vec<u32>) {
    each_panel(cores, width, n, pairs, |column, panel| {
        panel.fill(0);
        let mut narrow = vec![0; width];
        for (lane, row) in rows[column * width..].chunks_exact(width).take(PANEL).enumerate() {
            cores.kernels.base().narrow(row, &mut narrow);
            for (i, pair) in narrow.chunks_exact(2).enumerate() {
                panel[i * PANEL + lane] = u32::from(pair[0]) | u32::from(pair[1]) << 16;
            }
        }
    });
}

/// Fills `pairs` for `width` features, a panel at a time.
fn each_panel(
    cores: Cores<'_>,
    width: usize,
    n: usize,
    pairs: &mut Vec<u32>,
    fill: impl Fn(usize, &mut [u32]) + Sync,
) {
    pairs.resize(width / 2 * n, 0);
    let mut panels: Vec<_> = pairs.chunks_exact_mut(width / 2 * PANEL).enumerate().collect();
    cores.team.each_mut(&mut panels, |(number, panel)| fill(*number * PANEL, panel));
}

/// Columns `[width, n]` as rows `[tokens, width]`.
fn by_token(cores: Cores<'_>, columns: &[f32], n: usize, width: usize, tokens: usize, rows: &mut Vec<f32>) {
    rows.resize(tokens * width, 0.0);
    let mut parts: Vec<_> = rows.chunks_mut(PANEL * width).enumerate().collect();
    cores.team.each_mut(&mut parts, |(number, rows)| {
        for (feature, column) in columns.chunks_exact(n).enumerate() {
            for (row, &value) in rows.chunks_exact_mut(width).zip(&column[*number * PANEL..]) {
                row[feature] = value;
            }
        }
    });
}
