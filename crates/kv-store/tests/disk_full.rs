//! A disk without room is an error like any other, not a SIGBUS.
#![cfg(unix)]

use std::env;
use std::process::Command;

use kv_store::{Layout, RowStore, StoreError};
use rustix::process::{Resource, Rlimit, setrlimit};

const CHILD: &str = "KV_STORE_DISK_FULL_CHILD";
const LAYOUT: Layout = Layout { layers: 1, kv_heads: 1, head_dim: 64 };
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
    let mut store = RowStore::ephemeral(&env::temp_dir(), LAYOUT).unwrap();
    setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) }).unwrap();
    let rows = vec![7; CHUNK_ROWS * LAYOUT.row_elements()];
    let error = loop {
        let position = store.len(0, 0);
        assert!(position < 32_768, "the limit never bit");
        if let Err(error) = store.write(0, 0, position, &rows) {
            break error;
        }
    };
    assert_eq!(error.code(), "DISK_FULL");
    assert!(
        matches!(&error, StoreError::DiskFull { path, needed, .. }
            if *path == env::temp_dir() && *needed == size_of_val(&rows[..]) as u64),
        "{error:?}"
    );
    // The chunk that did not fit is absent, the ones before it are whole, and truncation makes room again.
    let fitting = LIMIT as usize / LAYOUT.row_bytes() / CHUNK_ROWS * CHUNK_ROWS;
    assert_eq!(store.len(0, 0), fitting);
    assert!(store.rows(0, 0, 0).iter().all(|&element| element == 7));
    store.truncate(0).unwrap();
    store.write(0, 0, 0, &rows).unwrap();
    println!("filled up as expected: {error}");
}
