//! Where keys were drawn: every draw is noted once, where it was, by any number of threads.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, Policy, RowType, Rule, SINKS, Session, SessionConfig, Shape, WINDOW};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;
const BIN: usize = 100;
/// A key of layer 1 that the queries are made for.
const NEEDLE: usize = 1234;

/// Steps under `policy` over a text whose layer 1 has the needle.
fn stepped(policy: Policy, threads: usize, dense: &[usize]) -> Session {
    let text = Text { shape: SHAPE, seed: 5 };
    let directory = std::env::temp_dir();
    let attention = Attention::default();
    let config = SessionConfig { shape: SHAPE, attention, rows: RowType::Bf16, threads, seed: 3, directory };
    let mut session = Session::new(config).expect("a session");
    session.set_policy(policy).expect("in range");
    session.set_dense_layers(dense).expect("there are two");
    let needle: Vec<f32> =
        text.q(1, TOKENS).chunks_exact(3 * 64).flat_map(|group| group[..64].to_vec()).collect();
    for layer in 0..SHAPE.layers {
        let key = |token| if (layer, token) == (1, NEEDLE) { needle.clone() } else { text.k(layer, token) };
        let keys: Vec<f32> = (0..TOKENS).flat_map(key).collect();
        let values: Vec<f32> = (0..TOKENS).flat_map(|token| text.v(layer, token)).collect();
        session.append(layer, &keys, &values).expect("room");
    }
    session.build_index(&AtomicBool::new(false)).expect("not cancelled");
    text.decode(&mut session, TOKENS);
    session.truncate(TOKENS).expect("truncate");
    session.note_draws(NonZeroUsize::new(BIN));
    session.reset_stats();
    for _ in 0..8 {
        text.decode(&mut session, TOKENS);
        session.truncate(TOKENS).expect("truncate");
    }
    session
}

fn layers(session: &Session) -> Vec<Vec<u64>> {
    let draws = session.draws().expect("they are noted");
    assert_eq!(draws.bin(), BIN);
    (0..SHAPE.layers).map(|layer| draws.layer(layer)).collect()
}

fn policies() -> [Policy; 6] {
    let sketch = |budget| Policy::Sketch { bits: 4, budget, residual: false };
    [
        Policy::Lsh { k: 6, l: 40 },
        sketch(Budget::Fraction(0.02)),
        sketch(Budget::TargetError(0.1)),
        // So small that some heads read all of their keys.
        sketch(Budget::Verified { epsilon: 0.02, delta: 0.05 }),
        Policy::Compare { rule: Rule::Oracle, budget: Budget::Fraction(0.02) },
        Policy::Compare { rule: Rule::Quest, budget: Budget::Fraction(0.02) },
    ]
}

#[test]
fn every_draw_is_noted_where_it_was() {
    for policy in policies() {
        let session = stepped(policy, 2, &[]);
        let (stats, layers) = (session.stats(), layers(&session));
        assert!(stats.sampled_rows > 0, "{policy:?}");
        assert_eq!(layers.iter().flatten().sum::<u64>(), stats.sampled_rows, "{policy:?}");
        for counts in &layers {
            assert_eq!(counts.len(), (TOKENS + 1).div_ceil(BIN), "{policy:?}");
            // The last bin is of the window alone, but for rows that the one before could have.
            assert!(TOKENS - WINDOW < TOKENS / BIN * BIN && counts[TOKENS / BIN] == 0, "{policy:?}");
        }
        let greatest = |counts: &[u64]| (0..counts.len()).max_by_key(|&bin| counts[bin]);
        let verified = stats.read_whole > 0;
        if !verified {
            assert_eq!(greatest(&layers[1]), Some(NEEDLE / BIN), "{policy:?}: {:?}", layers[1]);
            assert_ne!(greatest(&layers[0]), Some(NEEDLE / BIN), "{policy:?} has its needle in layer 1 alone");
        }
    }
    assert!(SINKS < BIN);
}

#[test]
fn threads_change_nothing_and_dense_layers_draw_nothing() {
    for policy in policies() {
        assert_eq!(layers(&stepped(policy, 1, &[])), layers(&stepped(policy, 2, &[])), "{policy:?}");
        let dense = layers(&stepped(policy, 2, &[0]));
        assert!(dense[0].iter().all(|&count| count == 0) && dense[1].iter().any(|&count| count > 0));
    }
}

#[test]
fn a_new_histogram_is_empty_and_none_is_kept_unasked() {
    let mut session = stepped(Policy::Lsh { k: 6, l: 40 }, 1, &[]);
    session.note_draws(NonZeroUsize::new(7));
    let draws = session.draws().expect("they are noted");
    assert!(draws.bin() == 7 && draws.layer(0).is_empty());
    session.note_draws(None);
    assert!(session.draws().is_none());
}
