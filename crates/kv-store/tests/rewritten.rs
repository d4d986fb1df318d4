//! Texts that are cut and written again, sometimes as they were: such elements are taken back and not written, and whatever
//! came between, the session opens with what was committed.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::disk::Disk;
use common::{REGIONS, ROWS, Random, SEGMENT, counts, fingerprint, open_unsynced, spec};
use kv_store::SessionStore;

/// Rows `[tokens]` of a region, and the token: each of two kinds that a position can have.
fn row(region: usize, position: usize, kind: u8) -> Vec<u8> {
    vec![(position * REGIONS + region) as u8 ^ (kind << 7); 180]
}

/// A session, what it should hold, and what it held at the last commit: the kind of each position.
struct Both {
    store: SessionStore,
    kinds: Vec<u8>,
    committed: Vec<u8>,
}

impl Both {
    fn grow(&mut self, kind: u8, tokens: usize) {
        for _ in 0..tokens {
            let position = self.kinds.len();
            for region in 0..REGIONS {
                self.store.write(ROWS, region, position, &row(region, position, kind)).unwrap();
            }
            self.store.push_tokens(&[u32::from(kind)]).unwrap();
            self.kinds.push(kind);
        }
    }

    fn truncate(&mut self, tokens: usize) {
        self.kinds.truncate(tokens);
        let mut rows = counts(tokens);
        rows.fill(1, SEGMENT / 2, 0);
        rows.fill(2, 1, 0);
        self.store.truncate(tokens, &rows).unwrap();
    }

    fn commit(&mut self) {
        let all = self.store.common_counts();
        self.store.commit(&[], &all).unwrap();
        self.committed = self.kinds.clone();
    }

    fn check(&self) {
        let tokens: Vec<u32> = self.kinds.iter().map(|&kind| u32::from(kind)).collect();
        assert_eq!(self.store.tokens(), tokens);
        for region in 0..REGIONS {
            for (position, &kind) in self.kinds.iter().enumerate() {
                let rows = self.store.read(ROWS, region, position / SEGMENT);
                assert_eq!(
                    &rows[position % SEGMENT * 180..][..180],
                    row(region, position, kind),
                    "row {position}"
                );
            }
        }
    }

    fn reopen(self, directory: &Path) -> Both {
        drop(self.store);
        let store = open_unsynced(directory).unwrap();
        let both = Both { store, kinds: self.committed.clone(), committed: self.committed };
        both.check();
        both
    }
}

fn session(directory: &Path) -> Both {
    let store =
        SessionStore::create_on(Arc::new(Disk::new(None)), directory, spec(), &fingerprint()).unwrap();
    Both { store, kinds: Vec::new(), committed: Vec::new() }
}

#[test]
fn any_mixture_of_old_and_new_opens_as_it_was_committed() {
    for seed in 0..60 {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("session");
        let (mut both, mut random) = (session(&directory), Random(seed));
        for _ in 0..120 {
            match random.below(10) {
                0..4 => both.grow(random.below(2) as u8, 1 + random.below(6)),
                4..7 => {
                    let cut = random.below(9).min(both.kinds.len());
                    both.truncate(both.kinds.len() - cut);
                }
                7 | 8 => both.commit(),
                _ if random.below(2) == 0 => both = both.reopen(&directory),
                _ => {
                    both.commit();
                    both.store.flush().unwrap();
                }
            }
            both.check();
        }
        both.reopen(&directory);
    }
}

#[test]
fn what_is_read_again_as_it_was_needs_no_copy_of_its_file() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let files = || {
        let mut names: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name.contains("rows"));
        names
    };
    let mut both = session(&directory);
    both.grow(0, 6);
    both.commit();
    both.store.flush().unwrap();
    let before = files();
    both.truncate(4);
    both.grow(0, 2);
    both.grow(1, 1);
    both.commit();
    assert_eq!(files(), before, "the rows that the manifest names were not copied");
    let mut both = both.reopen(&directory);
    // The control: other rows in their place are.
    both.truncate(4);
    both.grow(1, 2);
    both.commit();
    assert_ne!(files(), before);
    both.reopen(&directory);
}
