//! The flush: everything committed goes into the column files, and a new manifest names them.
//!
//! Order: elements, checksums and the new journal are on the disk, and so are their names, before the manifest that names
//! them; the manifest's own bytes are, before its name is; and what the old manifest names stays until the new one's name is
//! on the disk.

use std::path::PathBuf;

use crate::StoreError;
use crate::column_file::ColumnFile;
use crate::error::failed;
use crate::format::{self, HEADER_BYTES, MANIFEST, MANIFEST_NEW};
use crate::journal::Identity;
use crate::manifest::{CellEntry, Manifest, SegmentEntry};
use crate::session::{Home, JournalFile, SessionStore, Writer};
use crate::sums::{self, LaneSums};

impl SessionStore {
    /// Moves what the journal holds into the column files. Commits do it by themselves when the journal is long; it pays
    /// before a session rests for a while. It is no commit: with a truncation that is not committed, it does nothing.
    ///
    /// # Errors
    /// If the disk is full or fails. What was committed is safe in any case.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        match &self.home {
            Home::Writer(writer) if !self.truncated => {
                writer.check()?;
                if writer.journal.sequence == 1 && !writer.must_flush {
                    return Ok(());
                }
                self.flush_committed()
            }
            _ => Ok(()),
        }
    }

    /// Flushes and lets the session go. One that is dropped instead is as safe, and replays its journal when it is opened.
    ///
    /// # Errors
    /// As [`SessionStore::flush`].
    pub fn close(mut self) -> Result<(), StoreError> {
        self.flush()
    }

    pub(super) fn flush_committed(&mut self) -> Result<(), StoreError> {
        self.sync_elements()?;
        let (entries, mut sums) = self.write_sums()?;
        let Home::Writer(writer) = &mut self.home else { unreachable!("only a writer flushes") };
        let manifest = Manifest {
            generation: writer.manifest.generation + 1,
            state: self.state.clone(),
            segments: entries,
            ..writer.manifest.clone()
        };
        let journal = writer.start_journal(&manifest, manifest.journal(&self.directory))?;
        writer.sync_dir(&self.directory)?;

        let (new, path) = (self.directory.join(MANIFEST_NEW), self.directory.join(MANIFEST));
        writer.write_file(&new, &manifest.encode())?;
        let renamed = writer.backend.rename(&new, &path);
        writer.broken |= renamed.is_err();
        renamed.map_err(failed("replace the manifest", &path))?;
        writer.sync_dir(&self.directory)?;

        let named = manifest.files(&self.directory, &self.lanes);
        for old in writer.manifest.files(&self.directory, &self.lanes).difference(&named) {
            // Should it stay, it is removed when the session is opened.
            let _ = writer.backend.remove_file(old);
        }
        let before = std::mem::replace(&mut writer.manifest, manifest);
        writer.journal = journal;
        writer.must_flush = false;
        for (index, segment) in self.segments.iter_mut().enumerate() {
            if let Some(Some(sums)) = sums.get_mut(index).map(Option::take) {
                segment.sums = Some(sums);
            }
            for (number, cell) in segment.cells.iter_mut().enumerate() {
                cell.same = cell.committed;
                // Nothing of a file counts that was named and is not any more; readers and forks may still look at it.
                let dropped = before.cell(index, number).generation;
                let gone = |file: &ColumnFile| cell.committed == 0 && file.generation == dropped;
                cell.file.take_if(|file| gone(file));
            }
        }
        Ok(())
    }

    fn sync_elements(&mut self) -> Result<(), StoreError> {
        let Home::Writer(writer) = &mut self.home else { unreachable!("only a writer flushes") };
        let cells = self.segments.iter_mut().flat_map(|segment| &mut segment.cells);
        for file in cells.filter(|cell| cell.committed > 0).filter_map(|cell| cell.file.as_mut()) {
            if let (true, Some(handle)) = (file.unsynced, &file.file) {
                writer.sync(handle, &file.path)?;
                file.unsynced = false;
            }
        }
        Ok(())
    }

    /// Writes the checksums of segments that have changed; returns what a manifest says of all segments, and the new
    /// checksums where there are some.
    #[expect(clippy::type_complexity, reason = "the two belong to each other and to this file")]
    fn write_sums(&mut self) -> Result<(Vec<SegmentEntry>, Vec<Option<Vec<LaneSums>>>), StoreError> {
        let (mut entries, mut all) = (Vec::new(), Vec::new());
        for index in 0..self.committed_segments {
            let cells = self.cell_entries(index);
            let Home::Writer(writer) = &self.home else { unreachable!("only a writer flushes") };
            let before = writer.manifest.segments.get(index);
            let untouched = |entry: &&SegmentEntry| {
                let same = |(cell, count): (&super::Cell, &CellEntry)| cell.same == count.count;
                entry.cells == cells && self.segments[index].cells.iter().zip(&cells).all(same)
            };
            if let Some(entry) = before.filter(untouched) {
                entries.push(entry.clone());
                all.push(None);
                continue;
            }
            let generation = writer.manifest.generation + 1;
            let sums = self.renew_sums(index)?;
            let (bytes, sums_digest) = sums::encode(&sums, generation);
            let path = format::sums_path(&self.directory, index, generation);
            let Home::Writer(writer) = &mut self.home else { unreachable!("only a writer flushes") };
            writer.write_file(&path, &bytes)?;
            entries.push(SegmentEntry { sums_generation: generation, sums_digest, cells });
            all.push(Some(sums));
        }
        Ok((entries, all))
    }

    /// What a manifest says of a segment's files.
    fn cell_entries(&self, segment: usize) -> Vec<CellEntry> {
        let Home::Writer(writer) = &self.home else { unreachable!("only a writer flushes") };
        let entry = |(number, cell): (usize, &super::Cell)| match &cell.file {
            Some(file) if cell.committed > 0 => {
                let named = writer.manifest.cell(segment, number);
                let frozen = if named.generation == file.generation { named.frozen } else { 0 };
                CellEntry {
                    generation: file.generation,
                    count: cell.committed,
                    frozen: frozen.max(cell.committed),
                }
            }
            _ => CellEntry::default(),
        };
        self.segments[segment].cells.iter().enumerate().map(entry).collect()
    }

    fn renew_sums(&mut self, index: usize) -> Result<Vec<LaneSums>, StoreError> {
        let Home::Writer(writer) = &self.home else { unreachable!("only a writer flushes") };
        let segment = &self.segments[index];
        let old = match (&segment.sums, writer.manifest.segments.get(index)) {
            (Some(sums), _) => sums.clone(),
            (None, Some(entry)) => sums::read(&self.directory, index, entry, &self.lanes)?,
            (None, None) => vec![LaneSums::default(); self.lanes.len()],
        };
        let renewed =
            segment.cells.iter().zip(&self.lanes).zip(&old).map(|((cell, lane), old)| match &cell.file {
                Some(file) if cell.committed > 0 => {
                    LaneSums::renew(old, lane, (cell.same, cell.committed), &file.path, |range| {
                        file.map.read(range)
                    })
                }
                _ => Ok(LaneSums::default()),
            });
        renewed.collect()
    }
}

impl Writer {
    /// Makes a file that no manifest names yet, and returns once its bytes are on the disk.
    fn write_file(&mut self, path: &std::path::Path, bytes: &[u8]) -> Result<(), StoreError> {
        let sorted = |error| StoreError::from_io("write a file", path, bytes.len() as u64, error);
        let file = self.backend.create(path, 0).map_err(sorted)?;
        self.backend.write_at(&file, 0, bytes).map_err(sorted)?;
        self.sync(&file, path)
    }

    /// Makes the journal that will follow a manifest.
    fn start_journal(&mut self, manifest: &Manifest, path: PathBuf) -> Result<JournalFile, StoreError> {
        let identity = Identity { session: manifest.session, generation: manifest.generation };
        let sorted = |error| StoreError::from_io("start a journal", &path, HEADER_BYTES as u64, error);
        let file = self.backend.create(&path, 0).map_err(sorted)?;
        self.backend.write_at(&file, 0, &identity.opening()).map_err(sorted)?;
        self.sync(&file, &path)?;
        Ok(JournalFile { file, path, end: HEADER_BYTES as u64, sequence: 1 })
    }
}
