//! A disk without room is an error like any other, not a SIGBUS.
#![cfg(unix)]

use std::env;
use std::process::Command;

use kv_store::{Column, Counts, Pattern, SessionStore, Spec, StoreError};
use rustix::process::{Resource, Rlimit, setrlimit};

const CHILD: &str = "KV_STORE_DISK_FULL_CHILD";
const ROW_BYTES: usize = 256;
const CHUNK_ROWS: usize = 100;
const LIMIT: u64 = 1 << 20;

/// A full disk cannot be had without privileges, but a limit on file sizes can: the write call fails just so. The
/// limit and the signal to be ignored belong to a process, hence the child, which is this very test run again.
#[test]
fn a_full_disk_is_a_typed_error_and_what_was_written_stays_readable_needs_sh() {
    if env::var_os(CHILD).is_some() {
        return fill_up();
    }
    let child = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" --exact --nocapture "$1""#])
        .arg(env::current_exe().unwrap())
        .arg("a_full_disk_is_a_typed_error_and_what_was_written_stays_readable_needs_sh")
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("filled up as expected"), "{child:?}");
}

fn fill_up() {
    let rows = Column {
        name: "rows".to_owned(),
        element_bytes: ROW_BYTES,
        per_segment: 32_768,
        pattern: Pattern::Random,
    };
    let mut store = SessionStore::ephemeral(&env::temp_dir(), Spec::new(1, vec![rows])).unwrap();
    let rows = vec![7; CHUNK_ROWS * ROW_BYTES];
    // A file has its length from the beginning, so the first rows come before the limit.
    store.write(0, 0, 0, &rows).unwrap();
    setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) }).unwrap();
    let error = loop {
        let position = store.written(0, 0, 0);
        assert!(position < 32_768, "the limit never bit");
        if let Err(error) = store.write(0, 0, position, &rows) {
            break error;
        }
    };
    assert_eq!(error.code(), "DISK_FULL");
    assert!(
        matches!(&error, StoreError::DiskFull { path, needed, .. }
            if *path == env::temp_dir() && *needed == rows.len() as u64),
        "{error:?}"
    );
    // The chunk that did not fit is absent, the ones before it are whole, and truncation makes room again.
    let fitting = LIMIT as usize / ROW_BYTES / CHUNK_ROWS * CHUNK_ROWS;
    assert_eq!(store.written(0, 0, 0), fitting);
    assert!(store.read(0, 0, 0).iter().all(|&byte| byte == 7));
    let mut counts = Counts::new(1);
    counts.set(0, 0, CHUNK_ROWS);
    store.truncate(0, &counts).unwrap();
    store.write(0, 0, CHUNK_ROWS, &rows).unwrap();
    println!("filled up as expected: {error}");
}
