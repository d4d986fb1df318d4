//! Hash tables of consecutive rows of a segment: for each table, the rows' ids grouped by bucket.

use crate::SEGMENT_ROWS;
use crate::kernels::prefetch;
use crate::pages::Pages;

/// Tables between asking for a bucket's place and reading it, and between asking for its ids and reading those.
const PLACES_AHEAD: usize = 16;
const IDS_AHEAD: usize = 16;

/// L tables over one run of consecutive rows: a table is where each bucket begins, `[buckets + 1]`, and then the rows' ids
/// by bucket, ascending within one. 2 L (2^K + 1) bytes, and 2 L a row.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    buckets: usize,
    /// Words from one table's beginning to the next one's.
    stride: usize,
    words: &'a [u16],
}

impl<'a> Tables<'a> {
    /// Tables of 2^`bits` buckets that were stored with room for equally many ids in each: `[tables, 2^bits + 1 + room]`.
    pub fn stored(bits: usize, tables: usize, words: &'a [u16]) -> Tables<'a> {
        Tables { buckets: 1 << bits, stride: words.len() / tables, words }
    }

    /// L.
    pub fn len(&self) -> usize {
        self.words.len() / self.stride
    }

    /// Whether there is no table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One table.
    fn table(&self, table: usize) -> &'a [u16] {
        &self.words[table * self.stride..][..self.stride]
    }

    /// Ids of the rows whose code in `table` is `code`, ascending. A damaged table has none where it makes no sense.
    #[inline]
    pub fn bucket(&self, table: usize, code: u16) -> &'a [u16] {
        let (offsets, ids) = self.table(table).split_at(self.buckets + 1);
        let (start, end) = (offsets[usize::from(code)], offsets[usize::from(code) + 1]);
        ids.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }

    /// Hands `use_bucket` the bucket of `codes[table]` of every table. Each is a jump through memory, and what it needs is
    /// asked for a few tables ahead: the bucket's place, then its ids.
    pub fn each_bucket(&self, codes: &[u16], mut use_bucket: impl FnMut(&[u16])) {
        let tables = codes.len();
        for table in 0..tables + IDS_AHEAD + PLACES_AHEAD {
            if table < tables {
                prefetch::near(&self.table(table)[usize::from(codes[table])..][..2]);
            }
            if let Some(table) = table.checked_sub(PLACES_AHEAD)
                && table < tables
            {
                prefetch::near(self.bucket(table, codes[table]));
            }
            if let Some(table) = table.checked_sub(PLACES_AHEAD + IDS_AHEAD) {
                use_bucket(self.bucket(table, codes[table]));
            }
        }
    }

    /// Copies the tables to where each has equal room.
    ///
    /// # Panics
    /// If there is not room for each.
    pub(crate) fn copy_to(&self, stored: &mut [u16]) {
        let room = stored.len() / self.len();
        for (table, stored) in stored.chunks_exact_mut(room).enumerate() {
            stored[..self.stride].copy_from_slice(self.table(table));
        }
    }

    /// Bytes of ids and offsets.
    pub fn bytes(&self) -> usize {
        size_of_val(self.words)
    }
}

/// Tables in memory, of no more words than their rows need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    rows: usize,
    buckets: usize,
    /// `[tables, buckets + 1 + rows]`; a run has at most 32,768 rows, so an offset fits into 16 bits.
    words: Pages<u16>,
}

impl Run {
    /// Tables of the rows `first..first + rows` of a segment, from their codes `[tables, rows]`: a counting sort
    /// a table.
    ///
    /// # Panics
    /// If a code is not below `buckets`, or the rows do not fit into a segment.
    pub fn build(first: usize, rows: usize, buckets: usize, codes: &[u16]) -> Run {
        assert!(first + rows <= SEGMENT_ROWS && rows > 0 && codes.len().is_multiple_of(rows));
        let stride = buckets + 1 + rows;
        let mut words = Pages::zeroed(codes.len() / rows * stride);
        for (codes, table) in codes.chunks_exact(rows).zip(words.chunks_exact_mut(stride)) {
            let (offsets, ids) = table.split_at_mut(buckets + 1);
            for &code in codes {
                offsets[usize::from(code) + 1] += 1;
            }
            for bucket in 0..buckets {
                offsets[bucket + 1] += offsets[bucket];
            }
            // Placing a row moves its bucket's start up to the next one's, so the array is shifted back after.
            for (row, &code) in codes.iter().enumerate() {
                let place = &mut offsets[usize::from(code)];
                ids[usize::from(*place)] = (first + row) as u16;
                *place += 1;
            }
            offsets.copy_within(..buckets, 1);
            offsets[0] = 0;
        }
        Run { rows, buckets, words }
    }

    /// One run of the `rows` rows in `parts`, whose ids are greater from part to part: bucket after bucket. Of damaged tables
    /// it takes what there is room for.
    ///
    /// # Panics
    /// If there are no parts, or they have different numbers of tables or buckets.
    pub fn merge(parts: &[Tables<'_>], rows: usize) -> Run {
        let (tables, buckets) = (parts[0].len(), parts[0].buckets);
        assert!(parts.iter().all(|part| (part.len(), part.buckets) == (tables, buckets)));
        let stride = buckets + 1 + rows;
        let mut words = Pages::zeroed(tables * stride);
        for (table, merged) in words.chunks_exact_mut(stride).enumerate() {
            let (offsets, mut rest) = merged.split_at_mut(buckets + 1);
            for bucket in 0..buckets {
                for part in parts.iter().map(|part| part.bucket(table, bucket as u16)) {
                    let (to, after) = rest.split_at_mut(part.len().min(rest.len()));
                    to.copy_from_slice(&part[..to.len()]);
                    rest = after;
                }
                offsets[bucket + 1] = (rows - rest.len()) as u16;
            }
        }
        Run { rows, buckets, words }
    }

    /// Rows in the run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tables.
    pub fn tables(&self) -> Tables<'_> {
        Tables { buckets: self.buckets, stride: self.buckets + 1 + self.rows, words: &self.words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_hold_the_rows_with_their_code_and_merging_is_building(
            codes in prop::collection::vec(0u16..16, 2 * 3..200 * 3), split in 0.0f64..1.0, first in 0usize..100,
        ) {
            let (tables, rows) = (3, codes.len() / 3);
            let codes = &codes[..tables * rows];
            let run = Run::build(first, rows, 16, codes);
            for table in 0..tables {
                for code in 0..16 {
                    let expected: Vec<u16> = (0..rows)
                        .filter(|row| codes[table * rows + row] == code)
                        .map(|row| (first + row) as u16)
                        .collect();
                    prop_assert_eq!(run.tables().bucket(table, code), expected);
                }
            }

            let cut = 1 + ((rows - 2) as f64 * split) as usize;
            let part = |range: std::ops::Range<usize>| {
                let codes: Vec<u16> =
                    (0..tables).flat_map(|table| codes[table * rows..][range.clone()].to_vec()).collect();
                Run::build(first + range.start, range.len(), 16, &codes)
            };
            let parts = [part(0..cut), part(cut..rows)];
            prop_assert_eq!(Run::merge(&parts.each_ref().map(Run::tables), rows), run);
        }
    }

    #[test]
    fn a_full_segment_in_one_bucket_fits_the_offsets() {
        let run = Run::build(0, SEGMENT_ROWS, 2, &vec![1; SEGMENT_ROWS]);
        assert_eq!(run.tables().bucket(0, 1).len(), SEGMENT_ROWS);
        assert!(run.tables().bucket(0, 0).is_empty());
    }
}
