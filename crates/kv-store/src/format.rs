//! The byte layout of everything that is not a column's elements: headers, manifest, journal records, and file names.
//!
//! All integers are little-endian and unsigned. `docs/session-format.md` describes the same for people.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;
use crate::manifest::{CellEntry, Manifest, SegmentEntry};
use crate::spec::{Column, Pattern, SUMS, Spec};

/// First bytes of every file and block described here.
const MAGIC: [u8; 8] = *b"MAGICPIG";
/// Version of the layout.
pub(crate) const VERSION: u32 = 1;

// A header: every offset follows from the one before. Its checksum covers all bytes before it, and later versions keep the
// header as it is, so that they can be recognised.
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + MAGIC.len();
const KIND_AT: usize = VERSION_AT + size_of::<u32>();
const SESSION_AT: usize = KIND_AT + size_of::<u32>();
const GENERATION_AT: usize = SESSION_AT + size_of::<u64>();
const SEQUENCE_AT: usize = GENERATION_AT + size_of::<u64>();
const BODY_BYTES_AT: usize = SEQUENCE_AT + size_of::<u64>();
const BODY_SUM_AT: usize = BODY_BYTES_AT + size_of::<u64>();
const HEADER_SUM_AT: usize = BODY_SUM_AT + size_of::<u64>();
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = HEADER_SUM_AT + size_of::<u64>();
/// Blocks of a journal begin at multiples of a header's bytes, so that one can be looked for after damage, and none of
/// the headers lies across two sectors of a disk.
pub(crate) const BLOCK_BYTES: usize = HEADER_BYTES;

/// The manifest's name, and that of the one to come.
pub(crate) const MANIFEST: &str = "MANIFEST";
pub(crate) const MANIFEST_NEW: &str = "MANIFEST.new";
/// The lock's name.
pub(crate) const LOCK: &str = "LOCK";

/// Bytes of the engine's state in a commit.
pub const STATE_LIMIT: usize = 64 << 10;

/// What a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest = 1,
    Sums = 2,
    Journal = 3,
    Record = 4,
    Mark = 5,
}

/// What stands before every body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    /// A number drawn when the session was made, so that files of two sessions are not mixed up; 0 in checksum files, which
    /// forks share.
    pub session: u64,
    /// The manifest's generation, or that of the manifest to which a journal belongs.
    pub generation: u64,
    /// A record's number in its journal, from 1 on; 0 elsewhere.
    pub sequence: u64,
    pub body_bytes: u64,
    pub body_sum: u64,
}

impl Header {
    /// The header of a body.
    pub fn of(kind: Kind, session: u64, generation: u64, sequence: u64, body: &[u8]) -> Header {
        let (body_bytes, body_sum) = (body.len() as u64, xxh3_64(body));
        Header { kind, session, generation, sequence, body_bytes, body_sum }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(MAGIC_AT, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(KIND_AT, &(self.kind as u32).to_le_bytes());
        put(SESSION_AT, &self.session.to_le_bytes());
        put(GENERATION_AT, &self.generation.to_le_bytes());
        put(SEQUENCE_AT, &self.sequence.to_le_bytes());
        put(BODY_BYTES_AT, &self.body_bytes.to_le_bytes());
        put(BODY_SUM_AT, &self.body_sum.to_le_bytes());
        let sum = xxh3_64(&bytes[..HEADER_SUM_AT]);
        bytes[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, if there is one.
    pub fn find(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let sealed = u64_at(bytes, HEADER_SUM_AT) == xxh3_64(&bytes[..HEADER_SUM_AT]);
        if !sealed || bytes[..VERSION_AT] != MAGIC || u32_at(bytes, VERSION_AT) != VERSION {
            return None;
        }
        let kinds = [Kind::Manifest, Kind::Sums, Kind::Journal, Kind::Record, Kind::Mark];
        Some(Header {
            kind: *kinds.iter().find(|&&kind| kind as u32 == u32_at(bytes, KIND_AT))?,
            session: u64_at(bytes, SESSION_AT),
            generation: u64_at(bytes, GENERATION_AT),
            sequence: u64_at(bytes, SEQUENCE_AT),
            body_bytes: u64_at(bytes, BODY_BYTES_AT),
            body_sum: u64_at(bytes, BODY_SUM_AT),
        })
    }

    /// The header at the beginning of a file.
    ///
    /// # Errors
    /// If the file is not ours, of a later version, too short, damaged, or of another kind.
    pub fn of_file(path: &Path, bytes: &[u8], kind: Kind) -> Result<Header, StoreError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(StoreError::Foreign { path: path.to_owned() });
        }
        if bytes.len() < HEADER_BYTES {
            let (expected, found) = (HEADER_BYTES as u64, bytes.len() as u64);
            return Err(StoreError::Truncated { path: path.to_owned(), expected, found });
        }
        let version = u32_at(bytes, VERSION_AT);
        let sealed = u64_at(bytes, HEADER_SUM_AT) == xxh3_64(&bytes[..HEADER_SUM_AT]);
        if sealed && version > VERSION {
            return Err(StoreError::NewerVersion {
                path: path.to_owned(),
                found: version,
                supported: VERSION,
            });
        }
        Header::find(bytes)
            .filter(|header| header.kind == kind)
            .ok_or_else(|| StoreError::corrupt(path, 0, "the header's checksum or kind is wrong"))
    }

    /// The body of a file that is a header and a body and nothing else.
    ///
    /// # Errors
    /// As [`Header::of_file`], and if the body is too short, too long or damaged.
    pub fn whole_file<'a>(
        path: &Path,
        bytes: &'a [u8],
        kind: Kind,
    ) -> Result<(Header, &'a [u8]), StoreError> {
        let header = Header::of_file(path, bytes, kind)?;
        let body = &bytes[HEADER_BYTES..];
        if (body.len() as u64) < header.body_bytes {
            let expected = header.body_bytes.saturating_add(HEADER_BYTES as u64);
            return Err(StoreError::Truncated { path: path.to_owned(), expected, found: bytes.len() as u64 });
        }
        if body.len() as u64 > header.body_bytes {
            let end = HEADER_BYTES as u64 + header.body_bytes;
            return Err(StoreError::corrupt(path, end, "there are bytes after the end"));
        }
        if xxh3_64(body) != header.body_sum {
            return Err(StoreError::corrupt(path, HEADER_BYTES as u64, "the body's checksum is wrong"));
        }
        Ok((header, body))
    }
}

/// One cell of a record: a column in a segment, of which `keep` elements stay and `count - keep` are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub segment: usize,
    pub lane: usize,
    pub keep: usize,
    pub count: usize,
}

/// A journal's record without its elements, which follow change by change and region by region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Segments that stay; later ones are dropped, also when others take their places.
    pub kept: usize,
    /// Segments from now on.
    pub segments: usize,
    pub state: Vec<u8>,
    pub changes: Vec<Change>,
}

impl Record {
    pub fn encode(&self, into: &mut Vec<u8>) {
        put_u64(into, self.kept);
        put_u64(into, self.segments);
        put_bytes(into, &self.state);
        put_u64(into, self.changes.len());
        for Change { segment, lane, keep, count } in &self.changes {
            [segment, lane, keep, count].into_iter().for_each(|&number| put_u64(into, number));
        }
    }

    /// The record at the beginning of a body, and what follows it.
    pub fn decode(body: &[u8]) -> Option<(Record, &[u8])> {
        let mut reader = Reader(body);
        let (kept, segments) = (reader.number()?, reader.number()?);
        let state = reader.bytes()?.to_vec();
        let changes = reader.list(4 * size_of::<u64>(), |reader| {
            Some(Change {
                segment: reader.number()?,
                lane: reader.number()?,
                keep: reader.number()?,
                count: reader.number()?,
            })
        })?;
        Some((Record { kept, segments, state, changes }, reader.0))
    }
}

/// A manifest's body.
pub(crate) fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut into = Vec::new();
    let spec = &manifest.spec;
    put_u64(&mut into, spec.regions);
    put_u64(&mut into, spec.segment_tokens);
    put_u64(&mut into, spec.columns.len());
    for Column { name, element_bytes, per_segment, .. } in &spec.columns {
        put_bytes(&mut into, name.as_bytes());
        put_u64(&mut into, *element_bytes);
        put_u64(&mut into, *per_segment);
    }
    put_u64(&mut into, manifest.fingerprint.len());
    for (field, value) in &manifest.fingerprint {
        put_bytes(&mut into, field.as_bytes());
        put_bytes(&mut into, value.as_bytes());
    }
    put_bytes(&mut into, &manifest.state);
    put_u64(&mut into, manifest.segments.len());
    for SegmentEntry { sums_generation, sums_digest, cells } in &manifest.segments {
        into.extend(sums_generation.to_le_bytes());
        into.extend(sums_digest.to_le_bytes());
        for CellEntry { generation, count, frozen } in cells {
            into.extend(generation.to_le_bytes());
            put_u64(&mut into, *count);
            put_u64(&mut into, *frozen);
        }
    }
    if !spec.column_regions.is_empty() {
        put_u64(&mut into, spec.column_regions.len());
        spec.column_regions.iter().for_each(|&regions| put_u64(&mut into, regions));
    }
    into
}

/// The manifest in a body; nothing of it is checked but that the bytes are there.
pub(crate) fn decode_manifest(header: Header, body: &[u8]) -> Option<Manifest> {
    let mut reader = Reader(body);
    let regions = reader.number()?;
    let segment_tokens = reader.number()?;
    let columns = reader.list(3 * size_of::<u64>(), |reader| {
        let name = reader.text()?;
        let (element_bytes, per_segment) = (reader.number()?, reader.number()?);
        Some(Column { name, element_bytes, per_segment, pattern: Pattern::Random })
    })?;
    let fingerprint = reader.list(2 * size_of::<u64>(), |reader| Some((reader.text()?, reader.text()?)))?;
    let state = reader.bytes()?.to_vec();
    let lanes = columns.len() + 1;
    let cell_bytes = 3 * size_of::<u64>();
    let segments = reader.list(2 * size_of::<u64>() + lanes * cell_bytes, |reader| {
        let (sums_generation, sums_digest) = (reader.u64()?, reader.u64()?);
        let cells = (0..lanes)
            .map(|_| {
                Some(CellEntry {
                    generation: reader.u64()?,
                    count: reader.number()?,
                    frozen: reader.number()?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(SegmentEntry { sums_generation, sums_digest, cells })
    })?;
    let mut spec = Spec::new(regions, columns);
    spec.segment_tokens = segment_tokens;
    if !reader.0.is_empty() {
        spec.column_regions = reader.list(size_of::<u64>(), Reader::number)?;
    }
    reader.0.is_empty().then_some(Manifest {
        session: header.session,
        generation: header.generation,
        spec,
        fingerprint,
        state,
        segments,
    })
}

/// The file of a column in a segment.
pub(crate) fn column_path(directory: &Path, segment: usize, lane: &str, generation: u64) -> PathBuf {
    directory.join(format!("s{segment:06}-{lane}-g{generation}"))
}

/// The checksums of a segment.
pub(crate) fn sums_path(directory: &Path, segment: usize, generation: u64) -> PathBuf {
    column_path(directory, segment, SUMS, generation)
}

/// The journal that follows a manifest.
pub(crate) fn journal_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("journal-g{generation}"))
}

/// Whether a file's name is one of those that sessions give.
pub(crate) fn is_ours(name: &str) -> bool {
    let numbered =
        |rest: &str| rest.bytes().take(6).filter(u8::is_ascii_digit).count() == 6 && rest.contains("-g");
    name == MANIFEST_NEW || name.starts_with("journal-g") || name.strip_prefix('s').is_some_and(numbered)
}

fn put_u64(into: &mut Vec<u8>, number: usize) {
    into.extend((number as u64).to_le_bytes());
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(into, bytes.len());
    into.extend(bytes);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + size_of::<u32>()].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + size_of::<u64>()].try_into().expect("eight bytes"))
}

/// Takes values from the front of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(size_of::<u64>()).map(|bytes| u64_at(bytes, 0))
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let bytes = self.number()?;
        self.take(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// A list whose entries have at least `entry_bytes` each, which bounds what a wrong length can ask for.
    fn list<T>(&mut self, entry_bytes: usize, entry: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let entries = self.number()?;
        if entries > self.0.len() / entry_bytes {
            return None;
        }
        (0..entries).map(|_| entry(self)).collect()
    }
}
