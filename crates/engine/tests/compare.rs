//! The policies that are there to compare with, and the comparison itself, through a session.

use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, Policy, RowType, Rule, Session, SessionConfig, Shape, Synthetic};

const SHAPE: Shape = Shape { layers: 1, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;
const RULES: [Rule; 4] = [Rule::TopK, Rule::Oracle, Rule::Quest, Rule::Static];

fn compare(rule: Rule, fraction: f64) -> Policy {
    Policy::Compare { rule, budget: Budget::Fraction(fraction) }
}

fn sketch(fraction: f64) -> Policy {
    Policy::Sketch { bits: 4, budget: Budget::Fraction(fraction), residual: false }
}

/// A session with the rows of a synthetic text.
fn session(text: &Synthetic, tokens: usize, threads: usize) -> Session {
    let directory = std::env::temp_dir();
    let mut session = Session::new(SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads,
        seed: 0,
        directory,
    })
    .expect("a session");
    let width = SHAPE.kv_len();
    session.append(0, &text.keys[..tokens * width], &text.values[..tokens * width]).expect("room");
    session
}

/// The output of the step after `tokens`, taken back.
fn step(session: &mut Session, text: &Synthetic, tokens: usize, number: u64) -> Vec<f32> {
    let mut out = vec![0.0; SHAPE.q_len()];
    let row = tokens * SHAPE.kv_len()..(tokens + 1) * SHAPE.kv_len();
    let q = text.queries(number);
    session.decode(0, &q, &text.keys[row.clone()], &text.values[row], &mut out).expect("decode");
    session.truncate(tokens).expect("truncate");
    out
}

fn use_policy(session: &mut Session, policy: Policy, seed: u64) {
    session.set_policy(policy).expect("in range");
    session.reseed(seed).expect("in range");
    session.build_index(&AtomicBool::new(false)).expect("indexed");
    session.reset_stats();
}

/// |o - exact| / |exact| over steps, as the audit of a session has it.
fn audited(session: &mut Session, text: &Synthetic, policy: Policy) -> f64 {
    use_policy(session, policy, 1);
    for number in 0..12 {
        step(session, text, TOKENS, number);
    }
    let audit = session.audit().expect("it is on");
    (audit.error_squares.iter().sum::<f64>() / audit.exact_squares.iter().sum::<f64>()).sqrt()
}

#[test]
fn errors_are_in_the_order_that_the_rules_promise() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 3);
    let mut session = session(&text, TOKENS, 2);
    session.set_audit(true);
    let error = |session: &mut Session, policy| audited(session, &text, policy);
    let exact = error(&mut session, Policy::Exact);
    let fixed = error(&mut session, compare(Rule::Static, 1.0));
    let top = error(&mut session, compare(Rule::TopK, 0.05));
    let quest = error(&mut session, compare(Rule::Quest, 0.05));
    let oracle = error(&mut session, compare(Rule::Oracle, 0.05));
    assert_eq!(exact, 0.0);
    assert!(top < quest && quest < fixed, "topk {top}, quest {quest}, static {fixed}");
    assert!(oracle < top, "oracle {oracle}, topk {top}");
    for rule in [Rule::TopK, Rule::Oracle, Rule::Quest] {
        let all = error(&mut session, compare(rule, 1.0));
        assert!(all < 1e-5, "{rule:?} of all keys: {all}");
        assert!(
            error(&mut session, compare(rule, 0.01)) > error(&mut session, compare(rule, 0.2)),
            "{rule:?}"
        );
    }
}

#[test]
fn the_static_set_and_the_budget_are_those_of_sketch() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 4);
    for tokens in [100, 575, 592, 593, 1000, 2999, TOKENS] {
        let mut session = session(&text, tokens, 1);
        use_policy(&mut session, sketch(0.1), 0);
        step(&mut session, &text, tokens, 0);
        let of_sketch = session.stats();
        for rule in RULES {
            use_policy(&mut session, compare(rule, 0.1), 0);
            step(&mut session, &text, tokens, 0);
            let stats = session.stats();
            assert_eq!(stats.indexed_rows, of_sketch.indexed_rows, "{rule:?} after {tokens}");
            assert_eq!(
                stats.rows_read - stats.sampled_rows,
                of_sketch.rows_read - of_sketch.sampled_rows,
                "{rule:?} after {tokens}"
            );
            let drawn = stats.sampled_rows as f64 / stats.indexed_rows.max(1) as f64;
            let wanted = if rule == Rule::Static || stats.indexed_rows == 0 { 0.0 } else { 0.1 };
            // A page of keys more or less.
            assert!((drawn - wanted).abs() < 16.0 / tokens as f64, "{rule:?} after {tokens}: {drawn}");
        }
    }
}

#[test]
fn the_oracle_averages_to_exact_and_topk_does_not() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 5);
    let mut session = session(&text, TOKENS, 2);
    let exact = step(&mut session, &text, TOKENS, 0);
    let error = |out: &[f32]| {
        let square = |x: f32| x * x;
        let errors: f32 = out.iter().zip(&exact).map(|(a, b)| square(a - b)).sum();
        (errors / exact.iter().map(|&x| square(x)).sum::<f32>()).sqrt()
    };
    let mut averaged = |rule| {
        const SEEDS: u64 = 100;
        let mut mean = vec![0.0; exact.len()];
        let mut single = 0.0;
        for seed in 0..SEEDS {
            use_policy(&mut session, compare(rule, 0.02), seed);
            let out = step(&mut session, &text, TOKENS, 0);
            single += error(&out) / SEEDS as f32;
            mean.iter_mut().zip(&out).for_each(|(mean, out)| *mean += out / SEEDS as f32);
        }
        error(&mean) / single
    };
    let (oracle, top) = (averaged(Rule::Oracle), averaged(Rule::TopK));
    // Of 100 independent errors, the mean has a tenth.
    assert!(oracle < 0.2, "{oracle}");
    assert!((top - 1.0).abs() < 1e-3, "the control, which has no seed: {top}");
}

#[test]
fn nothing_depends_on_threads() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 6);
    for rule in RULES {
        let run = |threads| {
            let mut session = session(&text, TOKENS, threads);
            use_policy(&mut session, compare(rule, 0.05), 9);
            step(&mut session, &text, TOKENS, 0)
        };
        assert_eq!(run(1), run(3), "{rule:?}");
    }
}

#[test]
fn bytes_are_what_a_policy_looks_at() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 7);
    let mut session = session(&text, TOKENS, 1);
    session.set_audit(true);
    let mut fraction = |policy| {
        use_policy(&mut session, policy, 0);
        for number in 0..30 {
            step(&mut session, &text, TOKENS, number);
        }
        let (audit, stats) = (session.audit().expect("it is on"), session.stats());
        assert_eq!(audit.exact_bytes, 30.0 * ((TOKENS + 1) * 2 * 2 * 64 * 2) as f64);
        (
            audit.bytes_read / audit.exact_bytes,
            stats.rows_read as f64 / (30 * (TOKENS + 1) * SHAPE.heads) as f64,
        )
    };
    assert_eq!(fraction(Policy::Exact), (1.0, 1.0));
    let (bytes, rows) = fraction(compare(Rule::Static, 1.0));
    assert!((bytes - rows).abs() < 1e-9, "{bytes} {rows}");
    // All of K, and V of what is used: three queries use up to three times the keys of one.
    for rule in [Rule::TopK, Rule::Oracle] {
        let (bytes, rows) = fraction(compare(rule, 0.05));
        assert!(
            bytes > 0.5 + rows / 2.0 && bytes < 0.5 + 3.0 * rows / 2.0 + 0.02,
            "{rule:?}: {bytes} {rows}"
        );
    }
    // A page's extremes are a sixteenth of its rows.
    let (bytes, rows) = fraction(compare(Rule::Quest, 0.05));
    assert!(bytes > 0.06 + rows && bytes < 0.0625 + 3.0 * rows, "quest: {bytes} {rows}");
    // 34 bytes of code for 256 of row.
    let (bytes, rows) = fraction(sketch(0.05));
    assert!((bytes - rows - 34.0 / 256.0).abs() < 0.005, "sketch: {bytes} {rows}");
    let (bytes, rows) = fraction(Policy::Lsh { k: 8, l: 60 });
    assert!(bytes > rows && bytes < 3.0 * rows + 0.1, "lsh: {bytes} {rows}");
}

#[test]
fn the_bytes_of_tables_are_those_of_the_ids_in_the_buckets() {
    // With one bit a table, a key is in the query's bucket of a table with probability 1 - theta/pi: half of them are, on the
    // whole, and 2 L n / 2 bytes are read of each query's tables.
    let text = Synthetic::new(SHAPE, TOKENS + 1, 8);
    let mut session = session(&text, TOKENS, 1);
    session.set_audit(true);
    let (tables, indexed) = (40.0, (TOKENS - 64 - 4) as f64);
    use_policy(&mut session, Policy::Lsh { k: 1, l: 40 }, 0);
    for number in 0..10 {
        step(&mut session, &text, TOKENS, number);
    }
    // Nearly every row is drawn.
    let rows = ((TOKENS + 1) * 2 * 4 * 64) as f64 + 2.0 * 2.0 * indexed;
    let of_tables = session.audit().expect("it is on").bytes_read / 10.0 - rows;
    let expected = SHAPE.heads as f64 * tables * (4.0 + indexed);
    assert!((of_tables / expected - 1.0).abs() < 0.1, "{of_tables} of {expected}");
}

#[test]
fn a_session_with_another_seed_is_one_that_was_made_with_it() {
    let text = Synthetic::new(SHAPE, TOKENS + 1, 9);
    let run = |made: u64, reseeded: Option<u64>| {
        let directory = std::env::temp_dir();
        let mut session = Session::new(SessionConfig {
            shape: SHAPE,
            attention: Attention::default(),
            rows: RowType::Bf16,
            threads: 1,
            seed: made,
            directory,
        })
        .expect("made");
        let width = SHAPE.kv_len();
        session.append(0, &text.keys[..TOKENS * width], &text.values[..TOKENS * width]).expect("room");
        session.set_policy(Policy::Lsh { k: 6, l: 40 }).expect("in range");
        if let Some(seed) = reseeded {
            session.build_index(&AtomicBool::new(false)).expect("indexed");
            session.reseed(seed).expect("in range");
        }
        session.build_index(&AtomicBool::new(false)).expect("indexed");
        step(&mut session, &text, TOKENS, 0)
    };
    assert_eq!(run(5, None), run(1, Some(5)));
    assert_ne!(run(5, None), run(1, None));
}
