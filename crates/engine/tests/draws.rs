//! Where keys were drawn: every draw is noted once, where it was, by any number of threads.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, Policy, RowType, Rule, SINKS, Session, SessionConfig, Shape, WINDOW};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;
const BIN: usize = 100;
const STEPS: u64 = 8;
/// A key of layer 1 that the queries are made for.
const NEEDLE: usize = 1234;

/// Steps under `policy` over a text whose layer 1 has the needle.
fn stepped(policy: Policy, threads: usize, bin: usize, dense: &[usize]) -> Session {
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
    session.note_draws(NonZeroUsize::new(bin));
    session.reset_stats();
    for _ in 0..STEPS {
        text.decode(&mut session, TOKENS);
        session.truncate(TOKENS).expect("truncate");
    }
    session
}

fn layers(session: &Session, bin: usize) -> Vec<Vec<u64>> {
    let draws = session.draws().expect("they are noted");
    assert_eq!(draws.bin(), bin);
    (0..SHAPE.layers).map(|layer| draws.layer(layer)).collect()
}

fn policies() -> [Policy; 6] {
    let sketch = |budget| Policy::Sketch { bits: 4, budget, residual: false };
    [
        Policy::Lsh { k: 10, l: 60 },
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
        let session = stepped(policy, 2, BIN, &[]);
        let (stats, layers) = (session.stats(), layers(&session, BIN));
        assert!(stats.sampled_rows > 0, "{policy:?}");
        assert_eq!(layers.iter().flatten().sum::<u64>(), stats.sampled_rows, "{policy:?}");
        for counts in &layers {
            assert_eq!(counts.len(), (TOKENS + 1).div_ceil(BIN), "{policy:?}");
            // The last bin is of the window alone, but for rows that the one before could have.
            assert!(TOKENS - WINDOW < TOKENS / BIN * BIN && counts[TOKENS / BIN] == 0, "{policy:?}");
        }
    }
}

#[test]
fn a_position_is_the_one_that_was_drawn() {
    for policy in policies() {
        let session = stepped(policy, 2, 1, &[]);
        let layers = layers(&session, 1);
        // One query head of each KV head draws the needle in all steps, whatever the others do.
        let least = STEPS * SHAPE.kv_heads as u64;
        assert!(layers[1][NEEDLE] >= least, "{policy:?}: {} of {least}", layers[1][NEEDLE]);
        let neighbours = [layers[1][NEEDLE - 1], layers[1][NEEDLE + 1], layers[0][NEEDLE]];
        let pages = matches!(policy, Policy::Compare { rule: Rule::Quest, .. });
        let whole = session.stats().read_whole > 0;
        if !pages && !whole {
            // Negative control: a draw of keys that count alike is of a share of them, and not of the same in all steps.
            assert!(neighbours.iter().all(|&count| count < layers[1][NEEDLE]), "{policy:?}: {neighbours:?}");
        }
        assert!(layers[1][..SINKS].iter().all(|&count| count == 0), "{policy:?} reads sinks anyway");
    }
}

#[test]
fn threads_change_nothing_and_dense_layers_draw_nothing() {
    for policy in policies() {
        let of_threads = |threads| layers(&stepped(policy, threads, BIN, &[]), BIN);
        assert_eq!(of_threads(1), of_threads(2), "{policy:?}");
        let dense = layers(&stepped(policy, 2, BIN, &[0]), BIN);
        assert!(dense[0].iter().all(|&count| count == 0) && dense[1].iter().any(|&count| count > 0));
    }
}

#[test]
fn a_new_histogram_is_empty_and_none_is_kept_unasked() {
    let mut session = stepped(Policy::Lsh { k: 10, l: 60 }, 1, BIN, &[]);
    session.note_draws(NonZeroUsize::new(7));
    let draws = session.draws().expect("they are noted");
    assert!(draws.bin() == 7 && draws.layer(0).is_empty());
    session.note_draws(None);
    assert!(session.draws().is_none());
}
