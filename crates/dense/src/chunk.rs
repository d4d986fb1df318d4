//! Many tokens at once: the products of a long prompt's chunk, as multiplications of matrices.
//!
//! Activations are feature-major here, `[features, columns]` with a token a column, so that a product's rows are the next
//! one's; columns are padded with zeros to whole panels. Weights are dequantised to bf16 some rows at a time and meet all
//! columns of the chunk; activations are rounded to bf16 too, and products summed in f32.

use lsh_attn::kernels::{GemmShape, PANEL};

use crate::llama::{Llama, LlamaConfig};
use crate::matrix::{Cores, Matrix};
use crate::rope::Rope;

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

impl Llama {
    /// Takes many tokens at consecutive positions from `position` on through all layers, up to the last one's attention: for
    /// their rows, not for logits. `attend` as in [`Llama::forward`].
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
        let LlamaConfig { hidden, heads, kv_heads, head_dim, intermediate, .. } = *self.config();
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
        let angles: Vec<_> = (position..position + tokens.len()).map(|at| self.rope().angles(at)).collect();

        let last = self.config().layers.len() - 1;
        for (number, layer) in self.config().layers.iter().enumerate() {
            normed(cores, x, n, self.norm_weights(2 * number), self.config().norm_epsilon, pairs);
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
            for ((q, k), angles) in q.chunks_exact_mut(queries).zip(k.chunks_exact_mut(keys)).zip(&angles) {
                Rope::rotate(q, head_dim, angles);
                Rope::rotate(k, head_dim, angles);
            }
            attended.resize(q.len(), 0.0);
            attend(number, q, k, v, attended)?;
            if number == last {
                break;
            }
            columns_of(cores, attended, queries, n, pairs);
            add_products(cores, pairs, n, &mut [(self.matrix(layer.attention_output), &mut *x)]);

            normed(cores, x, n, self.norm_weights(2 * number + 1), self.config().norm_epsilon, pairs);
            for out in [&mut *gate, &mut *up] {
                out.clear();
                out.resize(intermediate * n, 0.0);
            }
            let (gate_weights, up_weights) = (self.matrix(layer.gate), self.matrix(layer.up));
            add_products(cores, pairs, n, &mut [(gate_weights, &mut *gate), (up_weights, &mut *up)]);
            gated(cores, gate, up, n, pairs);
            add_products(cores, pairs, n, &mut [(self.matrix(layer.down), &mut *x)]);
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

/// Each column of x, divided by its root mean square and times the norm's weights.
fn normed(cores: Cores<'_>, x: &[f32], n: usize, weights: &[f32], epsilon: f32, pairs: &mut Vec<u32>) {
    each_panel(cores, weights.len(), n, pairs, |column, panel| {
        cores.kernels.norm_panel(x, n, column, weights, epsilon, panel);
    });
}

/// gate * sigmoid(gate) * up.
fn gated(cores: Cores<'_>, gate: &[f32], up: &[f32], n: usize, pairs: &mut Vec<u32>) {
    each_panel(cores, gate.len() / n, n, pairs, |column, panel| {
        cores.kernels.gate_panel(gate, up, n, column, panel);
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
