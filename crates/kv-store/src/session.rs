//! A session's columns and tokens, on disk or for as long as the process lives.

mod commit;
mod create;
mod flush;
mod fork;
mod open;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::Backend;
use crate::column_file::ColumnFile;
use crate::counts::Counts;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::spec::Lane;
use crate::sums::LaneSums;
use crate::{Spec, StoreError};

pub(crate) use create::{Nursery, entries, is_session_file, sibling};

/// What a session is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look at the commit that is there now. Any number of readers may, also beside a writer, and neither notices.
    Read,
    /// To append to it, which one writer at a time may.
    Write,
}

/// Columns of elements for every region, segment by segment, and the tokens they belong to.
///
/// Elements are written in place at once and count after a commit. What is committed is not overwritten: it is truncated
/// first, which takes effect with the next commit. Many threads may read at once; changes need the session exclusively.
#[derive(Debug)]
pub struct SessionStore {
    spec: Spec,
    /// The columns, then the tokens.
    lanes: Vec<Lane>,
    directory: PathBuf,
    fingerprint: Vec<(String, String)>,
    segments: Vec<Segment>,
    state: Vec<u8>,
    /// Segments of the last commit.
    committed_segments: usize,
    /// Those of them that were not dropped since.
    base_segments: usize,
    /// Whether something that is committed was truncated since.
    truncated: bool,
    home: Home,
}

/// Where a session is.
#[derive(Debug)]
enum Home {
    /// In files without names.
    Ephemeral,
    /// In a folder, to be read.
    Reader(Manifest),
    /// In a folder, to be written.
    Writer(Box<Writer>),
}

/// What writing a folder needs.
#[derive(Debug)]
struct Writer {
    backend: Arc<dyn Backend>,
    _lock: Lock,
    /// The manifest on disk.
    manifest: Manifest,
    journal: JournalFile,
    /// Set when elements were written that a journal cannot refer to, because they are in a file that the manifest does
    /// not name instead of one that it does: the next commit is a flush.
    must_flush: bool,
    /// Set when a sync failed: what the disk holds is unknown then, and a second sync would not tell.
    broken: bool,
}

/// The open journal.
#[derive(Debug)]
struct JournalFile {
    file: std::fs::File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// Its number.
    sequence: u64,
}

/// One segment of every lane.
#[derive(Debug)]
struct Segment {
    cells: Vec<Cell>,
    /// The checksums on disk, once they were needed.
    sums: Option<Vec<LaneSums>>,
}

/// One lane in one segment.
#[derive(Debug, Default)]
struct Cell {
    file: Option<ColumnFile>,
    /// Elements that each region has.
    written: Vec<usize>,
    /// Elements of each region in the last commit.
    committed: usize,
    /// Of each region, those of them that were not truncated since, or were written again as they had been.
    unchanged: Vec<usize>,
    /// Those of them whose bytes are still in the file.
    intact: usize,
    /// Those of them that have not changed since the checksums on disk were made.
    same: usize,
}

impl Cell {
    fn new(lane: &Lane) -> Cell {
        Cell { written: vec![0; lane.regions], unchanged: vec![0; lane.regions], ..Cell::default() }
    }

    /// Elements that every region has.
    fn common(&self) -> usize {
        self.written.iter().copied().min().unwrap_or(0)
    }

    /// Elements of the last commit that every region has as they were.
    fn base(&self) -> usize {
        self.unchanged.iter().copied().min().unwrap_or(0)
    }

    /// Takes `count` elements of every region over as what is committed.
    fn settle(&mut self, count: usize) {
        (self.committed, self.intact) = (count, count);
        self.unchanged.fill(count);
    }

    fn is_empty(&self) -> bool {
        self.written.iter().all(|&count| count == 0)
    }
}

impl Segment {
    fn new(lanes: &[Lane]) -> Segment {
        Segment { cells: lanes.iter().map(Cell::new).collect(), sums: None }
    }
}

impl SessionStore {
    /// An empty session in files without names in `directory`: they vanish with it, and with the process. Commits are
    /// remembered and not written.
    ///
    /// # Errors
    /// If the columns do not fit, or `directory` cannot hold files.
    pub fn ephemeral(directory: &Path, spec: Spec) -> Result<SessionStore, StoreError> {
        let lanes = spec.lanes()?;
        // A directory that cannot hold files is known at once; the smallest lane's file stays, as it will be needed.
        ColumnFile::unnamed(directory, &lanes[lanes.len() - 1])?;
        Ok(SessionStore {
            spec,
            lanes,
            directory: directory.to_owned(),
            fingerprint: Vec::new(),
            segments: Vec::new(),
            state: Vec::new(),
            committed_segments: 0,
            base_segments: 0,
            truncated: false,
            home: Home::Ephemeral,
        })
    }

    /// Exchanges the columns from number `kept` on for those of `with`, and forgets what they have. Only a session without a folder can: one in a
    /// folder has the columns that it was made with.
    ///
    /// # Errors
    /// If there is a folder, or the columns do not fit.
    pub fn replace_columns(&mut self, kept: usize, with: &Spec) -> Result<(), StoreError> {
        if !matches!(self.home, Home::Ephemeral) {
            return Err(StoreError::Argument("a session in a folder keeps its columns".to_owned()));
        }
        let before = self.spec.columns.len();
        let mut spec = self.spec.clone();
        spec.columns.splice(kept.min(before).., with.columns.iter().skip(kept).cloned());
        spec.column_regions.clone_from(&with.column_regions);
        let lanes = spec.lanes()?;
        for Segment { cells, .. } in &mut self.segments {
            cells.splice(
                kept.min(before)..before,
                lanes[kept.min(before)..lanes.len() - 1].iter().map(Cell::new),
            );
        }
        (self.spec, self.lanes) = (spec, lanes);
        Ok(())
    }

    /// Whether the session was opened for reading: what is appended then stays in this process's memory.
    pub fn is_read_only(&self) -> bool {
        matches!(self.home, Home::Reader(_))
    }

    /// The columns and regions.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The session's folder, or where its unnamed files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The fingerprint as it was given when the session was made; empty without a folder.
    pub fn fingerprint(&self) -> &[(String, String)] {
        &self.fingerprint
    }

    /// The state of the last commit.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Segments that have elements or tokens.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Elements of a region of a column in a segment, committed or not.
    ///
    /// # Panics
    /// If there is no such column or region.
    pub fn written(&self, column: usize, region: usize, segment: usize) -> usize {
        let columns = self.spec.columns.len();
        assert!(column < columns && region < self.lanes[column].regions, "no such column or region");
        self.segments.get(segment).map_or(0, |segment| segment.cells[column].written[region])
    }

    /// What was committed last, less what was truncated since.
    pub fn committed_counts(&self) -> Counts {
        self.table(Cell::base)
    }

    /// What every region has, committed or not: a commit of these counts leaves nothing behind that is whole.
    pub fn common_counts(&self) -> Counts {
        self.table(Cell::common)
    }

    fn table(&self, count: impl Fn(&Cell) -> usize) -> Counts {
        let columns = self.spec.columns.len();
        let mut counts = Counts::new(columns);
        for (index, segment) in self.segments.iter().enumerate() {
            for (column, cell) in segment.cells[..columns].iter().enumerate() {
                counts.set(index, column, count(cell));
            }
        }
        counts
    }

    /// Bytes of all elements that were written, without tokens.
    pub fn bytes(&self) -> u64 {
        let columns = self.spec.columns.len();
        let cells = self.segments.iter().flat_map(|segment| segment.cells[..columns].iter().zip(&self.lanes));
        cells.map(|(cell, lane)| (cell.written.iter().sum::<usize>() * lane.element_bytes) as u64).sum()
    }

    /// Writes elements of a region from `position` on, which counts from the session's beginning: element i of segment s is
    /// at `s * per_segment + i`. `bytes` are whole elements, and may go on into the next segment.
    ///
    /// # Errors
    /// If there is no such column or region, the elements are not whole, would leave a hole or overwrite committed ones, or
    /// if the disk is full or fails. Counts are then as before in the segment that failed.
    pub fn write(
        &mut self,
        column: usize,
        region: usize,
        position: usize,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let columns = self.spec.columns.len();
        if column >= columns || region >= self.lanes[column].regions {
            return Err(StoreError::Argument(format!(
                "column {column}, region {region}: there are {columns} and {}",
                self.lanes.get(column).map_or(self.spec.regions, |lane| lane.regions)
            )));
        }
        self.write_lane(column, region, position, bytes)
    }

    /// The elements of a region of a column in one segment, `[written, element_bytes]`, beginning at a multiple of 64 bytes.
    ///
    /// # Panics
    /// If there is no such column or region.
    pub fn read(&self, column: usize, region: usize, segment: usize) -> &[u8] {
        match self.written(column, region, segment) {
            0 => &[],
            count => self.elements(segment, column, region, count),
        }
    }

    fn elements(&self, segment: usize, lane: usize, region: usize, count: usize) -> &[u8] {
        let file = self.segments[segment].cells[lane].file.as_ref().expect("elements are in a file");
        file.elements(&self.lanes[lane], region, count)
    }

    /// Appends tokens.
    ///
    /// # Errors
    /// If the disk is full or fails, or the session is open for reading only.
    pub fn push_tokens(&mut self, tokens: &[u32]) -> Result<(), StoreError> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        self.write_lane(self.lanes.len() - 1, 0, self.token_count(), &bytes)
    }

    /// Tokens, committed or not.
    pub fn token_count(&self) -> usize {
        self.segments.iter().map(|segment| segment.cells[self.lanes.len() - 1].written[0]).sum()
    }

    /// All tokens, which takes a copy.
    pub fn tokens(&self) -> Vec<u32> {
        let lane = self.lanes.len() - 1;
        let mut tokens = Vec::with_capacity(self.token_count());
        for (index, segment) in self.segments.iter().enumerate() {
            let count = segment.cells[lane].written[0];
            if count > 0 {
                let words = self.elements(index, lane, 0, count).chunks_exact(size_of::<u32>());
                tokens.extend(words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))));
            }
        }
        tokens
    }

    /// Drops tokens from `tokens` on, and elements beyond `counts`. It takes effect on disk with the next commit. Segments
    /// that are empty then give their room back; what is cut off inside a segment keeps it for the elements to come.
    ///
    /// # Errors
    /// If the session is open for reading only.
    pub fn truncate(&mut self, tokens: usize, counts: &Counts) -> Result<(), StoreError> {
        self.check_columns(counts)?;
        let columns = self.spec.columns.len();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            for (number, cell) in segment.cells.iter_mut().enumerate() {
                let keep = if number < columns {
                    counts.get(index, number)
                } else {
                    tokens.saturating_sub(index * self.spec.segment_tokens)
                };
                cell.written.iter_mut().for_each(|count| *count = keep.min(*count));
                cell.unchanged.iter_mut().for_each(|count| *count = keep.min(*count));
                cell.same = keep.min(cell.same);
                self.truncated |= cell.base() < cell.committed;
            }
        }
        while self.segments.last().is_some_and(|segment| segment.cells.iter().all(Cell::is_empty)) {
            let segment = self.segments.pop().expect("there is a last one");
            self.discard(segment);
        }
        self.base_segments = self.base_segments.min(self.segments.len());
        Ok(())
    }

    /// Lets files go that no manifest names; the others are removed by the flush that stops naming them.
    fn discard(&self, segment: Segment) {
        if let Home::Writer(writer) = &self.home
            // After a failure it is not known which manifest the disk has, and thus what it names.
            && !writer.broken
        {
            for file in segment.cells.into_iter().filter_map(|cell| cell.file) {
                if file.generation > writer.manifest.generation {
                    // Should it stay, it is written over, or removed when the session is opened.
                    let _ = writer.backend.remove_file(&file.path);
                }
            }
        }
    }

    /// Gives the memory of a column's segment back to the system; it is read from disk again when it is needed. Bytes that
    /// are not on the disk yet stay.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn evict(&self, column: usize, segment: usize) {
        assert!(column < self.spec.columns.len(), "no such column");
        let cell = self.segments.get(segment).map(|segment| &segment.cells[column]);
        if let Some(ColumnFile { map, file: Some(file), .. }) = cell.and_then(|cell| cell.file.as_ref()) {
            map.evict(file);
        }
    }

    /// Asks the system whether every mapped file still has its length, one cheap call a file. A file that another program
    /// cut short is a typed error here; read without asking, it is a SIGBUS.
    ///
    /// # Errors
    /// [`StoreError::Truncated`] for the first file that has become shorter.
    pub fn check_sizes(&self) -> Result<(), StoreError> {
        for segment in &self.segments {
            for (cell, lane) in segment.cells.iter().zip(&self.lanes) {
                cell.file.as_ref().map_or(Ok(()), |file| file.check_size(lane))?;
            }
        }
        Ok(())
    }

    fn check_columns(&self, counts: &Counts) -> Result<(), StoreError> {
        if counts.columns() == self.spec.columns.len() {
            return Ok(());
        }
        Err(StoreError::Argument(format!(
            "counts of {} columns for a session with {}",
            counts.columns(),
            self.spec.columns.len()
        )))
    }
}
