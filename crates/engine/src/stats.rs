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
    /// Heads and steps that estimated their own error; none where the budget is a number of keys.
    pub assessed: u64,
    /// Of these, those that read every key.
    pub read_whole: u64,
    /// Sum of the estimates, each relative to the output: predictions, or ends of intervals.
    pub error_sum: f64,
    /// The greatest of them.
    pub error_max: f64,
    /// Wall time of decoding's attention, the insertion of new rows included; of a batch's, what was spent on this session.
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

impl Stats {
    /// Notes a layer's estimates of its own error, one a query head; 0 where every key was read.
    pub(crate) fn note_errors(&mut self, errors: &[f64]) {
        self.assessed += errors.len() as u64;
        self.read_whole += errors.iter().filter(|&&error| error == 0.0).count() as u64;
        self.error_sum += errors.iter().sum::<f64>();
        self.error_max = errors.iter().copied().fold(self.error_max, f64::max);
    }
}
