//! Opening a session: its manifest, its files, and the journal since.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{Backend, FileSystem};
use crate::column_file::ColumnFile;
use crate::error::failed;
use crate::format::{self, Change};
use crate::journal::{self, Identity, Scan};
use crate::lock::Lock;
use crate::manifest::{Manifest, SegmentEntry, missing, read_named};
use crate::replay::{Step, replay};
use crate::session::create::entries;
use crate::session::{Access, Cell, Home, JournalFile, Segment, SessionStore, Writer};
use crate::spec::Lane;
use crate::{Spec, StoreError};

/// How often a reader begins anew because a writer has flushed meanwhile.
const ATTEMPTS: usize = 100;

impl SessionStore {
    /// Opens the session in `directory` as it was committed last. It takes as long as there are segments and the journal is
    /// long, and not as the text is.
    ///
    /// # Errors
    /// If there is no session, it was made for other columns or with another fingerprint, another writer has it, a file is
    /// missing, short or damaged, or the file system refuses. Elements are not read: [`crate::verify`] does.
    pub fn open(
        directory: &Path,
        spec: Spec,
        fingerprint: &[(String, String)],
        access: Access,
    ) -> Result<SessionStore, StoreError> {
        match access {
            Access::Write => SessionStore::open_on(Arc::new(FileSystem), directory, spec, fingerprint),
            Access::Read => SessionStore::open_reader(directory, &spec, fingerprint),
        }
    }

    /// As [`SessionStore::open`] for writing, with every change going through `backend`.
    ///
    /// # Errors
    /// As [`SessionStore::open`].
    pub fn open_on(
        backend: Arc<dyn Backend>,
        directory: &Path,
        spec: Spec,
        fingerprint: &[(String, String)],
    ) -> Result<SessionStore, StoreError> {
        // Without a look first, a lock would appear in folders that are not ours.
        Manifest::read(directory)?.0.check(directory, &spec, fingerprint)?;
        let lock = Lock::take(directory)?;
        SessionStore::open_locked(backend, lock, directory, spec, fingerprint)
    }

    pub(super) fn open_locked(
        backend: Arc<dyn Backend>,
        lock: Lock,
        directory: &Path,
        spec: Spec,
        fingerprint: &[(String, String)],
    ) -> Result<SessionStore, StoreError> {
        let (manifest, _) = Manifest::read(directory)?;
        manifest.check(directory, &spec, fingerprint)?;
        let mut store = SessionStore::with_files(directory, &spec, &manifest, Access::Write)?;
        sweep(&*backend, &manifest, directory, &store.lanes)?;

        let path = manifest.journal(directory);
        let bytes = read_named(&path)?;
        let identity = Identity { session: manifest.session, generation: manifest.generation };
        let scan = journal::scan(&path, &bytes, identity)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| missing(&path, "open the journal", error))?;
        let sequence = scan.entries.len() as u64 + 1;
        let journal = JournalFile { file, path: path.clone(), end: scan.end, sequence };
        let mut writer = Writer {
            backend,
            _lock: lock,
            manifest: manifest.clone(),
            journal,
            must_flush: false,
            broken: false,
        };
        if scan.torn || scan.unmarked {
            writer.settle(&scan)?;
        }
        store.home = Home::Writer(Box::new(writer));
        store.replay(&path, &manifest, &scan)?;
        Ok(store)
    }

    fn open_reader(
        directory: &Path,
        spec: &Spec,
        fingerprint: &[(String, String)],
    ) -> Result<SessionStore, StoreError> {
        let mut attempt = 0;
        loop {
            let (manifest, _) = Manifest::read(directory)?;
            manifest.check(directory, spec, fingerprint)?;
            let generation = manifest.generation;
            match SessionStore::open_committed(directory, spec, manifest) {
                Ok(store) => return Ok(store),
                // A writer removes files once it has replaced their manifest.
                Err(error) => {
                    attempt += 1;
                    if attempt == ATTEMPTS || Manifest::read(directory)?.0.generation == generation {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn open_committed(directory: &Path, spec: &Spec, manifest: Manifest) -> Result<SessionStore, StoreError> {
        let mut store = SessionStore::with_files(directory, spec, &manifest, Access::Read)?;
        let path = manifest.journal(directory);
        let bytes = read_named(&path)?;
        let identity = Identity { session: manifest.session, generation: manifest.generation };
        let scan = journal::scan(&path, &bytes, identity)?;
        store.replay(&path, &manifest, &scan)?;
        store.home = Home::Reader(manifest);
        Ok(store)
    }

    /// The session as the manifest has it, its home still to be said.
    fn with_files(
        directory: &Path,
        spec: &Spec,
        manifest: &Manifest,
        access: Access,
    ) -> Result<SessionStore, StoreError> {
        let lanes = spec.lanes()?;
        let mut segments = Vec::with_capacity(manifest.segments.len());
        for (index, entry) in manifest.segments.iter().enumerate() {
            segments.push(open_segment(directory, index, entry, &lanes, access)?);
        }
        Ok(SessionStore {
            spec: spec.clone(),
            lanes,
            directory: directory.to_owned(),
            fingerprint: manifest.fingerprint.clone(),
            segments,
            state: manifest.state.clone(),
            committed_segments: manifest.segments.len(),
            base_segments: manifest.segments.len(),
            truncated: false,
            home: Home::Ephemeral,
        })
    }

    /// Puts the journal's elements where they belong: a writer into the files, a reader into memory of its own.
    fn replay(&mut self, path: &Path, manifest: &Manifest, scan: &Scan<'_>) -> Result<(), StoreError> {
        let lanes = self.lanes.clone();
        let committed = replay(path, manifest, &lanes, scan, |step| match step {
            Step::Segments(count) => {
                while self.segments.len() > count {
                    let segment = self.segments.pop().expect("there is a last one");
                    self.discard(segment);
                }
                self.segments.resize_with(count, || Segment::new(&lanes));
                Ok(())
            }
            Step::Change(change, elements) => self.replay_change(change, elements),
        })?;
        self.committed_segments = committed.counts.len();
        self.base_segments = self.committed_segments;
        self.state = committed.state;
        Ok(())
    }

    fn replay_change(&mut self, change: Change, elements: &[u8]) -> Result<(), StoreError> {
        let Change { segment, lane: number, keep, count } = change;
        let lane = &self.lanes[number];
        let cell = &mut self.segments[segment].cells[number];
        // Later regions must not be copied in `prepare` beyond what is kept.
        cell.written.fill(keep);
        if count > keep {
            match &mut self.home {
                Home::Writer(writer) => {
                    writer.prepare(&self.directory, (segment, number), lane, cell, keep)?
                }
                _ => match &mut cell.file {
                    Some(file) => file.make_private(lane)?,
                    None => cell.file = Some(ColumnFile::in_memory(&self.directory, lane)?),
                },
            }
            let file = cell.file.as_mut().expect("it was prepared");
            let region_bytes = (count - keep) * lane.element_bytes;
            for (region, bytes) in elements.chunks_exact(region_bytes).enumerate() {
                let offset = lane.offset(region, keep);
                match &self.home {
                    Home::Writer(writer) => file.write(&*writer.backend, offset, bytes)?,
                    _ => file.map.write(offset, bytes),
                }
            }
        }
        cell.written.fill(count);
        cell.settle(count);
        cell.same = keep.min(cell.same);
        Ok(())
    }
}

impl Writer {
    /// Makes what a crash left of the journal as good as any: whole records are on the disk for certain, and what is no
    /// whole record is gone.
    fn settle(&mut self, scan: &Scan<'_>) -> Result<(), StoreError> {
        let JournalFile { file, path, end, sequence } = &self.journal;
        let sorted = |action| failed(action, path);
        self.backend.set_len(file, *end).map_err(sorted("cut the journal"))?;
        self.backend.sync(file).map_err(sorted("sync the journal"))?;
        if scan.unmarked {
            let mark = self.identity().mark(sequence - 1);
            let at = *end - mark.len() as u64;
            self.backend.write_at(file, at, &mark).map_err(sorted("mark the journal"))?;
        }
        Ok(())
    }
}

/// Removes files that no manifest names: what a crash left of a flush or of elements that the journal has.
fn sweep(
    backend: &dyn Backend,
    manifest: &Manifest,
    directory: &Path,
    lanes: &[Lane],
) -> Result<(), StoreError> {
    let named = manifest.files(directory, lanes);
    for name in entries(directory)?.filter(|name| format::is_ours(name)) {
        let path: PathBuf = directory.join(name);
        if !named.contains(&path) {
            backend.remove_file(&path).map_err(failed("remove a file that nothing names", &path))?;
        }
    }
    Ok(())
}

fn open_segment(
    directory: &Path,
    index: usize,
    entry: &SegmentEntry,
    lanes: &[Lane],
    access: Access,
) -> Result<Segment, StoreError> {
    // Checksums are read when they are needed; that they are there is part of the session being whole.
    let sums = format::sums_path(directory, index, entry.sums_generation);
    std::fs::metadata(&sums).map_err(|error| missing(&sums, "look at a file", error))?;
    let mut cells = Vec::with_capacity(lanes.len());
    for (named, lane) in entry.cells.iter().zip(lanes) {
        let mut cell = Cell::new(lane);
        if named.generation > 0 {
            let path = format::column_path(directory, index, &lane.name, named.generation);
            cell.file = Some(ColumnFile::open(path, named.generation, lane, access)?);
        }
        cell.written.fill(named.count);
        cell.settle(named.count);
        cell.same = named.count;
        cells.push(cell);
    }
    Ok(Segment { cells, sums: None })
}
