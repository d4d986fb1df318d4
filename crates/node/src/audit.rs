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
}

impl From<&Audit> for NativeAudit {
    fn from(audit: &Audit) -> NativeAudit {
        NativeAudit {
            error_squares: Float64Array::new(audit.error_squares.clone()),
            exact_squares: Float64Array::new(audit.exact_squares.clone()),
            bytes_read: audit.bytes_read,
            exact_bytes: audit.exact_bytes,
        }
    }
}
