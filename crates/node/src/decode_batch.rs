//! One token of each of several sessions through the whole model, in the background.

use std::sync::Arc;

use engine::{BatchRow, Transformer, decode_batch};
use napi::bindgen_prelude::Float32Array;
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::{Claim, run_all};

/// What a session of a batch got: logits or, where it failed, what stood in its way.
#[napi(object, object_from_js = false)]
pub struct NativeBatchOutcome {
    /// [vocabulary], of the token after the one that it took.
    pub logits: Option<Float32Array>,
    /// The error's code.
    pub code: Option<String>,
    /// The error's text.
    pub message: Option<String>,
}

/// Takes the tokens through the model in libuv's thread pool.
pub struct DecodeBatchTask {
    pub transformer: Arc<Transformer>,
    /// Each session's claim, or why there is none, and its token.
    pub rows: Vec<(Result<Claim, Failure>, u32)>,
}

#[napi]
impl Task for DecodeBatchTask {
    type Output = Vec<Result<Vec<f32>, Failure>>;
    type JsValue = Vec<NativeBatchOutcome>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let vocabulary = self.transformer.vocabulary();
        let (mut claims, mut tokens) = (Vec::new(), Vec::new());
        for (claim, token) in &mut self.rows {
            if let Ok(claim) = claim {
                claims.push(claim);
                tokens.push(*token);
            }
        }
        let mut logits = vec![0.0; claims.len() * vocabulary];
        let decoded = run_all(&mut claims, |sessions| {
            let row = |((session, cancel), &token): (_, &u32)| BatchRow { session, token, cancel };
            let mut rows: Vec<_> = sessions.into_iter().zip(&tokens).map(row).collect();
            decode_batch(&self.transformer, &mut rows, &mut logits)
        });
        let mut decoded = match decoded {
            Ok(decoded) => decoded.into_iter().map(|outcome| outcome.map_err(Failure::from)).collect(),
            Err(panicked) => vec![Err(panicked); tokens.len()],
        }
        .into_iter()
        .zip(logits.chunks_exact(vocabulary));
        let outcome = |(claim, _): &(Result<Claim, Failure>, u32)| {
            claim.as_ref().map_err(Failure::clone)?;
            let (outcome, logits) = decoded.next().expect("as many as there are claims");
            outcome.map(|()| logits.to_vec())
        };
        Ok(self.rows.iter().map(outcome).collect())
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        let outcome = |outcome: Result<Vec<f32>, Failure>| match outcome {
            Ok(logits) => {
                NativeBatchOutcome { logits: Some(Float32Array::new(logits)), code: None, message: None }
            }
            Err(failure) => {
                let (code, message) = failure.parts();
                NativeBatchOutcome { logits: None, code: Some(code.to_owned()), message: Some(message) }
            }
        };
        // The sessions are free again before anyone is told.
        self.rows.clear();
        Ok(output.into_iter().map(outcome).collect())
    }
}
