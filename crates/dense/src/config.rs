//! What a model is: its shape, what its layers do besides products and attention, and where its weights are.

use crate::kernels::GateActivation;
use crate::quantise::Rounding;
use crate::rope::RopeConfig;
use crate::weights_file::{TensorSpan, WeightsError};

/// The shape of a model, and where its weights are in its files.
#[derive(Clone, Debug)]
pub struct TransformerConfig {
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Elements inside the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Added to the mean square before its root.
    pub norm_epsilon: f32,
    /// Added to the weights of every norm.
    pub norm_offset: f32,
    /// What the gate of the MLP goes through.
    pub activation: GateActivation,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What rotated queries are multiplied with, besides the 1/sqrt(head_dim) of attention.
    pub query_scale: f32,
    /// A logit l becomes cap tanh(l / cap).
    pub logit_cap: Option<f32>,
    /// Kinds of positions, of which each layer has one.
    pub ropes: Vec<RopeConfig>,
    /// `[vocabulary, hidden]`
    pub embedding: TensorSpan,
    /// `[hidden]`
    pub final_norm: TensorSpan,
    /// `[vocabulary, hidden]`
    pub lm_head: TensorSpan,
    /// Whether an lm_head of 16 or 32 bits is kept in 8 in memory. A step reads all of it, for one token.
    pub lm_head_8_bits: bool,
    /// Whether weights may be packed for the kernels here, which takes memory of its own: not so where a device has the dense layers.
    pub packing: bool,
    /// What becomes of matrices of 16 and 32 bits.
    pub rounding: Rounding,
    /// The layers.
    pub layers: Vec<LayerConfig>,
}

/// One layer: its weights, and those that only some architectures have.
#[derive(Clone, Copy, Debug)]
pub struct LayerConfig {
    /// Which of the model's ropes turns its heads.
    pub rope: usize,
    /// `[hidden]`
    pub attention_norm: TensorSpan,
    /// `[heads * head_dim, hidden]`
    pub query: TensorSpan,
    /// `[heads * head_dim]`
    pub query_bias: Option<TensorSpan>,
    /// Of each head of queries before it rotates: `[head_dim]`
    pub query_norm: Option<TensorSpan>,
    /// `[kv_heads * head_dim, hidden]`
    pub key: TensorSpan,
    /// `[kv_heads * head_dim]`
    pub key_bias: Option<TensorSpan>,
    /// Likewise of keys.
    pub key_norm: Option<TensorSpan>,
    /// `[kv_heads * head_dim, hidden]`
    pub value: TensorSpan,
    /// `[kv_heads * head_dim]`
    pub value_bias: Option<TensorSpan>,
    /// `[hidden, heads * head_dim]`
    pub attention_output: TensorSpan,
    /// Of what attention adds to the residual stream: `[hidden]`
    pub attention_post_norm: Option<TensorSpan>,
    /// `[hidden]`
    pub mlp_norm: TensorSpan,
    /// `[intermediate, hidden]`
    pub gate: TensorSpan,
    /// `[intermediate, hidden]`
    pub up: TensorSpan,
    /// `[hidden, intermediate]`
    pub down: TensorSpan,
    /// Of what the MLP adds: `[hidden]`
    pub mlp_post_norm: Option<TensorSpan>,
}

impl TransformerConfig {
    /// What activations are multiplied with in all layers.
    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut TensorSpan> {
        self.layers.iter_mut().flat_map(|layer| {
            let LayerConfig { query, key, value, attention_output, gate, up, down, .. } = layer;
            [query, key, value, attention_output, gate, up, down]
        })
    }

    /// Every tensor has the shape that the configuration calls for.
    pub(crate) fn check(&self) -> Result<(), WeightsError> {
        let TransformerConfig { hidden, intermediate, heads, kv_heads, head_dim, .. } = *self;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let mismatch = |what: String| Err(WeightsError::Mismatch(what));
        let expect = |name: &str, span: TensorSpan, outputs: usize, inputs: usize| {
            if (span.outputs, span.inputs) == (outputs, inputs) {
                return Ok(());
            }
            mismatch(format!("{name} is {}x{}, not {outputs}x{inputs}", span.outputs, span.inputs))
        };
        for layer in &self.layers {
            for (name, vector, size) in [
                ("attention_norm", Some(layer.attention_norm), hidden),
                ("mlp_norm", Some(layer.mlp_norm), hidden),
                ("attention_post_norm", layer.attention_post_norm, hidden),
                ("mlp_post_norm", layer.mlp_post_norm, hidden),
                ("query_norm", layer.query_norm, head_dim),
                ("key_norm", layer.key_norm, head_dim),
                ("query_bias", layer.query_bias, queries),
                ("key_bias", layer.key_bias, keys),
                ("value_bias", layer.value_bias, keys),
            ] {
                vector.map_or(Ok(()), |vector| expect(name, vector, 1, size))?;
            }
            expect("query", layer.query, queries, hidden)?;
            expect("key", layer.key, keys, hidden)?;
            expect("value", layer.value, keys, hidden)?;
            expect("attention_output", layer.attention_output, hidden, queries)?;
            expect("gate", layer.gate, intermediate, hidden)?;
            expect("up", layer.up, intermediate, hidden)?;
            expect("down", layer.down, hidden, intermediate)?;
            if layer.rope >= self.ropes.len() {
                return mismatch(format!("rope {} of {}", layer.rope, self.ropes.len()));
            }
        }
        let vocabulary = self.embedding.outputs;
        expect("embedding", self.embedding, vocabulary, hidden)?;
        expect("final_norm", self.final_norm, 1, hidden)?;
        expect("lm_head", self.lm_head, vocabulary, hidden)?;
        if self.layers.is_empty() || !hidden.is_multiple_of(2) || !intermediate.is_multiple_of(2) {
            return mismatch(format!("{hidden} and {intermediate} elements a layer; both must be even"));
        }
        for rope in &self.ropes {
            let rotating = rope.dimensions;
            if rotating > head_dim || !rotating.is_multiple_of(2) {
                return mismatch(format!("{rotating} of {head_dim} dimensions rotate"));
            }
        }
        Ok(())
    }
}
