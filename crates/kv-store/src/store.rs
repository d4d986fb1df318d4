//! The rows of a session, region by region.

use std::path::{Path, PathBuf};

use crate::segment_file::SegmentFile;
use crate::{Layout, SEGMENT_ROWS, StoreError};

/// Rows of every region, addressed by token position. Many threads may read at once; writing needs it exclusively.
#[derive(Debug)]
pub struct RowStore {
    layout: Layout,
    directory: PathBuf,
    segment_rows: usize,
    file_bytes: usize,
    /// The first is made with the store, so that a directory which cannot hold files is known at once.
    files: Vec<SegmentFile>,
    /// Rows of each region.
    lengths: Vec<usize>,
}

impl RowStore {
    /// An empty store whose files have no names: they vanish with it, and with the process.
    ///
    /// # Errors
    /// If the layout is empty or too large for a file, or `directory` cannot hold files.
    pub fn ephemeral(directory: &Path, layout: Layout) -> Result<RowStore, StoreError> {
        RowStore::with_segment_rows(directory, layout, SEGMENT_ROWS)
    }

    fn with_segment_rows(
        directory: &Path,
        layout: Layout,
        segment_rows: usize,
    ) -> Result<RowStore, StoreError> {
        let file_bytes = layout.file_bytes(segment_rows)?;
        Ok(RowStore {
            layout,
            directory: directory.to_owned(),
            segment_rows,
            file_bytes,
            files: vec![SegmentFile::create(directory, file_bytes)?],
            lengths: vec![0; layout.regions()],
        })
    }

    /// The shape of the rows.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows of a region.
    ///
    /// # Panics
    /// If there is no such region.
    pub fn len(&self, layer: usize, kv_head: usize) -> usize {
        self.lengths[self.region(layer, kv_head)]
    }

    /// Whether no region has a row.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&len| len == 0)
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.lengths.iter().sum::<usize>() as u64 * self.layout.row_bytes() as u64
    }

    /// Writes rows at `position` and after it, over those that are there and past the end of the region. `rows` is
    /// `[count, row_elements]`, and count may be 0.
    ///
    /// # Errors
    /// If there is no such region, the rows are not whole or would leave a hole, or the disk is full or fails. The
    /// region keeps its length then, though rows that were to be overwritten may have changed.
    pub fn write(
        &mut self,
        layer: usize,
        kv_head: usize,
        position: usize,
        rows: &[u16],
    ) -> Result<(), StoreError> {
        let region = self.layout.region(layer, kv_head)?;
        let row_elements = self.layout.row_elements();
        if !rows.len().is_multiple_of(row_elements) {
            return Err(StoreError::RaggedRows { elements: rows.len(), row_elements });
        }
        let len = self.lengths[region];
        if position > len {
            return Err(StoreError::Hole { position, len });
        }

        let mut end = position;
        let mut rest = rows;
        while !rest.is_empty() {
            let (segment, first) = (end / self.segment_rows, end % self.segment_rows);
            let count = (rest.len() / row_elements).min(self.segment_rows - first);
            let (now, later) = rest.split_at(count * row_elements);
            if segment == self.files.len() {
                self.files.push(SegmentFile::create(&self.directory, self.file_bytes)?);
            }
            let offset = self.offset(region, first);
            self.files[segment].write(offset, bytemuck::cast_slice(now)).map_err(|error| {
                StoreError::from_io("write rows", &self.directory, size_of_val(rest) as u64, error)
            })?;
            end += count;
            rest = later;
        }
        self.lengths[region] = len.max(end);
        Ok(())
    }

    /// The rows of a region in one segment, `[rows, row_elements]`: up to [`SEGMENT_ROWS`], and none in a segment
    /// that the region has not reached.
    ///
    /// # Panics
    /// If there is no such region.
    pub fn rows(&self, layer: usize, kv_head: usize, segment: usize) -> &[u16] {
        let region = self.region(layer, kv_head);
        let count = self.lengths[region]
            .saturating_sub(segment.saturating_mul(self.segment_rows))
            .min(self.segment_rows);
        if count == 0 {
            return &[];
        }
        let range = self.offset(region, 0)..self.offset(region, count);
        bytemuck::cast_slice(self.files[segment].read(range))
    }

    /// The rows of a region, segment by segment.
    ///
    /// # Panics
    /// If there is no such region.
    pub fn segments(&self, layer: usize, kv_head: usize) -> impl ExactSizeIterator<Item = &[u16]> {
        let segments = self.len(layer, kv_head).div_ceil(self.segment_rows);
        (0..segments).map(move |segment| self.rows(layer, kv_head, segment))
    }

    /// Drops every row at position `tokens` or after it, in every region. Segments that nobody reaches any more give
    /// their disk space back; what is cut off inside a segment keeps it for the rows to come.
    ///
    /// # Errors
    /// None so far: a store that outlives its process records its length on disk, and there it can fail.
    pub fn truncate(&mut self, tokens: usize) -> Result<(), StoreError> {
        for len in &mut self.lengths {
            *len = tokens.min(*len);
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        self.files.truncate(longest.div_ceil(self.segment_rows).max(1));
        Ok(())
    }

    /// The byte at which a region's row begins in its segment's file.
    fn offset(&self, region: usize, row: usize) -> usize {
        (region * self.segment_rows + row) * self.layout.row_bytes()
    }

    fn region(&self, layer: usize, kv_head: usize) -> usize {
        self.layout.region(layer, kv_head).unwrap_or_else(|error| panic!("{error}"))
    }
}

#[cfg(test)]
mod tests;
