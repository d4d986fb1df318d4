//! How much each query head can move the residual stream.

use crate::config::{LayerConfig, TransformerConfig};
use crate::weights_file::{Weights, WeightsError};

/// Rows of an output projection that are looked at, at most.
const ROWS: usize = 128;

/// The least importance: above 0, for a head that was cut out of a model.
const LEAST: f32 = 0.05;

/// The Frobenius norm of each head's part of its layer's output projection, from some of its rows, relative to the mean of the
/// layer's heads: `[layers, heads]`.
///
/// # Errors
/// If a matrix is not in the files.
pub(crate) fn head_importance(
    weights: &Weights,
    config: &TransformerConfig,
) -> Result<Vec<f32>, WeightsError> {
    let TransformerConfig { heads, head_dim, .. } = *config;
    let mut importance = Vec::with_capacity(config.layers.len() * heads);
    for LayerConfig { attention_output, .. } in &config.layers {
        let matrix = weights.matrix(*attention_output)?;
        let mut squares = vec![0.0f32; heads];
        for row in (0..matrix.outputs()).step_by(matrix.outputs().div_ceil(ROWS)) {
            for (square, part) in squares.iter_mut().zip(matrix.row(row).chunks_exact(head_dim)) {
                *square += part.iter().map(|weight| weight * weight).sum::<f32>();
            }
        }
        let norms = squares.iter().map(|square| square.sqrt());
        let mean = norms.clone().sum::<f32>() / heads as f32;
        importance.extend(norms.map(|norm| if mean > 0.0 { (norm / mean).max(LEAST) } else { 1.0 }));
    }
    Ok(importance)
}
