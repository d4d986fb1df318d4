//! Sessions from outside: decoding and prefill agree, `lsh` tracks `exact`, nothing depends on threads, and
//! bad arguments are refused.

use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, EngineError, Policy, RowType, SINKS, Session, SessionConfig, Shape, WINDOW};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const LSH: Policy = Policy::Lsh { k: 6, l: 40 };

fn session(shape: Shape, threads: usize, seed: u64) -> Session {
    Session::new(SessionConfig {
        shape,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads,
        seed,
        directory: std::env::temp_dir(),
    })
    .expect("a session")
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn relative_l2(got: &[f32], exact: &[f32]) -> f32 {
    let square = |x: f32| x * x;
    let error: f32 = got.iter().zip(exact).map(|(a, b)| square(a - b)).sum();
    (error / exact.iter().copied().map(square).sum::<f32>()).sqrt()
}

#[test]
fn prefill_in_any_chunks_and_decoding_agree() {
    let text = Text { shape: SHAPE, seed: 1 };
    let whole = text.prefill(&mut session(SHAPE, 2, 0), 0..150);
    let mut chunked = session(SHAPE, 1, 0);
    text.prefill(&mut chunked, 0..65);
    text.prefill(&mut chunked, 65..66);
    text.prefill(&mut chunked, 66..140);
    for token in 140..150 {
        let out = text.decode(&mut chunked, token);
        for layer in 0..SHAPE.layers {
            let width = SHAPE.q_len();
            let out = &out[layer * width..][..width];
            // Prefill rounds scaled queries and weights to bf16, each by at most 2^-8.
            let error = distance(out, &whole[layer][token * width..][..width]);
            assert!(error < 1.0 / 128.0, "token {token} layer {layer}: {error}");
            let control = distance(out, &whole[layer][(token - 1) * width..][..width]);
            assert!(control > 1.0 / 8.0, "token {token} layer {layer} is not its neighbour: {control}");
        }
    }
    assert_eq!(chunked.tokens(), 150);
}

#[test]
fn lsh_is_the_same_on_any_number_of_threads() {
    let text = Text { shape: SHAPE, seed: 2 };
    let run = |threads| {
        let mut session = session(SHAPE, threads, 5);
        session.set_policy(LSH).expect("in range");
        text.prefill(&mut session, 0..2000);
        session.build_index(&AtomicBool::new(false)).expect("index");
        let outputs: Vec<Vec<f32>> = (2000..2300).map(|token| text.decode(&mut session, token)).collect();
        (outputs, session.stats().sampled_rows)
    };
    let (one, sampled) = run(1);
    assert!(sampled > 0);
    assert_eq!((one, sampled), run(3));
}

#[test]
fn lsh_averages_to_exact_and_the_static_set_alone_does_not() {
    let text = Text { shape: SHAPE, seed: 3 };
    const TOKENS: usize = 1500;
    let mut exact = session(SHAPE, 2, 0);
    text.prefill(&mut exact, 0..TOKENS);
    let exact = text.decode(&mut exact, TOKENS);

    let estimate = |seed| {
        let mut session = session(SHAPE, 2, seed);
        session.set_policy(LSH).expect("in range");
        text.prefill(&mut session, 0..TOKENS);
        session.build_index(&AtomicBool::new(false)).expect("index");
        text.decode(&mut session, TOKENS)
    };
    let seeds = 60;
    let mut mean = vec![0.0; exact.len()];
    let mut single = 0.0;
    for seed in 0..seeds {
        let out = estimate(seed);
        single += relative_l2(&out, &exact) / seeds as f32;
        mean.iter_mut().zip(&out).for_each(|(mean, out)| *mean += out / seeds as f32);
    }
    let averaged = relative_l2(&mean, &exact);
    // Independent, unbiased estimates: the error of the mean of 60 is 1/7.7 of a single one's, and a ratio's bias.
    assert!(averaged < single / 5.0, "single {single}, averaged {averaged}");

    // The negative control: K 16 and L 2 draws next to nothing, whatever the seed.
    let mut fixed = session(SHAPE, 2, 0);
    fixed.set_policy(Policy::Lsh { k: 16, l: 2 }).expect("in range");
    text.prefill(&mut fixed, 0..TOKENS);
    fixed.build_index(&AtomicBool::new(false)).expect("index");
    let fixed = relative_l2(&text.decode(&mut fixed, TOKENS), &exact);
    assert!(fixed > 3.0 * averaged, "static set alone {fixed}, averaged {averaged}");
}

#[test]
fn generation_has_no_end() {
    // Past a segment's 32,768 rows, and every row behind the window indexed as it goes.
    let shape = Shape { layers: 1, heads: 2, kv_heads: 1, head_dim: 64 };
    let text = Text { shape, seed: 4 };
    let mut session = session(shape, 1, 1);
    session.set_policy(Policy::Lsh { k: 8, l: 20 }).expect("in range");
    for token in 0..34_000 {
        text.decode(&mut session, token);
        if token % 1000 == 999 {
            let stats = session.stats();
            assert!(stats.indexed_tokens + WINDOW + 256 >= token, "{stats:?}");
        }
    }
    session.reset_stats();
    text.decode(&mut session, 34_000);
    let stats = session.stats();
    assert_eq!(stats.tokens, 34_001);
    assert_eq!(stats.rows_read - stats.sampled_rows, 2 * (34_001 - stats.indexed_tokens + SINKS) as u64);
    assert_eq!(stats.indexed_rows, 2 * (stats.indexed_tokens - SINKS) as u64);
    assert!(stats.sampled_rows > 0 && stats.sampled_rows < stats.indexed_rows / 4, "{stats:?}");
}

#[test]
fn truncating_takes_back_a_step_and_a_half() {
    let text = Text { shape: SHAPE, seed: 5 };
    let start = |policy| {
        let mut session = session(SHAPE, 2, 3);
        session.set_policy(policy).expect("in range");
        text.prefill(&mut session, 0..900);
        session.build_index(&AtomicBool::new(false)).expect("index");
        session
    };
    for policy in [Policy::Exact, LSH] {
        let mut session = start(policy);
        let first = text.decode(&mut session, 900);
        text.decode(&mut session, 901);
        // A step that stopped after its first layer.
        let mut out = vec![0.0; SHAPE.q_len()];
        session.decode(0, &text.q(0, 7), &text.k(0, 7), &text.v(0, 7), &mut out).expect("decode");
        session.truncate(900).expect("truncate");
        assert_eq!(session.tokens(), 900);
        assert_eq!(text.decode(&mut session, 900), first, "{policy:?}");

        // Far enough that the index is cut as well.
        session.truncate(500).expect("truncate");
        text.prefill(&mut session, 500..900);
        session.build_index(&AtomicBool::new(false)).expect("index");
        let again = text.decode(&mut session, 900);
        assert!(distance(&again, &first) < 1e-5, "{policy:?}");
    }
}

#[test]
fn policies_change_over_the_same_rows() {
    let text = Text { shape: SHAPE, seed: 6 };
    let mut changing = session(SHAPE, 2, 0);
    text.prefill(&mut changing, 0..1200);
    let exact = text.decode(&mut changing, 1200);
    changing.truncate(1200).expect("truncate");
    changing.set_policy(LSH).expect("in range");
    // Without build_index: the step indexes for itself.
    let sampled = text.decode(&mut changing, 1200);
    assert!(changing.stats().index_bytes > 0);
    assert_ne!(exact, sampled);
    changing.truncate(1200).expect("truncate");
    changing.set_policy(Policy::Exact).expect("in range");
    assert_eq!(text.decode(&mut changing, 1200), exact);
}

#[test]
fn bad_arguments_are_refused_and_change_nothing() {
    let code = |result: Result<(), EngineError>| result.expect_err("refused").code();
    let mut session = session(SHAPE, 1, 0);
    for (k, l) in [(0, 150), (17, 150), (10, 1), (10, 1001)] {
        assert_eq!(code(session.set_policy(Policy::Lsh { k, l })), "INVALID_OPTION");
    }
    let (q, kv) = (vec![0.0; SHAPE.q_len()], vec![0.0; SHAPE.kv_len()]);
    let mut out = q.clone();
    assert_eq!(code(session.decode(2, &q, &kv, &kv, &mut out)), "INVALID_OPTION");
    assert_eq!(code(session.decode(0, &q[1..], &kv, &kv, &mut out)), "INVALID_OPTION");
    assert_eq!(code(session.decode(0, &q, &kv, &kv[1..], &mut out)), "INVALID_OPTION");
    assert_eq!(code(session.prefill(0, &[], &[], &[], &mut [], &AtomicBool::new(false))), "INVALID_OPTION");
    assert_eq!(code(session.truncate(1)), "INVALID_OPTION");
    assert_eq!(session.stats().row_bytes, 0);

    for shape in [
        Shape { layers: 0, ..SHAPE },
        Shape { heads: 7, ..SHAPE },
        Shape { kv_heads: 0, ..SHAPE },
        Shape { head_dim: 72, ..SHAPE },
    ] {
        let config = SessionConfig {
            shape,
            attention: Attention::default(),
            rows: RowType::Bf16,
            threads: 1,
            seed: 0,
            directory: std::env::temp_dir(),
        };
        assert_eq!(Session::new(config).expect_err("refused").code(), "INVALID_OPTION");
    }
    let directory = "/dev/null/nowhere".into();
    let config = SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 1,
        seed: 0,
        directory,
    };
    assert_eq!(Session::new(config).expect_err("refused").code(), "STORE_IO");
}

#[test]
fn a_cancelled_prefill_can_be_taken_back() {
    let text = Text { shape: SHAPE, seed: 7 };
    let mut session = session(SHAPE, 2, 0);
    text.prefill(&mut session, 0..100);
    let (q, k, v) = (text.q(0, 100), text.k(0, 100), text.v(0, 100));
    let cancelled = AtomicBool::new(true);
    let result = session.prefill(0, &q, &k, &v, &mut vec![0.0; q.len()], &cancelled);
    assert_eq!(result.expect_err("cancelled").code(), "ABORTED");
    session.truncate(100).expect("truncate");
    text.decode(&mut session, 100);
    assert_eq!(session.tokens(), 101);
}

const SKETCH: Policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.05), residual: false };

#[test]
fn sketch_is_the_same_on_any_number_of_threads() {
    let text = Text { shape: SHAPE, seed: 12 };
    let run = |threads| {
        let mut session = session(SHAPE, threads, 5);
        session.set_policy(SKETCH).expect("in range");
        // More keys than one thread takes alone.
        text.prefill(&mut session, 0..9000);
        session.build_index(&AtomicBool::new(false)).expect("index");
        let outputs: Vec<Vec<f32>> = (9000..9080).map(|token| text.decode(&mut session, token)).collect();
        (outputs, session.stats().sampled_rows)
    };
    let (one, sampled) = run(1);
    assert!(sampled > 0);
    assert_eq!((one, sampled), run(3));
}

#[test]
fn sketch_averages_to_exact_and_draws_what_its_budget_says() {
    let text = Text { shape: SHAPE, seed: 13 };
    const TOKENS: usize = 3000;
    let mut exact = session(SHAPE, 2, 0);
    text.prefill(&mut exact, 0..TOKENS);
    let exact = text.decode(&mut exact, TOKENS);
    let seeds = 40;
    let mut mean = vec![0.0; exact.len()];
    let (mut single, mut sampled, mut indexed) = (0.0, 0, 0);
    for seed in 0..seeds {
        let mut session = session(SHAPE, 2, seed);
        session
            .set_policy(Policy::Sketch { bits: 1, budget: Budget::Fraction(0.05), residual: false })
            .expect("in range");
        text.prefill(&mut session, 0..TOKENS);
        session.build_index(&AtomicBool::new(false)).expect("index");
        // Steps over the same token let the budget settle.
        for _ in 0..20 {
            text.decode(&mut session, TOKENS);
            session.truncate(TOKENS).expect("truncate");
        }
        session.reset_stats();
        let out = text.decode(&mut session, TOKENS);
        single += relative_l2(&out, &exact) / seeds as f32;
        mean.iter_mut().zip(&out).for_each(|(mean, out)| *mean += out / seeds as f32);
        sampled += session.stats().sampled_rows;
        indexed += session.stats().indexed_rows;
    }
    let averaged = relative_l2(&mean, &exact);
    assert!(averaged < single / 4.0, "single {single}, averaged {averaged}");
    let budget = sampled as f64 / indexed as f64;
    assert!((budget / 0.05 - 1.0).abs() < 0.05, "{budget} of the keys were drawn");
}

#[test]
fn a_budget_by_length_goes_with_the_root_of_the_keys() {
    let shape = Shape { layers: 1, heads: 2, kv_heads: 1, head_dim: 64 };
    let text = Text { shape, seed: 15 };
    for tokens in [1500, 6000] {
        let mut session = session(shape, 2, 1);
        session
            .set_policy(Policy::Sketch { bits: 4, budget: Budget::ByLength, residual: false })
            .expect("in range");
        text.prefill(&mut session, 0..tokens);
        session.build_index(&AtomicBool::new(false)).expect("index");
        let (mut sampled, mut indexed) = (0, 0);
        for step in 0..60 {
            session.reset_stats();
            text.decode(&mut session, tokens);
            session.truncate(tokens).expect("truncate");
            if step >= 30 {
                sampled += session.stats().sampled_rows;
                indexed += session.stats().indexed_rows;
            }
        }
        let keys = (indexed / 30 / 2) as f64;
        let drawn = sampled as f64 / indexed as f64;
        let wanted = 0.02 * (8192.0 / keys).sqrt();
        assert!((drawn / wanted - 1.0).abs() < 0.05, "{tokens} tokens: {drawn} drawn, {wanted} wanted");
    }
}

#[test]
fn sketch_keeps_up_with_generation_over_segments() {
    let shape = Shape { layers: 1, heads: 2, kv_heads: 1, head_dim: 64 };
    let text = Text { shape, seed: 14 };
    let mut session = session(shape, 1, 1);
    session
        .set_policy(Policy::Sketch { bits: 2, budget: Budget::Fraction(0.02), residual: false })
        .expect("in range");
    for token in 0..34_000 {
        text.decode(&mut session, token);
        let stats = session.stats();
        if token > 1000 {
            assert!(stats.indexed_tokens + WINDOW + 16 >= token, "{stats:?}");
        }
    }
    let indexed = session.stats().indexed_tokens;
    assert_eq!(
        session.stats().index_bytes,
        (indexed as u64 - 16) * 18 + 2 * 4 * 64,
        "16 rows are static, 18 bytes a key"
    );
    // A step that is taken back and taken again reads the same rows.
    let stats = |session: &Session| (session.stats().tokens, session.stats().indexed_tokens);
    let before = stats(&session);
    text.decode(&mut session, 34_000);
    session.truncate(34_000).expect("truncate");
    assert_eq!(stats(&session), before);
    session.truncate(20_000).expect("truncate");
    assert!(session.stats().indexed_tokens <= 20_000);
    let mut exact = vec![0.0; shape.q_len()];
    let (q, k, v) = (text.q(0, 20_000), text.k(0, 20_000), text.v(0, 20_000));
    session
        .set_policy(Policy::Sketch { bits: 2, budget: Budget::Fraction(1.0), residual: false })
        .expect("in range");
    let mut all = exact.clone();
    for _ in 0..60 {
        session.decode(0, &q, &k, &v, &mut all).expect("decode");
        session.truncate(20_000).expect("truncate");
    }
    session.set_policy(Policy::Exact).expect("in range");
    session.decode(0, &q, &k, &v, &mut exact).expect("decode");
    assert!(
        relative_l2(&all, &exact) < 0.02,
        "a budget of all keys draws nearly all: {}",
        relative_l2(&all, &exact)
    );
}

#[test]
fn sketch_options_out_of_range_are_refused() {
    let mut session = session(SHAPE, 1, 0);
    for (bits, budget) in [(0, 0.1), (3, 0.1), (16, 0.1), (4, 0.0), (4, 1.5), (4, f64::NAN)] {
        let refused =
            session.set_policy(Policy::Sketch { bits, budget: Budget::Fraction(budget), residual: false });
        assert!(matches!(refused, Err(EngineError::Invalid(_))), "{bits} {budget}");
    }
}

#[test]
fn a_layer_is_measured_with_figures_that_fit_each_other() {
    let config = SessionConfig {
        shape: Shape { layers: 1, heads: 4, kv_heads: 2, head_dim: 64 },
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 1,
        seed: 0,
        directory: std::env::temp_dir(),
    };
    let measure = |policy| engine::measure_attention(&config, 4096, policy, 1).expect("measured");
    let exact = measure(Policy::Exact);
    assert_eq!((exact.relative_l2, exact.budget), (0.0, 1.0));
    let (lsh, sketch) = (measure(Policy::Lsh { k: 10, l: 150 }), measure(SKETCH));
    for measured in [lsh, sketch] {
        assert!(measured.step >= measured.hash + measured.retrieve);
        assert!(measured.row_bytes == 4096 * 2 * 2 * 64 * 2 && measured.stream > 1e9);
        assert!(measured.relative_l2 > 0.0 && measured.relative_l2 < 1.0, "{measured:?}");
    }
    assert!(
        sketch.relative_l2 < lsh.relative_l2 && sketch.index_bytes_per_key < lsh.index_bytes_per_key / 5.0
    );
    assert!((sketch.budget / 0.05 - 1.0).abs() < 0.2, "{sketch:?}");
}
