//! What a session has done and what it holds.

use std::time::Duration;

/// Counts of decoding steps since the last reset, and sizes of the session now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Rows that decoding read: static and sampled, summed over steps, layers and query heads.
    pub rows_read: u64,
    /// Of these, rows drawn from the index.
    pub sampled_rows: u64,
    /// Rows that the index could have drawn, summed likewise: `sampled_rows / indexed_rows` is the budget.
    pub indexed_rows: u64,
    /// Wall time of decoding's attention, the insertion of new rows included.
    pub attend_time: Duration,
    /// Of this, hashing or rotating the queries.
    pub hash_time: Duration,
    /// And finding the rows to read; where several threads do it at once, their mean.
    pub retrieve_time: Duration,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes that the rows occupy on disk.
    pub row_bytes: u64,
    /// Tokens that every layer holds.
    pub tokens: usize,
    /// Of these, tokens that every layer has indexed.
    pub indexed_tokens: usize,
}
