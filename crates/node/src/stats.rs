//! What a session has done and what it holds, as JavaScript sees it.

use engine::Stats;
use napi_derive::napi;

/// Counts of decoding steps since the last reset, and sizes of the session now.
#[napi(object, object_from_js = false)]
pub struct NativeStats {
    /// Rows that decoding read, static and sampled, summed over steps, layers and query heads.
    pub rows_read: f64,
    /// Of these, rows drawn from the index.
    pub sampled_rows: f64,
    /// Rows that the index could have drawn, summed likewise: `sampledRows / indexedRows` is the budget.
    pub indexed_rows: f64,
    /// Wall time spent in attendDecode, in seconds.
    pub attend_seconds: f64,
    /// Bytes of the index.
    pub index_bytes: f64,
    /// Bytes of the rows.
    pub row_bytes: f64,
    /// Tokens that every layer holds.
    pub tokens: f64,
    /// Of these, tokens that every layer has indexed.
    pub indexed_tokens: f64,
}

impl From<Stats> for NativeStats {
    fn from(stats: Stats) -> NativeStats {
        NativeStats {
            rows_read: stats.rows_read as f64,
            sampled_rows: stats.sampled_rows as f64,
            indexed_rows: stats.indexed_rows as f64,
            attend_seconds: stats.attend_time.as_secs_f64(),
            index_bytes: stats.index_bytes as f64,
            row_bytes: stats.row_bytes as f64,
            tokens: stats.tokens as f64,
            indexed_tokens: stats.indexed_tokens as f64,
        }
    }
}
