//! What JavaScript is told when something fails.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::EngineError;
use napi::{Env, JsError};

/// One of the codes of `src/errors.ts`: what an error that is thrown from here has as `error.code`.
pub type Code = &'static str;

/// A stable code and a message for people.
#[derive(Clone, Debug)]
pub struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    pub fn invalid(message: String) -> Failure {
        Failure { code: "INVALID_OPTION", message }
    }

    pub fn schema(message: String) -> Failure {
        Failure { code: "INVALID_SCHEMA", message }
    }

    pub fn busy() -> Failure {
        let message = "a prefill, an indexing or a batch is running on this session; await it, or cancel it and await it";
        Failure { code: "SESSION_BUSY", message: message.to_owned() }
    }

    pub fn disposed() -> Failure {
        Failure { code: "DISPOSED", message: "the session was disposed of".to_owned() }
    }

    fn panicked(payload: &(dyn Any + Send)) -> Failure {
        let said = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let message = format!("the native core panicked ({said}); this is a bug, and the session is lost");
        Failure { code: "NATIVE_FAILED", message }
    }

    /// Code and message.
    pub fn parts(self) -> (Code, String) {
        (self.code, self.message)
    }

    /// The error to reject a promise with. A task may fail only with codes of napi's own, so the JavaScript error is
    /// made here and passed through.
    pub fn into_rejection(self, env: Env) -> napi::Error {
        JsError::from(napi::Error::from(self)).into_unknown(env).into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure { code: error.code(), message: error.to_string() }
    }
}

impl From<Failure> for napi::Error<Code> {
    fn from(failure: Failure) -> Self {
        napi::Error::new(failure.code, failure.message)
    }
}

/// Runs `work` such that a panic ends here, not in the foreign frames above. What `work` was changing is unusable
/// after a panic; the caller drops it.
pub fn contained<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<Result<T, Failure>, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result.map_err(Failure::from)),
        Err(payload) => Err(Failure::panicked(&*payload)),
    }
}
