//! How far a policy's steps are from exact ones, as JavaScript sees it.

use engine::Audit;
use napi::bindgen_prelude::Float64Array;
use napi_derive::napi;

/// Sums over steps.
#[napi(object, object_from_js = false)]
pub struct NativeAudit {
    /// |o - exact o|^2 [layers, heads], o the attention's output of a query head.
    pub error_squares: Float64Array,
    /// |exact o|^2 [layers, heads].
    pub exact_squares: Float64Array,
    /// Bytes of rows and index that the policy reads, each row once for the query heads of a KV head.
    pub bytes_read: f64,
    /// Bytes of rows that exact attention reads.
    pub exact_bytes: f64,
    /// Heads and steps that estimated their own error.
    pub head_steps: f64,
    /// Of these, those whose error was above epsilon.
    pub violations: f64,
    /// And those whose error was above the estimate.
    pub outside: f64,
    /// Sum of the estimates, each relative to the output.
    pub estimated_errors: f64,
    /// Sum of the real errors likewise.
    pub real_errors: f64,
}

impl From<&Audit> for NativeAudit {
    fn from(audit: &Audit) -> NativeAudit {
        NativeAudit {
            error_squares: Float64Array::new(audit.error_squares.clone()),
            exact_squares: Float64Array::new(audit.exact_squares.clone()),
            bytes_read: audit.bytes_read,
            exact_bytes: audit.exact_bytes,
            head_steps: audit.coverage.head_steps as f64,
            violations: audit.coverage.violations as f64,
            outside: audit.coverage.outside as f64,
            estimated_errors: audit.coverage.estimated,
            real_errors: audit.coverage.real,
        }
    }
}
