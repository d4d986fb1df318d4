//! Each error, provoked.
#![cfg(unix)]

mod common;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, io};

use common::disk::Disk;
use common::{Random, Snapshot, counts, fingerprint, grow, open, open_unsynced, spec};
use kv_store::{
    Access, Counts, STATE_LIMIT, SessionStore, Spec, StoreError, inspect, install_sigbus_message, remove,
    verify,
};
use xxhash_rust::xxh3::xxh3_64;

fn session(directory: &Path, tokens: usize) -> SessionStore {
    let mut store = SessionStore::create(directory, spec(), &fingerprint()).unwrap();
    grow(&mut store, &mut Random(1), tokens).unwrap();
    let all = store.common_counts();
    store.commit(b"state", &all).unwrap();
    store.flush().unwrap();
    store
}

#[test]
fn where_no_session_is_none_is_found() {
    let root = tempfile::tempdir().unwrap();
    let (missing, empty, file) =
        (root.path().join("missing"), root.path().join("empty"), root.path().join("file"));
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "text").unwrap();
    for path in [missing, empty.clone(), file] {
        let errors = [
            open(&path, Access::Read).unwrap_err(),
            open(&path, Access::Write).unwrap_err(),
            inspect(&path).unwrap_err(),
            verify(&path).unwrap_err(),
            remove(&path).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, StoreError::NotFound { path: named } if *named == path), "{error}");
            assert_eq!(error.code(), "SESSION_NOT_FOUND");
        }
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "looking leaves nothing behind");
    let error = SessionStore::create(&root.path().join("no/such"), spec(), &[]).unwrap_err();
    assert_eq!(error.code(), "SESSION_NOT_FOUND");
}

#[test]
fn what_is_there_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut store = session(&directory, 3);
    let (notes, file) = (root.path().join("notes"), root.path().join("file"));
    fs::create_dir(&notes).unwrap();
    fs::write(notes.join("text"), "text").unwrap();
    fs::write(&file, "text").unwrap();
    for path in [&directory, &notes, &file] {
        for error in
            [SessionStore::create(path, spec(), &[]).unwrap_err(), store.fork(path, &[]).unwrap_err()]
        {
            assert!(matches!(&error, StoreError::AlreadyExists { path: named } if named == path), "{error}");
            assert_eq!(error.code(), "SESSION_EXISTS");
        }
    }
    // What failed leaves nothing behind; an empty folder is as good as none.
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    store.fork(&empty, &[]).unwrap();
}

#[test]
fn another_fingerprint_is_refused_by_the_field_that_differs() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    drop(session(&directory, 3));
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut columns = spec();
    columns.columns[1].element_bytes = 16;
    let mut fewer = spec();
    fewer.columns.pop();
    let cases = [
        (spec(), vec![field("model", "large"), field("seed", "7")], ("model", "small", "large")),
        (spec(), vec![field("model", "small"), field("seed", "8")], ("seed", "7", "8")),
        (spec(), vec![field("model", "small")], ("seed", "7", "")),
        (spec(), [fingerprint(), vec![field("rope", "1")]].concat(), ("rope", " ", "1")),
        (Spec { regions: 4, ..spec() }, fingerprint(), ("regions", "3", "4")),
        (Spec { segment_tokens: 9, ..spec() }, fingerprint(), ("tokens of a segment", "8", "9")),
        (columns, fingerprint(), ("column codes", "4 x 12 bytes", "4 x 16 bytes")),
        (fewer, fingerprint(), ("columns", "3", "2")),
    ];
    for (spec, fingerprint, (name, was, wanted)) in cases {
        for access in [Access::Read, Access::Write] {
            let error = SessionStore::open(&directory, spec.clone(), &fingerprint, access).unwrap_err();
            let StoreError::Fingerprint { path, field, stored, expected } = &error else { panic!("{error}") };
            assert_eq!((path, &**field, &**stored, &**expected), (&directory, name, was, wanted));
            assert_eq!(error.code(), "SESSION_MISMATCH");
        }
    }
    // How columns are read, and how long a journal gets, is not part of it.
    let mut other = Spec { journal_limit: 1, ..spec() };
    other.columns[0].pattern = kv_store::Pattern::Sequential;
    SessionStore::open(&directory, other, &fingerprint(), Access::Write).unwrap();
}

#[test]
fn later_versions_and_foreign_files_are_told_apart_from_damage() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    drop(session(&directory, 3));
    let path = directory.join("MANIFEST");
    let whole = fs::read(&path).unwrap();
    let mut newer = whole.clone();
    newer[8..12].copy_from_slice(&7_u32.to_le_bytes());
    let sum = xxh3_64(&newer[..56]);
    newer[56..64].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    for error in [open(&directory, Access::Write).unwrap_err(), verify(&directory).unwrap_err()] {
        assert!(matches!(error, StoreError::NewerVersion { found: 7, supported: 1, .. }), "{error}");
        assert_eq!(error.code(), "SESSION_NEWER");
    }
    fs::write(&path, "name = \"something else\"").unwrap();
    for error in [open(&directory, Access::Write).unwrap_err(), remove(&directory).unwrap_err()] {
        assert!(matches!(&error, StoreError::Foreign { path: named } if *named == path), "{error}");
        assert_eq!(error.code(), "SESSION_FOREIGN");
    }
    // A folder in which somebody keeps something else is not removed.
    fs::write(&path, &whole).unwrap();
    fs::write(directory.join("notes.txt"), "mine").unwrap();
    let error = remove(&directory).unwrap_err();
    assert!(matches!(&error, StoreError::Foreign { path } if path.ends_with("notes.txt")), "{error}");
    fs::remove_file(directory.join("notes.txt")).unwrap();
    // A damaged session can go all the same.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = open(&directory, Access::Write).unwrap_err();
    assert!(matches!(error, StoreError::Truncated { .. }), "{error}");
    assert_eq!(error.code(), "SESSION_TRUNCATED");
    remove(&directory).unwrap();
    assert!(!directory.exists() && fs::read_dir(root.path()).unwrap().count() == 0);
}

#[test]
fn a_missing_or_short_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    drop(session(&directory, 11));
    let paths: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut named = 0;
    for path in paths.iter().filter(|path| !path.ends_with("LOCK") && !path.ends_with("MANIFEST")) {
        let bytes = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        for access in [Access::Read, Access::Write] {
            let error = open(&directory, access).unwrap_err();
            assert!(matches!(&error, StoreError::MissingFile { path: found } if found == path), "{error}");
            assert_eq!(error.code(), "SESSION_FILE_MISSING");
        }
        assert!(verify(&directory).unwrap().problems.iter().any(|problem| problem.path == *path));
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(verify(&directory).unwrap().problems.iter().any(|problem| problem.path == *path));
        fs::write(path, &bytes).unwrap();
        named += 1;
    }
    assert_eq!(named, 10, "four columns and checksums of two segments, less a centre, and a journal");
    open(&directory, Access::Write).unwrap();
}

#[test]
fn a_file_that_shrinks_while_it_is_mapped_is_an_error_if_one_asks_before_reading() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let store = session(&directory, 11);
    store.check_sizes().unwrap();
    let path = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("s000000-rows"))
        .unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = store.check_sizes().unwrap_err();
    assert!(
        matches!(&error, StoreError::Truncated { path: named, found: 100, expected: 4416 } if *named == path),
        "{error}"
    );
}

const CHILD: &str = "KV_STORE_SIGBUS_CHILD";

#[test]
fn one_that_does_not_ask_ends_with_a_plain_line() {
    const NAME: &str = "one_that_does_not_ask_ends_with_a_plain_line";
    if env::var_os(CHILD).is_some() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("session");
        let store = session(&directory, 11);
        install_sigbus_message();
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
        fs::remove_dir_all(root.path()).unwrap();
        println!("{}", store.read(0, 2, 0).iter().map(|&byte| u64::from(byte)).sum::<u64>());
        return;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", NAME])
        .env(CHILD, "1")
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.status.signal(), Some(7), "SIGBUS: {child:?}");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("magicpig: a file of a session was cut short"), "{said}");
}

#[test]
fn arguments_that_do_not_fit_are_refused_and_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut store = session(&root.path().join("session"), 11);
    let before = Snapshot::committed(&store);
    let element = [0; 180];
    let mut errors = vec![
        store.write(3, 0, 0, &element),
        store.write(0, 3, 0, &element),
        store.write(0, 0, 11, &element[1..]),
        store.write(0, 0, 12, &element),
        store.write(0, 0, 24, &element),
        store.write(0, 0, usize::MAX, &element),
        store.write(0, 0, 10, &element),
        store.truncate(0, &Counts::new(2)),
        store.commit(b"", &Counts::new(2)),
        store.commit(b"", &counts(10)),
        store.commit(b"", &counts(12)),
        store.commit(&vec![0; STATE_LIMIT + 1], &counts(11)),
    ];
    // One region has more than the others.
    store.write(0, 1, 11, &element).unwrap();
    errors.push(store.commit(b"", &counts(12)));
    back_to(&mut store, 11);
    // A truncation takes effect with a commit, and forks show commits.
    back_to(&mut store, 10);
    errors.push(store.fork(&root.path().join("fork"), &[]));
    for (number, error) in errors.into_iter().enumerate() {
        let error = error.expect_err(&number.to_string());
        assert_eq!(error.code(), "INVALID_OPTION", "{number}: {error}");
    }
    drop(store);
    assert_eq!(Snapshot::committed(&open(&root.path().join("session"), Access::Write).unwrap()), before);
}

fn back_to(store: &mut SessionStore, tokens: usize) {
    store.truncate(tokens, &counts(tokens)).unwrap();
}

#[test]
fn columns_that_no_file_can_hold_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let with = |change: fn(&mut Spec)| {
        let mut spec = spec();
        change(&mut spec);
        spec
    };
    let specs = [
        with(|spec| spec.regions = 0),
        with(|spec| spec.regions = usize::MAX),
        with(|spec| spec.segment_tokens = 0),
        with(|spec| spec.columns.clear()),
        with(|spec| spec.columns[0].per_segment = 0),
        with(|spec| spec.columns[0].element_bytes = 1 << 45),
        with(|spec| spec.columns[0].name = "Rows".to_owned()),
        with(|spec| spec.columns[0].name = "../rows".to_owned()),
        with(|spec| spec.columns[0].name = String::new()),
        with(|spec| spec.columns[0].name = "codes".to_owned()),
        with(|spec| spec.columns[0].name = "tokens".to_owned()),
        with(|spec| spec.columns[0].name = "sums".to_owned()),
    ];
    for spec in specs {
        let refused = [
            SessionStore::create(&root.path().join("session"), spec.clone(), &[]).unwrap_err(),
            SessionStore::ephemeral(root.path(), spec).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, StoreError::Spec(_)), "{error}");
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_fork_that_fails_gives_its_room_back() {
    let root = common::scratch();
    let directory = root.path().join("session");
    drop(session(&directory, 11));
    let fork = root.path().join("fork");
    let mut failed = 0;
    for at in 0.. {
        let disk = Arc::new(Disk::failing_once(at, io::ErrorKind::StorageFull));
        let mut store = SessionStore::open_on(disk.clone(), &directory, spec(), &fingerprint()).unwrap();
        let forked = store.fork(&fork, &[]);
        if let Err(error) = &forked {
            assert_eq!(error.code(), "DISK_FULL", "call {at}: {error}");
            failed += 1;
        }
        // A link that cannot be made is a copy; and a name whose sync failed is there.
        if fork.exists() {
            assert_eq!(verify(&fork).unwrap().problems, []);
            remove(&fork).unwrap();
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "call {at}");
        if !disk.stopped() {
            break;
        }
    }
    assert!(failed > 10, "{failed}");
}

/// One call of the file system fails, at every place in turn, and the caller tries again.
#[test]
fn after_one_failed_call_the_next_attempt_goes_on_from_the_last_commit() {
    let cases =
        [(io::ErrorKind::StorageFull, "DISK_FULL"), (io::ErrorKind::PermissionDenied, "PERMISSION_DENIED")];
    for (kind, code) in cases {
        let mut failures = 0;
        for at in 0.. {
            let root = common::scratch();
            let disk = Arc::new(Disk::failing_once(at, kind));
            let codes = persist(&root.path().join("session"), &disk);
            if !disk.stopped() {
                assert_eq!(codes, [""; 0]);
                break;
            }
            failures += codes.len();
            assert!(
                codes.iter().all(|&found| [code, "SESSION_BROKEN"].contains(&found)),
                "call {at}: {codes:?}"
            );
        }
        println!("{failures} calls failed with {code} or after that");
        assert!(failures > 100);
    }
}

/// Commits through journal and flushes, each as often as it takes, and returns the codes of the errors on the way.
fn persist(directory: &Path, disk: &Arc<Disk>) -> Vec<&'static str> {
    let mut codes = Vec::new();
    let mut store = loop {
        match SessionStore::create_on(disk.clone(), directory, spec(), &fingerprint()) {
            Ok(store) => break store,
            // The folder had its name when the call failed.
            Err(StoreError::AlreadyExists { .. }) => {
                break SessionStore::open_on(disk.clone(), directory, spec(), &fingerprint()).unwrap();
            }
            Err(error) => codes.push(error.code()),
        }
    };
    let steps = [(0, 2), (1, 2), (0, 20), (2, 1), (9, 4)];
    let mut tokens = 0;
    let mut committed = Snapshot::committed(&store);
    for (number, (back, more)) in steps.into_iter().enumerate() {
        let kept = tokens - back;
        loop {
            let mut random = Random(number as u64);
            let done = store
                .truncate(kept, &counts(kept))
                .and_then(|()| grow(&mut store, &mut random, more))
                .and_then(|()| store.commit(&[number as u8], &counts(kept + more)));
            match done {
                Ok(()) => break,
                Err(error) => codes.push(error.code()),
            }
            if codes.last() == Some(&"SESSION_BROKEN") {
                drop(store);
                store = open_unsynced(directory).unwrap();
                if store.state() == [number as u8] {
                    break;
                }
                assert_eq!(Snapshot::committed(&store), committed);
            }
        }
        tokens = kept + more;
        committed = Snapshot::committed(&store);
        if number == 1
            && let Err(error) = store.flush()
        {
            codes.push(error.code());
        }
    }
    assert_eq!(committed.tokens.len(), tokens);
    drop(store);
    assert_eq!(Snapshot::committed(&open(directory, Access::Read).unwrap()), committed);
    assert_eq!(verify(directory).unwrap().problems, []);
    codes
}
