//! How many elements each region has, for each segment and column.

/// A table of counts, `[segments, columns]`. A segment beyond the table has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    columns: usize,
    counts: Vec<usize>,
}

impl Counts {
    /// No segments yet.
    pub fn new(columns: usize) -> Counts {
        Counts { columns, counts: Vec::new() }
    }

    /// Segments in the table.
    pub fn segments(&self) -> usize {
        self.counts.len() / self.columns
    }

    /// Elements of a column in a segment.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn get(&self, segment: usize, column: usize) -> usize {
        assert!(column < self.columns, "column {column} of {}", self.columns);
        self.counts.get(segment * self.columns + column).copied().unwrap_or(0)
    }

    /// Sets a count; segments up to this one come into being with counts of 0.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn set(&mut self, segment: usize, column: usize, count: usize) {
        assert!(column < self.columns, "column {column} of {}", self.columns);
        if segment >= self.segments() {
            self.counts.resize((segment + 1) * self.columns, 0);
        }
        self.counts[segment * self.columns + column] = count;
    }

    /// Spreads `total` elements of a column over as many segments as they need: full ones, then the rest; later segments
    /// have none.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn fill(&mut self, column: usize, per_segment: usize, total: usize) {
        for segment in 0..self.segments().max(total.div_ceil(per_segment)) {
            self.set(segment, column, total.saturating_sub(segment * per_segment).min(per_segment));
        }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
}
