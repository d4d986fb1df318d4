//! What the tests of sessions share: small columns, seeded contents, and snapshots to compare.
#![allow(dead_code, reason = "each test uses a part")]

pub mod disk;
pub mod history;
pub mod kills;
pub mod power;

use std::path::Path;
use std::sync::Arc;

use disk::Disk;
use kv_store::{Access, Column, Counts, Pattern, SessionStore, Spec, StoreError};

pub const REGIONS: usize = 3;
pub const SEGMENT: usize = 8;
pub const ROWS: usize = 0;
pub const CODES: usize = 1;
pub const CENTRES: usize = 2;

/// Rows, a code for every two rows, and a centre for every full segment; a journal that is soon full.
pub fn spec() -> Spec {
    let column = |name: &str, element_bytes, per_segment, pattern| Column {
        name: name.to_owned(),
        element_bytes,
        per_segment,
        pattern,
    };
    let columns = vec![
        column("rows", 180, SEGMENT, Pattern::Random),
        column("codes", 12, SEGMENT / 2, Pattern::Sequential),
        column("centres", 36, 1, Pattern::Random),
    ];
    Spec { segment_tokens: SEGMENT, journal_limit: 24_000, ..Spec::new(REGIONS, columns) }
}

pub fn fingerprint() -> Vec<(String, String)> {
    vec![("model".to_owned(), "small".to_owned()), ("seed".to_owned(), "7".to_owned())]
}

pub fn open(directory: &Path, access: Access) -> Result<SessionStore, StoreError> {
    SessionStore::open(directory, spec(), &fingerprint(), access)
}

/// A folder for tests that make many files and ask nothing of a disk: in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

/// As [`open`] for writing, with nothing synced: a test's own process does not lose power.
pub fn open_unsynced(directory: &Path) -> Result<SessionStore, StoreError> {
    SessionStore::open_on(Arc::new(Disk::new(None)), directory, spec(), &fingerprint())
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Counts that go with so many tokens.
pub fn counts(tokens: usize) -> Counts {
    let mut counts = Counts::new(3);
    counts.fill(ROWS, SEGMENT, tokens);
    counts.fill(CENTRES, 1, tokens / SEGMENT);
    for segment in 0..counts.segments() {
        counts.set(segment, CODES, counts.get(segment, ROWS) / 2);
    }
    counts
}

/// Appends tokens and all that goes with them, and commits nothing.
pub fn grow(store: &mut SessionStore, random: &mut Random, tokens: usize) -> Result<(), StoreError> {
    let target = counts(store.token_count() + tokens);
    for segment in 0..target.segments() {
        for (column, spec) in spec().columns.iter().enumerate() {
            for region in 0..REGIONS {
                let have = store.written(column, region, segment);
                let new = target.get(segment, column) - have;
                let bytes = random.bytes(new * spec.element_bytes);
                store.write(column, region, segment * spec.per_segment + have, &bytes)?;
            }
        }
    }
    let tokens: Vec<u32> = (0..tokens).map(|_| random.next() as u32).collect();
    store.push_tokens(&tokens)
}

/// Everything that a session shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub state: Vec<u8>,
    pub tokens: Vec<u32>,
    /// Elements, `[segments][columns][regions]`, without segments at the end that have none.
    pub elements: Vec<Vec<Vec<Vec<u8>>>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.elements.iter().flatten().flatten().map(Vec::len).sum::<usize>();
        write!(f, "Snapshot(state {:?}, {} tokens, {bytes} bytes)", self.state, self.tokens.len())
    }
}

impl Snapshot {
    pub fn of(store: &SessionStore, state: &[u8]) -> Snapshot {
        let columns = store.spec().columns.len();
        let region = |segment, column| {
            (0..store.spec().regions).map(|region| store.read(column, region, segment).to_vec()).collect()
        };
        let segment = |segment| (0..columns).map(|column| region(segment, column)).collect();
        Snapshot {
            state: state.to_vec(),
            tokens: store.tokens(),
            elements: (0..store.segments()).map(segment).collect(),
        }
    }

    pub fn committed(store: &SessionStore) -> Snapshot {
        Snapshot::of(store, store.state())
    }
}
