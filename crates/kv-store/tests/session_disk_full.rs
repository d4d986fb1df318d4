//! A disk without room under a session in a folder.
#![cfg(unix)]

mod common;

use std::env;
use std::process::Command;

use common::{Random, Snapshot, fingerprint, open};
use kv_store::{Access, Column, Pattern, SessionStore, Spec, verify};
use rustix::process::{Resource, Rlimit, setrlimit};

const CHILD: &str = "KV_STORE_SESSION_DISK_FULL_CHILD";
const NAME: &str = "a_full_disk_is_a_typed_error_and_the_last_commit_stays_needs_sh";
const LIMIT: u64 = 1 << 20;

/// As in `disk_full.rs`, a limit on file sizes stands for the disk, in a child of its own.
#[test]
fn a_full_disk_is_a_typed_error_and_the_last_commit_stays_needs_sh() {
    if env::var_os(CHILD).is_some() {
        return fill_up();
    }
    let child = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" --exact --nocapture "$1""#])
        .arg(env::current_exe().unwrap())
        .arg(NAME)
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("filled up as expected"), "{child:?}");
}

fn fill_up() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let column =
        Column { name: "rows".to_owned(), element_bytes: 1000, per_segment: 2000, pattern: Pattern::Random };
    // A journal without a limit of its own meets the disk's, then the column's file does.
    for journal_limit in [u64::MAX, 64 << 10] {
        let spec = Spec { segment_tokens: 2000, journal_limit, ..Spec::new(1, vec![column.clone()]) };
        let mut store = SessionStore::create(&directory, spec.clone(), &fingerprint()).unwrap();
        let mut random = Random(1);
        // The column's file is sparse and longer than the limit, and so it is there before the limit is.
        store.write(0, 0, 0, &random.bytes(1000)).unwrap();
        let unlimited = rustix::process::getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), ..unlimited }).unwrap();
        let error = loop {
            let all = store.common_counts();
            let position = store.written(0, 0, 0);
            let written = store
                .commit(&position.to_le_bytes(), &all)
                .and_then(|()| store.write(0, 0, position, &random.bytes(5000)));
            if let Err(error) = written {
                break error;
            }
        };
        assert_eq!(error.code(), "DISK_FULL", "{error}");
        let now = Snapshot::committed(&store);
        assert_eq!(verify(&directory).unwrap().problems, []);
        let reader = SessionStore::open(&directory, spec.clone(), &fingerprint(), Access::Read).unwrap();
        assert_eq!(reader.state(), now.state);
        assert!(Snapshot::committed(&reader).elements[0][0][0].len() > 100_000);
        // With room again, the session goes on.
        setrlimit(Resource::Fsize, unlimited).unwrap();
        let all = store.common_counts();
        store.commit(b"room again", &all).unwrap();
        drop(store);
        let store = SessionStore::open(&directory, spec, &fingerprint(), Access::Write).unwrap();
        assert_eq!((store.state(), store.common_counts()), (&b"room again"[..], all));
        store.close().unwrap();
        kv_store::remove(&directory).unwrap();
        assert!(open(&directory, Access::Read).is_err());
        println!("filled up as expected: {error}");
    }
}
