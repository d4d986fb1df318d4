//! The vectors of a layer: norms and biases, and what becomes of queries, keys and values before they are attended.

use crate::config::LayerConfig;
use crate::kernels::DenseKernels;
use crate::weights_file::{TensorSpan, WeightsError, WeightsFile};

/// Norms and biases in f32, read from the file once.
#[derive(Debug)]
pub(crate) struct LayerVectors {
    pub attention_norm: Vec<f32>,
    pub attention_post_norm: Option<Vec<f32>>,
    pub mlp_norm: Vec<f32>,
    pub mlp_post_norm: Option<Vec<f32>>,
    pub query: HeadVectors,
    pub key: HeadVectors,
    pub value: HeadVectors,
}

/// What is done to heads between their product and the rotation.
#[derive(Debug, Default)]
pub(crate) struct HeadVectors {
    bias: Option<Vec<f32>>,
    norm: Option<Vec<f32>>,
}

impl LayerVectors {
    pub fn read(file: &WeightsFile, layer: &LayerConfig) -> Result<LayerVectors, WeightsError> {
        let vector = |span: TensorSpan| Ok::<_, WeightsError>(file.matrix(span)?.row(0));
        let optional = |span: Option<TensorSpan>| span.map(vector).transpose();
        let heads = |bias, norm| Ok(HeadVectors { bias: optional(bias)?, norm: optional(norm)? });
        Ok(LayerVectors {
            attention_norm: vector(layer.attention_norm)?,
            attention_post_norm: optional(layer.attention_post_norm)?,
            mlp_norm: vector(layer.mlp_norm)?,
            mlp_post_norm: optional(layer.mlp_post_norm)?,
            query: heads(layer.query_bias, layer.query_norm)?,
            key: heads(layer.key_bias, layer.key_norm)?,
            value: heads(layer.value_bias, None)?,
        })
    }
}

impl HeadVectors {
    /// Adds the bias to `heads` `[tokens, width]`, then normalises each head.
    pub fn apply(&self, kernels: DenseKernels, heads: &mut [f32], epsilon: f32) {
        if let Some(bias) = &self.bias {
            for token in heads.chunks_exact_mut(bias.len()) {
                token.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        }
        if let Some(norm) = &self.norm {
            let mut normed = vec![0.0; norm.len()];
            for head in heads.chunks_exact_mut(norm.len()) {
                kernels.norm(head, norm, epsilon, &mut normed);
                head.copy_from_slice(&normed);
            }
        }
    }
}
