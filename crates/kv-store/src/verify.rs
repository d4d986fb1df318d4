//! Looking at a session without opening it: what is in it, and whether its bytes are as they were written.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::column_file::check_length;
use crate::error::failed;
use crate::format::{self, MANIFEST};
use crate::journal::{self, Identity};
use crate::manifest::{CellEntry, Manifest, missing, read_named};
use crate::replay::{Committed, replay};
use crate::spec::Lane;
use crate::sums::{self, LaneSums};
use crate::{Spec, StoreError};

/// What a session holds.
#[derive(Clone, Debug)]
pub struct Info {
    /// Columns and regions.
    pub spec: Spec,
    /// As it was given when the session was made.
    pub fingerprint: Vec<(String, String)>,
    /// The engine's, of the last commit.
    pub state: Vec<u8>,
    /// Flushes so far, the making of the session included.
    pub generation: u64,
    /// Segments of the last commit.
    pub segments: usize,
    /// Tokens of the last commit.
    pub tokens: usize,
    /// Bytes of the committed elements and tokens.
    pub bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
}

/// What [`verify`] found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Segments of the last commit.
    pub segments: usize,
    /// Tokens of the last commit.
    pub tokens: usize,
    /// Bytes of elements and tokens whose checksums were computed.
    pub bytes: u64,
    /// Everything that is not as it was written. Empty: the session is whole.
    pub problems: Vec<Problem>,
}

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The byte at which the damaged part begins.
    pub offset: u64,
    /// What is wrong, and for damaged elements which.
    pub what: String,
}

/// Says what is in the session in `directory`, as it was committed last.
///
/// # Errors
/// If there is no session, or its manifest or journal cannot be read.
pub fn inspect(directory: &Path) -> Result<Info, StoreError> {
    settled(directory, |manifest, lanes| {
        let (committed, journal_bytes, _) = read_journal(directory, manifest, lanes)?;
        let counts = committed.counts.iter().flat_map(|counts| counts.iter().zip(lanes));
        let bytes = counts.map(|(count, lane)| (count * lane.regions * lane.element_bytes) as u64).sum();
        Ok(Info {
            spec: manifest.spec.clone(),
            fingerprint: manifest.fingerprint.clone(),
            segments: committed.counts.len(),
            tokens: tokens(&committed.counts),
            state: committed.state,
            generation: manifest.generation,
            bytes,
            journal_bytes,
        })
    })
}

/// Reads every committed byte of the session in `directory` and compares it with its checksum. A writer may be at work.
///
/// # Errors
/// If there is no session, it is of a later version, or the file system fails. Damage is no error here, but reported.
pub fn verify(directory: &Path) -> Result<Report, StoreError> {
    let verified = settled(directory, |manifest, lanes| {
        let mut report =
            Report { segments: manifest.segments.len(), tokens: 0, bytes: 0, problems: Vec::new() };
        match read_journal(directory, manifest, lanes) {
            Ok((committed, _, bad_marks)) => {
                report.segments = committed.counts.len();
                report.tokens = tokens(&committed.counts);
                let path = manifest.journal(directory);
                let what = "the mark of a record is damaged; the record is whole";
                let problem = |offset| Problem { path: path.clone(), offset, what: what.to_owned() };
                report.problems.extend(bad_marks.into_iter().map(problem));
            }
            Err(error) => report.problems.push(problem(error)?),
        }
        for (index, entry) in manifest.segments.iter().enumerate() {
            match sums::read(directory, index, entry, lanes) {
                Ok(sums) => {
                    let cells = entry.cells.iter().zip(lanes).zip(&sums);
                    for ((cell, lane), sums) in cells.filter(|((cell, _), _)| cell.generation > 0) {
                        if let Err(error) = verify_cell(directory, index, (cell, lane), sums, &mut report) {
                            report.problems.push(problem(error)?);
                        }
                    }
                }
                Err(error) => report.problems.push(problem(error)?),
            }
        }
        if report.problems.is_empty() {
            return Ok(report);
        }
        // A writer may have removed what this manifest names; then `settled` looks at the next one.
        Err(Unsettled::Report(report))
    });
    match verified {
        Err(Unsettled::Report(report)) => Ok(report),
        Err(Unsettled::Error(error)) => {
            let problems = vec![problem(error)?];
            Ok(Report { segments: 0, tokens: 0, bytes: 0, problems })
        }
        Ok(report) => Ok(report),
    }
}

/// Why a look at a session did not go well.
enum Unsettled {
    Error(StoreError),
    Report(Report),
}

impl From<StoreError> for Unsettled {
    fn from(error: StoreError) -> Unsettled {
        Unsettled::Error(error)
    }
}

/// Looks at a session by its manifest, and again as long as it does not go well and the manifest was replaced meanwhile.
fn settled<T, E: From<StoreError>>(
    directory: &Path,
    look: impl Fn(&Manifest, &[Lane]) -> Result<T, E>,
) -> Result<T, E> {
    loop {
        let (manifest, lanes) = Manifest::read(directory)?;
        match look(&manifest, &lanes) {
            Ok(found) => return Ok(found),
            Err(error) => {
                if Manifest::read(directory)?.0.generation == manifest.generation {
                    return Err(error);
                }
            }
        }
    }
}

/// The last commit, the journal's length, and where its marks are damaged.
fn read_journal(
    directory: &Path,
    manifest: &Manifest,
    lanes: &[Lane],
) -> Result<(Committed, u64, Vec<u64>), StoreError> {
    let path = manifest.journal(directory);
    let bytes = read_named(&path)?;
    let identity = Identity { session: manifest.session, generation: manifest.generation };
    let scan = journal::scan(&path, &bytes, identity)?;
    let committed = replay(&path, manifest, lanes, &scan, |_| Ok(()))?;
    Ok((committed, bytes.len() as u64, scan.bad_marks))
}

fn tokens(counts: &[Vec<usize>]) -> usize {
    counts.iter().filter_map(|lanes| lanes.last()).sum()
}

/// Reads one column of a segment.
fn verify_cell(
    directory: &Path,
    segment: usize,
    (cell, lane): (&CellEntry, &Lane),
    sums: &LaneSums,
    report: &mut Report,
) -> Result<(), StoreError> {
    let path = format::column_path(directory, segment, &lane.name, cell.generation);
    let file = File::open(&path).map_err(|error| missing(&path, "open a file", error))?;
    let found = file.metadata().map_err(failed("look at a file", &path))?.len();
    check_length(&path, lane, found)?;
    let extents = lane.extents(cell.count);
    let mut buffer = vec![0; lane.extent_bytes.min(lane.stride)];
    for region in 0..lane.regions {
        for extent in 0..extents {
            let range = LaneSums::extent(lane, cell.count, region, extent);
            let bytes = &mut buffer[..range.len()];
            read_exact_at(&file, bytes, range.start as u64).map_err(failed("read a file", &path))?;
            report.bytes += range.len() as u64;
            if xxh3_64(bytes) != sums.sums[region * extents + extent] {
                let first = extent * lane.extent_bytes / lane.element_bytes;
                let what = format!("{} of region {region}, from element {first} on, are damaged", lane.name);
                report.problems.push(Problem { path: path.clone(), offset: range.start as u64, what });
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

/// Damage as a problem; anything else stays an error.
fn problem(error: StoreError) -> Result<Problem, StoreError> {
    let what = error.to_string();
    match error {
        StoreError::Corrupt { path, offset, what } => Ok(Problem { path, offset, what }),
        StoreError::Truncated { path, found, .. } => Ok(Problem { path, offset: found, what }),
        StoreError::MissingFile { path } => Ok(Problem { path, offset: 0, what }),
        StoreError::Foreign { path } if path.file_name().is_some_and(|name| name != MANIFEST) => {
            Ok(Problem { path, offset: 0, what })
        }
        error => Err(error),
    }
}
