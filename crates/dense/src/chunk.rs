//! Many tokens at once: the products of a long prompt's chunk, as multiplications of matrices.
//!
//! Activations are feature-major here, `[features, columns]` with a token a column, so that a product's rows are the next
//! one's; columns are padded with zeros to whole panels. Weights are taken out of their blocks some rows at a time and meet all
//! columns of the chunk: as bf16, and so are activations then, or as the whole numbers that they are, with activations rounded to
//! quants, where an instruction set multiplies these faster. Products are summed in f32.

use std::cell::RefCell;

use lsh_attn::kernels::{GemmShape, PANEL};

use crate::columns::Columns;
use crate::config::TransformerConfig;
use crate::matrix::{Cores, Matrix};
use crate::quant_rows::QuantRows;
use crate::transformer::Transformer;

/// Rows of weights that a task takes out of their blocks at a time: few enough for the second-level cache, many enough to use each load
/// of activations again.
const TASK_ROWS: usize = 48;

/// What chunks work with, kept between them.
#[derive(Debug, Default)]
pub(crate) struct ChunkScratch {
    /// The residual stream `[hidden, columns]`.
    x: Vec<f32>,
    /// What goes into a product.
    columns: Columns,
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
        let ChunkScratch { x, columns, product, gate, up, q, k, v, attended } = scratch;
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
            let [query, key, value] = [layer.query, layer.key, layer.value].map(|span| self.matrix(span));
            let quants = cores.kernels.takes_quants(&[query, key, value]);
            normed(cores, (x, n), (&vectors.attention_norm, epsilon), quants, columns);
            product.clear();
            product.resize((queries + 2 * keys) * n, 0.0);
            let (q_columns, rest) = product.split_at_mut(queries * n);
            let (k_columns, v_columns) = rest.split_at_mut(keys * n);
            add_products(cores, columns, n, &mut [(query, q_columns), (key, k_columns), (value, v_columns)]);
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
            let output = self.matrix(layer.attention_output);
            columns.fill(cores, (queries, n), cores.kernels.takes_quants(&[output]), |column, panel| {
                cores.kernels.rows_panel(&attended[column * queries..], queries, panel);
            });
            let norm = (vectors.attention_post_norm.as_deref(), epsilon);
            add_output(cores, columns, n, output, norm, x, product);

            let [gate_weights, up_weights] = [layer.gate, layer.up].map(|span| self.matrix(span));
            let quants = cores.kernels.takes_quants(&[gate_weights, up_weights]);
            normed(cores, (x, n), (&vectors.mlp_norm, epsilon), quants, columns);
            for out in [&mut *gate, &mut *up] {
                out.clear();
                out.resize(intermediate * n, 0.0);
            }
            add_products(cores, columns, n, &mut [(gate_weights, &mut *gate), (up_weights, &mut *up)]);
            let output = self.matrix(layer.down);
            columns.fill(cores, (intermediate, n), cores.kernels.takes_quants(&[output]), |column, panel| {
                cores.kernels.gate_panel(activation, gate, up, n, column, panel);
            });
            let norm = (vectors.mlp_post_norm.as_deref(), epsilon);
            add_output(cores, columns, n, output, norm, x, product);
        }
        Ok(())
    }
}

/// The rows of weights that a task works on.
#[derive(Default)]
struct TaskWeights {
    bf16: Vec<u16>,
    quants: QuantRows,
}

thread_local! {
    static WEIGHTS: RefCell<TaskWeights> = RefCell::default();
}

/// `y += W x` for each matrix and its `y` `[outputs, n]`, with x `[inputs, n]`.
fn add_products(cores: Cores<'_>, x: &Columns, n: usize, products: &mut [(Matrix<'_>, &mut [f32])]) {
    let kernels = cores.kernels;
    let mut tasks = Vec::new();
    for (matrix, y) in products {
        tasks.extend(matrix.row_groups(TASK_ROWS).zip(y.chunks_mut(TASK_ROWS * n)));
    }
    cores.team.each_mut(&mut tasks, |(rows, y)| {
        WEIGHTS.with_borrow_mut(|TaskWeights { bf16, quants }| {
            if x.are_quants() {
                return kernels.add_quant_products(*rows, &x.blocks, quants, y);
            }
            bf16.resize(rows.outputs() * rows.inputs(), 0);
            kernels.dequantise(*rows, bf16);
            let shape = GemmShape { m: rows.outputs(), n, k: rows.inputs() };
            kernels.base().gemm(shape, bf16, &x.pairs, y);
        });
    });
}

/// What a product adds to the residual stream `x` `[hidden, n]`, each column normalised where there are weights to do so;
/// `product` is scratch space.
fn add_output(
    cores: Cores<'_>,
    columns: &Columns,
    n: usize,
    output: Matrix<'_>,
    (norm, epsilon): (Option<&[f32]>, f32),
    x: &mut [f32],
    product: &mut Vec<f32>,
) {
    let Some(weights) = norm else {
        return add_products(cores, columns, n, &mut [(output, x)]);
    };
    product.clear();
    product.resize(x.len(), 0.0);
    add_products(cores, columns, n, &mut [(output, &mut *product)]);
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

/// Each column of `x` `[hidden, n]`, divided by its root mean square and times the norm's weights.
fn normed(
    cores: Cores<'_>,
    (x, n): (&[f32], usize),
    (weights, epsilon): (&[f32], f32),
    quants: bool,
    columns: &mut Columns,
) {
    columns.fill(cores, (weights.len(), n), quants, |column, panel| {
        cores.kernels.norm_panel(x, n, column, weights, epsilon, panel);
    });
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
