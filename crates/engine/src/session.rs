//! The session: appends tokens layer by layer and attends them.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use lsh_attn::kernels::Kernels;
use rayon::{ThreadPool, ThreadPoolBuilder};
use team::{Crew, Team};

use crate::audit::Audit;
use crate::config::{Attention, Budget, Policy, SessionConfig, Shape};
use crate::crews::crew_of;
use crate::decode::{self, Step};
use crate::decode_compare::compared;
use crate::decode_sketch::sketched;
use crate::draws::Draws;
use crate::fingerprint::index_fields;
use crate::index::LshIndex;
use crate::prefill;
use crate::sketch::SessionSketch;
use crate::storage::Storage;
use crate::{EngineError, Stats};

/// What the policy samples from.
#[derive(Debug)]
pub(crate) enum Index {
    None,
    Lsh(LshIndex),
    Sketch(SessionSketch),
}

impl Index {
    /// A policy that samples from it.
    pub fn policy(&self) -> Policy {
        match self {
            Index::None => Policy::Exact,
            Index::Lsh(index) => {
                let (k, l) = index.parameters();
                Policy::Lsh { k, l }
            }
            Index::Sketch(index) => {
                let (bits, residual) = (index.bits(), index.residual());
                Policy::Sketch { bits, budget: Budget::ByLength, residual }
            }
        }
    }
}

/// One sequence: its rows, their index, and the policy that reads them.
///
/// A step goes through the layers in order; each call appends the step's rows to its layer and attends them.
/// A step that stops half-way leaves layers of different lengths, which [`Session::truncate`] makes equal again.
#[derive(Debug)]
pub struct Session {
    shape: Shape,
    pub(crate) attention: Attention,
    pub(crate) seed: u64,
    kernels: Kernels,
    pool: Arc<ThreadPool>,
    /// Once a layer is attended by itself.
    crew: Option<Arc<Crew>>,
    pub(crate) storage: Storage,
    /// Tokens in each layer.
    pub(crate) lengths: Vec<usize>,
    policy: Policy,
    /// Layers that attend all rows whatever the policy, ascending.
    dense_layers: Vec<usize>,
    pub(crate) index: Index,
    stats: Stats,
    audit: Option<Audit>,
    draws: Option<Draws>,
    /// Rows on their way to the store, `[tokens, units]`.
    row: Vec<u16>,
    pub(crate) scratch: dense::Scratch,
    /// Tokens there were when the scratch's residual stream was made.
    pub(crate) residual_of: usize,
}

impl Session {
    /// An empty session with policy [`Policy::Exact`].
    ///
    /// # Errors
    /// If the shape or thread count is not supported, `MAGICPIG_ISA` names what is not there, or the directory
    /// cannot hold files.
    pub fn new(config: SessionConfig) -> Result<Session, EngineError> {
        config.check()?;
        let storage = Storage::ephemeral(&config.directory, config.layout())?;
        Session::over(&config, storage)
    }

    /// A session over what is stored, without an index.
    pub(crate) fn over(config: &SessionConfig, storage: Storage) -> Result<Session, EngineError> {
        let SessionConfig { shape, threads, seed, .. } = *config;
        Ok(Session {
            shape,
            attention: config.attention.clone(),
            seed,
            kernels: Kernels::detect()?,
            pool: ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|index| format!("magicpig-{index}"))
                .build()
                .map(Arc::new)
                .map_err(|cause| EngineError::Threads { threads, cause: io::Error::other(cause) })?,
            crew: None,
            lengths: vec![storage.store.token_count(); shape.layers],
            storage,
            policy: Policy::Exact,
            dense_layers: Vec::new(),
            index: Index::None,
            stats: Stats::default(),
            audit: None,
            draws: None,
            row: Vec::new(),
            scratch: dense::Scratch::default(),
            residual_of: 0,
        })
    }

    /// The model's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    pub(crate) fn pool(&self) -> Arc<ThreadPool> {
        Arc::clone(&self.pool)
    }

    /// As many threads as the pool has, for layers that are attended one by one.
    pub(crate) fn crew(&mut self) -> Result<Arc<Crew>, EngineError> {
        let crew = match self.crew.take() {
            Some(crew) => crew,
            None => crew_of(self.pool.current_num_threads())?,
        };
        Ok(Arc::clone(self.crew.insert(crew)))
    }

    /// Tokens that every layer holds.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().copied().min().unwrap_or(0)
    }

    /// Chooses which keys later decoding steps read. An index that the new policy cannot use is dropped, and
    /// made anew by [`Session::build_index`] or the next step.
    ///
    /// # Errors
    /// If K or L is out of range, or what codes of values add would be compared with capped scores.
    pub fn set_policy(&mut self, policy: Policy) -> Result<(), EngineError> {
        policy.check()?;
        if matches!(policy, Policy::Sketch { residual: true, .. }) && self.attention.score_cap.is_some() {
            return Err(EngineError::Invalid(
                "the model caps its scores, which codes do not; it has no residual correction".to_owned(),
            ));
        }
        match (policy, &mut self.index) {
            (Policy::Exact | Policy::Compare { .. }, _) => {}
            (Policy::Lsh { k, l }, Index::Lsh(index)) if index.parameters() == (k, l) => {}
            (Policy::Sketch { bits, budget, residual }, Index::Sketch(index))
                if (index.bits(), index.residual()) == (bits, residual) =>
            {
                index.set_budget(budget)
            }
            (Policy::Lsh { k, l }, _) => {
                let index = LshIndex::new(self.shape, k, l, self.seed).without_local(&self.attention);
                self.replace_index(Index::Lsh(index))?;
            }
            (Policy::Sketch { bits, budget, residual }, _) => {
                let index = SessionSketch::new(self.shape, (bits, residual), budget, self.seed);
                self.replace_index(Index::Sketch(index.without_local(&self.attention)))?;
            }
        }
        self.policy = policy;
        Ok(())
    }

    /// Chooses layers that attend all rows whatever the policy; the others keep to it. Their indexes stay and grow, so that the
    /// choice may change at any time.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn set_dense_layers(&mut self, layers: &[usize]) -> Result<(), EngineError> {
        if let Some(layer) = layers.iter().find(|&&layer| layer >= self.shape.layers) {
            return Err(EngineError::Invalid(format!(
                "dense layer {layer}; the model has layers 0 to {}",
                self.shape.layers - 1
            )));
        }
        self.dense_layers = layers.to_vec();
        self.dense_layers.sort_unstable();
        self.dense_layers.dedup();
        Ok(())
    }

    /// Takes an index that is empty in the place of the one that is there.
    fn replace_index(&mut self, index: Index) -> Result<(), EngineError> {
        let kept = self.kept_index();
        if !kept.is_empty() && kept != index_fields(index.policy()) {
            let kept: Vec<_> = kept.iter().map(|(name, value)| format!("{name} {value}")).collect();
            return Err(EngineError::Invalid(format!(
                "the session in {} has an index of its own ({}); fork it, or open another one, for another index",
                self.storage.store.directory().display(),
                kept.join(", ")
            )));
        }
        let tokens = self.storage.store.token_count();
        let counts = self.storage.counts(self.tokens());
        self.storage.store.truncate(tokens, &counts)?;
        let tables = match &index {
            Index::Lsh(index) => Some(index.parameters()),
            _ => None,
        };
        self.storage.set_tables(tables)?;
        self.index = index;
        Ok(())
    }

    /// Goes on with another seed over the same rows: the index is dropped, and made anew from the rows by
    /// [`Session::build_index`] or the next step. Not for a session in a folder, which is made with one seed.
    ///
    /// # Errors
    /// If the rows cannot be stored.
    pub fn reseed(&mut self, seed: u64) -> Result<(), EngineError> {
        self.seed = seed;
        self.replace_index(Index::None)?;
        self.set_policy(self.policy)
    }

    /// Whether every later step is compared with exact attention of the same queries and rows, which makes it slower than
    /// exact.
    pub fn set_audit(&mut self, on: bool) {
        self.audit = on.then(|| Audit::new(self.shape));
    }

    /// What the audit found since it was set, or since the last reset.
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Whether later steps note where they draw keys, in bins of so many positions; begins a new histogram.
    pub fn note_draws(&mut self, bin: Option<NonZeroUsize>) {
        self.draws = bin.map(|bin| Draws::new(self.shape.layers, bin.get()));
    }

    /// Where keys were drawn since it was asked for.
    pub fn draws(&self) -> Option<&Draws> {
        self.draws.as_ref()
    }

    /// Appends one token to `layer` and attends it under the policy.
    ///
    /// `q` and `out` are `[heads * head_dim]`, `k` and `v` `[kv_heads * head_dim]`; q and k are rotated already.
    ///
    /// # Errors
    /// If a length or the layer does not fit the shape, or the row cannot be stored.
    pub fn decode(
        &mut self,
        layer: usize,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        self.check_files(layer)?;
        self.crew()?.lead(|team| self.decode_with(team, layer, (q, k, v), out))
    }

    /// As [`Session::decode`], within a step whose threads are awake.
    pub(crate) fn decode_with(
        &mut self,
        team: &Team<'_>,
        layer: usize,
        (q, k, v): (&[f32], &[f32], &[f32]),
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let started = Instant::now();
        self.check(layer, 1, q.len(), k.len(), v.len(), out.len())?;
        self.append_rows(layer, k, v)?;
        let tokens = self.lengths[layer];
        let local = self.attention.is_local(layer);
        if let (Policy::Sketch { .. }, Index::Sketch(index), false) = (self.policy, &mut self.index, local) {
            index.keep_up(self.kernels, &mut self.storage, layer, tokens)?;
        }
        if let Some(draws) = &mut self.draws {
            draws.cover(layer, tokens);
        }
        let step = Step {
            shape: self.shape,
            kernels: self.kernels,
            storage: &self.storage,
            layer,
            tokens,
            window: self.attention.window(layer),
            score_cap: self.attention.score_cap,
            importance: self.attention.importance(layer, self.shape.heads),
            draws: self.draws.as_ref(),
        };
        if let (Policy::Lsh { .. }, Index::Lsh(index), false) = (self.policy, &mut self.index, local) {
            index.keep_up(team, step);
        }
        let dense = local || self.policy == Policy::Exact || self.dense_layers.binary_search(&layer).is_ok();
        let read = match (self.policy, &mut self.index) {
            _ if dense => decode::exact(team, step, q, out),
            (Policy::Lsh { .. }, Index::Lsh(index)) => decode::sampled(team, step, index, q, out),
            (Policy::Sketch { .. }, Index::Sketch(index)) => {
                let read = sketched(team, step, index, q, out);
                self.stats.note_errors(index.errors());
                read
            }
            (Policy::Compare { rule, budget }, _) => compared(team, step, (rule, budget), self.seed, q, out),
            _ => decode::exact(team, step, q, out),
        };
        self.stats.rows_read += read.fixed + read.sampled;
        self.stats.sampled_rows += read.sampled;
        self.stats.indexed_rows += read.indexed;
        self.stats.hash_time += read.hash;
        self.stats.retrieve_time += read.retrieve / team.threads() as u32;
        self.stats.attend_time += started.elapsed();
        if let Some(audit) = &mut self.audit {
            let index = if dense { &Index::None } else { &self.index };
            audit.note(team, step, index, read, q, out);
        }
        Ok(())
    }

    /// Appends tokens to `layer` and attends each exactly to all before it and itself.
    ///
    /// `q` and `out` are `[tokens, heads * head_dim]`, `k` and `v` `[tokens, kv_heads * head_dim]`.
    ///
    /// # Errors
    /// As [`Session::decode`], and [`EngineError::Cancelled`] soon after `cancel` is set; the layer then keeps
    /// the rows until [`Session::truncate`].
    pub fn prefill(
        &mut self,
        layer: usize,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        self.check_files(layer)?;
        Team::assemble(&self.pool(), |team| self.prefill_with(team, layer, (q, k, v), out, cancel))
    }

    /// As [`Session::prefill`], within a region's team.
    pub(crate) fn prefill_with(
        &mut self,
        team: &Team<'_>,
        layer: usize,
        (q, k, v): (&[f32], &[f32], &[f32]),
        out: &mut [f32],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        let tokens = k.len() / self.shape.kv_len();
        self.check(layer, tokens, q.len(), k.len(), v.len(), out.len())?;
        let position = self.append_rows(layer, k, v)?;
        prefill::causal(
            team,
            prefill::Chunk {
                shape: self.shape,
                kernels: self.kernels,
                storage: &self.storage,
                layer,
                position,
                tokens,
                window: self.attention.window(layer),
                score_cap: self.attention.score_cap,
            },
            q,
            out,
            cancel,
        )
    }

    /// Indexes what the policy samples from, up to the newest rows. Decoding does the same as it goes; after a
    /// long prefill it would have to do it all in its first step.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] soon after `cancel` is set; what is indexed by then stays.
    pub fn build_index(&mut self, cancel: &AtomicBool) -> Result<(), EngineError> {
        let (kernels, pool, storage, lengths) = (self.kernels, &self.pool, &mut self.storage, &self.lengths);
        match (self.policy, &mut self.index) {
            (Policy::Lsh { .. }, Index::Lsh(index)) => index.build(kernels, pool, storage, lengths, cancel),
            (Policy::Sketch { .. }, Index::Sketch(index)) => {
                index.build(kernels, pool, storage, lengths, cancel)
            }
            _ => Ok(()),
        }
    }

    /// Drops every token from `tokens` on, in every layer, from rows and index.
    ///
    /// # Errors
    /// If some layer has fewer than `tokens`.
    pub fn truncate(&mut self, tokens: usize) -> Result<(), EngineError> {
        if tokens > self.tokens() {
            return Err(EngineError::Invalid(format!(
                "cannot truncate {} tokens to {tokens}",
                self.tokens()
            )));
        }
        let mut counts = self.storage.counts(tokens);
        match &mut self.index {
            Index::None => {}
            Index::Lsh(index) => {
                index.truncate(&self.pool, &self.storage, tokens);
                index.count(&self.storage, &mut counts, true);
            }
            Index::Sketch(index) => {
                index.truncate(tokens);
                index.count(&mut counts, true);
            }
        }
        self.storage.store.truncate(tokens, &counts)?;
        self.lengths.fill(tokens);
        if self.residual_of > tokens {
            self.scratch.set_residual(Vec::new());
        }
        Ok(())
    }

    /// Counts since the last reset, and sizes now.
    pub fn stats(&self) -> Stats {
        let (index_bytes, indexed_tokens) = match &self.index {
            Index::None => (0, 0),
            Index::Lsh(index) => (index.bytes(), index.tokens()),
            Index::Sketch(index) => (index.bytes(), index.tokens()),
        };
        Stats {
            index_bytes,
            row_bytes: self.storage.row_bytes(&self.lengths),
            tokens: self.tokens(),
            indexed_tokens,
            ..self.stats
        }
    }

    /// Sets the counts to zero.
    pub fn reset_stats(&mut self) {
        self.stats = Stats::default();
        self.set_audit(self.audit.is_some());
    }

    /// Stores the rows of new tokens in `layer`, which were attended elsewhere or need not be; returns the position of the
    /// first. `k` and `v` are `[tokens, kv_heads * head_dim]`.
    ///
    /// # Errors
    /// If there is no such layer, k and v are not of the same whole tokens, or the rows cannot be stored.
    pub fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<usize, EngineError> {
        self.check_files(layer)?;
        self.append_rows(layer, k, v)
    }

    /// As [`Session::append`], of a text whose other layers follow: what its rows allow to index for good is indexed at once, while whoever
    /// attends them has other work, and [`Session::build_index`] has the rest left. The index comes out the same.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub fn append_text(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<(), EngineError> {
        self.append(layer, k, v)?;
        if let (Policy::Sketch { .. }, Index::Sketch(index)) = (self.policy, &mut self.index) {
            index.build_full(self.kernels, &self.pool, &mut self.storage, layer, self.lengths[layer])?;
        }
        Ok(())
    }

    /// Once for all layers: a file that another program cut short is an error here, and would be a SIGBUS later.
    pub(crate) fn check_files(&self, layer: usize) -> Result<(), EngineError> {
        if layer == 0 {
            self.storage.store.check_sizes()?;
        }
        Ok(())
    }

    fn append_rows(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<usize, EngineError> {
        let (width, d) = (self.shape.kv_len(), self.shape.head_dim);
        if layer >= self.shape.layers || k.len() != v.len() || !k.len().is_multiple_of(width) {
            return Err(EngineError::Invalid(format!(
                "k and v of layer {layer} of {} have {} and {} elements; a token has {width}",
                self.shape.layers,
                k.len(),
                v.len()
            )));
        }
        let position = self.lengths[layer];
        let tokens = k.len() / width;
        let row_type = self.storage.row_type();
        let units = row_type.units(d);
        self.row.resize(tokens * units, 0);
        for head in 0..self.shape.kv_heads {
            let rows = self.row.chunks_exact_mut(units);
            for ((row, k), v) in rows.zip(k.chunks_exact(width)).zip(v.chunks_exact(width)) {
                row_type.encode(&k[head * d..][..d], &v[head * d..][..d], row);
            }
            self.storage.write_rows(layer, head, position, &self.row)?;
        }
        self.lengths[layer] = position + tokens;
        Ok(position)
    }

    fn check(
        &self,
        layer: usize,
        tokens: usize,
        q: usize,
        k: usize,
        v: usize,
        out: usize,
    ) -> Result<(), EngineError> {
        let shape = self.shape;
        if layer >= shape.layers {
            return Err(EngineError::Invalid(format!("layer {layer} of {}", shape.layers)));
        }
        let (wide, narrow) = (tokens * shape.q_len(), tokens * shape.kv_len());
        if tokens == 0 || q != wide || out != wide || k != narrow || v != narrow {
            return Err(EngineError::Invalid(format!(
                "q, k, v and out have {q}, {k}, {v} and {out} elements; {tokens} tokens need {wide}, {narrow}, \
                 {narrow} and {wide}"
            )));
        }
        Ok(())
    }
}
