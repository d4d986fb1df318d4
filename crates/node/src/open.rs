//! Opening a session's folder in the background: tables of the `lsh` policy are made anew there.

use engine::{Folder, Policy, Session, SessionConfig};
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::{Failure, contained};
use crate::session::NativeSession;

/// What is to be opened, or what stood in its way.
pub struct OpenTask(pub Result<(SessionConfig, Folder, Policy), Failure>);

#[napi]
impl Task for OpenTask {
    type Output = Result<Session, Failure>;
    type JsValue = NativeSession;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let arguments = self.0.as_ref().map_err(|failure| failure.clone());
        Ok(arguments.and_then(|(config, folder, policy)| {
            contained(|| Session::open(config, folder, *policy)).flatten()
        }))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map(NativeSession::from).map_err(|failure| failure.into_rejection(env))
    }
}
