//! Hash tables of consecutive rows of a segment: for each table, the rows' ids grouped by bucket.

use crate::SEGMENT_ROWS;
use crate::kernels::Kernels;
use crate::pages::Pages;

/// Tables between asking for a bucket's place and reading it, and between asking for its ids and reading those.
const PLACES_AHEAD: usize = 16;
const IDS_AHEAD: usize = 16;

/// L tables over one run of consecutive rows, in compressed form: ids by bucket, and where each bucket begins.
/// 2 L bytes a row, and 2 L (2^K + 1) bytes of offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    rows: usize,
    buckets: usize,
    /// `[tables, buckets + 1]`; a run has at most 32,768 rows, so an offset fits into 16 bits.
    offsets: Pages<u16>,
    /// `[tables, rows]`, ascending within a bucket.
    ids: Pages<u16>,
}

impl Run {
    /// Tables of the rows `first..first + rows` of a segment, from their codes `[tables, rows]`: a counting sort
    /// a table.
    ///
    /// # Panics
    /// If a code is not below `buckets`, or the rows do not fit into a segment.
    pub fn build(first: usize, rows: usize, buckets: usize, codes: &[u16]) -> Run {
        assert!(first + rows <= SEGMENT_ROWS && rows > 0 && codes.len().is_multiple_of(rows));
        let tables = codes.len() / rows;
        let mut offsets = Pages::zeroed(tables * (buckets + 1));
        let mut ids = Pages::zeroed(tables * rows);
        for ((codes, offsets), ids) in codes
            .chunks_exact(rows)
            .zip(offsets.chunks_exact_mut(buckets + 1))
            .zip(ids.chunks_exact_mut(rows))
        {
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
        Run { rows, buckets, offsets, ids }
    }

    /// One run of this one's rows and those of `later`, whose ids are all greater: bucket after bucket.
    ///
    /// # Panics
    /// If the two have different numbers of tables or buckets.
    pub fn merge(&self, later: &Run) -> Run {
        assert!(self.buckets == later.buckets && self.offsets.len() == later.offsets.len());
        let mut ids = Pages::zeroed(self.ids.len() + later.ids.len());
        let mut rest = &mut ids[..];
        for table in 0..self.tables() {
            for bucket in 0..self.buckets {
                for part in [self.bucket(table, bucket as u16), later.bucket(table, bucket as u16)] {
                    let (to, after) = rest.split_at_mut(part.len());
                    to.copy_from_slice(part);
                    rest = after;
                }
            }
        }
        let mut offsets = self.offsets.clone();
        for (offset, later) in offsets.iter_mut().zip(later.offsets.iter()) {
            *offset += later;
        }
        Run { rows: self.rows + later.rows, buckets: self.buckets, offsets, ids }
    }

    /// Rows in the run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// L.
    pub fn tables(&self) -> usize {
        self.offsets.len() / (self.buckets + 1)
    }

    /// Ids of the rows whose code in `table` is `code`, ascending.
    #[inline]
    pub fn bucket(&self, table: usize, code: u16) -> &[u16] {
        let at = table * (self.buckets + 1) + usize::from(code);
        let (start, end) = (usize::from(self.offsets[at]), usize::from(self.offsets[at + 1]));
        &self.ids[table * self.rows..][start..end]
    }

    /// Hands `use_bucket` the bucket of `codes[table]` of every table. Each is a jump through memory, and what it needs is
    /// asked for a few tables ahead: the bucket's place, then its ids.
    pub fn each_bucket(&self, kernels: Kernels, codes: &[u16], mut use_bucket: impl FnMut(&[u16])) {
        let place = |table: usize| table * (self.buckets + 1) + usize::from(codes[table]);
        let tables = codes.len();
        for table in 0..tables + IDS_AHEAD + PLACES_AHEAD {
            if table < tables {
                kernels.prefetch(&self.offsets[place(table)..][..2]);
            }
            if let Some(table) = table.checked_sub(PLACES_AHEAD)
                && table < tables
            {
                kernels.prefetch(self.bucket(table, codes[table]));
            }
            if let Some(table) = table.checked_sub(PLACES_AHEAD + IDS_AHEAD) {
                use_bucket(self.bucket(table, codes[table]));
            }
        }
    }

    /// Bytes of ids and offsets.
    pub fn bytes(&self) -> usize {
        2 * (self.ids.len() + self.offsets.len())
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
                    prop_assert_eq!(run.bucket(table, code), expected);
                }
            }

            let cut = 1 + ((rows - 2) as f64 * split) as usize;
            let part = |range: std::ops::Range<usize>| {
                let codes: Vec<u16> =
                    (0..tables).flat_map(|table| codes[table * rows..][range.clone()].to_vec()).collect();
                Run::build(first + range.start, range.len(), 16, &codes)
            };
            prop_assert_eq!(part(0..cut).merge(&part(cut..rows)), run);
        }
    }

    #[test]
    fn a_full_segment_in_one_bucket_fits_the_offsets() {
        let run = Run::build(0, SEGMENT_ROWS, 2, &vec![1; SEGMENT_ROWS]);
        assert_eq!(run.bucket(0, 1).len(), SEGMENT_ROWS);
        assert!(run.bucket(0, 0).is_empty());
    }
}
