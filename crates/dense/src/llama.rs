//! The llama architecture without its attention: what comes before, between and after the attention calls.

use std::path::Path;

use crate::activations::Activations;
use crate::chunk::ChunkScratch;
use crate::matrix::{Cores, Matrix, WeightType, multiply, quantise_q8_0};
use crate::rope::{Rope, RopeConfig};
use crate::weights_file::{TensorSpan, WeightsError, WeightsFile};

/// So many tokens at most are multiplied vector by vector. More of them, but for the last, whose logits are wanted, make
/// matrix products (`chunk`).
const FEW: usize = 32;

/// The shape of a model, and where its weights are in the file.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
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
    /// Positions.
    pub rope: RopeConfig,
    /// `[vocabulary, hidden]`
    pub embedding: TensorSpan,
    /// `[hidden]`
    pub final_norm: TensorSpan,
    /// `[vocabulary, hidden]`
    pub lm_head: TensorSpan,
    /// Whether an lm_head of 16 or 32 bits is kept in 8 in memory. A step reads all of it, for one token.
    pub lm_head_8_bits: bool,
    /// Weights of each layer.
    pub layers: Vec<LayerSpans>,
}

/// The weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerSpans {
    /// `[hidden]`
    pub attention_norm: TensorSpan,
    /// `[heads * head_dim, hidden]`
    pub query: TensorSpan,
    /// `[kv_heads * head_dim, hidden]`
    pub key: TensorSpan,
    /// `[kv_heads * head_dim, hidden]`
    pub value: TensorSpan,
    /// `[hidden, heads * head_dim]`
    pub attention_output: TensorSpan,
    /// `[hidden]`
    pub mlp_norm: TensorSpan,
    /// `[intermediate, hidden]`
    pub gate: TensorSpan,
    /// `[intermediate, hidden]`
    pub up: TensorSpan,
    /// `[hidden, intermediate]`
    pub down: TensorSpan,
}

/// A model whose weights are mapped. Several sequences may step through it at once.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    file: WeightsFile,
    rope: Rope,
    /// Norms of attention and MLP, a layer after the other, and the final one.
    norms: Vec<Vec<f32>>,
    /// lm_head as Q8_0, if it is not taken from the file.
    lm_head: Option<Vec<u8>>,
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
    /// A product as the kernels leave it, `[outputs, tokens]`.
    product: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Scratch {
    /// The residual stream `[hidden]` of the last token that went through all layers; empty if there was none. From it
    /// [`Llama::logits`] makes that token's logits again.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Takes up a residual stream that another scratch had, or forgets it.
    pub fn set_residual(&mut self, residual: Vec<f32>) {
        self.residual = residual;
    }
}

impl Llama {
    /// Maps the model and checks that every weight is there in its shape.
    ///
    /// # Errors
    /// If the file cannot be mapped, or a tensor is not in it or of another shape than the configuration's.
    pub fn open(path: &Path, config: LlamaConfig) -> Result<Llama, WeightsError> {
        let file = WeightsFile::open(path)?;
        check(&config)?;
        let vector = |span: TensorSpan| Ok::<_, WeightsError>(file.matrix(span)?.row(0));
        let mut norms = Vec::with_capacity(2 * config.layers.len() + 1);
        for layer in &config.layers {
            norms.push(vector(layer.attention_norm)?);
            norms.push(vector(layer.mlp_norm)?);
            let LayerSpans { query, key, value, attention_output, gate, up, down, .. } = *layer;
            for span in [query, key, value, attention_output, gate, up, down] {
                file.matrix(span)?;
            }
        }
        norms.push(vector(config.final_norm)?);
        for span in [config.embedding, config.lm_head] {
            file.matrix(span)?;
        }
        let lm_head = file.matrix(config.lm_head)?;
        let wide = matches!(lm_head.kind(), WeightType::F32 | WeightType::F16 | WeightType::Bf16);
        let lm_head = if config.lm_head_8_bits && wide { quantise_q8_0(lm_head) } else { None };
        Ok(Llama { rope: Rope::new(&config.rope), config, file, norms, lm_head })
    }

    /// Tokens that the model knows.
    pub fn vocabulary(&self) -> usize {
        self.config.embedding.outputs
    }

    /// Layers, query heads, KV heads and elements of a head: what attends must have the same.
    pub fn attention(&self) -> (usize, usize, usize, usize) {
        let LlamaConfig { heads, kv_heads, head_dim, .. } = self.config;
        (self.config.layers.len(), heads, kv_heads, head_dim)
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
        self.forward_few(cores, few, position + many, scratch, logits, attend)
    }

    /// [`Llama::forward`] of a few tokens, with activations of 16 bits.
    fn forward_few<E>(
        &self,
        cores: Cores<'_>,
        tokens: &[u32],
        position: usize,
        scratch: &mut Scratch,
        logits: &mut [f32],
        mut attend: impl FnMut(usize, &[f32], &[f32], &[f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let LlamaConfig { hidden, heads, kv_heads, head_dim, .. } = self.config;
        scratch.x.clear();
        for &token in tokens {
            scratch.x.extend(self.embedding(token));
        }
        let angles: Vec<_> = (position..position + tokens.len()).map(|at| self.rope.angles(at)).collect();

        for (number, layer) in self.config.layers.iter().enumerate() {
            let Scratch { x, normed, activations, product, q, k, v, attended, gate, up, .. } = scratch;
            self.norm(cores, x, 2 * number, normed);
            activations.set(cores.kernels, normed, hidden);
            self.linear(cores, activations, product, [(layer.query, q), (layer.key, k), (layer.value, v)]);
            for ((q, k), angles) in
                q.chunks_exact_mut(heads * head_dim).zip(k.chunks_exact_mut(kv_heads * head_dim)).zip(&angles)
            {
                Rope::rotate(q, head_dim, angles);
                Rope::rotate(k, head_dim, angles);
            }
            attended.resize(q.len(), 0.0);
            attend(number, q, k, v, attended)?;

            activations.set(cores.kernels, attended, heads * head_dim);
            self.linear(cores, activations, product, [(layer.attention_output, normed)]);
            add(x, normed);
            self.norm(cores, x, 2 * number + 1, normed);
            activations.set(cores.kernels, normed, hidden);
            self.linear(cores, activations, product, [(layer.gate, gate), (layer.up, up)]);
            cores.kernels.gate(gate, up);
            activations.set(cores.kernels, gate, self.config.intermediate);
            self.linear(cores, activations, product, [(layer.down, normed)]);
            add(x, normed);
        }

        let last = scratch.x.len() - hidden;
        scratch.residual.clear();
        scratch.residual.extend_from_slice(&scratch.x[last..]);
        self.logits(cores, scratch, logits);
        Ok(())
    }

    /// The logits `[vocabulary]` after the token whose residual stream `scratch` has.
    ///
    /// # Panics
    /// If that is of another model, or `logits` has another length.
    pub fn logits(&self, cores: Cores<'_>, scratch: &mut Scratch, logits: &mut [f32]) {
        let Scratch { residual, normed, activations, .. } = scratch;
        assert_eq!(residual.len(), self.config.hidden, "the residual stream of this model");
        self.norm(cores, residual, 2 * self.config.layers.len(), normed);
        activations.set(cores.kernels, normed, self.config.hidden);
        multiply(cores, activations, &mut [(self.lm_head(), logits)]);
    }

    fn lm_head(&self) -> Matrix<'_> {
        let in_memory = self.lm_head.as_deref();
        let quantised = |bytes| Matrix::new(WeightType::Q8_0, self.config.hidden, bytes);
        in_memory.and_then(quantised).unwrap_or_else(|| self.matrix(self.config.lm_head))
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    pub(crate) fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Weights of a norm: those of attention and MLP, a layer after the other, and the final one's.
    pub(crate) fn norm_weights(&self, number: usize) -> &[f32] {
        &self.norms[number]
    }

    /// The residual stream's beginning for a token.
    pub(crate) fn embedding(&self, token: u32) -> Vec<f32> {
        self.matrix(self.config.embedding).row(token as usize)
    }

    pub(crate) fn matrix(&self, span: TensorSpan) -> Matrix<'_> {
        self.file.matrix(span).expect("checked by open")
    }

    /// Products with the same activations, each `[tokens, outputs]`; `scratch` is for those of several tokens, which the
    /// kernels leave the other way round.
    fn linear<const N: usize>(
        &self,
        cores: Cores<'_>,
        x: &Activations,
        scratch: &mut Vec<f32>,
        products: [(TensorSpan, &mut Vec<f32>); N],
    ) {
        let tokens = x.tokens();
        let mut products = products.map(|(span, out)| {
            out.resize(span.outputs * tokens, 0.0);
            (self.matrix(span), out.as_mut_slice())
        });
        multiply(cores, x, &mut products);
        if tokens == 1 {
            return;
        }
        for (matrix, out) in products {
            scratch.clear();
            scratch.extend_from_slice(out);
            for (token, out) in out.chunks_exact_mut(matrix.outputs()).enumerate() {
                for (out, product) in out.iter_mut().zip(scratch.chunks_exact(tokens)) {
                    *out = product[token];
                }
            }
        }
    }

    /// x / sqrt(mean(x^2) + epsilon) times the norm's weights, for each vector.
    fn norm(&self, cores: Cores<'_>, x: &[f32], number: usize, out: &mut Vec<f32>) {
        let weights = &self.norms[number];
        out.resize(x.len(), 0.0);
        for (x, out) in x.chunks_exact(weights.len()).zip(out.chunks_exact_mut(weights.len())) {
            cores.kernels.norm(x, weights, self.config.norm_epsilon, out);
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Every tensor has the shape that the configuration calls for.
fn check(config: &LlamaConfig) -> Result<(), WeightsError> {
    let LlamaConfig { hidden, intermediate, heads, kv_heads, head_dim, .. } = *config;
    let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
    let mismatch = |what: String| Err(WeightsError::Mismatch(what));
    let expect = |name: &str, span: TensorSpan, outputs: usize, inputs: usize| {
        if (span.outputs, span.inputs) == (outputs, inputs) {
            return Ok(());
        }
        mismatch(format!("{name} is {}x{}, not {outputs}x{inputs}", span.outputs, span.inputs))
    };
    for layer in &config.layers {
        expect("attention_norm", layer.attention_norm, 1, hidden)?;
        expect("query", layer.query, queries, hidden)?;
        expect("key", layer.key, keys, hidden)?;
        expect("value", layer.value, keys, hidden)?;
        expect("attention_output", layer.attention_output, hidden, queries)?;
        expect("mlp_norm", layer.mlp_norm, 1, hidden)?;
        expect("gate", layer.gate, intermediate, hidden)?;
        expect("up", layer.up, intermediate, hidden)?;
        expect("down", layer.down, hidden, intermediate)?;
    }
    let vocabulary = config.embedding.outputs;
    expect("embedding", config.embedding, vocabulary, hidden)?;
    expect("final_norm", config.final_norm, 1, hidden)?;
    expect("lm_head", config.lm_head, vocabulary, hidden)?;
    if !hidden.is_multiple_of(2) || !intermediate.is_multiple_of(2) {
        return mismatch(format!("{hidden} and {intermediate} elements a layer; both must be even"));
    }
    let rotating = config.rope.dimensions;
    if rotating > head_dim || !rotating.is_multiple_of(2) {
        return mismatch(format!("{rotating} of {head_dim} dimensions rotate"));
    }
    Ok(())
}

impl TensorSpan {
    /// A span of a vector or matrix, from the format's name in GGUF.
    pub fn named(
        kind: &str,
        outputs: usize,
        inputs: usize,
        offset: usize,
    ) -> Result<TensorSpan, WeightsError> {
        let known = WeightType::ALL.into_iter().find(|known| known.name() == kind);
        let kind = known.ok_or_else(|| WeightsError::Mismatch(format!("the type {kind} is unknown")))?;
        Ok(TensorSpan { kind, outputs, inputs, offset })
    }
}
