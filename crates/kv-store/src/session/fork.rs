//! Forking: another session with the same commit, which shares the files that are full.

use std::path::Path;
use std::sync::Arc;

use crate::StoreError;
use crate::backend::{Backend, FileSystem};
use crate::format;
use crate::manifest::{CellEntry, Manifest, SegmentEntry};
use crate::session::create::new_session;
use crate::session::{Home, Nursery, SessionStore};
use crate::sums::{self, LaneSums};

impl SessionStore {
    /// Makes a session in the folder `directory`, which is not there yet or is empty, with the last commit of this one.
    /// Files whose elements are complete are shared where the file system can link them, since nothing ever changes them; the
    /// others are copied. A session without a folder is written out whole, with `fingerprint`; one with a folder passes its
    /// own on.
    ///
    /// # Errors
    /// If something is already there, a truncation was not committed, or the file system refuses. The folder is then not
    /// there, unless all that failed was to sync its name.
    pub fn fork(&mut self, directory: &Path, fingerprint: &[(String, String)]) -> Result<(), StoreError> {
        if self.truncated {
            return Err(StoreError::Argument("commit the truncation before forking".to_owned()));
        }
        self.flush()?;
        let (backend, manifest): (Arc<dyn Backend>, _) = match &self.home {
            Home::Ephemeral => (Arc::new(FileSystem), None),
            Home::Reader(manifest) => (Arc::new(FileSystem), Some(manifest)),
            Home::Writer(writer) => (Arc::clone(&writer.backend), Some(&writer.manifest)),
        };
        let fingerprint = if manifest.is_some() { self.fingerprint.clone() } else { fingerprint.to_vec() };
        let nursery = Nursery::begin(&*backend, directory)?;
        let generation = manifest.map_or(1, |manifest| manifest.generation + 1);
        let segments = (0..self.committed_segments)
            .map(|index| self.fork_segment(&*backend, &nursery, manifest, index, generation))
            .collect::<Result<Vec<_>, _>>()?;
        nursery.finish(&Manifest {
            session: new_session(),
            generation,
            spec: self.spec.clone(),
            fingerprint,
            state: self.state.clone(),
            segments,
        })?;
        Ok(())
    }

    fn fork_segment(
        &self,
        backend: &dyn Backend,
        nursery: &Nursery<'_>,
        manifest: Option<&Manifest>,
        index: usize,
        generation: u64,
    ) -> Result<SegmentEntry, StoreError> {
        let mut cells = Vec::with_capacity(self.lanes.len());
        for number in 0..self.lanes.len() {
            let named = manifest.map_or_else(CellEntry::default, |manifest| manifest.cell(index, number));
            cells.push(self.fork_cell(backend, nursery, (index, number), named, generation)?);
        }
        let known = manifest
            .and_then(|manifest| manifest.segments.get(index))
            .filter(|entry| entry.cells.iter().zip(&cells).all(|(before, now)| before.count == now.count));
        if let Some(entry) = known {
            let from = format::sums_path(&self.directory, index, entry.sums_generation);
            let to = format::sums_path(&nursery.directory, index, entry.sums_generation);
            if backend.hard_link(&from, &to).is_ok() {
                return Ok(SegmentEntry { cells, ..entry.clone() });
            }
        }
        let none = LaneSums::default();
        let sums = self.segments[index].cells.iter().zip(&self.lanes).map(|(cell, lane)| match &cell.file {
            Some(file) if cell.committed > 0 => {
                LaneSums::renew(&none, lane, (0, cell.committed), &file.path, |range| file.map.read(range))
            }
            _ => Ok(LaneSums::default()),
        });
        let (bytes, sums_digest) = sums::encode(&sums.collect::<Result<Vec<_>, _>>()?, generation);
        let path = format::sums_path(&nursery.directory, index, generation);
        nursery.file(&path, 0, |file| backend.write_at(file, 0, &bytes))?;
        Ok(SegmentEntry { sums_generation: generation, sums_digest, cells })
    }

    fn fork_cell(
        &self,
        backend: &dyn Backend,
        nursery: &Nursery<'_>,
        (index, number): (usize, usize),
        named: CellEntry,
        generation: u64,
    ) -> Result<CellEntry, StoreError> {
        let (cell, lane) = (&self.segments[index].cells[number], &self.lanes[number]);
        let count = cell.committed;
        let Some(source) = cell.file.as_ref().filter(|_| count > 0) else { return Ok(CellEntry::default()) };
        let full = named.generation == source.generation && named.count == count && count == lane.per_segment;
        if full {
            let to = format::column_path(&nursery.directory, index, &lane.name, source.generation);
            if backend.hard_link(&source.path, &to).is_ok() {
                return Ok(CellEntry { generation: source.generation, count, frozen: count });
            }
        }
        let to = format::column_path(&nursery.directory, index, &lane.name, generation);
        nursery.file(&to, lane.file_bytes() as u64, |file| {
            (0..lane.regions).try_for_each(|region| {
                backend.write_at(file, lane.offset(region, 0) as u64, source.elements(lane, region, count))
            })
        })?;
        Ok(CellEntry { generation, count, frozen: count })
    }
}
