//! The session class.

use std::num::NonZeroUsize;
use std::sync::Arc;

use engine::{Session, Shape};
use napi::bindgen_prelude::{AsyncTask, Float32Array, Uint32Array};
use napi_derive::napi;

use crate::append::{Append, AppendTask};
use crate::arguments::{apart, integer, length};
use crate::audit::NativeAudit;
use crate::build_index::BuildIndexTask;
use crate::draws::NativeDraws;
use crate::failure::{Code, Failure, contained};
use crate::keep::{Keep, KeepTask};
use crate::model::NativeModel;
use crate::open::OpenTask;
use crate::options::{NativeField, NativeFolder, NativePolicy, NativeSessionOptions};
use crate::prefill::{Prefill, PrefillTask};
use crate::prefill_tokens::{PrefillTokens, PrefillTokensTask};
use crate::slot::{Claim, Slot};
use crate::stats::NativeStats;

/// An array to write into. The name is for napi's macro, which takes a bare `&mut` for a class.
pub type Written<'a> = &'a mut [f32];

/// One sequence: its rows of keys and values, their index, and attention over both.
///
/// A step goes through the layers in order; each call appends the step's rows to its layer and attends them. While
/// an attendPrefill, attendBatch, buildIndex or decodeBatch is running, every call but cancel and dispose fails with SESSION_BUSY. Arrays must
/// not be views of a SharedArrayBuffer.
#[napi]
pub struct NativeSession {
    shape: Shape,
    slot: Arc<Slot>,
}

#[napi]
impl NativeSession {
    /// An empty session with policy `exact`.
    #[napi(constructor)]
    pub fn new(options: NativeSessionOptions) -> napi::Result<Self, Code> {
        let config = options.config()?;
        Ok(NativeSession::from(contained(|| Session::new(config)).flatten()?))
    }

    /// Opens the session in a folder under a policy, or makes one there.
    #[napi(ts_return_type = "Promise<NativeSession>")]
    pub fn open(
        options: NativeSessionOptions,
        folder: NativeFolder,
        policy: NativePolicy,
    ) -> AsyncTask<OpenTask> {
        let arguments = || Ok((options.config()?, folder.folder(), policy.policy()?));
        AsyncTask::new(OpenTask(arguments()))
    }

    /// Makes the session as it is now last: once it resolves, the session survives whatever happens.
    #[napi]
    pub fn commit(&self) -> AsyncTask<KeepTask> {
        AsyncTask::new(KeepTask(self.slot.claim().map(|claim| (claim, Keep::Commit))))
    }

    /// Commits, and makes a session in another folder that goes on from here by itself. `model` is for a session without
    /// a folder of its own.
    #[napi]
    pub fn fork(&self, path: String, model: Vec<NativeField>) -> AsyncTask<KeepTask> {
        let model = model.into_iter().map(|NativeField { name, value }| (name, value)).collect();
        let keep = Keep::Fork { path: path.into(), model };
        AsyncTask::new(KeepTask(self.slot.claim().map(|claim| (claim, keep))))
    }

    /// Tokens whose rows are stored.
    #[napi]
    pub fn tokens(&self) -> napi::Result<Uint32Array, Code> {
        Ok(self.slot.with(|session| Ok(session.token_list().into()))?)
    }

    /// Notes tokens whose rows attendPrefill or appendRows appended, layer by layer; decodeToken and prefillTokens do it themselves, and pushStep for a
    /// token whose logits are wanted.
    #[napi]
    pub fn push_tokens(&self, tokens: &[u32]) -> napi::Result<(), Code> {
        Ok(self.slot.with(|session| session.push_tokens(tokens))?)
    }

    /// Chooses which keys later decoding steps read. An index that the new policy cannot use is dropped.
    #[napi]
    pub fn set_policy(&self, policy: NativePolicy) -> napi::Result<(), Code> {
        let dense = policy.dense_layers()?;
        let policy = policy.policy()?;
        Ok(self.slot.with(|session| {
            session.set_policy(policy)?;
            session.set_dense_layers(&dense)
        })?)
    }

    /// Appends one token's k and v, each [kvHeads * headDim], to a layer, attends q [heads * headDim] under the
    /// policy, and writes out [heads * headDim], which shares no memory with the others.
    #[napi]
    pub fn attend_decode(
        &self,
        layer: f64,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        #[napi(ts_arg_type = "Float32Array")] out: Written<'_>,
    ) -> napi::Result<(), Code> {
        let layer = self.layer(layer)?;
        apart(out, [q, k, v])?;
        Ok(self.slot.with(|session| session.decode(layer, q, k, v, out))?)
    }

    /// Appends `rows` tokens to a layer and attends each causally and exactly: q and the result are
    /// [rows, heads * headDim], k and v [rows, kvHeads * headDim]. Copies its inputs.
    #[napi]
    pub fn attend_prefill(
        &self,
        layer: f64,
        rows: f64,
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> AsyncTask<PrefillTask> {
        AsyncTask::new(PrefillTask(self.prefill(layer, rows, q, k, v)))
    }

    /// Appends tokens' k and v [tokens, kvHeads * headDim] to a layer, and indexes what they allow to: of a text that is attended elsewhere, layer by
    /// layer. Copies its inputs.
    #[napi]
    pub fn append_rows(&self, layer: f64, k: &[f32], v: &[f32]) -> AsyncTask<AppendTask> {
        let append = || {
            let layer = self.layer(layer)?;
            Ok(Append { claim: self.slot.claim()?, layer, k: k.to_vec(), v: v.to_vec() })
        };
        AsyncTask::new(AppendTask(append()))
    }

    /// Notes a token whose rows attendDecode appended to every layer, or attendPrefill, and the residual stream [hidden] that it had after
    /// all of them.
    #[napi]
    pub fn push_step(&self, token: f64, residual: &[f32]) -> napi::Result<(), Code> {
        let token = integer("token", token, u32::MAX)? as u32;
        Ok(self.slot.with(|session| session.push_step(token, residual))?)
    }

    /// The residual stream [hidden] of the last token after all layers; empty if it is not known.
    #[napi]
    pub fn residual(&self) -> napi::Result<Float32Array, Code> {
        Ok(self.slot.with(|session| Ok(session.residual().into()))?)
    }

    /// Takes one token through the whole model, attended under the policy, and writes the logits [vocabulary] of the
    /// next one.
    #[napi]
    pub fn decode_token(
        &self,
        model: &NativeModel,
        token: f64,
        #[napi(ts_arg_type = "Float32Array")] logits: Written<'_>,
    ) -> napi::Result<(), Code> {
        let token = integer("token", token, u32::MAX)? as u32;
        Ok(self.slot.with(|session| session.decode_token(&model.transformer, token, logits))?)
    }

    /// Takes a few tokens through the whole model, attended exactly; resolves with the logits [vocabulary] after the
    /// last one, or with none where `more` of the text follows: what a token of such a part gets does not depend on how the text is cut.
    #[napi]
    pub fn prefill_tokens(
        &self,
        model: &NativeModel,
        tokens: &[u32],
        more: bool,
    ) -> AsyncTask<PrefillTokensTask> {
        let (transformer, tokens) = (Arc::clone(&model.transformer), tokens.to_vec());
        AsyncTask::new(PrefillTokensTask(self.slot.claim().map(|claim| PrefillTokens {
            claim,
            transformer,
            tokens,
            more,
        })))
    }

    /// Writes the logits [vocabulary] after the last token once more; false if they are not known.
    #[napi]
    pub fn logits(
        &self,
        model: &NativeModel,
        #[napi(ts_arg_type = "Float32Array")] logits: Written<'_>,
    ) -> napi::Result<bool, Code> {
        Ok(self.slot.with(|session| session.logits(&model.transformer, logits))?)
    }

    /// Indexes what the policy samples from, up to the newest rows.
    #[napi]
    pub fn build_index(&self) -> AsyncTask<BuildIndexTask> {
        AsyncTask::new(BuildIndexTask(self.slot.claim()))
    }

    /// Goes on with another seed, an unsigned 32-bit number, over the same rows. The index is dropped, and made anew by
    /// buildIndex or the next step.
    #[napi]
    pub fn reseed(&self, seed: f64) -> napi::Result<(), Code> {
        let seed = integer("seed", seed, u32::MAX)? as u64;
        Ok(self.slot.with(|session| session.reseed(seed))?)
    }

    /// Whether later steps are compared with exact attention of the same queries and rows, which takes longer than exact.
    #[napi]
    pub fn set_audit(&self, on: bool) -> napi::Result<(), Code> {
        Ok(self.slot.with(|session| {
            session.set_audit(on);
            Ok(())
        })?)
    }

    /// What the comparison found since it was set, or since the last resetStats.
    #[napi]
    pub fn audit(&self) -> napi::Result<Option<NativeAudit>, Code> {
        Ok(self.slot.with(|session| Ok(session.audit().map(NativeAudit::from)))?)
    }

    /// Has later steps note where they draw keys, in bins of so many positions, which begins a new histogram; 0 ends it.
    #[napi]
    pub fn note_draws(&self, bin: f64) -> napi::Result<(), Code> {
        let bin = NonZeroUsize::new(integer("bin", bin, u32::MAX)?);
        Ok(self.slot.with(|session| {
            session.note_draws(bin);
            Ok(())
        })?)
    }

    /// Where keys were drawn since noteDraws.
    #[napi]
    pub fn draws(&self) -> napi::Result<Option<NativeDraws>, Code> {
        let layers = self.shape.layers;
        Ok(self.slot.with(|session| Ok(session.draws().map(|draws| NativeDraws::new(draws, layers))))?)
    }

    /// Drops every row at position `tokens` or after it, in every layer; also what a step that failed in between
    /// left half appended.
    #[napi]
    pub fn truncate(&self, tokens: f64) -> napi::Result<(), Code> {
        let tokens = integer("tokens", tokens, u32::MAX)?;
        Ok(self.slot.with(|session| session.truncate(tokens))?)
    }

    /// Makes a running attendPrefill, attendBatch, buildIndex or decodeBatch fail with ABORTED soon, of a batch this session alone. Does nothing if
    /// none is running.
    #[napi]
    pub fn cancel(&self) {
        self.slot.cancel();
    }

    /// Counts since the last reset, and sizes now.
    #[napi]
    pub fn stats(&self) -> napi::Result<NativeStats, Code> {
        Ok(self.slot.with(|session| Ok(session.stats().into()))?)
    }

    /// Sets the counts to zero.
    #[napi]
    pub fn reset_stats(&self) -> napi::Result<(), Code> {
        Ok(self.slot.with(|session| {
            session.reset_stats();
            Ok(())
        })?)
    }

    /// Frees rows, index and threads: at once, or as soon as a running attendPrefill or buildIndex has stopped, which
    /// this cancels. Every later call fails with DISPOSED, but for cancel and dispose, which do nothing.
    #[napi]
    pub fn dispose(&self) {
        self.slot.dispose();
    }

    fn prefill(&self, layer: f64, rows: f64, q: &[f32], k: &[f32], v: &[f32]) -> Result<Prefill, Failure> {
        let layer = self.layer(layer)?;
        let rows = integer("rows", rows, u32::MAX)?;
        length("q", q, rows * self.shape.q_len())?;
        length("k", k, rows * self.shape.kv_len())?;
        length("v", v, rows * self.shape.kv_len())?;
        let claim = self.slot.claim()?;
        Ok(Prefill { claim, layer, q: q.to_vec(), k: k.to_vec(), v: v.to_vec() })
    }

    pub(crate) fn claim(&self) -> Result<Claim, Failure> {
        self.slot.claim()
    }

    /// Elements of a token's q, and of its k or v.
    pub(crate) fn widths(&self) -> (usize, usize) {
        (self.shape.q_len(), self.shape.kv_len())
    }

    pub(crate) fn layer(&self, layer: f64) -> Result<usize, Failure> {
        integer("layer", layer, self.shape.layers as u32 - 1)
    }
}

impl From<Session> for NativeSession {
    fn from(session: Session) -> NativeSession {
        NativeSession { shape: session.shape(), slot: Arc::new(Slot::new(session)) }
    }
}
