//! The weights of the dense layers, mapped from the model's files.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use engine::{
    GateActivation, LayerConfig, RopeConfig, RopePairs, Rounding, TensorSpan, Transformer, TransformerConfig,
};
use napi::bindgen_prelude::{AsyncTask, ClassInstance};
use napi::{Env, Task};
use napi_derive::napi;

use crate::arguments::integer;
use crate::decode_batch::{BatchLogits, DecodeBatchTask};
use crate::failure::{Code, Failure, contained};
use crate::session::{NativeSession, Written};

/// Where a tensor [outputs, inputs] lies in one of the model's files.
#[napi(object, object_to_js = false)]
pub struct NativeTensor {
    /// GGUF's name of its format.
    #[napi(js_name = "type")]
    pub kind: String,
    /// Rows; 1 for a vector.
    pub outputs: f64,
    /// Elements of a row.
    pub inputs: f64,
    /// Which file.
    pub file: f64,
    /// Bytes before it in the file.
    pub offset: f64,
}

/// How heads of some layers rotate.
#[napi(object, object_to_js = false)]
pub struct NativeRope {
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// Leading elements of a head that rotate.
    pub dimensions: f64,
    /// Whether pairs are neighbours, and not half the dimensions apart.
    pub interleaved: bool,
    /// Divisors of the frequencies, one a pair; none for all ones.
    pub factors: Vec<f64>,
    /// What rotated elements are multiplied with besides.
    pub magnitude: f64,
}

/// One layer: its weights, and those that only some architectures have.
#[napi(object, object_to_js = false)]
pub struct NativeLayer {
    /// Which of the model's ropes turns its heads.
    pub rope: f64,
    pub attention_norm: NativeTensor,
    pub query: NativeTensor,
    pub query_bias: Option<NativeTensor>,
    pub query_norm: Option<NativeTensor>,
    pub key: NativeTensor,
    pub key_bias: Option<NativeTensor>,
    pub key_norm: Option<NativeTensor>,
    pub value: NativeTensor,
    pub value_bias: Option<NativeTensor>,
    pub attention_output: NativeTensor,
    pub attention_post_norm: Option<NativeTensor>,
    pub mlp_norm: NativeTensor,
    pub gate: NativeTensor,
    pub up: NativeTensor,
    pub down: NativeTensor,
    pub mlp_post_norm: Option<NativeTensor>,
}

/// A model's dense layers.
#[napi(object, object_to_js = false)]
pub struct NativeModelOptions {
    /// The model's files, which must not change while the model is used.
    pub files: Vec<String>,
    /// Elements of the residual stream.
    pub hidden_size: f64,
    /// Elements inside the MLP.
    pub intermediate_size: f64,
    /// Query heads of a layer.
    pub heads: f64,
    /// KV heads of a layer.
    pub kv_heads: f64,
    /// Elements of a head.
    pub head_dim: f64,
    /// Added to the mean square before its root.
    pub norm_epsilon: f64,
    /// Added to the weights of every norm.
    pub norm_offset: f64,
    /// What the gate of the MLP goes through; `gelu` is its approximation with a tanh.
    #[napi(ts_type = "'silu' | 'gelu'")]
    pub activation: String,
    /// What embeddings are multiplied with.
    pub embedding_scale: f64,
    /// What rotated queries are multiplied with, besides the 1/sqrt(headDim) of attention.
    pub query_scale: f64,
    /// Caps logits softly: l becomes cap tanh(l / cap).
    pub logit_cap: Option<f64>,
    /// Kinds of positions, of which each layer has one.
    pub ropes: Vec<NativeRope>,
    pub embedding: NativeTensor,
    pub final_norm: NativeTensor,
    pub lm_head: NativeTensor,
    /// Keeps an lm_head of 16 or 32 bits in 8 in memory.
    pub lm_head_8_bits: Option<bool>,
    /// Bits that matrices of 16 or 32 are kept in, in memory: 8 or 4, and in 4 the lm_head still in 8. None leaves them in the files.
    pub bits: Option<f64>,
    /// Whether to pack weights for steps here. Default true; a device that has the dense layers makes that a waste.
    pub packing: Option<bool>,
    /// Threads that round and pack them.
    pub threads: f64,
    pub layers: Vec<NativeLayer>,
}

/// The dense layers of a model, for the tokens that sessions take through it one by one or a few at a time.
#[napi]
pub struct NativeModel {
    pub(crate) transformer: Arc<Transformer>,
    batch_logits: BatchLogits,
}

#[napi]
impl NativeModel {
    /// Maps the files and checks that every tensor is in them. Rounding and packing weights blocks the thread; `load` does not.
    #[napi(constructor)]
    pub fn new(options: NativeModelOptions) -> napi::Result<Self, Code> {
        Ok(NativeModel::from(options.opening()?.open()?))
    }

    /// The same in the background.
    #[napi(ts_return_type = "Promise<NativeModel>")]
    pub fn load(options: NativeModelOptions) -> AsyncTask<LoadTask> {
        AsyncTask::new(LoadTask(options.opening()))
    }

    /// How much the output of each query head moves the residual stream, relative to the other heads of its layer, [layers, heads]: what a
    /// session takes as `importance`.
    #[napi]
    pub fn head_importance(&self) -> Vec<f64> {
        self.transformer.head_importance().iter().copied().map(f64::from).collect()
    }

    /// Takes one token of each session through the model, attended under the session's policy; resolves with what each of them got. Each
    /// fails by itself, also where it is busy or was disposed of. `tokens` has one for each session. Logits are read by `batchLogits`, before
    /// anything else happens.
    #[napi]
    pub fn decode_batch(
        &self,
        sessions: Vec<ClassInstance<'_, NativeSession>>,
        tokens: &[u32],
    ) -> napi::Result<AsyncTask<DecodeBatchTask>, Code> {
        if sessions.is_empty() || sessions.len() != tokens.len() {
            let message = format!(
                "{} sessions and {} tokens; there must be one of each at least",
                sessions.len(),
                tokens.len()
            );
            return Err(Failure::invalid(message).into());
        }
        let rows = sessions.iter().zip(tokens).map(|(session, &token)| (session.claim(), token)).collect();
        let (transformer, logits) = (Arc::clone(&self.transformer), Arc::clone(&self.batch_logits));
        Ok(AsyncTask::new(DecodeBatchTask { transformer, rows, logits }))
    }

    /// Writes a row of the logits [rows, vocabulary] that the batch which was done last has made.
    #[napi]
    pub fn batch_logits(
        &self,
        row: u32,
        #[napi(ts_arg_type = "Float32Array")] logits: Written<'_>,
    ) -> napi::Result<(), Code> {
        let vocabulary = self.transformer.vocabulary();
        let batch = self.batch_logits.lock().unwrap_or_else(PoisonError::into_inner);
        match batch.chunks_exact(vocabulary).nth(row as usize) {
            Some(row) if logits.len() == vocabulary => logits.copy_from_slice(row),
            _ => {
                let message = format!("row {row} of {} logits, into {}", batch.len(), logits.len());
                return Err(Failure::invalid(message).into());
            }
        }
        Ok(())
    }
}

impl From<Transformer> for NativeModel {
    fn from(transformer: Transformer) -> NativeModel {
        NativeModel { transformer: Arc::new(transformer), batch_logits: BatchLogits::default() }
    }
}

/// A model that is to be opened.
pub struct Opening {
    paths: Vec<PathBuf>,
    config: TransformerConfig,
    threads: usize,
}

impl Opening {
    fn open(&self) -> Result<Transformer, Failure> {
        contained(|| Ok(Transformer::open(&self.paths, self.config.clone(), self.threads)?)).flatten()
    }
}

/// What is to be opened, or what stood in its way.
pub struct LoadTask(Result<Opening, Failure>);

#[napi]
impl Task for LoadTask {
    type Output = Result<Transformer, Failure>;
    type JsValue = NativeModel;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.0.as_ref().map_err(Failure::clone).and_then(Opening::open))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map(NativeModel::from).map_err(|failure| failure.into_rejection(env))
    }
}

impl NativeModelOptions {
    fn opening(self) -> Result<Opening, Failure> {
        let size = |name: &str, value: f64| integer(name, value, u32::MAX);
        let config = TransformerConfig {
            hidden: size("hiddenSize", self.hidden_size)?,
            intermediate: size("intermediateSize", self.intermediate_size)?,
            heads: size("heads", self.heads)?,
            kv_heads: size("kvHeads", self.kv_heads)?,
            head_dim: size("headDim", self.head_dim)?,
            norm_epsilon: self.norm_epsilon as f32,
            norm_offset: self.norm_offset as f32,
            activation: match self.activation.as_str() {
                "silu" => GateActivation::Silu,
                "gelu" => GateActivation::Gelu,
                other => return Err(Failure::invalid(format!("activation {other} is none of silu, gelu"))),
            },
            embedding_scale: self.embedding_scale as f32,
            query_scale: self.query_scale as f32,
            logit_cap: self.logit_cap.map(|cap| cap as f32),
            ropes: self.ropes.into_iter().map(NativeRope::config).collect::<Result<_, _>>()?,
            embedding: self.embedding.span()?,
            final_norm: self.final_norm.span()?,
            lm_head: self.lm_head.span()?,
            lm_head_8_bits: self.lm_head_8_bits.unwrap_or(false),
            packing: self.packing.unwrap_or(true),
            rounding: match self.bits {
                None => Rounding::None,
                Some(8.0) => Rounding::Eight,
                Some(4.0) => Rounding::Four,
                Some(other) => return Err(Failure::invalid(format!("bits is {other}; it must be 8 or 4"))),
            },
            layers: self.layers.into_iter().map(NativeLayer::config).collect::<Result<_, _>>()?,
        };
        let paths = self.files.into_iter().map(PathBuf::from).collect();
        Ok(Opening { paths, config, threads: integer("threads", self.threads, 1024)?.max(1) })
    }
}

impl NativeRope {
    fn config(self) -> Result<RopeConfig, Failure> {
        Ok(RopeConfig {
            theta: self.theta,
            dimensions: integer("dimensions", self.dimensions, u32::MAX)?,
            pairs: if self.interleaved { RopePairs::Interleaved } else { RopePairs::Halves },
            factors: self.factors,
            magnitude: self.magnitude,
        })
    }
}

impl NativeLayer {
    fn config(self) -> Result<LayerConfig, Failure> {
        let optional = |tensor: Option<NativeTensor>| tensor.map(NativeTensor::span).transpose();
        Ok(LayerConfig {
            rope: integer("rope", self.rope, u32::MAX)?,
            attention_norm: self.attention_norm.span()?,
            query: self.query.span()?,
            query_bias: optional(self.query_bias)?,
            query_norm: optional(self.query_norm)?,
            key: self.key.span()?,
            key_bias: optional(self.key_bias)?,
            key_norm: optional(self.key_norm)?,
            value: self.value.span()?,
            value_bias: optional(self.value_bias)?,
            attention_output: self.attention_output.span()?,
            attention_post_norm: optional(self.attention_post_norm)?,
            mlp_norm: self.mlp_norm.span()?,
            gate: self.gate.span()?,
            up: self.up.span()?,
            down: self.down.span()?,
            mlp_post_norm: optional(self.mlp_post_norm)?,
        })
    }
}

impl NativeTensor {
    fn span(self) -> Result<TensorSpan, Failure> {
        let size = |name: &str, value: f64| integer(name, value, u32::MAX);
        // Files are larger than 4 GiB; doubles hold offsets up to 2^53 exactly.
        let offset = self.offset as usize;
        if offset as f64 != self.offset {
            return Err(Failure::invalid(format!("offset {} is no number of bytes", self.offset)));
        }
        let span = TensorSpan::named(
            &self.kind,
            size("outputs", self.outputs)?,
            size("inputs", self.inputs)?,
            (size("file", self.file)?, offset),
        );
        span.map_err(|error| Failure::from(engine::EngineError::from(error)))
    }
}
