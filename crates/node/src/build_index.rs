//! Indexing in the background.

use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::Claim;

/// Indexes a session in libuv's thread pool, or rejects with what stood in its way before it could start.
pub struct BuildIndexTask(pub Result<Claim, Failure>);

#[napi]
impl Task for BuildIndexTask {
    type Output = Result<(), Failure>;
    type JsValue = ();

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let claim = self.0.as_mut().map_err(|failure| failure.clone());
        Ok(claim.and_then(|claim| claim.run(|session, cancel| session.build_index(cancel))))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map_err(|failure| failure.into_rejection(env))
    }
}
