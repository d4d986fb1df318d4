//! Writing elements in place, into files in which nobody else looks at them.

use std::path::Path;

use crate::StoreError;
use crate::backend::FileSystem;
use crate::column_file::ColumnFile;
use crate::format;
use crate::journal::Identity;
use crate::session::{Cell, Home, Segment, SessionStore, Writer};
use crate::spec::Lane;

impl SessionStore {
    pub(super) fn write_lane(
        &mut self,
        number: usize,
        region: usize,
        position: usize,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let Lane { element_bytes, per_segment, .. } = self.lanes[number];
        if !bytes.len().is_multiple_of(element_bytes) {
            return Err(StoreError::Ragged { bytes: bytes.len(), element_bytes });
        }
        let (mut position, mut rest) = (position, bytes);
        while !rest.is_empty() {
            let (segment, first) = (position / per_segment, position % per_segment);
            let count = (rest.len() / element_bytes).min(per_segment - first);
            let (now, later) = rest.split_at(count * element_bytes);
            self.write_cell((segment, number), region, first, now)?;
            position += count;
            rest = later;
        }
        Ok(())
    }

    /// Writes elements inside one segment.
    fn write_cell(
        &mut self,
        (segment, number): (usize, usize),
        region: usize,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let lane = &self.lanes[number];
        let len = self.segments.get(segment).map_or(0, |segment| segment.cells[number].written[region]);
        if segment > self.segments.len() || first > len {
            return Err(StoreError::Hole { position: segment.saturating_mul(lane.per_segment) + first, len });
        }
        if segment == self.segments.len() {
            self.segments.push(Segment::new(&self.lanes));
        }
        let cell = &mut self.segments[segment].cells[number];
        if first < cell.unchanged[region] {
            return Err(StoreError::Argument(format!(
                "element {first} of {} in segment {segment} is committed; truncate before writing it anew",
                lane.name
            )));
        }
        let again = cell.written_again(lane, region, first, bytes);
        let (first, bytes) = (first + again, &bytes[again * lane.element_bytes..]);
        if bytes.is_empty() {
            return Ok(());
        }
        cell.intact = cell.intact.min(first);
        let offset = lane.offset(region, first);
        match &mut self.home {
            Home::Writer(writer) => {
                writer.check()?;
                writer.prepare(&self.directory, (segment, number), lane, cell, first)?;
                let file = cell.file.as_mut().expect("it was prepared");
                file.write(&*writer.backend, offset, bytes)?;
            }
            Home::Reader(_) => {
                match &mut cell.file {
                    Some(file) => file.make_private(lane)?,
                    None => cell.file = Some(ColumnFile::in_memory(&self.directory, lane)?),
                }
                cell.file.as_mut().expect("it was made").map.write(offset, bytes);
            }
            Home::Ephemeral => {
                if cell.file.is_none() {
                    cell.file = Some(ColumnFile::unnamed(&self.directory, lane)?);
                }
                cell.file.as_mut().expect("it was made").write(&FileSystem, offset, bytes)?;
            }
        }
        let end = first + bytes.len() / lane.element_bytes;
        cell.written[region] = cell.written[region].max(end);
        Ok(())
    }
}

impl Cell {
    /// Counts elements from `first` on that are written just as the last commit has them, after a truncation: a text that is
    /// read again after it was cut. They are taken back instead of written, since what is named by a manifest is written
    /// in a copy of its file only, which may be large.
    fn written_again(&mut self, lane: &Lane, region: usize, first: usize, bytes: &[u8]) -> usize {
        let Some(file) = &self.file else { return 0 };
        if first != self.unchanged[region] || first >= self.intact {
            return 0;
        }
        let committed = &file.elements(lane, region, self.intact)[first * lane.element_bytes..];
        let elements = bytes.chunks_exact(lane.element_bytes).zip(committed.chunks_exact(lane.element_bytes));
        let again = elements.take_while(|(now, before)| now == before).count();
        self.unchanged[region] += again;
        self.written[region] = self.written[region].max(first + again);
        again
    }
}

impl Writer {
    /// # Errors
    /// [`StoreError::Broken`] after a failed sync.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken {
                path: self.journal.path.parent().unwrap_or(Path::new("")).to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { session: self.manifest.session, generation: self.manifest.generation }
    }

    /// Sees to it that a cell has a file in which elements from `first` on may be written: one that nobody else has
    /// mapped or linked there.
    pub(super) fn prepare(
        &mut self,
        directory: &Path,
        (segment, number): (usize, usize),
        lane: &Lane,
        cell: &mut Cell,
        first: usize,
    ) -> Result<(), StoreError> {
        let named = self.manifest.cell(segment, number);
        let frozen = first < named.frozen;
        if cell.file.as_ref().is_some_and(|file| !frozen || file.generation > self.manifest.generation) {
            self.must_flush |= frozen;
            return Ok(());
        }
        let generation = self.manifest.generation + 1;
        let path = format::column_path(directory, segment, &lane.name, generation);
        let mut file = ColumnFile::create(&*self.backend, path, generation, lane)?;
        if let Some(old) = &cell.file {
            for (region, &count) in cell.written.iter().enumerate().filter(|(_, count)| **count > 0) {
                file.write(&*self.backend, lane.offset(region, 0), old.elements(lane, region, count))?;
            }
        }
        cell.file = Some(file);
        cell.intact = cell.intact.min(cell.common());
        self.must_flush |= frozen;
        Ok(())
    }

    /// Syncs a file; after a failure nothing more is written.
    pub(super) fn sync(&mut self, file: &std::fs::File, path: &Path) -> Result<(), StoreError> {
        let synced = self.backend.sync(file);
        self.broken |= synced.is_err();
        synced.map_err(|error| StoreError::from_io("sync a file", path, 0, error))
    }

    /// Syncs a directory; after a failure nothing more is written.
    pub(super) fn sync_dir(&mut self, path: &Path) -> Result<(), StoreError> {
        let synced = self.backend.sync_dir(path);
        self.broken |= synced.is_err();
        synced.map_err(|error| StoreError::from_io("sync a directory", path, 0, error))
    }
}
