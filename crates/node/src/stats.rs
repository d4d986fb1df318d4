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
    /// Heads and steps that estimated their own error; 0 where the budget is a number of keys.
    pub assessed: f64,
    /// Of these, those that read every key.
    pub read_whole: f64,
    /// Sum of the estimates, each relative to the output: predictions, or ends of intervals.
    pub error_sum: f64,
    /// The greatest of them.
    pub error_max: f64,
    /// Wall time spent in attendDecode, in seconds, and of attendBatch and decodeBatch what was spent on this session.
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
            assessed: stats.assessed as f64,
            read_whole: stats.read_whole as f64,
            error_sum: stats.error_sum,
            error_max: stats.error_max,
            attend_seconds: stats.attend_time.as_secs_f64(),
            index_bytes: stats.index_bytes as f64,
            row_bytes: stats.row_bytes as f64,
            tokens: stats.tokens as f64,
            indexed_tokens: stats.indexed_tokens as f64,
        }
    }
}
