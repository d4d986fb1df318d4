//! Any sequence of calls leaves what plain vectors would hold.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::disk::Disk;
use common::{
    CENTRES, CODES, REGIONS, ROWS, Random, SEGMENT, Snapshot, counts, fingerprint, open, open_unsynced, spec,
};
use kv_store::{Access, SessionStore, remove, verify};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Tokens, with elements of so many regions (all, or a step that stopped half-way).
    Append {
        tokens: usize,
        regions: usize,
    },
    Truncate {
        back: usize,
    },
    Commit,
    Flush,
    Evict,
    /// What was not committed is lost.
    Reopen {
        flush: bool,
    },
    /// Goes on in the fork or in the original; the other must stay as it was.
    Fork {
        follow: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..5, 1..=REGIONS).prop_map(|(tokens, regions)| Step::Append { tokens, regions }),
        2 => (5_usize..40).prop_map(|tokens| Step::Append { tokens, regions: REGIONS }),
        3 => (0_usize..20).prop_map(|back| Step::Truncate { back }),
        6 => Just(Step::Commit),
        2 => Just(Step::Flush),
        1 => Just(Step::Evict),
        3 => any::<bool>().prop_map(|flush| Step::Reopen { flush }),
        1 => any::<bool>().prop_map(|follow| Step::Fork { follow }),
    ]
}

/// The session as vectors: `[columns][regions]` of elements, and tokens.
#[derive(Clone, Debug)]
struct Model {
    elements: Vec<Vec<Vec<Vec<u8>>>>,
    tokens: Vec<u32>,
    state: Vec<u8>,
}

impl Model {
    fn new() -> Model {
        Model { elements: vec![vec![Vec::new(); REGIONS]; 3], tokens: Vec::new(), state: Vec::new() }
    }

    fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        for (column, keep) in [(ROWS, tokens), (CODES, tokens / 2), (CENTRES, tokens / SEGMENT)] {
            self.elements[column].iter_mut().for_each(|region| region.truncate(keep));
        }
    }

    /// As `Snapshot` has it.
    fn snapshot(&self) -> Snapshot {
        let per_segment: Vec<usize> = spec().columns.iter().map(|column| column.per_segment).collect();
        let region = |segment: usize, column: usize, region: usize| {
            let elements = self.elements[column][region].iter();
            elements
                .skip(segment * per_segment[column])
                .take(per_segment[column])
                .flatten()
                .copied()
                .collect()
        };
        let column = |segment, column| (0..REGIONS).map(|number| region(segment, column, number)).collect();
        let longest = self.elements[ROWS].iter().map(Vec::len).max().unwrap().max(self.tokens.len());
        Snapshot {
            state: self.state.clone(),
            tokens: self.tokens.clone(),
            elements: (0..longest.div_ceil(SEGMENT))
                .map(|segment| (0..3).map(|number| column(segment, number)).collect())
                .collect(),
        }
    }
}

struct Run {
    root: PathBuf,
    store: SessionStore,
    now: Model,
    committed: Model,
    random: Random,
    /// Sessions that were left, and what they hold.
    left: Vec<(PathBuf, Snapshot)>,
}

impl Run {
    fn new(root: &Path) -> Run {
        let disk = Arc::new(Disk::new(None));
        Run {
            root: root.to_owned(),
            store: SessionStore::create_on(disk, &root.join("0"), spec(), &fingerprint()).unwrap(),
            now: Model::new(),
            committed: Model::new(),
            random: Random(1),
            left: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { tokens, regions } => self.append(tokens, regions),
            Step::Truncate { back } => self.truncate(self.now.tokens.len().saturating_sub(back)),
            Step::Commit => {
                // Regions of different lengths are made equal first, as after a step that stopped half-way.
                self.truncate(self.now.tokens.len());
                self.now.state = self.random.bytes(3);
                let all = self.store.common_counts();
                self.store.commit(&self.now.state, &all).unwrap();
                self.committed = self.now.clone();
            }
            Step::Flush => self.store.flush().unwrap(),
            Step::Evict => (0..self.store.segments()).for_each(|segment| self.store.evict(ROWS, segment)),
            Step::Reopen { flush } => {
                if flush {
                    self.store.flush().unwrap();
                }
                let here = self.store.directory().to_owned();
                self.reopen(&here);
            }
            Step::Fork { follow } => self.fork(follow),
        }
        assert!(Snapshot::of(&self.store, &self.now.state) == self.now.snapshot(), "after {step:?}");
    }

    fn append(&mut self, tokens: usize, regions: usize) {
        // What another step left half done is in the way.
        self.truncate(self.now.tokens.len());
        let target = self.now.tokens.len() + tokens;
        for (column, count) in [(ROWS, target), (CODES, target / 2), (CENTRES, target / SEGMENT)] {
            for region in 0..regions {
                let elements = &mut self.now.elements[column][region];
                let (first, bytes) = (elements.len(), spec().columns[column].element_bytes);
                let new = self.random.bytes((count - first) * bytes);
                elements.extend(new.chunks(bytes).map(<[u8]>::to_vec));
                if column == CODES || column == CENTRES {
                    // In segments of their own, and one by one.
                    for (index, element) in new.chunks(bytes).enumerate() {
                        self.store.write(column, region, first + index, element).unwrap();
                    }
                } else {
                    self.store.write(column, region, first, &new).unwrap();
                }
            }
        }
        if regions == REGIONS {
            let new: Vec<u32> = (0..tokens).map(|_| self.random.next() as u32).collect();
            self.store.push_tokens(&new).unwrap();
            self.now.tokens.extend(new);
        }
    }

    fn truncate(&mut self, tokens: usize) {
        self.store.truncate(tokens, &counts(tokens)).unwrap();
        self.now.truncate(tokens);
    }

    fn reopen(&mut self, directory: &Path) {
        // The lock goes with the session.
        self.store = SessionStore::ephemeral(&self.root, spec()).unwrap();
        self.store = open_unsynced(directory).unwrap();
        self.now = self.committed.clone();
        assert_eq!(self.store.state(), self.now.state);
    }

    fn fork(&mut self, follow: bool) {
        // Nothing that is not committed is in a fork, and a truncation is committed first.
        self.step(&Step::Commit);
        let directory = self.root.join((self.left.len() + 1).to_string());
        self.store.fork(&directory, &[]).unwrap();
        let here = self.store.directory().to_owned();
        self.left.push((if follow { here } else { directory.clone() }, self.committed.snapshot()));
        if follow {
            self.reopen(&directory);
        }
    }

    /// All sessions that were left are as they were, and sound.
    fn finish(mut self) {
        let here = self.store.directory().to_owned();
        self.left.push((here, self.committed.snapshot()));
        drop(self.store);
        for (directory, snapshot) in &self.left {
            assert_eq!(verify(directory).unwrap().problems, []);
            assert!(Snapshot::committed(&open(directory, Access::Read).unwrap()) == *snapshot);
            assert!(Snapshot::committed(&open_unsynced(directory).unwrap()) == *snapshot);
        }
        // Those that go do not take files of the others with them.
        let (first, others) = self.left.split_first().unwrap();
        remove(&first.0).unwrap();
        for (directory, snapshot) in others {
            assert_eq!(verify(directory).unwrap().problems, []);
            assert!(Snapshot::committed(&open(directory, Access::Read).unwrap()) == *snapshot);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_calls_leaves_what_vectors_would_hold(steps in prop::collection::vec(step(), 1..40)) {
        let root = common::scratch();
        let mut run = Run::new(root.path());
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }
}

#[test]
fn a_session_without_a_folder_is_the_same_until_it_is_dropped() {
    let root = common::scratch();
    let mut run = Run::new(&root.path().join("."));
    run.store = SessionStore::ephemeral(root.path(), spec()).unwrap();
    for (tokens, back) in [(5, 2), (30, 19), (3, 0), (9, 26), (4, 1)] {
        run.step(&Step::Append { tokens, regions: REGIONS });
        run.step(&Step::Commit);
        run.step(&Step::Truncate { back });
        run.step(&Step::Flush);
    }
    run.step(&Step::Commit);
    // Written out whole, it is a session like any other.
    let saved = root.path().join("saved");
    run.store.fork(&saved, &fingerprint()).unwrap();
    assert_eq!(verify(&saved).unwrap().problems, []);
    assert!(Snapshot::committed(&open(&saved, Access::Write).unwrap()) == run.committed.snapshot());
    drop(run.store);
    let names = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(names, 2, "the run's first session and the saved one");
}
