//! Bits flip and files are cut short: it is noticed, or it was in bytes that do not count.
#![cfg(unix)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Random, Snapshot, counts, fingerprint, grow, open, open_unsynced, spec};
use kv_store::{Access, Column, Pattern, SessionStore, Spec, StoreError, verify};

const FLIPS: usize = 120_000;

/// A session with full and open segments, something in its journal, and a bit of everything in its manifest.
fn small_session(directory: &Path) -> Snapshot {
    let mut random = Random(5);
    let mut store = SessionStore::create(directory, spec(), &fingerprint()).unwrap();
    grow(&mut store, &mut random, 21).unwrap();
    let all = store.common_counts();
    store.commit(b"flushed", &all).unwrap();
    store.flush().unwrap();
    for _ in 0..3 {
        grow(&mut store, &mut random, 1).unwrap();
        let all = store.common_counts();
        store.commit(b"in the journal", &all).unwrap();
    }
    Snapshot::committed(&store)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let sorted: BTreeSet<PathBuf> = paths.filter(|path| path.file_name().unwrap() != "LOCK").collect();
    sorted.into_iter().collect()
}

/// Whether a byte of a column's file counts; its other bytes are room for elements to come, or belong to elements of which
/// the journal has the truth.
fn counts_there(path: &Path, offset: usize) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    let Some((segment, rest)) = name.strip_prefix('s').and_then(|name| name.split_once('-')) else {
        return true;
    };
    let segment: usize = segment.parse().unwrap();
    let (column, _) = rest.split_once('-').unwrap();
    let flushed = counts(21);
    let (stride, used) = match column {
        "tokens" => (64, 4 * 21_usize.saturating_sub(segment * 8).min(8)),
        "sums" => return true,
        column => {
            let number = spec().columns.iter().position(|spec| spec.name == column).unwrap();
            let Column { element_bytes, per_segment, .. } = spec().columns[number];
            let stride = (element_bytes * per_segment).next_multiple_of(64);
            (stride, flushed.get(segment, number) * element_bytes)
        }
    };
    offset % stride < used
}

fn flip(file: &File, bit: usize) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit as u64 / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit as u64 / 8).unwrap();
}

fn is_noticed(directory: &Path) -> bool {
    verify(directory).map_or(true, |report| !report.problems.is_empty())
}

#[test]
fn every_flipped_bit_that_counts_is_noticed() {
    let root = common::scratch();
    let directory = root.path().join("session");
    let whole = small_session(&directory);
    assert!(!is_noticed(&directory));
    let files: Vec<(PathBuf, File, usize)> = files(&directory)
        .into_iter()
        .map(|path| {
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let bits = file.metadata().unwrap().len() as usize * 8;
            (path, file, bits)
        })
        .collect();
    let bits: usize = files.iter().map(|(_, _, bits)| bits).sum();
    let mut random = Random(11);
    let (mut noticed, mut idle, mut unnoticed_by_rows_alone) = (0, 0, 0);
    while noticed < FLIPS {
        let mut bit = random.below(bits);
        let (path, file, _) = files
            .iter()
            .find(|(_, _, here)| {
                let inside = bit < *here;
                bit -= if inside { 0 } else { *here };
                inside
            })
            .unwrap();
        flip(file, bit);
        let name = path.file_name().unwrap().to_str().unwrap();
        let metadata = name == "MANIFEST" || name.starts_with("journal");
        if counts_there(path, bit / 8) {
            assert!(is_noticed(&directory), "bit {bit} of {name}");
            noticed += 1;
            // The negative control: a look at the rows alone would have missed it.
            unnoticed_by_rows_alone += usize::from(!name.contains("-rows-"));
            // Opening notices what is in manifest and records; a mark that is damaged harms nobody.
            if metadata && random.below(16) == 0 {
                let opened = open(&directory, Access::Read);
                assert!(
                    opened.is_err() || Snapshot::committed(&opened.unwrap()) == whole,
                    "bit {bit} of {name}"
                );
            }
        } else {
            assert!(!is_noticed(&directory), "bit {bit} of {name}");
            idle += 1;
            if random.below(64) == 0 {
                assert!(Snapshot::committed(&open(&directory, Access::Read).unwrap()) == whole);
            }
        }
        flip(file, bit);
    }
    println!(
        "{noticed} flips noticed; {idle} in bytes that do not count; {unnoticed_by_rows_alone} outside the rows"
    );
    assert!(!is_noticed(&directory));
    assert!(unnoticed_by_rows_alone > FLIPS / 20);
}

#[test]
fn every_bit_of_the_manifest_is_noticed_when_opening() {
    let root = common::scratch();
    let directory = root.path().join("session");
    small_session(&directory);
    let path = directory.join("MANIFEST");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for bit in 0..file.metadata().unwrap().len() as usize * 8 {
        flip(&file, bit);
        for access in [Access::Read, Access::Write] {
            let error = open(&directory, access).unwrap_err();
            let typed = match bit / 8 {
                0..8 => matches!(error, StoreError::Foreign { .. }),
                _ => matches!(error, StoreError::Corrupt { offset: 0 | 64, .. }),
            };
            assert!(typed, "bit {bit}: {error}");
        }
        flip(&file, bit);
    }
    open(&directory, Access::Write).unwrap();
}

/// The last record too: its mark says that it was acknowledged.
#[test]
fn every_bit_of_a_record_is_noticed_when_opening() {
    let root = common::scratch();
    let directory = root.path().join("session");
    let whole = small_session(&directory);
    let path = files(&directory).into_iter().find(|path| path.to_string_lossy().contains("journal")).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (mut refused, mut marks) = (0, 0);
    for bit in 0..file.metadata().unwrap().len() as usize * 8 {
        flip(&file, bit);
        match open(&directory, Access::Read) {
            Ok(store) => {
                assert!(Snapshot::committed(&store) == whole, "bit {bit}");
                marks += 1;
            }
            Err(StoreError::Corrupt { path: named, .. } | StoreError::Foreign { path: named }) => {
                assert_eq!(named, path);
                refused += 1;
            }
            Err(error) => panic!("bit {bit}: {error}"),
        }
        flip(&file, bit);
    }
    // Three records have three marks of 64 bytes.
    assert_eq!(marks, 3 * 64 * 8);
    println!("{refused} bits refused, {marks} in marks");
}

/// Files of several pages each, in many extents.
fn long_session(directory: &Path) -> (Spec, Snapshot) {
    let column = |name: &str, element_bytes| Column {
        name: name.to_owned(),
        element_bytes,
        per_segment: 8,
        pattern: Pattern::Random,
    };
    let spec = Spec {
        segment_tokens: 8,
        journal_limit: 1 << 20,
        ..Spec::new(2, vec![column("rows", 20_000), column("codes", 3_000)])
    };
    let mut store = SessionStore::create(directory, spec.clone(), &fingerprint()).unwrap();
    let mut random = Random(8);
    for round in 0..5 {
        for region in 0..2 {
            store.write(0, region, 2 * round, &random.bytes(40_000)).unwrap();
            store.write(1, region, 2 * round, &random.bytes(6_000)).unwrap();
        }
        store.push_tokens(&[1, 2]).unwrap();
        let all = store.common_counts();
        store.commit(&[round as u8], &all).unwrap();
        if round == 2 {
            store.flush().unwrap();
        }
    }
    (spec, Snapshot::committed(&store))
}

#[test]
fn a_file_cut_at_any_page_is_a_typed_error_or_an_earlier_commit() {
    let root = common::scratch();
    let directory = root.path().join("session");
    let (spec, whole) = long_session(&directory);
    assert!(!is_noticed(&directory));
    let (mut typed, mut earlier) = (0, 0);
    for path in files(&directory) {
        let bytes = fs::read(&path).unwrap();
        for length in (0..bytes.len()).step_by(4096) {
            fs::write(&path, &bytes[..length]).unwrap();
            match SessionStore::open(&directory, spec.clone(), &fingerprint(), Access::Read) {
                Ok(store) => {
                    let found = Snapshot::committed(&store);
                    let named = path.to_string_lossy();
                    // Checksums are read by `verify` and the next flush. What the journal alone has is made anew from it.
                    let sums = named.contains("-sums-");
                    let from_journal = named.ends_with("-g3");
                    assert!(sums || from_journal || named.contains("journal"), "{named} at {length}");
                    assert!(found == whole || (!from_journal && found.state < whole.state));
                    assert!(!sums || is_noticed(&directory));
                    earlier += 1;
                }
                Err(
                    StoreError::Truncated { path: named, .. }
                    | StoreError::Corrupt { path: named, .. }
                    | StoreError::Foreign { path: named },
                ) => {
                    assert_eq!(named, path);
                    typed += 1;
                }
                Err(error) => panic!("{} at {length}: {error}", path.display()),
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
    println!("{typed} typed errors, {earlier} earlier commits");
    assert!(typed > 50 && !is_noticed(&directory));
}

/// Damage in an extent that is only partly filled is not sealed in by the flush that fills it up.
#[test]
fn damage_in_an_open_extent_stops_the_flush_that_would_cover_it() {
    let root = common::scratch();
    let directory = root.path().join("session");
    small_session(&directory);
    let path =
        files(&directory).into_iter().find(|path| path.to_string_lossy().contains("s000002-rows")).unwrap();
    flip(&OpenOptions::new().read(true).write(true).open(&path).unwrap(), 77);
    let mut store = open_unsynced(&directory).unwrap();
    let error = store.flush().unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { path: named, offset: 0, .. } if *named == path),
        "{error}"
    );
}
