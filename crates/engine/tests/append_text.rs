//! Texts that are attended elsewhere and stored layer by layer are indexed as they come, to what indexing them at last gives.

use std::sync::atomic::AtomicBool;

use engine::{Budget, Policy, Session, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 2, kv_heads: 1, head_dim: 64 };
/// More than two segments.
const TOKENS: usize = 70_000;
const CHUNK: usize = 4096;

fn session() -> Session {
    let mut session = Session::new(support::config(SHAPE)).expect("a session");
    let policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.01), residual: false };
    session.set_policy(policy).expect("a policy");
    session
}

/// Stores the text, each layer in chunks, by `append`; then the rest of the index is built, and tokens are decoded.
fn outputs(text: &Text, append: impl Fn(&mut Session, usize, &[f32], &[f32])) -> (usize, Vec<f32>) {
    let mut session = session();
    for layer in 0..SHAPE.layers {
        for first in (0..TOKENS).step_by(CHUNK) {
            let chunk = first..TOKENS.min(first + CHUNK);
            let rows = |of: fn(&Text, usize, usize) -> Vec<f32>| -> Vec<f32> {
                chunk.clone().flat_map(|token| of(text, layer, token)).collect()
            };
            append(&mut session, layer, &rows(Text::k), &rows(Text::v));
        }
    }
    let before = session.stats().indexed_tokens;
    session.build_index(&AtomicBool::new(false)).expect("an index");
    let decoded = (TOKENS..TOKENS + 3).flat_map(|token| text.decode(&mut session, token)).collect();
    (before, decoded)
}

#[test]
fn the_index_is_the_same_to_the_bit() {
    let text = Text { shape: SHAPE, seed: 31 };
    let (none, last) = outputs(&text, |session, layer, k, v| _ = session.append(layer, k, v).expect("rows"));
    let (some, first) =
        outputs(&text, |session, layer, k, v| session.append_text(layer, k, v).expect("rows"));
    assert_eq!((none, some), (0, 65_536), "two full segments are indexed before the rest");
    assert_eq!(first, last);
    // Negative control: an index of the same rows whose centres are of fewer of them draws others.
    let (_, other) = outputs(&text, |session, layer, k, v| {
        session.append(layer, k, v).expect("rows");
        session.build_index(&AtomicBool::new(false)).expect("an index");
    });
    assert_ne!(other, last);
}
