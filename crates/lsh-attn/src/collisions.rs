//! Which ids occur at least twice: two bitmaps that fit into the first-level cache.

use crate::SEGMENT_ROWS;

const WORDS: usize = SEGMENT_ROWS / 64;

/// Ids of one segment seen once and seen twice, a bit each (4 KiB a bitmap).
#[derive(Debug)]
pub struct Collisions {
    once: Box<[u64; WORDS]>,
    twice: Box<[u64; WORDS]>,
}

impl Default for Collisions {
    fn default() -> Self {
        Collisions { once: Box::new([0; WORDS]), twice: Box::new([0; WORDS]) }
    }
}

impl Collisions {
    /// Notes one occurrence of each id.
    ///
    /// # Panics
    /// If an id is not below [`SEGMENT_ROWS`].
    #[inline]
    pub fn record(&mut self, ids: &[u16]) {
        for &id in ids {
            let (word, bit) = (usize::from(id) / 64, 1u64 << (id % 64));
            self.twice[word] |= self.once[word] & bit;
            self.once[word] |= bit;
        }
    }

    /// Appends the ids that occurred at least twice to `out`, ascending, and forgets everything.
    pub fn drain_into(&mut self, out: &mut Vec<u16>) {
        for (word, bits) in self.twice.iter_mut().enumerate() {
            while *bits != 0 {
                out.push((word * 64) as u16 + bits.trailing_zeros() as u16);
                *bits &= *bits - 1;
            }
        }
        self.once.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn drains_what_a_count_says(ids in prop::collection::vec(0u16..200, 0..400)) {
            let ids: Vec<u16> = ids.into_iter().map(|id| id * 163).collect();
            let mut collisions = Collisions::default();
            // Twice, so that anything left behind by the first drain would show.
            for _ in 0..2 {
                for part in ids.chunks(7) {
                    collisions.record(part);
                }
                let mut drained = Vec::new();
                collisions.drain_into(&mut drained);
                let mut expected: Vec<u16> = ids.clone();
                expected.sort_unstable();
                expected = expected.chunk_by(|a, b| a == b).filter(|same| same.len() >= 2).map(|same| same[0]).collect();
                prop_assert_eq!(drained, expected);
            }
        }
    }
}
