//! Tokens through the whole model: dense layers and attention in one call, on the session's threads.

use std::sync::atomic::AtomicBool;

use dense::{Cores, DenseKernels, Transformer};
use team::Team;

use crate::{EngineError, Session, Shape};

/// Queries, keys and values.
pub(crate) type Rows<'a> = (&'a [f32], &'a [f32], &'a [f32]);

impl Session {
    /// Appends one token to every layer, attends it under the policy, and writes the logits `[vocabulary]` of the
    /// next one.
    ///
    /// # Errors
    /// If the model has another shape than the session, the token is not in its vocabulary, `logits` has another
    /// length, or the rows cannot be stored; layers may then differ in length until [`Session::truncate`].
    pub fn decode_token(
        &mut self,
        model: &Transformer,
        token: u32,
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        self.forward(model, &[token], logits, |session, team, layer, rows, out| {
            session.decode_with(team, layer, rows, out)
        })?;
        self.push_tokens(&[token])
    }

    /// Appends a few tokens, attended exactly, and writes the logits `[vocabulary]` after the last one.
    ///
    /// # Errors
    /// As [`Session::decode_token`], and [`EngineError::Cancelled`] soon after `cancel` is set.
    pub fn prefill_tokens(
        &mut self,
        model: &Transformer,
        tokens: &[u32],
        logits: &mut [f32],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        self.forward(model, tokens, logits, |session, team, layer, rows, out| {
            session.prefill_with(team, layer, rows, out, cancel)
        })?;
        self.push_tokens(tokens)
    }

    /// Notes a token whose rows went through [`Session::decode`], or were prefilled, layer by layer, between dense layers that are elsewhere; and
    /// the residual stream `[hidden]` that it had after all of them, from which a session that is opened again has its logits.
    ///
    /// # Errors
    /// As [`Session::push_tokens`].
    pub fn push_step(&mut self, token: u32, residual: &[f32]) -> Result<(), EngineError> {
        self.push_tokens(&[token])?;
        self.scratch.set_residual(residual.to_vec());
        self.residual_of = self.tokens();
        Ok(())
    }

    /// The residual stream `[hidden]` of the last token after all layers; empty where [`Session::logits`] knows none.
    pub fn residual(&self) -> &[f32] {
        self.scratch.residual()
    }

    /// Appends tokens of the middle of a long text, attended exactly. The logits after them are not known.
    ///
    /// # Errors
    /// As [`Session::prefill_tokens`].
    pub fn read_tokens(
        &mut self,
        model: &Transformer,
        tokens: &[u32],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        self.check_step(model, tokens)?;
        let kernels = DenseKernels::from(self.kernels());
        let position = self.tokens();
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = Team::assemble(&self.pool(), |team| {
            model.read(Cores { team, kernels }, tokens, position, &mut scratch, |layer, q, k, v, out| {
                self.prefill_with(team, layer, (q, k, v), out, cancel)
            })
        });
        self.scratch = scratch;
        result?;
        self.push_tokens(tokens)
    }

    /// Writes the logits `[vocabulary]` after the last token once more; false, and nothing is written, if it is not
    /// known: after a truncation, or of a token that did not go through [`Session::decode_token`],
    /// [`Session::prefill_tokens`] or [`Session::push_step`].
    ///
    /// # Errors
    /// If the model has another shape than the session, or `logits` has another length.
    pub fn logits(&mut self, model: &Transformer, logits: &mut [f32]) -> Result<bool, EngineError> {
        self.check_model(model)?;
        check_logits(model, logits)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let known = !scratch.residual().is_empty();
        if known {
            let kernels = DenseKernels::from(self.kernels());
            Team::assemble(&self.pool(), |team| {
                model.logits(Cores { team, kernels }, &mut scratch, logits);
            });
        }
        self.scratch = scratch;
        Ok(known)
    }

    /// Whether the session can take the tokens through the model.
    pub(crate) fn check_step(&self, model: &Transformer, tokens: &[u32]) -> Result<(), EngineError> {
        self.check_model(model)?;
        let vocabulary = model.vocabulary();
        if tokens.is_empty() {
            return Err(EngineError::Invalid("no tokens; there must be one".to_owned()));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(EngineError::Invalid(format!("token {token} of a vocabulary of {vocabulary}")));
        }
        // A file that another program cut short is an error here, and would be a SIGBUS below.
        Ok(self.storage.store.check_sizes()?)
    }

    fn check_model(&self, model: &Transformer) -> Result<(), EngineError> {
        let Shape { layers, heads, kv_heads, head_dim } = self.shape();
        if model.attention() != (layers, heads, kv_heads, head_dim) {
            return Err(EngineError::Invalid(
                "the model has another attention shape than the session".to_owned(),
            ));
        }
        Ok(())
    }

    fn forward(
        &mut self,
        model: &Transformer,
        tokens: &[u32],
        logits: &mut [f32],
        mut attend: impl FnMut(&mut Session, &Team<'_>, usize, Rows<'_>, &mut [f32]) -> Result<(), EngineError>
        + Send,
    ) -> Result<(), EngineError> {
        check_logits(model, logits)?;
        self.check_step(model, tokens)?;
        let kernels = DenseKernels::from(self.kernels());
        let position = self.tokens();
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = Team::assemble(&self.pool(), |team| {
            model.forward(
                Cores { team, kernels },
                tokens,
                position,
                &mut scratch,
                logits,
                |layer, q, k, v, out| attend(self, team, layer, (q, k, v), out),
            )
        });
        self.scratch = scratch;
        self.residual_of = self.tokens();
        result
    }
}

fn check_logits(model: &Transformer, logits: &[f32]) -> Result<(), EngineError> {
    let vocabulary = model.vocabulary();
    if logits.len() != vocabulary {
        return Err(EngineError::Invalid(format!("{} logits; there must be {vocabulary}", logits.len())));
    }
    Ok(())
}
