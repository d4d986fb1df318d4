//! The journal: one record a commit, since the manifest. Reading it decides what a crash left behind and what is damage.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;
use crate::format::{BLOCK_BYTES, Change, HEADER_BYTES, Header, Kind, Record};

/// Which journal this is: its headers must say the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub session: u64,
    pub generation: u64,
}

impl Identity {
    fn header(self, kind: Kind, sequence: u64, body: &[u8]) -> Header {
        Header::of(kind, self.session, self.generation, sequence, body)
    }

    fn owns(self, header: &Header) -> bool {
        (header.session, header.generation) == (self.session, self.generation)
    }

    /// The first bytes of the journal.
    pub fn opening(self) -> [u8; HEADER_BYTES] {
        self.header(Kind::Journal, 0, &[]).encode()
    }

    /// What says, after a record, that the record was on the disk and acknowledged.
    pub fn mark(self, sequence: u64) -> [u8; HEADER_BYTES] {
        self.header(Kind::Mark, sequence, &[]).encode()
    }

    /// A record's bytes up to its mark. `body` is the record and its elements, with room for the header in front.
    pub fn seal(self, sequence: u64, mut body: Vec<u8>) -> Vec<u8> {
        body.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
        let header = self.header(Kind::Record, sequence, &body[HEADER_BYTES..]);
        body[..HEADER_BYTES].copy_from_slice(&header.encode());
        body
    }
}

/// A record that counts.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub record: Record,
    /// The elements of the record's changes, and zeroes up to the next block.
    pub elements: &'a [u8],
    /// Where the record begins.
    pub offset: u64,
}

/// What a journal holds.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    pub entries: Vec<Entry<'a>>,
    /// Where the next record goes.
    pub end: u64,
    /// Whether bytes after the end are left from a write that a crash cut off.
    pub torn: bool,
    /// Whether the last record lacks its mark: a crash came between its write and its acknowledgement.
    pub unmarked: bool,
    /// Where a mark should be and something else is. The records count all the same.
    pub bad_marks: Vec<u64>,
}

/// Reads a journal.
///
/// The first record that is not whole ends it. It is what a crash leaves if nothing says otherwise; a later record, or
/// its own mark, says that it was whole once, and then the journal is damaged.
///
/// # Errors
/// If the journal is not ours or is damaged.
pub(crate) fn scan<'a>(path: &Path, bytes: &'a [u8], identity: Identity) -> Result<Scan<'a>, StoreError> {
    let header = Header::of_file(path, bytes, Kind::Journal)?;
    if !identity.owns(&header) {
        return Err(StoreError::corrupt(path, 0, "the journal belongs to another manifest"));
    }
    let mut scan = Scan {
        entries: Vec::new(),
        end: HEADER_BYTES as u64,
        torn: false,
        unmarked: false,
        bad_marks: Vec::new(),
    };
    let mut at = HEADER_BYTES;
    let mut sequence = 1;
    while at < bytes.len() {
        let Some(body) = whole_record(&bytes[at..], identity, sequence) else {
            if let Some(proof) = proof(&bytes[at..], identity, sequence) {
                let what = format!(
                    "record {sequence} is damaged, and byte {} shows that it was whole once",
                    at + proof
                );
                return Err(StoreError::corrupt(path, at as u64, what));
            }
            scan.torn = true;
            break;
        };
        let (record, elements) = Record::decode(body)
            .ok_or_else(|| StoreError::corrupt(path, at as u64, "a record contradicts its length"))?;
        scan.entries.push(Entry { record, elements, offset: at as u64 });
        at += HEADER_BYTES + body.len();
        let mark = bytes.get(at..at + HEADER_BYTES).unwrap_or(&[]);
        scan.unmarked =
            Header::find(mark).is_none_or(|header| header != identity.header(Kind::Mark, sequence, &[]));
        if scan.unmarked && mark.iter().any(|&byte| byte != 0) {
            scan.bad_marks.push(at as u64);
        }
        at += HEADER_BYTES;
        scan.end = at as u64;
        sequence += 1;
    }
    Ok(scan)
}

/// The body of the record at the beginning of `bytes`, if all of it is as it was written.
fn whole_record(bytes: &[u8], identity: Identity, sequence: u64) -> Option<&[u8]> {
    let header = Header::find(bytes)?;
    let aligned = header.body_bytes.is_multiple_of(BLOCK_BYTES as u64);
    let body = bytes[HEADER_BYTES..].get(..usize::try_from(header.body_bytes).ok()?)?;
    let expected = header.kind == Kind::Record && identity.owns(&header) && header.sequence == sequence;
    (expected && aligned && xxh3_64(body) == header.body_sum).then_some(body)
}

/// Where something lies that is written only after record `sequence` is on the disk.
fn proof(bytes: &[u8], identity: Identity, sequence: u64) -> Option<usize> {
    (0..bytes.len()).step_by(BLOCK_BYTES).find(|&at| {
        Header::find(&bytes[at..]).is_some_and(|header| {
            identity.owns(&header)
                && match header.kind {
                    Kind::Record => header.sequence > sequence,
                    Kind::Mark => header.sequence >= sequence,
                    Kind::Manifest | Kind::Sums | Kind::Journal => false,
                }
        })
    })
}

/// Bytes of a change's elements in all regions.
pub(crate) fn change_bytes(change: &Change, regions: usize, element_bytes: usize) -> Option<usize> {
    change.count.checked_sub(change.keep)?.checked_mul(regions)?.checked_mul(element_bytes)
}
