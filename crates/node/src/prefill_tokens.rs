//! A few tokens through the whole model, in the background.

use std::sync::Arc;

use engine::Transformer;
use napi::bindgen_prelude::Float32Array;
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::Claim;

/// Tokens, the model they go through, and the session that takes them.
pub struct PrefillTokens {
    pub claim: Claim,
    pub transformer: Arc<Transformer>,
    pub tokens: Vec<u32>,
    /// Whether more of the text follows, so that logits are of no use.
    pub more: bool,
}

impl PrefillTokens {
    fn run(&mut self) -> Result<Vec<f32>, Failure> {
        let PrefillTokens { claim, transformer, tokens, more } = self;
        claim.run(|session, cancel| {
            if *more {
                session.read_tokens(transformer, tokens, cancel)?;
                return Ok(Vec::new());
            }
            let mut logits = vec![0.0; transformer.vocabulary()];
            session.prefill_tokens(transformer, tokens, &mut logits, cancel)?;
            Ok(logits)
        })
    }
}

/// Runs in libuv's thread pool, or rejects with what stood in its way before it could start.
pub struct PrefillTokensTask(pub Result<PrefillTokens, Failure>);

#[napi]
impl Task for PrefillTokensTask {
    type Output = Result<Vec<f32>, Failure>;
    type JsValue = Float32Array;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.0.as_mut().map_err(|failure| failure.clone()).and_then(PrefillTokens::run))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map(Float32Array::new).map_err(|failure| failure.into_rejection(env))
    }
}
