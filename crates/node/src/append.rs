//! Storing the rows of a text in the background.

use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::Claim;

/// Rows of a layer and the session that takes them. The arrays are copies: JavaScript may write to its own while this is read on another
/// thread.
pub struct Append {
    pub claim: Claim,
    pub layer: usize,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// Stores rows in libuv's thread pool, or rejects with what stood in its way before it could start.
pub struct AppendTask(pub Result<Append, Failure>);

#[napi]
impl Task for AppendTask {
    type Output = Result<(), Failure>;
    type JsValue = ();

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let append = self.0.as_mut().map_err(|failure| failure.clone());
        Ok(append.and_then(|Append { claim, layer, k, v }| {
            claim.run(|session, _| session.append_text(*layer, k, v))
        }))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map_err(|failure| failure.into_rejection(env))
    }
}
