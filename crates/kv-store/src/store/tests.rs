//! The store against a plain `Vec` for each region, with segments small enough to cross.

use std::fs;

use proptest::prelude::*;

use super::*;

const LAYOUT: Layout = Layout { layers: 2, kv_heads: 3, head_dim: 4 };
const SMALL_SEGMENT: usize = 8;

fn small_store() -> RowStore {
    RowStore::with_segment_rows(&std::env::temp_dir(), LAYOUT, SMALL_SEGMENT).unwrap()
}

/// `count` rows that no other call makes.
fn fresh_rows(next: &mut u16, count: usize) -> Vec<u16> {
    (0..count * LAYOUT.row_elements())
        .map(|_| {
            *next = next.wrapping_add(1);
            *next
        })
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes `rows` rows, beginning `back` rows before the region's end.
    Write {
        layer: usize,
        kv_head: usize,
        back: usize,
        rows: usize,
    },
    Truncate {
        tokens: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LAYOUT.layers, 0..LAYOUT.kv_heads, 0_usize..4, 0_usize..3 * SMALL_SEGMENT)
            .prop_map(|(layer, kv_head, back, rows)| Step::Write { layer, kv_head, back, rows }),
        1 => (0_usize..6 * SMALL_SEGMENT).prop_map(|tokens| Step::Truncate { tokens }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_writes_and_truncations_reads_back_as_from_a_vec(steps in prop::collection::vec(step(), 1..24)) {
        let mut store = small_store();
        let mut model = vec![Vec::<u16>::new(); LAYOUT.regions()];
        let mut next = 0;
        for step in steps {
            match step {
                Step::Write { layer, kv_head, back, rows } => {
                    let region = &mut model[layer * LAYOUT.kv_heads + kv_head];
                    let position = (region.len() / LAYOUT.row_elements()).saturating_sub(back);
                    let rows = fresh_rows(&mut next, rows);
                    store.write(layer, kv_head, position, &rows).unwrap();
                    let first = position * LAYOUT.row_elements();
                    region.resize(region.len().max(first + rows.len()), 0);
                    region[first..first + rows.len()].copy_from_slice(&rows);
                }
                Step::Truncate { tokens } => {
                    store.truncate(tokens).unwrap();
                    for region in &mut model {
                        region.truncate(tokens * LAYOUT.row_elements());
                    }
                }
            }
            for (region, rows) in model.iter().enumerate() {
                let (layer, kv_head) = (region / LAYOUT.kv_heads, region % LAYOUT.kv_heads);
                prop_assert_eq!(store.len(layer, kv_head), rows.len() / LAYOUT.row_elements());
                let expected: Vec<&[u16]> = rows.chunks(SMALL_SEGMENT * LAYOUT.row_elements()).collect();
                prop_assert_eq!(store.segments(layer, kv_head).collect::<Vec<_>>(), expected);
            }
            prop_assert_eq!(store.bytes(), model.iter().map(|rows| size_of_val(&rows[..]) as u64).sum::<u64>());
        }
    }
}

#[test]
fn segments_that_truncation_empties_are_freed() {
    let mut store = small_store();
    store.write(1, 2, 0, &fresh_rows(&mut 0, 5 * SMALL_SEGMENT)).unwrap();
    assert_eq!(store.files.len(), 5);
    store.truncate(SMALL_SEGMENT + 1).unwrap();
    assert_eq!(store.files.len(), 2);
    store.truncate(0).unwrap();
    assert_eq!(store.files.len(), 1);
    assert!(store.is_empty());
    assert_eq!(store.bytes(), 0);
}

#[test]
fn a_region_reads_as_empty_where_it_has_no_rows() {
    let mut store = small_store();
    store.write(0, 0, 0, &fresh_rows(&mut 0, SMALL_SEGMENT + 1)).unwrap();
    assert_eq!(store.rows(0, 0, 1).len(), LAYOUT.row_elements());
    assert!(store.rows(0, 0, 2).is_empty());
    assert!(store.rows(0, 0, usize::MAX).is_empty());
    assert!(store.rows(0, 1, 0).is_empty());
    assert_eq!(store.segments(0, 1).len(), 0);
}

#[test]
fn zero_rows_may_be_written_at_the_end_and_change_nothing() {
    let mut store = small_store();
    store.write(0, 0, 0, &[]).unwrap();
    store.write(0, 0, 0, &fresh_rows(&mut 0, SMALL_SEGMENT)).unwrap();
    store.write(0, 0, SMALL_SEGMENT, &[]).unwrap();
    assert_eq!((store.len(0, 0), store.files.len()), (SMALL_SEGMENT, 1));
}

#[test]
fn bad_arguments_have_typed_errors_and_change_nothing() {
    let mut store = small_store();
    let row = fresh_rows(&mut 0, 1);
    store.write(0, 0, 0, &row).unwrap();
    assert!(matches!(store.write(0, 0, 2, &row), Err(StoreError::Hole { position: 2, len: 1 })));
    assert!(matches!(store.write(0, 0, 2, &[]), Err(StoreError::Hole { position: 2, len: 1 })));
    assert!(matches!(
        store.write(0, 0, 1, &row[1..]),
        Err(StoreError::RaggedRows { elements: 7, row_elements: 8 })
    ));
    for (layer, kv_head) in [(2, 0), (0, 3), (usize::MAX, usize::MAX)] {
        let error = store.write(layer, kv_head, 0, &row).unwrap_err();
        assert!(matches!(error, StoreError::Region { .. }));
        assert_eq!(error.code(), "INVALID_OPTION");
    }
    assert_eq!(store.bytes(), LAYOUT.row_bytes() as u64);
    assert_eq!(store.rows(0, 0, 0), row);
}

#[test]
fn layouts_that_no_file_can_hold_are_refused() {
    let directory = std::env::temp_dir();
    for layout in [
        Layout { layers: 0, ..LAYOUT },
        Layout { kv_heads: 0, ..LAYOUT },
        Layout { head_dim: 0, ..LAYOUT },
        Layout { layers: usize::MAX, ..LAYOUT },
        Layout { layers: 1 << 24, kv_heads: 1 << 20, head_dim: 1 << 20 },
    ] {
        let error = RowStore::ephemeral(&directory, layout).unwrap_err();
        assert!(matches!(error, StoreError::Layout(_)), "{layout:?}: {error}");
        assert_eq!(error.code(), "INVALID_OPTION");
    }
}

#[test]
fn a_directory_that_holds_no_files_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let regular = directory.path().join("regular");
    fs::write(&regular, "").unwrap();
    for path in [missing, regular] {
        let error = RowStore::ephemeral(&path, LAYOUT).unwrap_err();
        assert_eq!(error.code(), "STORE_IO");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn files_have_no_names() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = RowStore::with_segment_rows(directory.path(), LAYOUT, SMALL_SEGMENT).unwrap();
    store.write(0, 0, 0, &fresh_rows(&mut 0, 3 * SMALL_SEGMENT)).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Llama-3.1-8B's layout: a segment's file is 4 GiB long.
#[cfg(unix)]
#[test]
fn a_file_of_4_gib_occupies_no_more_than_its_rows() {
    let layout = Layout { layers: 32, kv_heads: 8, head_dim: 128 };
    let mut store = RowStore::ephemeral(&std::env::temp_dir(), layout).unwrap();
    assert_eq!(store.file_bytes, 4 << 30);
    let row = vec![0x3f80; layout.row_elements()];
    for layer in 0..layout.layers {
        store.write(layer, 7, 0, &row).unwrap();
    }
    assert_eq!(store.rows(31, 7, 0), row);
    // A page for each region, and some for what the file system notes about them.
    let occupied = store.files[0].occupied();
    assert!(occupied <= 1 << 20, "{occupied} bytes");
}

#[test]
fn many_threads_read_at_once() {
    let mut store = small_store();
    let rows = fresh_rows(&mut 0, 3 * SMALL_SEGMENT);
    store.write(1, 1, 0, &rows).unwrap();
    let store = &store;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| store.segments(1, 1).flatten().copied().collect::<Vec<_>>()))
            .collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), rows);
        }
    });
}
