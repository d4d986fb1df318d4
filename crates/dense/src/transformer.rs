//! A decoder without its attention: what comes before, between and after the attention calls.

use std::path::PathBuf;

use lsh_attn::kernels::Kernels;
use lsh_attn::soft_cap::soft_cap;
use rayon::ThreadPoolBuilder;

use crate::activations::Activations;
use crate::chunk::ChunkScratch;
use crate::config::TransformerConfig;
use crate::importance::head_importance;
use crate::kernels::DenseKernels;
use crate::layer::{LayerVectors, read_norm};
use crate::matrix::{Cores, Matrix, WeightType, multiply};
use crate::packed::pack_weights;
use crate::quantise::round_weights;
use crate::rope::Rope;
use crate::weights_file::{TensorSpan, Weights, WeightsError};

/// So many tokens at most are multiplied vector by vector. More of them, but for the last, whose logits are wanted, make
/// matrix products (`chunk`).
const FEW: usize = 32;

/// A model whose weights are mapped. Several sequences may step through it at once.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    weights: Weights,
    ropes: Vec<Rope>,
    layers: Vec<LayerVectors>,
    final_norm: Vec<f32>,
    head_importance: Vec<f32>,
}

/// What a step works with, kept between steps.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) chunk: ChunkScratch,
    x: Vec<f32>,
    /// The residual stream of the last token, after all layers.
    residual: Vec<f32>,
    normed: Vec<f32>,
    activations: Activations,
    /// For norms of what is added.
    added: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Scratch {
    /// The residual stream `[hidden]` of the last token that went through all layers; empty if there was none. From it
    /// [`Transformer::logits`] makes that token's logits again.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Takes up a residual stream that another scratch had, or forgets it.
    pub fn set_residual(&mut self, residual: Vec<f32>) {
        self.residual = residual;
    }
}

impl Transformer {
    /// Maps the model's files and checks that every weight is there in its shape; then, on `threads` threads, rounds weights, if
    /// the configuration asks for it, and packs those of blocks, if it allows that.
    ///
    /// # Errors
    /// If a file cannot be mapped, a tensor is not in it or of another shape than the configuration's, or there are no
    /// kernels, threads or memory for what becomes of weights.
    pub fn open(
        paths: &[PathBuf],
        mut config: TransformerConfig,
        threads: usize,
    ) -> Result<Transformer, WeightsError> {
        let mut weights = Weights::open(paths)?;
        config.check()?;
        for span in config.matrices_mut() {
            weights.matrix(*span)?;
        }
        let vectors = |layer| LayerVectors::read(&weights, layer, config.norm_offset);
        let layers = config.layers.iter().map(vectors).collect::<Result<_, _>>()?;
        let final_norm = read_norm(&weights, config.final_norm, config.norm_offset)?;
        for span in [config.embedding, config.lm_head] {
            weights.matrix(span)?;
        }
        let head_importance = head_importance(&weights, &config)?;
        let kernels = Kernels::detect()?.into();
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        round_weights(&pool, kernels, &mut weights, &mut config)?;
        if config.packing {
            pack_weights(&pool, &mut weights, &mut config)?;
        }
        let ropes = config.ropes.iter().map(Rope::new).collect();
        Ok(Transformer { config, weights, ropes, layers, final_norm, head_importance })
    }

    /// Tokens that the model knows.
    pub fn vocabulary(&self) -> usize {
        self.config.embedding.outputs
    }

    /// Layers, query heads, KV heads and elements of a head: what attends must have the same.
    pub fn attention(&self) -> (usize, usize, usize, usize) {
        let TransformerConfig { heads, kv_heads, head_dim, .. } = self.config;
        (self.config.layers.len(), heads, kv_heads, head_dim)
    }

    /// How much the output of each query head moves the residual stream, `[layers, heads]`, relative to the mean of its layer.
    pub fn head_importance(&self) -> &[f32] {
        &self.head_importance
    }

    /// Takes tokens at consecutive positions from `position` on through all layers, and writes the logits
    /// `[vocabulary]` after the last one. `attend(layer, q, k, v, out)` attends a layer: `q` and `out` are `[tokens, heads * head_dim]`, `k`
    /// and `v` `[tokens, kv_heads * head_dim]`, q and k rotated.
    ///
    /// # Errors
    /// What `attend` says.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, there is none, or `logits` has another length.
    pub fn forward<E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        position: usize,
        scratch: &mut Scratch,
        logits: &mut [f32],
        mut attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(!tokens.is_empty() && logits.len() == self.vocabulary());
        let many = if tokens.len() > FEW { tokens.len() - 1 } else { 0 };
        let (chunk, few) = tokens.split_at(many);
        if many > 0 {
            self.forward_chunk(cores, chunk, position, &mut scratch.chunk, &mut attend)?;
        }
        let positions: Vec<usize> = (position + many..position + tokens.len()).collect();
        self.layers(cores, few, &positions, scratch, attend)?;
        let last = scratch.x.len() - self.config.hidden;
        scratch.residual.clear();
        scratch.residual.extend_from_slice(&scratch.x[last..]);
        self.logits(cores, scratch, logits);
        Ok(())
    }

    /// Takes tokens of the middle of a long text through all layers, as [`Transformer::forward`] takes all but the last of many. What a token gets
    /// does not depend on which others it is read with.
    ///
    /// # Errors
    /// What `attend` says.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, or there is none.
    pub fn read<E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        position: usize,
        scratch: &mut Scratch,
        attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(!tokens.is_empty());
        scratch.residual.clear();
        self.forward_chunk(cores, tokens, position, &mut scratch.chunk, attend)
    }

    /// Takes one token of each of several texts through all layers, at positions of their own, and writes the logits
    /// `[texts, vocabulary]` after each; returns the residual streams `[texts, hidden]`, of which each text's scratch may take its
    /// own. `attend` as in [`Transformer::forward`], each token in its own text. A text's logits are the same to the bit as
    /// [`Transformer::forward`]'s of it alone.
    ///
    /// # Errors
    /// What `attend` says.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, there is none, or `positions` or `logits` has another length.
    pub fn forward_batch<'a, E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        positions: &[usize],
        scratch: &'a mut Scratch,
        logits: &mut [f32],
        attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<std::slice::ChunksExact<'a, f32>, E> {
        assert!(!tokens.is_empty() && positions.len() == tokens.len());
        assert_eq!(logits.len(), tokens.len() * self.vocabulary());
        self.layers(cores, tokens, positions, scratch, attend)?;
        let Scratch { x, normed, activations, .. } = scratch;
        self.head(cores, x, normed, activations, logits);
        Ok(x.chunks_exact(self.config.hidden))
    }

    /// Takes a few tokens through all layers with activations of 16 bits; their residual streams are then in `scratch.x`.
    fn layers<E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        positions: &[usize],
        scratch: &mut Scratch,
        mut attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let TransformerConfig { hidden, heads, head_dim, .. } = self.config;
        scratch.x.clear();
        for &token in tokens {
            scratch.x.extend(self.embedding(token));
        }
        let angles = self.angles(positions);

        for (number, (layer, vectors)) in self.config.layers.iter().zip(&self.layers).enumerate() {
            let Scratch { x, normed, activations, added, q, k, v, attended, gate, up, .. } = scratch;
            self.norm(cores, x, &vectors.attention_norm, normed);
            activations.set(cores, normed, hidden);
            self.linear(cores, activations, [(layer.query, q), (layer.key, k), (layer.value, v)]);
            self.finish_heads(cores.kernels, number, &angles[layer.rope], (q, k, v));
            attended.resize(q.len(), 0.0);
            attend(number, q, k, v, attended)?;

            activations.set(cores, attended, heads * head_dim);
            self.linear(cores, activations, [(layer.attention_output, normed)]);
            self.add(cores, x, normed, vectors.attention_post_norm.as_deref(), added);
            self.norm(cores, x, &vectors.mlp_norm, normed);
            activations.set(cores, normed, hidden);
            self.linear(cores, activations, [(layer.gate, gate), (layer.up, up)]);
            cores.kernels.gate(self.config.activation, gate, up);
            activations.set(cores, gate, self.config.intermediate);
            self.linear(cores, activations, [(layer.down, normed)]);
            self.add(cores, x, normed, vectors.mlp_post_norm.as_deref(), added);
        }
        Ok(())
    }

    /// The logits `[vocabulary]` after the token whose residual stream `scratch` has.
    ///
    /// # Panics
    /// If that is of another model, or `logits` has another length.
    pub fn logits(&self, cores: Cores<'_>, scratch: &mut Scratch, logits: &mut [f32]) {
        let Scratch { residual, normed, activations, .. } = scratch;
        assert_eq!(residual.len(), self.config.hidden, "the residual stream of this model");
        self.head(cores, residual, normed, activations, logits);
    }

    /// Logits `[tokens, vocabulary]` of residual streams `[tokens, hidden]`; `normed` and `activations` are scratch space.
    fn head(
        &self,
        cores: Cores<'_>,
        residual: &[f32],
        normed: &mut Vec<f32>,
        activations: &mut Activations,
        logits: &mut [f32],
    ) {
        self.norm(cores, residual, &self.final_norm, normed);
        activations.set(cores, normed, self.config.hidden);
        multiply(cores, activations, &mut [(self.matrix(self.config.lm_head), &mut *logits)]);
        if let Some(cap) = self.config.logit_cap {
            soft_cap(cores.kernels.base(), cap, logits);
        }
    }

    pub(crate) fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Norms and biases of a layer.
    pub(crate) fn vectors(&self, layer: usize) -> &LayerVectors {
        &self.layers[layer]
    }

    /// The residual stream's beginning for a token.
    pub(crate) fn embedding(&self, token: u32) -> Vec<f32> {
        let mut row = self.matrix(self.config.embedding).row(token as usize);
        row.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
        row
    }

    /// Angles of positions, by each of the ropes: `[ropes][positions][pairs]`.
    pub(crate) fn angles(&self, positions: &[usize]) -> Vec<Vec<Vec<(f32, f32)>>> {
        let of = |rope: &Rope| positions.iter().map(|&at| rope.angles(at)).collect();
        self.ropes.iter().map(of).collect()
    }

    /// Makes of a layer's products what attention takes: `q` `[tokens, heads * head_dim]`, `k` and `v`
    /// `[tokens, kv_heads * head_dim]`, with biases and norms, q and k rotated by the tokens' angles.
    pub(crate) fn finish_heads(
        &self,
        kernels: DenseKernels,
        layer: usize,
        angles: &[Vec<(f32, f32)>],
        (q, k, v): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let TransformerConfig { heads, kv_heads, head_dim, norm_epsilon, query_scale, .. } = self.config;
        let LayerVectors { query, key, value, .. } = &self.layers[layer];
        query.apply(kernels, q, norm_epsilon);
        key.apply(kernels, k, norm_epsilon);
        value.apply(kernels, v, norm_epsilon);
        let rope = &self.ropes[self.config.layers[layer].rope];
        for ((q, k), angles) in
            q.chunks_exact_mut(heads * head_dim).zip(k.chunks_exact_mut(kv_heads * head_dim)).zip(angles)
        {
            rope.rotate(q, head_dim, angles);
            rope.rotate(k, head_dim, angles);
        }
        if query_scale != 1.0 {
            q.iter_mut().for_each(|q| *q *= query_scale);
        }
    }

    pub(crate) fn matrix(&self, span: TensorSpan) -> Matrix<'_> {
        self.weights.matrix(span).expect("checked by open")
    }

    /// Products with the same activations, each `[tokens, outputs]`.
    fn linear<const N: usize>(
        &self,
        cores: Cores<'_>,
        x: &Activations,
        products: [(TensorSpan, &mut Vec<f32>); N],
    ) {
        let mut products = products.map(|(span, out)| {
            out.resize(span.outputs * x.tokens(), 0.0);
            (self.matrix(span), out.as_mut_slice())
        });
        multiply(cores, x, &mut products);
    }

    /// Adds `y`, normalised where there are weights to do so, to the residual stream; `normed` is scratch space.
    fn add(
        &self,
        cores: Cores<'_>,
        x: &mut [f32],
        y: &[f32],
        weights: Option<&[f32]>,
        normed: &mut Vec<f32>,
    ) {
        let y = match weights {
            Some(weights) => {
                self.norm(cores, y, weights, normed);
                normed
            }
            None => y,
        };
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }

    /// x / sqrt(mean(x^2) + epsilon) times the norm's weights, for each vector.
    fn norm(&self, cores: Cores<'_>, x: &[f32], weights: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        for (x, out) in x.chunks_exact(weights.len()).zip(out.chunks_exact_mut(weights.len())) {
            cores.kernels.norm(x, weights, self.config.norm_epsilon, out);
        }
    }
}

impl TensorSpan {
    /// A span of a vector or matrix, from the format's name in GGUF.
    pub fn named(
        kind: &str,
        outputs: usize,
        inputs: usize,
        (file, offset): (usize, usize),
    ) -> Result<TensorSpan, WeightsError> {
        let kind = WeightType::named(kind)
            .ok_or_else(|| WeightsError::Mismatch(format!("the type {kind} is unknown")))?;
        Ok(TensorSpan { kind, outputs, inputs, file, offset, packed: false })
    }
}
