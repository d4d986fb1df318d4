//! What a session is made of, as JavaScript passes it.

use std::env;
use std::path::PathBuf;

use engine::{Access, Attention, Budget, Folder, Policy, RowType, Rule, SessionConfig, Shape};
use napi_derive::napi;

use crate::arguments::integer;
use crate::failure::Failure;

/// More layers, heads or threads than this are a mistake, and would ask the system for absurd amounts.
const MOST: u32 = 4096;

/// Bits a table and tables of the `lsh` policy where the caller names none (Chen et al. 2024, MagicPIG).
const LSH_K: f64 = 10.0;
const LSH_L: f64 = 150.0;

/// Bits of a code element of the `sketch` policy where the caller names none, and with codes of values.
const SKETCH_BITS: f64 = 4.0;
const RESIDUAL_BITS: f64 = 8.0;

/// How often an interval may be wrong where the caller names no delta.
const DELTA: f64 = 0.05;

/// The shape of a model, and where and with how many threads a session works.
#[napi(object, object_to_js = false)]
pub struct NativeSessionOptions {
    /// Transformer layers.
    pub layers: f64,
    /// Query heads of a layer.
    pub heads: f64,
    /// KV heads of a layer; each serves `heads / kvHeads` query heads.
    pub kv_heads: f64,
    /// Elements of a head: 64, 80, 96, 112, 128 or 256.
    pub head_dim: f64,
    /// Of each layer how many of the newest tokens a token attends, its own among them; 0, and none given, for all. A layer
    /// with a window is always attended exactly, and keeps no index.
    pub windows: Option<Vec<f64>>,
    /// Caps scores softly: s becomes cap tanh(s / cap).
    pub score_cap: Option<f64>,
    /// How much the output of each query head moves what comes after it, relative to its layer's others, [layers, heads]: under a
    /// budget `sketch` draws more for one that moves more. All the same if none is given.
    pub importance: Option<Vec<f64>>,
    /// How keys and values are stored: `bf16`, which is the default, or `int8`, at half the memory.
    #[napi(ts_type = "'bf16' | 'int8'")]
    pub rows: Option<String>,
    /// Threads that attention and indexing use, at least 1.
    pub threads: f64,
    /// Seed of the hash functions, an unsigned 32-bit number.
    pub seed: f64,
    /// Where the files of rows are made; the system's temporary folder by default. They have no names and vanish
    /// with the session or the process.
    pub directory: Option<String>,
}

impl NativeSessionOptions {
    pub fn config(self) -> Result<SessionConfig, Failure> {
        let window = |&window: &f64| {
            let tokens = integer("a window", window, u32::MAX)?;
            Ok::<_, Failure>((tokens > 0).then_some(tokens))
        };
        let windows = self.windows.iter().flatten().map(window).collect::<Result<_, _>>()?;
        Ok(SessionConfig {
            attention: Attention {
                windows,
                score_cap: self.score_cap.map(|cap| cap as f32),
                importance: self.importance.iter().flatten().map(|&importance| importance as f32).collect(),
            },
            shape: Shape {
                layers: integer("layers", self.layers, MOST)?,
                heads: integer("heads", self.heads, MOST)?,
                kv_heads: integer("kvHeads", self.kv_heads, MOST)?,
                head_dim: integer("headDim", self.head_dim, MOST)?,
            },
            rows: self.rows.map_or(Ok(RowType::Bf16), row_type)?,
            threads: integer("threads", self.threads, MOST)?,
            seed: integer("seed", self.seed, u32::MAX)? as u64,
            directory: self.directory.map_or_else(env::temp_dir, PathBuf::from),
        })
    }
}

fn row_type(name: String) -> Result<RowType, Failure> {
    RowType::ALL
        .into_iter()
        .find(|row_type| row_type.name() == name)
        .ok_or_else(|| Failure::invalid(format!("rows {name} is none of bf16, int8")))
}

/// Where a session lives that outlasts its process.
#[napi(object, object_to_js = false)]
pub struct NativeFolder {
    /// The folder.
    pub path: String,
    /// Names and values that say which model the session is of: they must be the same when it is opened again.
    pub model: Vec<NativeField>,
    /// To read what is there; what is appended stays in memory then.
    pub read_only: bool,
    /// Make the session if there is none.
    pub create: bool,
}

/// A name and its value.
#[napi(object)]
pub struct NativeField {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl NativeFolder {
    pub fn folder(self) -> Folder {
        Folder {
            path: PathBuf::from(self.path),
            model: self.model.into_iter().map(|NativeField { name, value }| (name, value)).collect(),
            access: if self.read_only { Access::Read } else { Access::Write },
            create: self.create,
        }
    }
}

/// Which keys a decoding step reads.
#[napi(object, object_to_js = false)]
pub struct NativePolicy {
    /// `exact` reads all keys; `lsh` the static set and the keys that collide with the query in two tables or more; `sketch`
    /// the static set and keys drawn by estimates from low-bit codes. To compare with: `topk` takes the keys with the greatest true
    /// scores, `oracle` draws by the true weights, `quest` takes pages by bounds of their scores, `static` takes none.
    #[napi(ts_type = "'exact' | 'lsh' | 'sketch' | 'topk' | 'oracle' | 'quest' | 'static'")]
    pub kind: String,
    /// `lsh`: bits a table, 10 by default.
    pub k: Option<f64>,
    /// `lsh`: tables, 150 by default.
    pub l: Option<f64>,
    /// `sketch`: bits of a code element: 1, 2, 4 or 8; 4 by default, and 8 with `residual`.
    pub bits: Option<f64>,
    /// `sketch`: codes of values too, of 4 bits at most, which drawn rows correct: fewer rows for the same error, more codes. Not by default.
    pub residual: Option<bool>,
    /// `sketch`, `topk`, `oracle`, `quest`: mean fraction of the indexed keys that are used. By default 2% of 8,192 keys, and a number
    /// that goes with the root of the text's length.
    pub budget: Option<f64>,
    /// `sketch`, in place of a budget: the mean relative error of a head's output, as samples predict it, above 0 and below 1.
    pub target_error: Option<f64>,
    /// `sketch`, in place of a budget: the most that the interval of every head's relative error may reach, above 0 and below 1.
    pub epsilon: Option<f64>,
    /// With epsilon: how often an interval may be wrong, above 0 and up to 0.2; 0.05 by default.
    pub delta: Option<f64>,
    /// Tokens of the text that `budget` is meant for; at other lengths the number of keys goes with the root of theirs. By default it
    /// is the same fraction of every text.
    pub budget_tokens: Option<f64>,
    /// Layers that read all keys whatever the policy; none by default.
    pub dense_layers: Option<Vec<f64>>,
}

impl NativePolicy {
    pub fn dense_layers(&self) -> Result<Vec<usize>, Failure> {
        let layers = self.dense_layers.iter().flatten();
        layers.map(|&layer| integer("a dense layer", layer, MOST)).collect()
    }

    pub fn policy(self) -> Result<Policy, Failure> {
        let budget = self.budget()?;
        let compare = |rule| Ok(Policy::Compare { rule, budget });
        match self.kind.as_str() {
            "exact" => Ok(Policy::Exact),
            "lsh" => Ok(Policy::Lsh {
                k: integer("k", self.k.unwrap_or(LSH_K), u32::MAX)?,
                l: integer("l", self.l.unwrap_or(LSH_L), u32::MAX)?,
            }),
            "sketch" => {
                let residual = self.residual.unwrap_or(false);
                let bits = self.bits.unwrap_or(if residual { RESIDUAL_BITS } else { SKETCH_BITS });
                Ok(Policy::Sketch { bits: integer("bits", bits, u32::MAX)? as u32, budget, residual })
            }
            "topk" => compare(Rule::TopK),
            "oracle" => compare(Rule::Oracle),
            "quest" => compare(Rule::Quest),
            "static" => compare(Rule::Static),
            kind => Err(Failure::invalid(format!(
                "policy {kind} is none of exact, lsh, sketch, topk, oracle, quest, static"
            ))),
        }
    }

    fn budget(&self) -> Result<Budget, Failure> {
        match (self.budget, self.target_error, self.epsilon, self.delta) {
            (None, None, None, None) => Ok(Budget::ByLength),
            (Some(fraction), None, None, None) => Ok(match self.budget_tokens {
                None => Budget::Fraction(fraction),
                Some(tokens) => {
                    Budget::Rooted { fraction, tokens: integer("budgetTokens", tokens, u32::MAX)? }
                }
            }),
            (None, Some(error), None, None) => Ok(Budget::TargetError(error)),
            (None, None, Some(epsilon), delta) => {
                Ok(Budget::Verified { epsilon, delta: delta.unwrap_or(DELTA) })
            }
            _ => Err(Failure::invalid(
                "budget, targetError and epsilon exclude each other, and delta needs epsilon".to_owned(),
            )),
        }
    }
}
