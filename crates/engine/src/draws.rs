//! Where in the text steps draw their keys: a histogram of positions for each layer.

use std::sync::atomic::{AtomicU64, Ordering};

use kv_store::SEGMENT_ROWS;

/// Counts of drawn rows `[layers, bins]`, summed over steps and query heads as [`crate::Stats::sampled_rows`] is. The threads of a
/// step add to it at once; sums of whole numbers do not depend on their order.
#[derive(Debug)]
pub struct Draws {
    /// Positions of a bin.
    bin: usize,
    layers: Vec<Vec<AtomicU64>>,
}

impl Draws {
    pub(crate) fn new(layers: usize, bin: usize) -> Draws {
        Draws { bin, layers: (0..layers).map(|_| Vec::new()).collect() }
    }

    /// Has room for positions below `tokens` in a layer.
    pub(crate) fn cover(&mut self, layer: usize, tokens: usize) {
        let bins = tokens.div_ceil(self.bin);
        if self.layers[layer].len() < bins {
            self.layers[layer].resize_with(bins, AtomicU64::default);
        }
    }

    /// Notes rows of a segment that `queries` query heads read.
    pub(crate) fn note(
        &self,
        layer: usize,
        segment: usize,
        rows: impl IntoIterator<Item = usize>,
        queries: usize,
    ) {
        for row in rows {
            let bin = (segment * SEGMENT_ROWS + row) / self.bin;
            self.layers[layer][bin].fetch_add(queries as u64, Ordering::Relaxed);
        }
    }

    /// Positions of a bin.
    pub fn bin(&self) -> usize {
        self.bin
    }

    /// Counts of a layer: of as many bins as its positions had when it was last attended.
    pub fn layer(&self, layer: usize) -> Vec<u64> {
        self.layers[layer].iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
