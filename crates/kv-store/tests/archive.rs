//! A session packed into one file and unpacked: the same commit, or a typed error and nothing left behind.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Random, Snapshot, fingerprint, grow, open, spec};
use kv_store::{Access, SessionStore, StoreError, export, import};

fn session(directory: &Path) -> Snapshot {
    let mut store = SessionStore::create(directory, spec(), &fingerprint()).unwrap();
    grow(&mut store, &mut Random(5), 29).unwrap();
    let all = store.common_counts();
    store.commit(b"state", &all).unwrap();
    let snapshot = Snapshot::committed(&store);
    // What is not committed is not packed.
    grow(&mut store, &mut Random(6), 3).unwrap();
    snapshot
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn unpacked_it_has_the_commit_that_was_packed() {
    let root = tempfile::tempdir().unwrap();
    let [from, to, archive] = ["from", "to", "packed"].map(|name| root.path().join(name));
    let snapshot = session(&from);
    let bytes = export(&from, &archive).unwrap();
    assert_eq!(fs::metadata(&archive).unwrap().len(), bytes);
    import(&archive, &to).unwrap();
    assert_eq!(Snapshot::committed(&open(&to, Access::Write).unwrap()), snapshot);
    assert_eq!(names(root.path()), ["from", "packed", "to"]);
    let error = export(&from, &archive).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    let error = import(&archive, &to).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
}

#[test]
fn files_are_as_sparse_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    let [from, to, archive] = ["from", "to", "packed"].map(|name| root.path().join(name));
    let wide = kv_store::Spec { segment_tokens: 32_768, ..spec() };
    let wide = kv_store::Spec {
        columns: wide
            .columns
            .iter()
            .map(|column| kv_store::Column { per_segment: 32_768, ..column.clone() })
            .collect(),
        ..wide
    };
    let mut store = SessionStore::create(&from, wide, &fingerprint()).unwrap();
    store.write(0, 0, 0, &[1; 180]).unwrap();
    store.write(0, 1, 0, &[2; 180]).unwrap();
    store.write(0, 2, 0, &[3; 180]).unwrap();
    store.push_tokens(&[1]).unwrap();
    let all = store.common_counts();
    store.commit(&[], &all).unwrap();
    assert!(export(&from, &archive).unwrap() < 16 << 10);
    import(&archive, &to).unwrap();
    let blocks = |directory: &Path| -> u64 {
        names(directory).iter().map(|name| fs::metadata(directory.join(name)).unwrap().blocks()).sum()
    };
    assert!(blocks(&to) * 512 < 2 << 20, "{} bytes on the disk", blocks(&to) * 512);
}

#[test]
fn a_damaged_or_hostile_archive_is_refused_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let [from, to, archive] = ["from", "to", "packed"].map(|name| root.path().join(name));
    session(&from);
    export(&from, &archive).unwrap();
    let good = fs::read(&archive).unwrap();
    let refused = |bytes: &[u8], why: &str| {
        let bad = root.path().join("bad");
        fs::write(&bad, bytes).unwrap();
        let error = import(&bad, &to).expect_err(why);
        assert_eq!(error.code(), "SESSION_CORRUPT", "{why}: {error}");
        fs::remove_file(&bad).unwrap();
        assert_eq!(names(root.path()), ["from", "packed"], "{why}");
    };
    refused(b"", "empty");
    refused(b"not an archive at all", "something else");
    for cut in [1, good.len() / 3, good.len() - 1] {
        refused(&good[..cut], "cut short");
    }
    let mut random = Random(11);
    let mut silent = 0;
    for _ in 0..60 {
        let mut flipped = good.clone();
        flipped[random.below(good.len())] ^= 1 << random.below(8);
        let bad = root.path().join("bad");
        fs::write(&bad, &flipped).unwrap();
        if import(&bad, &to).is_ok() {
            // Bits of times and the like carry nothing; elements are never another's.
            assert_eq!(
                Snapshot::committed(&open(&to, Access::Read).unwrap()),
                Snapshot::committed(&open(&from, Access::Read).unwrap())
            );
            fs::remove_dir_all(&to).unwrap();
            silent += 1;
        }
        fs::remove_file(&bad).unwrap();
        assert_eq!(names(root.path()), ["from", "packed"]);
    }
    assert!(silent < 30, "{silent} of 60 flipped bits went unseen");
    for hostile in ["../escaped", "/escaped", "s000000-rows-g1/inner", "other"] {
        refused(&archive_with(hostile, tar::EntryType::Regular), hostile);
    }
    refused(&archive_with("MANIFEST", tar::EntryType::Symlink), "a link");
}

/// An archive of one entry.
fn archive_with(name: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(4);
    header.set_entry_type(kind);
    header.set_cksum();
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    tar.append(&header, &b"evil"[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}
