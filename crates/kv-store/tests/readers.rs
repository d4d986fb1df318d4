//! Readers beside a writer, and who may write.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Random, Snapshot, counts, fingerprint, grow, open, spec};
use kv_store::{Access, SessionStore, StoreError, inspect, remove, verify};

fn commit(store: &mut SessionStore, random: &mut Random, tokens: usize) -> Snapshot {
    grow(store, random, tokens).unwrap();
    let all = store.common_counts();
    store.commit(&[random.next() as u8], &all).unwrap();
    Snapshot::committed(store)
}

fn back(store: &mut SessionStore, tokens: usize) {
    store.truncate(tokens, &counts(tokens)).unwrap();
}

#[test]
fn a_reader_keeps_the_commit_that_it_opened_whatever_the_writer_does() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut random = Random(1);
    let mut store = SessionStore::create(&directory, spec(), &fingerprint()).unwrap();
    let mut readers = Vec::new();
    for round in 0..40 {
        let tokens = store.token_count();
        match round % 5 {
            1 => back(&mut store, tokens - tokens.min(2)),
            3 => back(&mut store, tokens - tokens.min(11)),
            _ => {}
        }
        let snapshot = commit(&mut store, &mut random, [1, 3, 9, 2][round % 4]);
        if round % 7 == 6 {
            store.flush().unwrap();
        }
        let reader = open(&directory, Access::Read).unwrap();
        assert_eq!(Snapshot::committed(&reader), snapshot, "round {round}");
        readers.push((reader, snapshot));
        // What is written and not committed is nobody's business.
        grow(&mut store, &mut random, 5).unwrap();
        back(&mut store, snapshot_tokens(&readers));
        for (number, (reader, snapshot)) in readers.iter().enumerate() {
            assert!(Snapshot::committed(reader) == *snapshot, "reader {number} in round {round}");
            reader.check_sizes().unwrap();
        }
    }
    drop(store);
    remove(&directory).unwrap();
    assert!(readers.iter().all(|(reader, snapshot)| Snapshot::committed(reader) == *snapshot));
}

fn snapshot_tokens(readers: &[(SessionStore, Snapshot)]) -> usize {
    readers.last().unwrap().1.tokens.len()
}

#[test]
fn readers_that_come_and_go_find_whole_commits() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut store = SessionStore::create(&directory, spec(), &fingerprint()).unwrap();
    let done = AtomicBool::new(false);
    let seen: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|number| {
                let (directory, done) = (&directory, &done);
                scope.spawn(move || {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        if number == 0 {
                            assert_eq!(verify(directory).unwrap().problems, []);
                            inspect(directory).unwrap();
                        } else {
                            let reader = open(directory, Access::Read).unwrap();
                            let tokens = u64::from_le_bytes(reader.state().try_into().unwrap_or([0; 8]));
                            assert_eq!(tokens as usize, reader.token_count());
                            assert_eq!(reader.common_counts(), counts(reader.token_count()));
                        }
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        let mut random = Random(2);
        for round in 0..150 {
            let tokens = store.token_count();
            if tokens > 40 {
                back(&mut store, random.below(tokens));
            }
            grow(&mut store, &mut random, 1 + round % 4).unwrap();
            let all = store.common_counts();
            store.commit(&(store.token_count() as u64).to_le_bytes(), &all).unwrap();
            if round % 3 == 0 {
                store.flush().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(seen > 10, "{seen} looks");
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut store = SessionStore::create(&directory, spec(), &fingerprint()).unwrap();
    let snapshot = commit(&mut store, &mut Random(1), 3);
    for refused in [open(&directory, Access::Write).map(drop), remove(&directory)] {
        let error = refused.unwrap_err();
        let StoreError::Locked { path, owner } = &error else { panic!("{error}") };
        assert_eq!(*path, directory);
        assert!(owner.contains(&format!("process {} on ", std::process::id())), "{owner}");
        assert_eq!(error.code(), "SESSION_LOCKED");
    }
    assert_eq!(Snapshot::committed(&open(&directory, Access::Read).unwrap()), snapshot);
    drop(store);
    assert_eq!(Snapshot::committed(&open(&directory, Access::Write).unwrap()), snapshot);
}

/// A lock file says who had it last; only the system says whether somebody has.
#[test]
fn a_lock_file_that_was_left_behind_is_no_lock() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    drop(SessionStore::create(&directory, spec(), &fingerprint()).unwrap());
    for text in ["999999999 elsewhere 1", "no such words", ""] {
        fs::write(directory.join("LOCK"), text).unwrap();
        drop(open(&directory, Access::Write).unwrap());
    }
    fs::remove_file(directory.join("LOCK")).unwrap();
    drop(open(&directory, Access::Write).unwrap());
}

#[test]
fn readers_append_in_memory_and_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut store = SessionStore::create(&directory, spec(), &fingerprint()).unwrap();
    commit(&mut store, &mut Random(1), 3);
    let before = contents(&directory);
    let mut reader = open(&directory, Access::Read).unwrap();
    let snapshot = Snapshot::committed(&reader);
    // Over the end of a segment, and into one that no file is named for.
    grow(&mut reader, &mut Random(2), 9).unwrap();
    assert_eq!(reader.token_count(), 12);
    let all = reader.common_counts();
    assert_eq!(reader.commit(b"", &all).unwrap_err().code(), "SESSION_READ_ONLY");
    reader.flush().unwrap();
    // A reader forks what its folder has.
    let fork = root.path().join("fork");
    reader.fork(&fork, &[]).unwrap();
    assert_eq!(Snapshot::committed(&open(&fork, Access::Write).unwrap()), snapshot);
    assert_eq!(verify(&fork).unwrap().problems, []);
    // Rows that it has written over are its own, and not to be forked.
    reader.truncate(1, &counts(1)).unwrap();
    grow(&mut reader, &mut Random(3), 4).unwrap();
    assert_eq!(reader.token_count(), 5);
    assert_eq!(reader.fork(&root.path().join("mixed"), &[]).unwrap_err().code(), "INVALID_OPTION");
    assert!(!root.path().join("mixed").exists());
    assert_eq!(Snapshot::committed(&store), snapshot);
    reader.close().unwrap();
    assert_eq!(contents(&directory), before);
}

fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}
