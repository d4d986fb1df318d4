//! A life of two sessions with everything in it, and what may be found after it was cut off anywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kv_store::{Access, SessionStore, StoreError, remove_on, verify};

use super::disk::Disk;
use super::{Random, Snapshot, counts, fingerprint, grow, open, open_unsynced, spec};

/// Something that changes what a session is found to be.
#[derive(Clone, Debug)]
struct Event {
    name: &'static str,
    /// Calls of the disk before it began, and when it was acknowledged.
    begin: usize,
    end: Option<usize>,
    /// None: there is no session.
    state: Option<Snapshot>,
}

/// What was asked and acknowledged, in order.
#[derive(Debug)]
pub struct History {
    root: PathBuf,
    disk: Arc<Disk>,
    events: Vec<Event>,
}

impl History {
    /// Lives until the end or until the disk stops.
    pub fn live(root: &Path, disk: Arc<Disk>) -> History {
        let mut history = History { root: root.to_owned(), disk, events: Vec::new() };
        let _ = history.run();
        history
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// How often each call was made, to see that nothing is missing.
    pub fn summary(&self) -> String {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for op in self.disk.ops() {
            let name: String = format!("{op:?}").chars().take_while(|c| c.is_alphabetic()).collect();
            *counts.entry(name).or_default() += 1;
        }
        format!("{} events; {counts:?}", self.events.len())
    }

    fn run(&mut self) -> Result<(), StoreError> {
        let mut random = Random(3);
        let empty = Snapshot { state: Vec::new(), tokens: Vec::new(), elements: Vec::new() };
        let path = self.root.join("s");
        let mut store = self
            .event("s", Some(empty), |disk| SessionStore::create_on(disk, &path, spec(), &fingerprint()))?;
        // Through the journal, across a segment, and through a full journal.
        for tokens in [1, 2, 3, 5, 1, 1, 1] {
            grow(&mut store, &mut random, tokens)?;
            self.commit(&mut store)?;
        }
        // More than the journal takes.
        grow(&mut store, &mut random, 20)?;
        self.commit(&mut store)?;
        // A commit of less than was written.
        grow(&mut store, &mut random, 2)?;
        self.commit(&mut store)?;
        // Back to what only the journal has, and on.
        self.back(&mut store, 34)?;
        grow(&mut store, &mut random, 2)?;
        self.commit(&mut store)?;
        store.flush()?;
        // Back behind what is flushed: with new elements at once, and later.
        self.back(&mut store, 19)?;
        grow(&mut store, &mut random, 3)?;
        self.commit(&mut store)?;
        self.back(&mut store, 11)?;
        self.commit(&mut store)?;
        store.flush()?;
        grow(&mut store, &mut random, 9)?;
        self.commit(&mut store)?;
        // A segment that the journal alone has goes and comes again.
        grow(&mut store, &mut random, 5)?;
        self.commit(&mut store)?;
        self.back(&mut store, 13)?;
        self.commit(&mut store)?;
        grow(&mut store, &mut random, 12)?;
        self.commit(&mut store)?;
        self.back(&mut store, 24)?;
        self.commit(&mut store)?;
        store.flush()?;
        // It goes and comes within a commit, with less in it.
        for (back, tokens) in [(24, 4), (24, 2), (26, 3), (24, 1), (24, 5)] {
            self.back(&mut store, back)?;
            grow(&mut store, &mut random, tokens)?;
            self.commit(&mut store)?;
        }

        let fork = self.root.join("f");
        let now = Snapshot::committed(&store);
        self.event("f", Some(now), |_| store.fork(&fork, &[]))?;
        grow(&mut store, &mut random, 2)?;
        self.commit(&mut store)?;
        // The fork goes its own way, from inside a file that both have.
        let mut other = SessionStore::open_on(self.disk.clone(), &fork, spec(), &fingerprint())?;
        self.back_of("f", &mut other, 5)?;
        grow(&mut other, &mut random, 6)?;
        self.commit_of("f", &mut other)?;
        // All of it goes, and something comes.
        self.back(&mut store, 0)?;
        self.commit(&mut store)?;
        grow(&mut store, &mut random, 4)?;
        self.commit(&mut store)?;
        store.close()?;
        drop(other);
        let disk = self.disk.clone();
        self.event("f", None, |_| remove_on(&*disk, &fork))?;
        // A removed name can be taken again.
        let empty = Snapshot { state: Vec::new(), tokens: Vec::new(), elements: Vec::new() };
        self.event("f", Some(empty), |disk| SessionStore::create_on(disk, &fork, spec(), &fingerprint()))?;
        Ok(())
    }

    fn event<T>(
        &mut self,
        name: &'static str,
        state: Option<Snapshot>,
        act: impl FnOnce(Arc<Disk>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.events.push(Event { name, begin: self.disk.count(), end: None, state });
        let done = act(self.disk.clone())?;
        self.events.last_mut().unwrap().end = Some(self.disk.count());
        Ok(done)
    }

    fn commit(&mut self, store: &mut SessionStore) -> Result<(), StoreError> {
        self.commit_of("s", store)
    }

    fn commit_of(&mut self, name: &'static str, store: &mut SessionStore) -> Result<(), StoreError> {
        let state = format!("after {}", self.events.len());
        let all = store.common_counts();
        let snapshot = Snapshot::of(store, state.as_bytes());
        self.event(name, Some(snapshot), |_| store.commit(state.as_bytes(), &all))
    }

    fn back(&mut self, store: &mut SessionStore, tokens: usize) -> Result<(), StoreError> {
        self.back_of("s", store, tokens)
    }

    fn back_of(&mut self, _: &str, store: &mut SessionStore, tokens: usize) -> Result<(), StoreError> {
        assert!(tokens <= store.token_count());
        store.truncate(tokens, &counts(tokens))
    }

    /// What a session may be found to be when the disk stopped after `calls`: as after the last acknowledged event, or as
    /// after the one under way.
    fn allowed(&self, name: &str, calls: usize) -> Vec<Option<Snapshot>> {
        let mut allowed = vec![None];
        for event in self.events.iter().filter(|event| event.name == name && event.begin <= calls) {
            if event.end.is_some_and(|end| end <= calls) {
                allowed.clear();
            }
            allowed.push(event.state.clone());
        }
        allowed
    }

    /// Checks both sessions in a folder that looks as the disk did after `calls`, and that they go on.
    pub fn check(&self, root: &Path, calls: usize) {
        for name in ["s", "f"] {
            let (path, allowed) = (root.join(name), self.allowed(name, calls));
            let found = match open_unsynced(&path) {
                Ok(store) => Some(Snapshot::committed(&store)),
                Err(StoreError::NotFound { .. }) => None,
                Err(error) => panic!("{name} after {calls} calls: {error}"),
            };
            assert!(allowed.contains(&found), "{name} after {calls} calls: {found:?} is none of {allowed:?}");
            match found {
                Some(_) => go_on(&path),
                None => {
                    let disk = Arc::new(Disk::new(None));
                    drop(SessionStore::create_on(disk, &path, spec(), &fingerprint()).unwrap());
                }
            }
        }
    }
}

/// A session that was opened after a crash takes commits, and all its checksums are right.
fn go_on(path: &Path) {
    let report = verify(path).unwrap();
    assert_eq!(report.problems, []);
    let mut store = open_unsynced(path).unwrap();
    let tokens = store.token_count();
    store.truncate(tokens.saturating_sub(3), &counts(tokens.saturating_sub(3))).unwrap();
    grow(&mut store, &mut Random(9), 7).unwrap();
    let all = store.common_counts();
    store.commit(b"went on", &all).unwrap();
    let before = Snapshot::committed(&store);
    drop(store);
    assert_eq!(Snapshot::committed(&open(path, Access::Read).unwrap()), before);
    open_unsynced(path).unwrap().close().unwrap();
    assert_eq!(verify(path).unwrap().problems, []);
    assert_eq!(Snapshot::committed(&open(path, Access::Read).unwrap()), before);
}
