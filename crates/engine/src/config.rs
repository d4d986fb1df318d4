//! What a session is made of: the model's shape, the policy, threads and place.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use lsh_attn::HEAD_DIMS;
use lsh_attn::rows::RowType;
use lsh_attn::sketch::SKETCH_BITS;

use crate::EngineError;
use crate::storage::Layout;

/// Tokens at the start of a text that are always attended: models park attention there (Xiao et al. 2023).
pub const SINKS: usize = 4;
/// Newest tokens that are always attended.
pub const WINDOW: usize = 64;

/// Accepted bits of a hash table: at 16 a code still fits into 16 bits.
const LSH_K: RangeInclusive<usize> = 1..=16;
/// Accepted numbers of hash tables: a key must be able to collide twice.
const LSH_L: RangeInclusive<usize> = 2..=1000;

/// The attention shape of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Transformer layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// KV heads of a layer; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Elements of a head: 64, 80, 96, 112, 128 or 256.
    pub head_dim: usize,
}

impl Shape {
    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of a token's queries in one layer.
    pub fn q_len(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of a token's keys, and of its values, in one layer.
    pub fn kv_len(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let Shape { layers, heads, kv_heads, head_dim } = *self;
        if layers == 0 || kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(EngineError::Invalid(format!(
                "{layers} layers, {heads} heads, {kv_heads} KV heads: none may be 0, and KV heads must divide heads"
            )));
        }
        if !HEAD_DIMS.contains(&head_dim) {
            return Err(EngineError::Invalid(format!("head dimension {head_dim} is none of {HEAD_DIMS:?}")));
        }
        Ok(())
    }
}

/// What a model's attention is besides its shape: where it is not the softmax of all scaled products, and which heads matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Of each layer how many of the newest tokens a token attends, its own among them: such a layer is local, always attended
    /// exactly, and keeps no index. None, as for layers that are not listed, is all tokens.
    pub windows: Vec<Option<usize>>,
    /// A score s becomes cap tanh(s / cap).
    pub score_cap: Option<f32>,
    /// How much the output of each query head moves what comes after it, relative to the other heads of its layer,
    /// `[layers, heads]`: under a budget `sketch` draws more for one that moves more. None for all the same.
    pub importance: Vec<f32>,
}

impl Attention {
    /// Whether a layer attends a window alone.
    pub fn is_local(&self, layer: usize) -> bool {
        self.windows.get(layer).is_some_and(Option::is_some)
    }

    /// How many of the newest tokens a layer attends at most.
    pub(crate) fn window(&self, layer: usize) -> usize {
        self.windows.get(layer).copied().flatten().unwrap_or(usize::MAX)
    }

    /// The importance of a layer's query heads; empty where all have the same.
    pub(crate) fn importance(&self, layer: usize, heads: usize) -> &[f32] {
        self.importance.chunks(heads).nth(layer).unwrap_or_default()
    }

    fn check(&self, Shape { layers, heads, .. }: Shape) -> Result<(), EngineError> {
        let Attention { windows, score_cap, importance } = self;
        let usable = |&importance: &f32| importance > 0.0 && importance.is_finite();
        if !(importance.is_empty() || importance.len() == layers * heads) || !importance.iter().all(usable) {
            return Err(EngineError::Invalid(format!(
                "the importance of {} heads, of {}; each must be above 0",
                importance.len(),
                layers * heads
            )));
        }
        if windows.len() > layers || windows.contains(&Some(0)) {
            return Err(EngineError::Invalid(format!(
                "windows of {} layers, of {layers}; none may be of 0 tokens",
                windows.len()
            )));
        }
        match *score_cap {
            Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
                Err(EngineError::Invalid(format!("scores capped at {cap}; it must be above 0")))
            }
            _ => Ok(()),
        }
    }
}

/// Which keys a decoding step reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// All of them.
    Exact,
    /// The static set, and the keys that collide with the query in at least two of `l` tables of `k` bits.
    Lsh {
        /// Bits a table, 1 to 16.
        k: usize,
        /// Tables, 2 to 1000.
        l: usize,
    },
    /// The static set, and keys drawn by estimates from low-bit codes of all of them.
    Sketch {
        /// Bits an element of a key's code: 1, 2, 4 or 8.
        bits: u32,
        /// How many of the indexed keys a step draws.
        budget: Budget,
        /// Whether values have codes too, of 4 bits at most, from which a step takes what they say of all keys; the drawn rows then
        /// correct it. More codes to scan, for the same error with a fraction of the rows.
        residual: bool,
    },
    /// The static set of `sketch`, and keys chosen by a rule to compare with.
    Compare {
        /// What chooses them.
        rule: Rule,
        /// How many of the indexed keys each query head uses; `Rule::Static` uses none.
        budget: Budget,
    },
}

/// How a policy that is there for comparison chooses keys. They are written for clarity and not for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The keys with the greatest true scores, taken as they are.
    TopK,
    /// Keys drawn with probabilities proportional to their true softmax weights, weighted by their inverse: what a sampler could
    /// do that knew all weights.
    Oracle,
    /// The pages of 16 keys with the greatest upper bounds of their scores, by each page's least and greatest elements
    /// (Tang et al. 2024, Quest).
    Quest,
    /// None.
    Static,
}

/// How many of the indexed keys a step draws: a mean fraction of them, or what an error asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// This much of them, above 0 and up to 1.
    Fraction(f64),
    /// 2% of 8,192 keys, and in longer and shorter texts a number that goes with the root of their length. A fraction would
    /// draw too few keys from a short text and needlessly many from a long one: under this rule the distance from exact
    /// predictions was found to be about the same from 1,000 to 8,000 tokens (docs/fidelity.md).
    ByLength,
    /// This much of `tokens` keys, and likewise in longer and shorter texts a number that goes with the root of their length.
    Rooted {
        /// Above 0 and up to 1.
        fraction: f64,
        /// At least 1.
        tokens: usize,
    },
    /// `sketch` alone: as many as make this the mean, over heads and steps, of the relative error of a head's output as the sample
    /// predicts it; above 0 and below 1.
    TargetError(f64),
    /// `sketch` alone: in every step and head as many as its interval takes to be small, all of them if need be.
    Verified {
        /// The most that |o - exact o| / |exact o| of a query head's output may be by its interval; above 0 and below 1.
        epsilon: f64,
        /// How often the interval may be wrong; above 0 and up to [`MOST_DELTA`].
        delta: f64,
    },
}

/// The greatest accepted delta: beyond 0.215, an error in one direction is no longer the one that reaches furthest.
pub const MOST_DELTA: f64 = 0.2;

impl Budget {
    /// The fraction of `keys` indexed keys.
    pub(crate) fn of(self, keys: usize) -> f64 {
        match self {
            Budget::Fraction(fraction) => fraction,
            Budget::ByLength | Budget::TargetError(_) | Budget::Verified { .. } => {
                Budget::Rooted { fraction: 0.02, tokens: 8192 }.of(keys)
            }
            Budget::Rooted { fraction, tokens } => {
                (fraction * (tokens as f64 / keys.max(1) as f64).sqrt()).min(1.0)
            }
        }
    }

    fn check(self) -> Result<(), EngineError> {
        let within = |name: &str, value: f64, low: f64, high: f64, range: &str| {
            if value > low && value <= high {
                Ok(())
            } else {
                Err(EngineError::Invalid(format!("{name} = {value}; it must be {range}")))
            }
        };
        let below_one = 1.0 - f64::EPSILON;
        match self {
            Budget::Rooted { tokens: 0, .. } => {
                Err(EngineError::Invalid("a budget of 0 tokens; there must be 1".to_owned()))
            }
            Budget::Fraction(budget) | Budget::Rooted { fraction: budget, .. } => {
                within("budget", budget, 0.0, 1.0, "above 0, up to 1")
            }
            Budget::ByLength => Ok(()),
            Budget::TargetError(error) => {
                within("target error", error, 0.0, below_one, "above 0 and below 1")
            }
            Budget::Verified { epsilon, delta } => {
                within("epsilon", epsilon, 0.0, below_one, "above 0 and below 1")?;
                within("delta", delta, 0.0, MOST_DELTA, &format!("above 0, up to {MOST_DELTA}"))
            }
        }
    }
}

impl Policy {
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match *self {
            Policy::Exact => Ok(()),
            Policy::Lsh { k, .. } if !LSH_K.contains(&k) => Err(EngineError::Invalid(format!(
                "K = {k} bits a table; it must be in {} to {}",
                LSH_K.start(),
                LSH_K.end()
            ))),
            Policy::Lsh { l, .. } if !LSH_L.contains(&l) => Err(EngineError::Invalid(format!(
                "L = {l} tables; it must be in {} to {}",
                LSH_L.start(),
                LSH_L.end()
            ))),
            Policy::Lsh { .. } => Ok(()),
            Policy::Sketch { bits, .. } if !SKETCH_BITS.contains(&bits) => Err(EngineError::Invalid(
                format!("{bits} bits a code element; it must be one of {SKETCH_BITS:?}"),
            )),
            Policy::Sketch {
                residual: true,
                budget: Budget::TargetError(_) | Budget::Verified { .. },
                ..
            } => Err(EngineError::Invalid(
                "errors are estimated from samples that nothing corrects; residual takes a budget".to_owned(),
            )),
            Policy::Compare { budget: Budget::TargetError(_) | Budget::Verified { .. }, .. } => {
                Err(EngineError::Invalid(
                    "only sketch knows its error, and draws as many keys as it takes".to_owned(),
                ))
            }
            Policy::Sketch { budget, .. } | Policy::Compare { budget, .. } => budget.check(),
        }
    }
}

/// Everything that opening a session needs.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The model's shape.
    pub shape: Shape,
    /// What its attention is like.
    pub attention: Attention,
    /// How K and V are stored.
    pub rows: RowType,
    /// Threads that attention and indexing use, at least 1.
    pub threads: usize,
    /// Seed of the hash functions: the same seed and tokens give the same output on any number of threads.
    pub seed: u64,
    /// Where the files of a session without a folder are made; they are unlinked at once and vanish with it.
    pub directory: PathBuf,
}

impl SessionConfig {
    /// The layout of a store without tables.
    pub(crate) fn layout(&self) -> Layout {
        let attention = self.attention.clone();
        Layout { shape: self.shape, row_type: self.rows, tables: None, attention }
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.shape.check()?;
        self.attention.check(self.shape)?;
        if self.threads == 0 {
            return Err(EngineError::Invalid("0 threads; at least 1 is needed".to_owned()));
        }
        Ok(())
    }
}
