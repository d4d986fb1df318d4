//! Tables of full segments are in the folder: opening reads none of their rows, and they draw as tables in memory do.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use engine::{Access, Attention, Folder, Policy, RowType, Session, SessionConfig, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 4, kv_heads: 2, head_dim: 64 };
const LSH: Policy = Policy::Lsh { k: 5, l: 24 };
const SEGMENT: usize = 32_768;
const TOKENS: usize = SEGMENT + 700;

fn config() -> SessionConfig {
    SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 2,
        seed: 3,
        directory: std::env::temp_dir(),
    }
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
    let tables = fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path());
    let tables: Vec<_> =
        tables.filter(|path| path.to_string_lossy().contains("s000000-lsh-tables")).collect();
    assert_eq!(tables.len(), 1);
    let file = OpenOptions::new().write(true).open(&tables[0]).expect("a file");
    let length = file.metadata().expect("a file").len() as usize;
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
