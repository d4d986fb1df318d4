//! Sessions in folders: what is opened again goes on as though it had never been closed, and what does not fit is refused.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use engine::{Access, Budget, EngineError, Folder, Policy, RowType, Session, SessionConfig, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const PROMPT: usize = 1200;
const SKETCH: Policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.05), residual: false };
const RESIDUAL: Policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.05), residual: true };
const LSH: Policy = Policy::Lsh { k: 6, l: 40 };

fn config(seed: u64) -> SessionConfig {
    SessionConfig { seed, ..support::config(SHAPE) }
}

fn folder(path: &Path, access: Access) -> Folder {
    let model = vec![("weights".to_owned(), "1234".to_owned())];
    Folder { path: path.to_owned(), model, access, create: access == Access::Write }
}

fn open(path: &Path, policy: Policy) -> Result<Session, EngineError> {
    Session::open(&config(3), &folder(path, Access::Write), policy)
}

/// A session of which `PROMPT` tokens are read.
fn read(text: &Text, mut session: Session) -> Session {
    text.prefill(&mut session, 0..PROMPT);
    session.push_tokens(&(0..PROMPT as u32).collect::<Vec<_>>()).expect("they have rows");
    session.build_index(&AtomicBool::new(false)).expect("not cancelled");
    session
}

fn step(text: &Text, session: &mut Session, token: usize) -> Vec<f32> {
    let out = text.decode(session, token);
    session.push_tokens(&[token as u32]).expect("it has a row");
    out
}

#[test]
fn opened_again_it_goes_on_bit_for_bit() {
    let text = Text { shape: SHAPE, seed: 9 };
    for policy in [Policy::Exact, LSH, SKETCH, RESIDUAL] {
        let root = tempfile::tempdir().expect("a folder");
        let (kept, reopened) = (root.path().join("kept"), root.path().join("reopened"));
        let mut kept = read(&text, open(&kept, policy).expect("a new session"));
        let mut session = read(&text, open(&reopened, policy).expect("a new session"));
        // Odd lengths, so that blocks and runs are left half-way.
        for token in PROMPT..PROMPT + 37 {
            assert_eq!(step(&text, &mut kept, token), step(&text, &mut session, token));
        }
        session.commit().expect("room on the disk");
        // What follows the commit is not in it.
        step(&text, &mut session, PROMPT + 37);
        drop(session);
        let mut session = open(&reopened, policy).expect("it is there");
        assert_eq!(session.tokens(), PROMPT + 37);
        assert_eq!(session.token_list().len(), PROMPT + 37);
        for token in PROMPT + 37..PROMPT + 37 + 64 {
            let (want, got) = (step(&text, &mut kept, token), step(&text, &mut session, token));
            assert_eq!(want, got, "{policy:?}, token {token}");
        }
        session.commit().expect("room on the disk");
        session.close().expect("room on the disk");
        assert_eq!(open(&reopened, policy).expect("it is there").tokens(), PROMPT + 37 + 64);
    }
}

#[test]
fn another_seed_draws_other_keys() {
    // The control of the test above: it would pass if nothing were drawn at all.
    let text = Text { shape: SHAPE, seed: 9 };
    let root = tempfile::tempdir().expect("a folder");
    let run = |seed: u64, name: &str| {
        let folder = folder(&root.path().join(name), Access::Write);
        let mut session = read(&text, Session::open(&config(seed), &folder, SKETCH).expect("a new session"));
        step(&text, &mut session, PROMPT)
    };
    assert_ne!(run(3, "three"), run(4, "four"));
}

#[test]
fn a_session_of_something_else_is_refused_by_the_fields_name() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("session");
    drop(open(&path, SKETCH).expect("a new session"));
    let refused = |config: SessionConfig, folder: Folder, policy: Policy, field: &str| {
        let error = Session::open(&config, &folder, policy).expect_err("it does not fit");
        assert_eq!(error.code(), "SESSION_MISMATCH", "{error}");
        assert!(error.to_string().contains(field), "{error}");
    };
    let here = || folder(&path, Access::Write);
    refused(config(4), here(), SKETCH, "seed");
    refused(config(3), here(), LSH, "index");
    refused(
        config(3),
        here(),
        Policy::Sketch { bits: 2, budget: Budget::ByLength, residual: false },
        "sketchBits",
    );
    refused(config(3), here(), RESIDUAL, "residual");
    let other = vec![("weights".to_owned(), "5678".to_owned())];
    refused(config(3), Folder { model: other, ..here() }, SKETCH, "weights");
    let wide = SessionConfig { shape: Shape { heads: 4, ..SHAPE }, ..config(3) };
    refused(wide, here(), SKETCH, "heads");
    refused(SessionConfig { rows: RowType::Int8, ..config(3) }, here(), SKETCH, "rows");
    // exact samples from no index and takes whichever is there; but it cannot be exchanged for another.
    let mut session = open(&path, Policy::Exact).expect("any index will do");
    let error = session.set_policy(LSH).expect_err("another index");
    assert!(error.to_string().contains("sketchBits 4"), "{error}");
    session.set_policy(SKETCH).expect("its own index");
}

#[test]
fn readers_go_on_in_memory_beside_a_writer() {
    let text = Text { shape: SHAPE, seed: 9 };
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("session");
    let mut writer = read(&text, open(&path, SKETCH).expect("a new session"));
    writer.commit().expect("room on the disk");
    let reader = || Session::open(&config(3), &folder(&path, Access::Read), SKETCH).expect("a commit");
    let (mut one, mut two) = (reader(), reader());
    let error = open(&path, SKETCH).expect_err("one writer at a time");
    assert_eq!(error.code(), "SESSION_LOCKED", "{error}");
    for token in PROMPT..PROMPT + 40 {
        let want = step(&text, &mut writer, token);
        assert_eq!(step(&text, &mut one, token), want);
    }
    writer.commit().expect("room on the disk");
    assert_eq!(one.commit().expect_err("it only reads").code(), "SESSION_READ_ONLY");
    // The other has the rows of its commit still, whatever the writer wrote since.
    let want = text.decode(&mut reader(), PROMPT + 40);
    assert_eq!(text.decode(&mut writer, PROMPT + 40), want);
    two.set_policy(Policy::Exact).expect("no index needed");
    two.truncate(PROMPT / 2).expect("it has as many");
    let mut fresh = read(&text, Session::new(config(3)).expect("a session"));
    fresh.truncate(PROMPT / 2).expect("it has as many");
    assert_eq!(text.decode(&mut two, PROMPT), text.decode(&mut fresh, PROMPT));
}

#[test]
fn a_rewound_session_forgets_for_good_and_a_fork_does_not() {
    let text = Text { shape: SHAPE, seed: 9 };
    for policy in [LSH, SKETCH] {
        let root = tempfile::tempdir().expect("a folder");
        let (path, fork) = (root.path().join("session"), root.path().join("fork"));
        let mut session = read(&text, open(&path, policy).expect("a new session"));
        session.commit().expect("room on the disk");
        session.fork(&fork, &[]).expect("room on the disk");
        session.truncate(700).expect("it has as many");
        // Other tokens than before, over the place of committed ones.
        for token in 5000..5030 {
            step(&text, &mut session, token);
        }
        session.commit().expect("room on the disk");
        session.close().expect("room on the disk");
        let mut session = open(&path, policy).expect("it is there");
        let tokens = session.token_list();
        assert_eq!((tokens[699], tokens[700], tokens.len()), (699, 5000, 730));
        let mut forked = open(&fork, policy).expect("it is there");
        assert_eq!(forked.tokens(), PROMPT);
        let mut again = read(&text, Session::new(config(3)).expect("a session"));
        again.set_policy(policy).expect("in range");
        again.build_index(&AtomicBool::new(false)).expect("not cancelled");
        assert_eq!(step(&text, &mut forked, PROMPT), text.decode(&mut again, PROMPT), "{policy:?}");
        again.truncate(700).expect("it has as many");
        for token in 5000..5030 {
            text.decode(&mut again, token);
        }
        again.set_policy(Policy::Exact).expect("no index needed");
        session.set_policy(Policy::Exact).expect("no index needed");
        assert_eq!(step(&text, &mut session, 6000), text.decode(&mut again, 6000));
    }
}

#[test]
fn a_session_without_a_folder_forks_into_one() {
    let text = Text { shape: SHAPE, seed: 9 };
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("fork");
    let mut session = Session::new(config(3)).expect("a session");
    session.set_policy(SKETCH).expect("in range");
    let mut session = read(&text, session);
    session.fork(&path, &folder(&path, Access::Write).model).expect("room on the disk");
    let mut forked = open(&path, SKETCH).expect("it is there");
    assert_eq!(step(&text, &mut forked, PROMPT), step(&text, &mut session, PROMPT));
    let error = session.fork(&path, &[]).expect_err("something is there");
    assert_eq!(error.code(), "SESSION_EXISTS", "{error}");
}
