//! Opens session folders of which a file was edited, with its checksums made right again, so that what the bytes say is
//! put to the test and not the checksums. Nothing may panic, hang or ask for more memory than there is.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run open_session -s none` runs it on a stable compiler; `TMPDIR=/dev/shm` makes it faster.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use kv_store::{Access, Column, Pattern, SessionStore, Spec, StoreError, inspect, verify};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

/// As in docs/session-format.md.
const BODY_BYTES: usize = 40;
const BODY_SUM: usize = 48;
const HEADER_SUM: usize = 56;
const HEADER: usize = 64;

fn spec() -> Spec {
    let column = |name: &str, element_bytes, per_segment| Column {
        name: name.to_owned(),
        element_bytes,
        per_segment,
        pattern: Pattern::Random,
    };
    let columns = vec![column("rows", 16, 8), column("codes", 12, 4)];
    Spec { segment_tokens: 8, journal_limit: 64 << 10, ..Spec::new(2, columns) }
}

fn fingerprint() -> Vec<(String, String)> {
    vec![("model".to_owned(), "small".to_owned())]
}

fn grow(store: &mut SessionStore, tokens: usize) -> Result<(), StoreError> {
    let first = store.token_count();
    for region in 0..2 {
        let rows = store.spec().columns[0].element_bytes * tokens;
        store.write(0, region, first, &vec![region as u8; rows])?;
    }
    store.push_tokens(&vec![5; tokens])?;
    let all = store.common_counts();
    store.commit(b"state", &all)
}

/// Files of a session with two segments and two records in its journal.
fn seed() -> &'static [(String, Vec<u8>)] {
    static SEED: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    SEED.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("session");
        let mut store = SessionStore::create(&directory, spec(), &fingerprint()).unwrap();
        grow(&mut store, 10).unwrap();
        store.flush().unwrap();
        grow(&mut store, 3).unwrap();
        grow(&mut store, 4).unwrap();
        drop(store);
        let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .filter(|(name, _)| name != "LOCK")
            .collect();
        // What holds structure comes first.
        files.sort_by_key(|(name, _)| (name.starts_with('s'), !name.contains("-sums-"), name.clone()));
        files
    })
}

/// Makes the checksums of all headers in a file right, as far as the bodies they claim are there.
fn seal(bytes: &mut [u8]) {
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        let (head, rest) = bytes[at..].split_at_mut(HEADER);
        if head.starts_with(b"MAGICPIG") {
            let body = u64::from_le_bytes(head[BODY_BYTES..BODY_SUM].try_into().unwrap());
            if let Some(body) = usize::try_from(body).ok().and_then(|length| rest.get(..length)) {
                head[BODY_SUM..HEADER_SUM].copy_from_slice(&xxh3_64(body).to_le_bytes());
            }
            let sum = xxh3_64(&head[..HEADER_SUM]);
            head[HEADER_SUM..].copy_from_slice(&sum.to_le_bytes());
        }
        at += HEADER;
    }
}

fn look(directory: &Path) {
    let _ = inspect(directory);
    let _ = verify(directory);
    for access in [Access::Read, Access::Write] {
        let Ok(mut store) = SessionStore::open(directory, spec(), &fingerprint(), access) else { continue };
        let _ = store.check_sizes();
        let _ = store.tokens();
        for segment in 0..store.segments() {
            for (column, region) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                std::hint::black_box(
                    store.read(column, region, segment).iter().fold(0, |sum: u8, byte| sum ^ byte),
                );
            }
        }
        if access == Access::Write {
            let _ = grow(&mut store, 9);
            let _ = store.flush();
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [which, mode, edits @ ..] = input else { return };
    let files = seed();
    let root = tempfile::tempdir().unwrap();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let mut bytes = bytes.clone();
        if number == usize::from(*which) % files.len() {
            for edit in edits.chunks_exact(4) {
                let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
                match edit[2] % 4 {
                    0 => bytes[at] = edit[3],
                    1 => bytes[at] = bytes[at].wrapping_add(edit[3]),
                    2 => bytes.insert(at, edit[3]),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if mode % 4 == 0 {
                // A manifest and a file of checksums end with their body.
                let length = (bytes.len() as u64).saturating_sub(HEADER as u64);
                if !name.starts_with("journal") && bytes.len() >= HEADER {
                    bytes[BODY_BYTES..BODY_SUM].copy_from_slice(&length.to_le_bytes());
                }
            }
            if mode % 2 == 0 {
                seal(&mut bytes);
            }
        }
        fs::write(root.path().join(name), bytes).unwrap();
    }
    look(root.path());
});
