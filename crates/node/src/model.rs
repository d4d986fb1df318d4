//! The weights of the dense layers, mapped from the model's file.

use std::path::PathBuf;
use std::sync::Arc;

use engine::{LayerSpans, Llama, LlamaConfig, RopeConfig, TensorSpan};
use napi_derive::napi;

use crate::arguments::integer;
use crate::failure::{Code, Failure, contained};

/// Where a tensor [outputs, inputs] lies in the model's file.
#[napi(object, object_to_js = false)]
pub struct NativeTensor {
    /// GGUF's name of its format.
    #[napi(js_name = "type")]
    pub kind: String,
    /// Rows; 1 for a vector.
    pub outputs: f64,
    /// Elements of a row.
    pub inputs: f64,
    /// Bytes before it in the file.
    pub offset: f64,
}

/// The weights of one layer.
#[napi(object, object_to_js = false)]
pub struct NativeLayer {
    pub attention_norm: NativeTensor,
    pub query: NativeTensor,
    pub key: NativeTensor,
    pub value: NativeTensor,
    pub attention_output: NativeTensor,
    pub mlp_norm: NativeTensor,
    pub gate: NativeTensor,
    pub up: NativeTensor,
    pub down: NativeTensor,
}

/// A model of the llama architecture, its rotary pairs interleaved.
#[napi(object, object_to_js = false)]
pub struct NativeModelOptions {
    /// The model's file, which must not change while the model is used.
    pub path: String,
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
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Leading elements of a head that rotate.
    pub rope_dimensions: f64,
    /// Divisors of the rotary frequencies, one a pair; none for all ones.
    pub rope_factors: Vec<f64>,
    pub embedding: NativeTensor,
    pub final_norm: NativeTensor,
    pub lm_head: NativeTensor,
    /// Keeps an lm_head of 16 or 32 bits in 8 in memory.
    pub lm_head_8_bits: Option<bool>,
    pub layers: Vec<NativeLayer>,
}

/// The dense layers of a model, for the tokens that sessions take through it one by one or a few at a time.
#[napi]
pub struct NativeModel {
    pub(crate) llama: Arc<Llama>,
}

#[napi]
impl NativeModel {
    /// Maps the file and checks that every tensor is in it.
    #[napi(constructor)]
    pub fn new(options: NativeModelOptions) -> napi::Result<Self, Code> {
        let (path, config) = options.config()?;
        let llama = contained(|| Ok(Llama::open(&path, config)?)).flatten()?;
        Ok(NativeModel { llama: Arc::new(llama) })
    }
}

impl NativeModelOptions {
    fn config(self) -> Result<(PathBuf, LlamaConfig), Failure> {
        let size = |name: &str, value: f64| integer(name, value, u32::MAX);
        let config = LlamaConfig {
            hidden: size("hiddenSize", self.hidden_size)?,
            intermediate: size("intermediateSize", self.intermediate_size)?,
            heads: size("heads", self.heads)?,
            kv_heads: size("kvHeads", self.kv_heads)?,
            head_dim: size("headDim", self.head_dim)?,
            norm_epsilon: self.norm_epsilon as f32,
            rope: RopeConfig {
                theta: self.rope_theta,
                dimensions: size("ropeDimensions", self.rope_dimensions)?,
                factors: self.rope_factors.iter().map(|&factor| factor as f32).collect(),
            },
            embedding: self.embedding.span()?,
            final_norm: self.final_norm.span()?,
            lm_head: self.lm_head.span()?,
            lm_head_8_bits: self.lm_head_8_bits.unwrap_or(false),
            layers: self.layers.into_iter().map(NativeLayer::spans).collect::<Result<_, _>>()?,
        };
        Ok((PathBuf::from(self.path), config))
    }
}

impl NativeLayer {
    fn spans(self) -> Result<LayerSpans, Failure> {
        Ok(LayerSpans {
            attention_norm: self.attention_norm.span()?,
            query: self.query.span()?,
            key: self.key.span()?,
            value: self.value.span()?,
            attention_output: self.attention_output.span()?,
            mlp_norm: self.mlp_norm.span()?,
            gate: self.gate.span()?,
            up: self.up.span()?,
            down: self.down.span()?,
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
            offset,
        );
        span.map_err(|error| Failure::from(engine::EngineError::from(error)))
    }
}
