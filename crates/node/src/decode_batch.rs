//! One token of each of several sessions through the whole model, in the background.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use engine::{BatchRow, Transformer, decode_batch};
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::{Claim, run_all};

/// Logits of a model's last batch, `[sessions, vocabulary]`. They are megabytes that every step writes, so they stay.
pub type BatchLogits = Arc<Mutex<Vec<f32>>>;

/// What a session of a batch got: logits or, where it failed, what stood in its way.
#[napi(object, object_from_js = false)]
pub struct NativeBatchOutcome {
    /// Which of the batch's logits are its own.
    pub row: Option<u32>,
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
    /// Where logits will be when the task is done. Meanwhile it has them, and another task would make itself new ones.
    pub logits: BatchLogits,
}

#[napi]
impl Task for DecodeBatchTask {
    type Output = (Vec<Result<u32, Failure>>, Vec<f32>);
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
        let mut logits = mem::take(&mut *self.logits.lock().unwrap_or_else(PoisonError::into_inner));
        logits.resize(claims.len() * vocabulary, 0.0);
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
        .zip(0..);
        let outcome = |(claim, _): &(Result<Claim, Failure>, u32)| {
            claim.as_ref().map_err(Failure::clone)?;
            let (outcome, row) = decoded.next().expect("as many as there are claims");
            outcome.map(|()| row)
        };
        Ok((self.rows.iter().map(outcome).collect(), logits))
    }

    fn resolve(&mut self, _: Env, (outcomes, logits): Self::Output) -> napi::Result<Self::JsValue> {
        let outcome = |outcome: Result<u32, Failure>| match outcome {
            Ok(row) => NativeBatchOutcome { row: Some(row), code: None, message: None },
            Err(failure) => {
                let (code, message) = failure.parts();
                NativeBatchOutcome { row: None, code: Some(code.to_owned()), message: Some(message) }
            }
        };
        *self.logits.lock().unwrap_or_else(PoisonError::into_inner) = logits;
        // The sessions are free again before anyone is told.
        self.rows.clear();
        Ok(outcomes.into_iter().map(outcome).collect())
    }
}
