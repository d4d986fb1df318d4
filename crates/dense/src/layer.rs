//! The vectors of a layer: norms and biases, and what becomes of queries, keys and values before they are attended.

use crate::config::LayerConfig;
use crate::kernels::DenseKernels;
use crate::weights_file::{TensorSpan, Weights, WeightsError};

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
    /// Reads a layer's vectors, and adds `norm_offset` to the weights of its norms.
    pub fn read(
        weights: &Weights,
        layer: &LayerConfig,
        norm_offset: f32,
    ) -> Result<LayerVectors, WeightsError> {
        let bias = |span: TensorSpan| Ok::<_, WeightsError>(weights.matrix(span)?.row(0));
        let norm = |span: TensorSpan| read_norm(weights, span, norm_offset);
        let heads = |of_bias: Option<TensorSpan>, of_norm: Option<TensorSpan>| {
            Ok::<_, WeightsError>(HeadVectors {
                bias: of_bias.map(bias).transpose()?,
                norm: of_norm.map(norm).transpose()?,
            })
        };
        Ok(LayerVectors {
            attention_norm: norm(layer.attention_norm)?,
            attention_post_norm: layer.attention_post_norm.map(norm).transpose()?,
            mlp_norm: norm(layer.mlp_norm)?,
            mlp_post_norm: layer.mlp_post_norm.map(norm).transpose()?,
            query: heads(layer.query_bias, layer.query_norm)?,
            key: heads(layer.key_bias, layer.key_norm)?,
            value: heads(layer.value_bias, None)?,
        })
    }
}

/// What a norm multiplies with: its weights and `offset`.
pub(crate) fn read_norm(weights: &Weights, span: TensorSpan, offset: f32) -> Result<Vec<f32>, WeightsError> {
    let mut norm = weights.matrix(span)?.row(0);
    norm.iter_mut().for_each(|weight| *weight += offset);
    Ok(norm)
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
