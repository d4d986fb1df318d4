//! Tables are in the folder, of full segments and in runs of the open one: opening reads few rows, and they draw as tables in
//! memory do.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use engine::{Access, Folder, Policy, Session, SessionConfig, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 4, kv_heads: 2, head_dim: 64 };
const LSH: Policy = Policy::Lsh { k: 5, l: 24 };
const SEGMENT: usize = 32_768;
const TOKENS: usize = SEGMENT + 700;

fn config() -> SessionConfig {
    support::config(SHAPE)
}

fn open(path: &Path, access: Access) -> Session {
    let folder = Folder { path: path.to_owned(), model: Vec::new(), access, create: access == Access::Write };
    Session::open(&config(), &folder, LSH).expect("a session")
}

/// Appends tokens without attending them, and indexes what is behind the window.
fn read(text: &Text, mut session: Session, tokens: std::ops::Range<usize>) -> Session {
    for layer in 0..SHAPE.layers {
        let all = |part: &dyn Fn(usize) -> Vec<f32>| tokens.clone().flat_map(part).collect::<Vec<_>>();
        let (k, v) = (all(&|token| text.k(layer, token)), all(&|token| text.v(layer, token)));
        session.append(layer, &k, &v).expect("room on the disk");
    }
    session.push_tokens(&tokens.map(|token| token as u32).collect::<Vec<_>>()).expect("they have rows");
    session.build_index(&AtomicBool::new(false)).expect("not cancelled");
    session
}

fn step(text: &Text, session: &mut Session, token: usize) -> Vec<f32> {
    let out = text.decode(session, token);
    session.push_tokens(&[token as u32]).expect("it has a row");
    out
}

/// A session without a folder, which keeps its tables in memory.
fn in_memory() -> Session {
    let mut session = Session::new(config()).expect("a session");
    session.set_policy(LSH).expect("in range");
    session
}

/// The file of the first segment's tables, and its length.
fn tables_of_first_segment(path: &Path) -> (File, usize) {
    let tables = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    let tables: Vec<_> =
        tables.filter(|path| path.to_string_lossy().contains("s000000-lsh-tables")).collect();
    assert_eq!(tables.len(), 1);
    let file = OpenOptions::new().write(true).open(&tables[0]).expect("a file");
    let length = file.metadata().expect("a file").len() as usize;
    (file, length)
}

#[test]
fn full_segments_are_read_from_the_folder_and_draw_the_same() {
    let text = Text { shape: SHAPE, seed: 5 };
    let root = tempfile::tempdir().expect("a folder");
    let (path, fork) = (root.path().join("session"), root.path().join("fork"));
    let mut memory = read(&text, in_memory(), 0..TOKENS);
    let mut session = read(&text, open(&path, Access::Write), 0..TOKENS);
    assert_eq!(session.stats().index_bytes, memory.stats().index_bytes);
    session.commit().expect("room on the disk");
    // From here on the first segment is in the folder, also for the session that put it there.
    assert_eq!(session.stats().index_bytes, memory.stats().index_bytes);
    let want = step(&text, &mut memory, TOKENS);
    assert_eq!(step(&text, &mut session, TOKENS), want);
    session.close().expect("room on the disk");
    for access in [Access::Read, Access::Write] {
        let mut again = open(&path, access);
        assert_eq!((again.tokens(), step(&text, &mut again, TOKENS)), (TOKENS, want.clone()));
    }
    // A session that had no folder writes the tables out with the rest.
    let mut other = read(&text, in_memory(), 0..TOKENS);
    other.fork(&fork, &[]).expect("room on the disk");
    assert_eq!(step(&text, &mut open(&fork, Access::Read), TOKENS), want);
    assert_eq!(step(&text, &mut other, TOKENS), want);
    assert!(kv_store::verify(&fork).expect("a session").problems.is_empty());

    // The control: with the stored tables emptied, the keys of the first segment are not found.
    let (file, length) = tables_of_first_segment(&path);
    file.write_all_at(&vec![0; length], 0).expect("room on the disk");
    assert_ne!(step(&text, &mut open(&path, Access::Read), TOKENS), want);
    assert!(!kv_store::verify(&path).expect("a session").problems.is_empty());
    // Nor does damage of another kind stop the program: ids and ends of buckets that cannot be.
    file.write_all_at(&vec![0xff; length], 0).expect("room on the disk");
    step(&text, &mut open(&path, Access::Read), TOKENS);
}

#[test]
fn a_rewind_into_a_full_segment_drops_its_tables() {
    let text = Text { shape: SHAPE, seed: 5 };
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("session");
    let kept = SEGMENT - 300;
    let mut memory = read(&text, in_memory(), 0..TOKENS);
    let mut session = read(&text, open(&path, Access::Write), 0..TOKENS);
    session.commit().expect("room on the disk");
    for session in [&mut memory, &mut session] {
        session.truncate(kept).expect("it has as many");
    }
    let other = 100_000..100_000 + 900;
    let mut memory = read(&text, memory, other.clone());
    let mut session = read(&text, session, other);
    session.commit().expect("room on the disk");
    let want = step(&text, &mut memory, 7);
    assert_eq!(step(&text, &mut session, 7), want);
    drop(session);
    assert_eq!(step(&text, &mut open(&path, Access::Write), 7), want);
    assert!(kv_store::verify(&path).expect("a session").problems.is_empty());
}

/// Runs are appended until there are too many, and then stored as one. Each time the session is opened again.
#[test]
fn an_open_segments_runs_draw_as_tables_in_memory_do() {
    let text = Text { shape: SHAPE, seed: 6 };
    let root = tempfile::tempdir().expect("a folder");
    let (path, fork) = (root.path().join("session"), root.path().join("fork"));
    let mut memory = in_memory();
    for piece in 0..8 {
        let (tokens, next) = (piece * 1100..(piece + 1) * 1100, 50_000 + piece);
        memory = read(&text, memory, tokens.clone());
        let mut session = read(&text, open(&path, Access::Write), tokens);
        session.commit().expect("room on the disk");
        assert_eq!(step(&text, &mut open(&path, Access::Read), next), step(&text, &mut session, next));
        assert_eq!(step(&text, &mut memory, next), step(&text, &mut open(&path, Access::Read), next));
        session.commit().expect("room on the disk");
        // What is left to hash is a part of a run, whatever the length; half of the sessions replay a journal.
        if piece % 2 == 0 {
            session.close().expect("room on the disk");
        }
    }
    let mut session = open(&path, Access::Write);
    session.fork(&fork, &[]).expect("room on the disk");
    let want = step(&text, &mut memory, 7);
    session.close().expect("room on the disk");
    for path in [&path, &fork] {
        assert_eq!(step(&text, &mut open(path, Access::Read), 7), want);
        assert!(kv_store::verify(path).expect("a session").problems.is_empty());
    }

    // The control: without their tables, keys of the stored rows are not found.
    let (file, length) = tables_of_first_segment(&path);
    file.write_all_at(&vec![0; length], 0).expect("room on the disk");
    assert_ne!(step(&text, &mut open(&path, Access::Read), 7), want);
    assert!(!kv_store::verify(&path).expect("a session").problems.is_empty());
    assert!(kv_store::verify(&fork).expect("a session").problems.is_empty());
    // Nor do damaged tables stop the program, also where they become one with others.
    for byte in [0xff, 0x7f, 0x03] {
        file.write_all_at(&vec![byte; length], 0).expect("room on the disk");
        let mut session = open(&path, Access::Read);
        for piece in 0..6 {
            session = read(&text, session, 20_000 + piece * 1100..20_000 + (piece + 1) * 1100);
            step(&text, &mut session, 7);
            assert!(session.commit().is_err(), "it is open to be read");
        }
    }
}

/// One layer is indexed further than another: a rewind between the two drops the tables of one.
#[test]
fn a_rewind_that_some_layers_keep_their_tables_after() {
    let text = Text { shape: SHAPE, seed: 7 };
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("session");
    let mut memory = read(&text, in_memory(), 0..3000);
    let mut session = read(&text, open(&path, Access::Write), 0..3000);
    session.commit().expect("room on the disk");
    for (number, kept) in [2900, 2850].into_iter().enumerate() {
        for session in [&mut memory, &mut session] {
            session.truncate(kept).expect("it has as many");
        }
        let next = 60_000 + number;
        assert_eq!(step(&text, &mut session, next), step(&text, &mut memory, next));
        session.commit().expect("room on the disk");
        drop(session);
        session = open(&path, Access::Write);
        assert_eq!(step(&text, &mut session, next), step(&text, &mut memory, next));
    }
    let more = 100_000..100_000 + 1500;
    memory = read(&text, memory, more.clone());
    session = read(&text, session, more);
    session.commit().expect("room on the disk");
    drop(session);
    assert_eq!(step(&text, &mut open(&path, Access::Write), 7), step(&text, &mut memory, 7));
    assert!(kv_store::verify(&path).expect("a session").problems.is_empty());
}

/// The tables of a segment that fills up: one layer is through with it before another is.
#[test]
fn runs_become_one_when_a_segment_is_full() {
    let text = Text { shape: SHAPE, seed: 8 };
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("session");
    let mut memory = in_memory();
    let mut session = open(&path, Access::Write);
    let mut from = 0;
    for to in [SEGMENT - 3000, SEGMENT - 1500, SEGMENT + 150, SEGMENT + 600] {
        memory = read(&text, memory, from..to);
        session = read(&text, session, from..to);
        session.commit().expect("room on the disk");
        from = to;
    }
    // In memory the full segment still has several.
    assert!(session.stats().index_bytes < memory.stats().index_bytes);
    drop(session);
    let mut session = open(&path, Access::Write);
    assert_eq!(step(&text, &mut session, 7), step(&text, &mut memory, 7));
    assert!(kv_store::verify(&path).expect("a session").problems.is_empty());
}
