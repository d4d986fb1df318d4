//! The manifest: which files make up a session, and how much of each counts.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::failed;
use crate::format::{self, Header, Kind, MANIFEST, STATE_LIMIT};
use crate::spec::Lane;
use crate::{Spec, StoreError};

/// What a flush left behind. It is replaced as a whole or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub session: u64,
    /// Counts the flushes. Files made after this one carry the next number in their names.
    pub generation: u64,
    pub spec: Spec,
    pub fingerprint: Vec<(String, String)>,
    pub state: Vec<u8>,
    pub segments: Vec<SegmentEntry>,
}

/// A segment's files.
#[derive(Clone, Debug)]
pub(crate) struct SegmentEntry {
    pub sums_generation: u64,
    /// Checksum of the checksums.
    pub sums_digest: u64,
    /// The columns, then the tokens.
    pub cells: Vec<CellEntry>,
}

/// The file of a column in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CellEntry {
    /// Generation in the file's name; 0 if there is no file.
    pub generation: u64,
    /// Elements of each region that count.
    pub count: usize,
    /// Elements of each region that some manifest has named in this file: readers and forks may look at them, so that they
    /// are not overwritten, although `count` may have gone below.
    pub frozen: usize,
}

impl Manifest {
    /// Reads the manifest of a session.
    ///
    /// # Errors
    /// If there is none, or it is not ours, too new, damaged or contradicts itself.
    pub fn read(directory: &Path) -> Result<(Manifest, Vec<Lane>), StoreError> {
        let path = directory.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StoreError::NotFound { path: directory.to_owned() }
            }
            _ => StoreError::from_io("read the manifest", &path, 0, error),
        })?;
        let (header, body) = Header::whole_file(&path, &bytes, Kind::Manifest)?;
        let wrong = |what: &str| StoreError::corrupt(&path, format::HEADER_BYTES as u64, what);
        let manifest =
            format::decode_manifest(header, body).ok_or_else(|| wrong("the body ends too early"))?;
        let lanes = manifest.spec.lanes().map_err(|error| wrong(&error.to_string()))?;
        if manifest.state.len() > STATE_LIMIT {
            return Err(wrong("the state is too long"));
        }
        for entry in &manifest.segments {
            let fits = |(cell, lane): (&CellEntry, &Lane)| {
                cell.count <= cell.frozen
                    && cell.frozen <= lane.per_segment
                    && cell.generation <= manifest.generation
                    && (cell.generation > 0 || cell.frozen == 0)
            };
            if entry.sums_generation > manifest.generation || !entry.cells.iter().zip(&lanes).all(fits) {
                return Err(wrong("a segment's counts contradict the columns"));
            }
        }
        Ok((manifest, lanes))
    }

    /// The bytes of the manifest's file.
    pub fn encode(&self) -> Vec<u8> {
        let body = format::encode_manifest(self);
        let header = Header::of(Kind::Manifest, self.session, self.generation, 0, &body);
        [&header.encode()[..], &body].concat()
    }

    /// What the manifest says of a column in a segment.
    pub fn cell(&self, segment: usize, lane: usize) -> CellEntry {
        self.segments.get(segment).map_or_else(CellEntry::default, |entry| entry.cells[lane])
    }

    /// The journal that goes on from here.
    pub fn journal(&self, directory: &Path) -> PathBuf {
        format::journal_path(directory, self.generation)
    }

    /// Every file but the manifest itself.
    pub fn files(&self, directory: &Path, lanes: &[Lane]) -> HashSet<PathBuf> {
        let mut files = HashSet::from([self.journal(directory)]);
        for (segment, entry) in self.segments.iter().enumerate() {
            files.insert(format::sums_path(directory, segment, entry.sums_generation));
            let named = entry.cells.iter().zip(lanes).filter(|(cell, _)| cell.generation > 0);
            files
                .extend(named.map(|(cell, lane)| {
                    format::column_path(directory, segment, &lane.name, cell.generation)
                }));
        }
        files
    }

    /// Compares the columns and the fingerprint with what a caller expects.
    ///
    /// # Errors
    /// [`StoreError::Fingerprint`] with the first field that differs.
    pub fn check(
        &self,
        directory: &Path,
        spec: &Spec,
        fingerprint: &[(String, String)],
    ) -> Result<(), StoreError> {
        // The fingerprint first: where columns differ, it is because of what it says, in words that a user knows.
        check_fields(directory, &self.fingerprint, fingerprint)?;
        check_fields(directory, &self.spec.fields(), &spec.fields())
    }
}

/// Whether two lists of fields are equal.
fn check_fields(
    directory: &Path,
    stored: &[(String, String)],
    expected: &[(String, String)],
) -> Result<(), StoreError> {
    let nothing = (String::new(), String::new());
    for index in 0..stored.len().max(expected.len()) {
        let stored = stored.get(index).unwrap_or(&nothing);
        let expected = expected.get(index).unwrap_or(&nothing);
        if stored != expected {
            // A field that only one side has is named by that side.
            let (field, stored, expected) = if stored.0 == expected.0 {
                (&stored.0, stored.1.clone(), expected.1.clone())
            } else if expected.0.is_empty() {
                (&stored.0, stored.1.clone(), String::new())
            } else {
                (&expected.0, format!("{} {}", stored.0, stored.1), expected.1.clone())
            };
            return Err(StoreError::Fingerprint {
                path: directory.to_owned(),
                field: field.clone(),
                stored,
                expected,
            });
        }
    }
    Ok(())
}

/// Reads a file that the manifest names.
pub(crate) fn read_named(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| missing(path, "read a file", error))
}

/// Sorts the failure to open a file that the manifest names.
pub(crate) fn missing(path: &Path, action: &'static str, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::MissingFile { path: path.to_owned() },
        _ => failed(action, path)(error),
    }
}
