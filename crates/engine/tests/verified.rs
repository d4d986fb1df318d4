//! Sessions that are asked for an error instead of a budget.

use std::sync::atomic::AtomicBool;

use engine::{
    Attention, Budget, EngineError, Policy, RowType, Rule, Session, SessionConfig, Shape, Synthetic,
};

const SHAPE: Shape = Shape { layers: 1, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;
const STEPS: u64 = 200;
/// The most of 1,200 outputs whose 95% Clopper-Pearson interval ends below 5%.
const AT_MOST: u64 = 45;

fn sketch(budget: Budget) -> Policy {
    Policy::Sketch { bits: 4, residual: false, budget }
}

fn verified(epsilon: f64, delta: f64) -> Policy {
    sketch(Budget::Verified { epsilon, delta })
}

/// A session with the rows of a synthetic text, indexed, whose steps are audited.
fn session(text: &Synthetic, threads: usize, policy: Policy) -> Session {
    let directory = std::env::temp_dir();
    let config = SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads,
        seed: 3,
        directory,
    };
    let mut session = Session::new(config).expect("a session");
    let rows = ..TOKENS * SHAPE.kv_len();
    session.append(0, &text.keys[rows], &text.values[rows]).expect("room");
    session.set_policy(policy).expect("in range");
    session.build_index(&AtomicBool::new(false)).expect("indexed");
    session.set_audit(true);
    session
}

/// The output of a step after `TOKENS`, taken back.
fn step(session: &mut Session, text: &Synthetic, number: u64) -> Vec<f32> {
    let mut out = vec![0.0; SHAPE.q_len()];
    let row = (TOKENS + number as usize) * SHAPE.kv_len()..(TOKENS + number as usize + 1) * SHAPE.kv_len();
    let q = text.queries(number);
    session.decode(0, &q, &text.keys[row.clone()], &text.values[row], &mut out).expect("decode");
    out
}

fn text(seed: u64) -> Synthetic {
    Synthetic::new(SHAPE, TOKENS + STEPS as usize, seed)
}

#[test]
fn verified_steps_are_as_near_as_they_say() {
    let text = text(1);
    let mut session = session(&text, 2, verified(0.1, 0.05));
    (0..STEPS).for_each(|number| drop(step(&mut session, &text, number)));
    let (coverage, stats) = (session.audit().expect("it is on").coverage, session.stats());
    assert_eq!(coverage.head_steps, STEPS * SHAPE.heads as u64);
    assert!(coverage.violations <= AT_MOST, "{coverage:?}");
    assert!(stats.error_max <= 0.1, "{}", stats.error_max);
    assert_eq!(stats.assessed, coverage.head_steps);
    assert!((stats.error_sum / coverage.estimated - 1.0).abs() < 1e-9);
    // Not by reading everything.
    assert!(stats.read_whole < stats.assessed / 4, "{} of {} read whole", stats.read_whole, stats.assessed);
    assert!(stats.sampled_rows < stats.indexed_rows / 2, "{} of {}", stats.sampled_rows, stats.indexed_rows);
    // Errors are far above rounding, so that there is something to be wrong about.
    assert!(coverage.real > 0.01 * coverage.head_steps as f64, "{coverage:?}");
}

#[test]
fn a_budget_draws_as_before_after_steps_that_were_asked_for_an_error() {
    let text = text(9);
    let budget = sketch(Budget::Fraction(0.05));
    let mut session = session(&text, 2, budget);
    let mut drawn = |policy, steps: std::ops::Range<u64>| {
        session.set_policy(policy).expect("in range");
        session.reset_stats();
        steps.for_each(|number| drop(step(&mut session, &text, number)));
        session.stats().sampled_rows as f64 / session.stats().indexed_rows as f64
    };
    drawn(budget, 0..60);
    let before = drawn(budget, 60..80);
    let verified = drawn(verified(0.02, 0.05), 80..120);
    assert!(verified > 1.5 * before, "it would be no other gain: {verified} and {before}");
    // The first step, before the gain could be steered back.
    let after = drawn(budget, 120..121);
    drawn(sketch(Budget::TargetError(0.01)), 121..151);
    let last = drawn(budget, 151..152);
    for after in [after, last] {
        assert!((after / before - 1.0).abs() < 0.5, "{after} and {before}");
    }
}

#[test]
fn less_error_takes_more_keys_and_none_takes_all() {
    let text = text(2);
    let read = |epsilon: f64| {
        let mut session = session(&text, 1, verified(epsilon, 0.05));
        (0..30).for_each(|number| drop(step(&mut session, &text, number)));
        (session.stats().sampled_rows, session.audit().expect("it is on").coverage)
    };
    let (coarse, _) = read(0.3);
    let (fine, _) = read(0.1);
    assert!(2 * coarse < fine, "{coarse} {fine}");
    // Draws end where all keys are read, but for heads whose error is next to nothing without.
    let (most, all) = read(1e-5);
    assert!(most > 30 * 6 * 2400, "{most}");
    assert!(all.violations == 0 && all.real < 1e-5 * all.head_steps as f64, "{all:?}");
}

#[test]
fn a_target_is_reached_and_true() {
    let text = text(3);
    for target in [0.05, 0.15] {
        let mut session = session(&text, 2, sketch(Budget::TargetError(target)));
        (0..60).for_each(|number| drop(step(&mut session, &text, number)));
        session.reset_stats();
        (60..STEPS).for_each(|number| drop(step(&mut session, &text, number)));
        let coverage = session.audit().expect("it is on").coverage;
        let mean = |sum: f64| sum / coverage.head_steps as f64;
        assert!((mean(coverage.estimated) / target - 1.0).abs() < 0.1, "{coverage:?}");
        assert!((mean(coverage.real) / target - 1.0).abs() < 0.25, "{coverage:?}");
    }
}

#[test]
fn steps_do_not_depend_on_threads() {
    let text = text(4);
    for policy in [verified(0.1, 0.1), sketch(Budget::TargetError(0.1))] {
        let run = |threads| {
            let mut session = session(&text, threads, policy);
            (0..20).map(|number| step(&mut session, &text, number)).collect::<Vec<_>>()
        };
        assert!(run(1) == run(3), "{policy:?}");
    }
}

#[test]
fn errors_that_mean_nothing_are_refused() {
    let text = text(5);
    let mut session = session(&text, 1, Policy::Exact);
    for budget in [
        Budget::TargetError(0.0),
        Budget::TargetError(1.0),
        Budget::TargetError(f64::NAN),
        Budget::Verified { epsilon: 0.0, delta: 0.05 },
        Budget::Verified { epsilon: 1.0, delta: 0.05 },
        Budget::Verified { epsilon: 0.05, delta: 0.0 },
        Budget::Verified { epsilon: 0.05, delta: 0.21 },
    ] {
        let refused = session.set_policy(sketch(budget));
        assert!(matches!(refused, Err(EngineError::Invalid(_))), "{budget:?}");
    }
    let compared = Policy::Compare { rule: Rule::TopK, budget: Budget::TargetError(0.1) };
    assert!(matches!(session.set_policy(compared), Err(EngineError::Invalid(_))));
}
