//! Measurements of one layer, in the background.

use engine::{AttentionMeasurement, Policy, SessionConfig, measure_attention};
use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Task};
use napi_derive::napi;

use crate::arguments::integer;
use crate::failure::{Failure, contained};
use crate::options::{NativePolicy, NativeSessionOptions};

/// Medians over steps of one layer on synthetic rows, in seconds.
#[napi(object, object_from_js = false)]
pub struct NativeMeasurement {
    /// Hashing or rotating the queries.
    pub hash_seconds: f64,
    /// Finding the rows to read.
    pub retrieve_seconds: f64,
    /// Reading them, the static set among them.
    pub attend_seconds: f64,
    /// The whole step.
    pub step_seconds: f64,
    /// The same with every row read.
    pub exact_seconds: f64,
    /// What the memory delivers to the threads, in bytes a second.
    pub stream_bytes_per_second: f64,
    /// Bytes of rows that `exact` reads.
    pub row_bytes: f64,
    /// Building the index of all rows.
    pub index_seconds: f64,
    /// Bytes of index for a key of a KV head.
    pub index_bytes_per_key: f64,
    /// Mean fraction of the indexed keys that were read.
    pub budget: f64,
    /// |o - exact o| / |exact o|.
    pub relative_l2: f64,
}

/// What is to be measured, or what stood in its way.
pub struct MeasureTask(Result<(SessionConfig, usize, Policy, usize), Failure>);

#[napi]
impl Task for MeasureTask {
    type Output = Result<AttentionMeasurement, Failure>;
    type JsValue = NativeMeasurement;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let arguments = self.0.as_ref().map_err(|failure| failure.clone());
        Ok(arguments.and_then(|(config, context, policy, batch)| {
            contained(|| measure_attention(config, *context, *policy, *batch)).flatten()
        }))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        let measured = output.map_err(|failure| failure.into_rejection(env))?;
        Ok(NativeMeasurement {
            hash_seconds: measured.hash.as_secs_f64(),
            retrieve_seconds: measured.retrieve.as_secs_f64(),
            attend_seconds: measured.attend.as_secs_f64(),
            step_seconds: measured.step.as_secs_f64(),
            exact_seconds: measured.exact.as_secs_f64(),
            stream_bytes_per_second: measured.stream,
            row_bytes: measured.row_bytes as f64,
            index_seconds: measured.index.as_secs_f64(),
            index_bytes_per_key: measured.index_bytes_per_key,
            budget: measured.budget,
            relative_l2: measured.relative_l2,
        })
    }
}

/// Measures a policy on one layer of `batch` sequences of `context` tokens (`options.layers` is not used).
#[napi]
pub fn measure(
    options: NativeSessionOptions,
    context: f64,
    policy: NativePolicy,
    batch: f64,
) -> AsyncTask<MeasureTask> {
    let arguments = || {
        let context = integer("context", context, u32::MAX)?;
        Ok((options.config()?, context, policy.policy()?, integer("batch", batch, u16::MAX.into())?))
    };
    AsyncTask::new(MeasureTask(arguments()))
}
