//! Residual correction in sessions: closer than the sample alone, by any number of threads, as often as it is asked for.

use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, Policy, RowType, Session, SessionConfig, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;

fn sketch(residual: bool) -> Policy {
    Policy::Sketch { bits: 4, budget: Budget::Fraction(0.02), residual }
}

fn session(threads: usize, seed: u64, policy: Policy) -> Session {
    let directory = std::env::temp_dir();
    let config = SessionConfig {
        shape: SHAPE,
        rows: RowType::Bf16,
        threads,
        seed,
        directory,
        attention: Attention::default(),
    };
    let mut session = Session::new(config).expect("a session");
    session.set_policy(policy).expect("in range");
    session
}

fn index(text: &Text, session: &mut Session) {
    text.prefill(session, 0..TOKENS);
    session.build_index(&AtomicBool::new(false)).expect("not cancelled");
}

/// |a - b| / |b|
fn relative_l2(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

#[test]
fn it_is_closer_with_the_same_rows_and_averages_to_exact() {
    let text = Text { shape: SHAPE, seed: 21 };
    let mut session = session(2, 0, sketch(false));
    index(&text, &mut session);
    session.set_policy(Policy::Exact).expect("in range");
    let exact = text.decode(&mut session, TOKENS);
    session.truncate(TOKENS).expect("truncate");
    // A mean over draws, and their mean error. Seeds of draws and rotations change together.
    let mut averaged = |residual: bool| {
        const SEEDS: u64 = 30;
        let (mut mean, mut single) = (vec![0.0; exact.len()], 0.0);
        for seed in 0..SEEDS {
            session.reseed(seed).expect("in memory");
            session.set_policy(sketch(residual)).expect("in range");
            session.build_index(&AtomicBool::new(false)).expect("not cancelled");
            let out = text.decode(&mut session, TOKENS);
            session.truncate(TOKENS).expect("truncate");
            single += relative_l2(&out, &exact) / SEEDS as f32;
            mean.iter_mut().zip(&out).for_each(|(mean, out)| *mean += out / SEEDS as f32);
        }
        (single, relative_l2(&mean, &exact))
    };
    let ((alone, _), (corrected, mean)) = (averaged(false), averaged(true));
    assert!(corrected < alone / 3.0, "corrected {corrected}, alone {alone}");
    assert!(mean < corrected / 4.0, "one draw {corrected}, their mean {mean}");
}

#[test]
fn it_is_the_same_on_any_number_of_threads_and_as_it_grows() {
    let text = Text { shape: SHAPE, seed: 22 };
    let run = |threads| {
        let mut session = session(threads, 5, sketch(true));
        index(&text, &mut session);
        let outputs: Vec<Vec<f32>> =
            (TOKENS..TOKENS + 40).map(|token| text.decode(&mut session, token)).collect();
        (outputs, session.stats().sampled_rows, session.stats().index_bytes)
    };
    let (outputs, sampled, bytes) = run(1);
    assert!(sampled > 0);
    assert_eq!((outputs, sampled, bytes), run(3));
    let alone = {
        let mut session = session(2, 5, sketch(false));
        index(&text, &mut session);
        (TOKENS..TOKENS + 40).for_each(|token| drop(text.decode(&mut session, token)));
        session.stats().index_bytes
    };
    let centres = (SHAPE.layers * SHAPE.kv_heads * 4 * SHAPE.head_dim) as u64;
    assert_eq!(bytes - centres, 2 * (alone - centres), "a copy of K and one of V");
}

#[test]
fn capped_scores_are_refused() {
    let attention = Attention { score_cap: Some(50.0), ..Attention::default() };
    let directory = std::env::temp_dir();
    let config =
        SessionConfig { shape: SHAPE, rows: RowType::Bf16, threads: 1, seed: 1, directory, attention };
    let mut session = Session::new(config).expect("a session");
    let policy = |residual| Policy::Sketch { bits: 4, residual, budget: Budget::ByLength };
    assert!(session.set_policy(policy(true)).is_err());
    session.set_policy(policy(false)).expect("without correction");
}
