//! Weights of a vocabulary's scores, which a sampler draws by.

use engine::{EngineError, Kernels, weigh};
use napi_derive::napi;

use crate::arguments::{apart, length};
use crate::failure::{Code, Failure};
use crate::session::Written;

/// Writes what softmax at a temperature above 0 weighs scores with: exp((score - greatest) / temperature), within 1e-5 relative; at most 2e-38
/// where the exponent is below -87. Blocks the thread for tens of microseconds.
#[napi(js_name = "weigh")]
pub fn weigh_scores(
    scores: &[f32],
    greatest: f64,
    temperature: f64,
    #[napi(ts_arg_type = "Float32Array")] out: Written<'_>,
) -> napi::Result<(), Code> {
    length("out", out, scores.len())?;
    apart(out, [scores])?;
    let kernels = Kernels::detect().map_err(|error| Failure::from(EngineError::from(error)))?;
    weigh(kernels, scores, greatest as f32, (temperature as f32).max(f32::MIN_POSITIVE), out);
    Ok(())
}
