//! What a session holds: columns, and where their bytes are in a segment's files.

use crate::StoreError;

/// Token positions of a segment.
pub const SEGMENT_ROWS: usize = 32_768;

/// Bytes of a journal at which a commit moves everything into the column files. Opening replays no more than this.
pub const JOURNAL_LIMIT: u64 = 32 << 20;

/// Bytes that share a checksum, unless a segment would then have more than [`SUMS_LIMIT`] of checksums.
const EXTENT_BYTES: usize = 64 << 10;
/// Bytes of a segment's checksums.
const SUMS_LIMIT: usize = 1 << 20;
/// Bytes of a segment's files: as much as ext4 lets one file have. Sums over any number of segments then fit 64 bits.
const FILE_LIMIT: usize = 16 << 40;
/// Regions begin at multiples of this, a cache line.
const ALIGNMENT: usize = 64;
/// Bytes of a column's name.
const NAME_BYTES: usize = 32;

/// The column of tokens, which every session has.
pub(crate) const TOKENS: &str = "tokens";
/// What checksum files are called, which no column may be.
pub(crate) const SUMS: &str = "sums";

/// How a column is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Here and there: nothing is read ahead.
    Random,
    /// From front to back: the kernel may read ahead.
    Sequential,
}

/// One kind of element: every region has up to `per_segment` of them in each segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Names the column's files: 1 to 32 lower-case letters, digits and dashes.
    pub name: String,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Elements of a region in a full segment.
    pub per_segment: usize,
    /// How mapped elements are read. It is advice to the kernel and no part of the format.
    pub pattern: Pattern,
}

/// The columns of a session and how many regions each has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Regions: one for each KV head of each layer.
    pub regions: usize,
    /// Token positions of a segment.
    pub segment_tokens: usize,
    /// The columns, in the order in which calls number them.
    pub columns: Vec<Column>,
    /// Of each column how many regions have it, the first ones of all; empty where every column has all of them.
    pub column_regions: Vec<usize>,
    /// Bytes of the journal at which a commit moves everything into the column files. No part of the format.
    pub journal_limit: u64,
}

impl Spec {
    /// Segments of [`SEGMENT_ROWS`] tokens, a journal of [`JOURNAL_LIMIT`].
    pub fn new(regions: usize, columns: Vec<Column>) -> Spec {
        Spec {
            regions,
            segment_tokens: SEGMENT_ROWS,
            columns,
            column_regions: Vec::new(),
            journal_limit: JOURNAL_LIMIT,
        }
    }

    fn regions_of(&self, column: usize) -> usize {
        self.column_regions.get(column).copied().unwrap_or(self.regions)
    }

    /// What the files of a segment hold: the columns, then the tokens.
    ///
    /// # Errors
    /// If a name does not fit or a size is 0 or more than a file can hold.
    pub(crate) fn lanes(&self) -> Result<Vec<Lane>, StoreError> {
        if self.columns.is_empty() {
            return Err(StoreError::Spec("a session needs at least one column".to_owned()));
        }
        let listed = &self.column_regions;
        if !listed.is_empty() && listed.len() != self.columns.len()
            || listed.iter().any(|&regions| regions > self.regions)
        {
            return Err(StoreError::Spec(format!(
                "{listed:?} are no regions of {} columns, of {}",
                self.columns.len(),
                self.regions
            )));
        }
        let mut lanes = Vec::with_capacity(self.columns.len() + 1);
        for (index, column) in self.columns.iter().enumerate() {
            let Column { name, element_bytes, per_segment, pattern } = column;
            let spelt = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            let taken = self.columns[..index].iter().any(|other| other.name == *name);
            if name.is_empty()
                || name.len() > NAME_BYTES
                || !spelt
                || taken
                || [TOKENS, SUMS].contains(&&**name)
            {
                return Err(StoreError::Spec(format!("{name:?} is no name for a column, or is taken")));
            }
            lanes.push(Lane::new(name, self.regions_of(index), *element_bytes, *per_segment, *pattern)?);
        }
        lanes.push(Lane::new(TOKENS, 1, size_of::<u32>(), self.segment_tokens, Pattern::Sequential)?);
        let all: u128 = lanes.iter().map(|lane| lane.file_bytes() as u128).sum();
        if all > FILE_LIMIT as u128 {
            return Err(StoreError::Spec(format!("a segment of {all} bytes is more than a file can hold")));
        }
        let mut extent = EXTENT_BYTES;
        // Each region of each lane may end in an extent that is not full: hence the second sum.
        let sums = |extent: usize| {
            let partial: u128 = lanes.iter().map(|lane| lane.regions as u128).sum();
            (all / extent as u128 + partial) * size_of::<u64>() as u128
        };
        while sums(extent) > SUMS_LIMIT as u128 && lanes.iter().any(|lane| lane.stride > extent) {
            extent *= 2;
        }
        lanes.iter_mut().for_each(|lane| lane.extent_bytes = extent);
        Ok(lanes)
    }

    /// What must be equal for the bytes to mean the same, as fields of a fingerprint.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = vec![
            ("regions".to_owned(), self.regions.to_string()),
            ("tokens of a segment".to_owned(), self.segment_tokens.to_string()),
            ("columns".to_owned(), self.columns.len().to_string()),
        ];
        for (index, Column { name, element_bytes, per_segment, .. }) in self.columns.iter().enumerate() {
            let regions = self.regions_of(index);
            let regions =
                if regions == self.regions { String::new() } else { format!(" in {regions} regions") };
            fields
                .push((format!("column {name}"), format!("{per_segment} x {element_bytes} bytes{regions}")));
        }
        fields
    }
}

/// One file of each segment: a column of the caller's, or the tokens. Its regions follow each other at `stride` bytes, so
/// that a region's elements are one slice.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub name: String,
    pub regions: usize,
    pub element_bytes: usize,
    pub per_segment: usize,
    pub pattern: Pattern,
    /// Bytes from one region to the next.
    pub stride: usize,
    /// Bytes that share a checksum; the first extent of a region begins with it.
    pub extent_bytes: usize,
}

impl Lane {
    fn new(
        name: &str,
        regions: usize,
        element_bytes: usize,
        per_segment: usize,
        pattern: Pattern,
    ) -> Result<Lane, StoreError> {
        let stride = element_bytes
            .checked_mul(per_segment)
            .and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT))
            .filter(|stride| {
                stride.checked_mul(regions).is_some_and(|bytes| (1..=FILE_LIMIT).contains(&bytes))
            })
            .ok_or_else(|| {
                StoreError::Spec(format!(
                    "column {name:?}: {regions} regions of {per_segment} x {element_bytes} bytes are none, or more \
                     than a file can hold"
                ))
            })?;
        Ok(Lane {
            name: name.to_owned(),
            regions,
            element_bytes,
            per_segment,
            pattern,
            stride,
            extent_bytes: EXTENT_BYTES,
        })
    }

    /// Bytes of a segment's file. That they fit was shown when the lane was made.
    pub fn file_bytes(&self) -> usize {
        self.stride * self.regions
    }

    /// The byte at which an element begins.
    pub fn offset(&self, region: usize, element: usize) -> usize {
        region * self.stride + element * self.element_bytes
    }

    /// Extents that `count` elements of a region touch.
    pub fn extents(&self, count: usize) -> usize {
        (count * self.element_bytes).div_ceil(self.extent_bytes)
    }
}
