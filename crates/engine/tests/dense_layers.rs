//! Layers that attend all rows whatever the policy, and the budget of the others.

mod support;

use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, Policy, RowType, Session, SessionConfig, Shape};
use support::Text;

const SHAPE: Shape = Shape { layers: 3, heads: 2, kv_heads: 1, head_dim: 64 };
const TOKENS: usize = 2000;

fn read(policy: Policy) -> (Text, Session) {
    let text = Text { shape: SHAPE, seed: 21 };
    let directory = std::env::temp_dir();
    let config = SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 1,
        seed: 4,
        directory,
    };
    let mut session = Session::new(config).expect("a session");
    session.set_policy(policy).expect("in range");
    text.prefill(&mut session, 0..TOKENS);
    session.build_index(&AtomicBool::new(false)).expect("index");
    (text, session)
}

/// Relative errors of the layers, and the fraction of the indexed keys that was drawn, after steps that let the budget settle.
fn settled(policy: Policy, dense: &[usize]) -> ([f64; 3], f64) {
    let (text, mut session) = read(policy);
    session.set_dense_layers(dense).expect("in range");
    session.set_audit(true);
    for number in 0..50 {
        if number == 30 {
            session.reset_stats();
        }
        text.decode(&mut session, TOKENS);
        session.truncate(TOKENS).expect("truncate");
    }
    let audit = session.audit().expect("it is on");
    let sum = |of: &[f64], layer: usize| of[layer * SHAPE.heads..][..SHAPE.heads].iter().sum::<f64>();
    let error = |layer| (sum(&audit.error_squares, layer) / sum(&audit.exact_squares, layer)).sqrt();
    let stats = session.stats();
    ([0, 1, 2].map(error), stats.sampled_rows as f64 / stats.indexed_rows as f64)
}

#[test]
fn dense_layers_are_exact_and_the_others_keep_the_budget() {
    for budget in [Budget::Fraction(0.05), Budget::Rooted { fraction: 0.025, tokens: 4 * (TOKENS - 80) }] {
        let policy = Policy::Sketch { bits: 2, budget, residual: false };
        for dense in [&[][..], &[0], &[2], &[1, 0], &[2, 0, 2]] {
            let (errors, drawn) = settled(policy, dense);
            for (layer, error) in errors.into_iter().enumerate() {
                assert_eq!(error == 0.0, dense.contains(&layer), "dense {dense:?}: {errors:?}");
            }
            // Steering that waited for layer 0 would leave three times or a third of it.
            assert!((drawn / 0.05 - 1.0).abs() < 0.1, "dense {dense:?}: {drawn} of the keys drawn");
        }
    }
}

#[test]
fn all_layers_dense_is_exact_under_any_policy() {
    let (text, mut exact) = read(Policy::Exact);
    let exact = text.decode(&mut exact, TOKENS);
    for policy in [
        Policy::Lsh { k: 8, l: 40 },
        Policy::Sketch { bits: 4, budget: Budget::Fraction(0.02), residual: false },
        Policy::Exact,
    ] {
        let (text, mut session) = read(policy);
        session.set_dense_layers(&[0, 1, 2]).expect("in range");
        assert_eq!(text.decode(&mut session, TOKENS), exact);
        assert_eq!(session.stats().indexed_rows, 0);
        session.set_dense_layers(&[]).expect("in range");
        session.truncate(TOKENS).expect("truncate");
        assert_eq!(text.decode(&mut session, TOKENS) == exact, policy == Policy::Exact);
        let refused = session.set_dense_layers(&[1, 3]).expect_err("there are 3");
        assert_eq!(refused.to_string(), "dense layer 3; the model has layers 0 to 2");
    }
}
