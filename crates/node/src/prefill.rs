//! Prefill in the background.

use napi::bindgen_prelude::Float32Array;
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::Claim;

/// A chunk of tokens and the session that takes them. The arrays are copies: JavaScript may write to its own while
/// this is read on another thread.
pub struct Prefill {
    pub claim: Claim,
    pub layer: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

impl Prefill {
    fn attend(&mut self) -> Result<Vec<f32>, Failure> {
        let Prefill { claim, layer, q, k, v } = self;
        claim.run(|session, cancel| {
            let mut out = vec![0.0; q.len()];
            session.prefill(*layer, q, k, v, &mut out, cancel)?;
            Ok(out)
        })
    }
}

/// Runs a prefill in libuv's thread pool, or rejects with what stood in its way before it could start.
pub struct PrefillTask(pub Result<Prefill, Failure>);

#[napi]
impl Task for PrefillTask {
    type Output = Result<Vec<f32>, Failure>;
    type JsValue = Float32Array;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.0.as_mut().map_err(|failure| failure.clone()).and_then(Prefill::attend))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map(Float32Array::new).map_err(|failure| failure.into_rejection(env))
    }
}
