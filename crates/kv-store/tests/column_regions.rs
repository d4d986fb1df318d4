//! Columns that only some regions have.

use kv_store::{Access, SessionStore, Spec, StoreError};

mod common;

use common::{CENTRES, CODES, ROWS, fingerprint, spec};

/// Codes and centres of the first region alone.
fn fewer() -> Spec {
    Spec { column_regions: vec![3, 1, 1], ..spec() }
}

#[test]
fn a_commit_asks_only_the_regions_that_have_a_column() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let mut store = SessionStore::create(&directory, fewer(), &fingerprint()).unwrap();
    for region in 0..3 {
        store.write(ROWS, region, 0, &[region as u8; 4 * 180]).unwrap();
    }
    store.write(CODES, 0, 0, &[7; 2 * 12]).unwrap();
    let beyond = store.write(CODES, 1, 0, &[7; 12]);
    assert!(matches!(beyond, Err(StoreError::Argument(_))), "{beyond:?}");
    store.push_tokens(&[1, 2, 3, 4]).unwrap();
    let counts = store.common_counts();
    store.commit(b"state", &counts).unwrap();
    store.close().unwrap();

    let store = SessionStore::open(&directory, fewer(), &fingerprint(), Access::Write).unwrap();
    assert_eq!(store.read(CODES, 0, 0), [7; 24]);
    assert_eq!(store.read(ROWS, 2, 0), [2; 720]);
    assert!(store.read(CENTRES, 0, 0).is_empty());
    drop(store);
    assert!(kv_store::verify(&directory).unwrap().problems.is_empty());
    assert_eq!(kv_store::inspect(&directory).unwrap().spec.column_regions, [3, 1, 1]);
    // A session of other regions is another session.
    let other = SessionStore::open(&directory, spec(), &fingerprint(), Access::Write);
    assert_eq!(other.err().map(|error| error.code()), Some("SESSION_MISMATCH"));
}

#[test]
fn regions_that_are_not_there_are_refused() {
    let root = tempfile::tempdir().unwrap();
    for column_regions in [vec![3, 4, 1], vec![3, 1], vec![3, 0, 1]] {
        let spec = Spec { column_regions, ..spec() };
        let refused = SessionStore::create(&root.path().join("session"), spec, &fingerprint());
        assert!(matches!(refused, Err(StoreError::Spec(_))));
    }
}
