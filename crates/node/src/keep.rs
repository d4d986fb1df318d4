//! Committing and forking a session in the background.

use std::path::PathBuf;

use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::Failure;
use crate::slot::Claim;

/// What is to be kept.
pub enum Keep {
    /// The session as it is, in its folder.
    Commit,
    /// The same, and another session from here.
    Fork {
        /// The other one's folder.
        path: PathBuf,
        /// Fields of the model, for a session without a folder.
        model: Vec<(String, String)>,
    },
}

/// Keeps a session in libuv's thread pool, or rejects with what stood in its way before it could start.
pub struct KeepTask(pub Result<(Claim, Keep), Failure>);

#[napi]
impl Task for KeepTask {
    type Output = Result<(), Failure>;
    type JsValue = ();

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let task = self.0.as_mut().map_err(|failure| failure.clone());
        Ok(task.and_then(|(claim, keep)| {
            claim.run(|session, _| match keep {
                Keep::Commit => session.commit(),
                Keep::Fork { path, model } => session.fork(path, model),
            })
        }))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map_err(|failure| failure.into_rejection(env))
    }
}
