//! Which ids occur at least twice: a count for each id of a segment, in the first-level cache.
//!
//! Two bitmaps (seen once, seen twice) take a quarter of the space but three times the instructions for each id.

use crate::SEGMENT_ROWS;
use crate::kernels::Kernels;

/// Buckets whose ids are counted before counts are cut to [`ENOUGH`], so that none goes beyond 255: a bucket has an id once.
const BUCKETS: usize = 250;
/// Occurrences beyond these need not be told apart.
const ENOUGH: u8 = 2;

/// How often each id of a segment has occurred.
#[derive(Debug)]
pub struct Collisions {
    counts: Box<[u8; SEGMENT_ROWS]>,
    /// Buckets since counts were cut.
    buckets: usize,
}

impl Default for Collisions {
    fn default() -> Self {
        Collisions { counts: Box::new([0; SEGMENT_ROWS]), buckets: 0 }
    }
}

impl Collisions {
    /// Notes one occurrence of each id of a bucket; all are below [`SEGMENT_ROWS`].
    #[inline]
    pub fn record(&mut self, bucket: &[u16]) {
        if self.buckets == BUCKETS {
            self.counts.iter_mut().for_each(|count| *count = (*count).min(ENOUGH));
            self.buckets = 0;
        }
        self.buckets += 1;
        for &id in bucket {
            // No id is as great; saying so spares a comparison for each.
            let count = &mut self.counts[usize::from(id) % SEGMENT_ROWS];
            *count = count.wrapping_add(1);
        }
    }

    /// Appends the ids that occurred at least twice to `out`, ascending, and forgets everything.
    pub fn drain_into(&mut self, kernels: Kernels, out: &mut Vec<u16>) {
        self.buckets = 0;
        kernels.take_repeated(&mut self.counts[..], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn drains_what_a_count_says(ids in prop::collection::vec(0u16..200, 0..400)) {
            let ids: Vec<u16> = ids.into_iter().map(|id| id * 163).collect();
            let mut collisions = Collisions::default();
            for kernels in Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok()) {
                // Twice, so that anything left behind by the first drain would show.
                for _ in 0..2 {
                    for part in ids.chunks(7) {
                        collisions.record(part);
                    }
                    let mut drained = Vec::new();
                    collisions.drain_into(kernels, &mut drained);
                    let mut expected: Vec<u16> = ids.clone();
                    expected.sort_unstable();
                    expected = expected.chunk_by(|a, b| a == b).filter(|same| same.len() >= 2).map(|same| same[0]).collect();
                    prop_assert_eq!(drained, expected);
                }
            }
        }
    }

    #[test]
    fn a_thousand_collisions_are_still_at_least_two() {
        let mut collisions = Collisions::default();
        // Also those after which a count of 8 bits would begin again.
        for times in [1, 2, BUCKETS, BUCKETS + 1, 255, 256, 257, 512, 513, 1000] {
            for _ in 0..times {
                collisions.record(&[7]);
            }
            let mut drained = Vec::new();
            collisions.drain_into(Kernels::detect().expect("a kernel"), &mut drained);
            assert_eq!(drained, if times == 1 { vec![] } else { vec![7] }, "{times} times");
        }
    }
}
