//! Heads that matter more are drawn from more, for the same number of keys.

use std::sync::atomic::AtomicBool;

use engine::{Attention, Budget, EngineError, Policy, Session, SessionConfig, Shape};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const TOKENS: usize = 3000;
const POLICY: Policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.02), residual: false };

fn config(importance: Vec<f32>) -> SessionConfig {
    SessionConfig { attention: Attention { importance, ..Attention::default() }, ..support::config(SHAPE) }
}

/// The mean squared distances from exact outputs, of the heads of either KV head, and how many rows were drawn.
fn errors(text: &Text, importance: Vec<f32>) -> ([f32; 2], u64) {
    const STEPS: usize = 64;
    let mut session = Session::new(config(importance)).expect("a session");
    text.prefill(&mut session, 0..TOKENS);
    let run = |session: &mut Session, policy| {
        session.set_policy(policy).expect("in range");
        session.build_index(&AtomicBool::new(false)).expect("not cancelled");
        let outputs: Vec<Vec<f32>> =
            (TOKENS..TOKENS + STEPS).map(|token| text.decode(session, token)).collect();
        session.truncate(TOKENS).expect("truncate");
        outputs
    };
    let exact = run(&mut session, Policy::Exact);
    // Once for the steering to settle.
    run(&mut session, POLICY);
    let before = session.stats().sampled_rows;
    let sampled = run(&mut session, POLICY);
    let mut squares = [0.0; 2];
    for (sampled, exact) in sampled.iter().zip(&exact) {
        let layers = sampled.chunks_exact(SHAPE.q_len()).zip(exact.chunks_exact(SHAPE.q_len()));
        for (sampled, exact) in layers {
            for (half, square) in squares.iter_mut().enumerate() {
                let part = half * SHAPE.q_len() / 2..(half + 1) * SHAPE.q_len() / 2;
                let distances = sampled[part.clone()].iter().zip(&exact[part]).map(|(a, b)| (a - b).powi(2));
                *square += distances.sum::<f32>();
            }
        }
    }
    (squares, session.stats().sampled_rows - before)
}

#[test]
fn it_moves_draws_between_heads_and_not_their_number() {
    let text = Text { shape: SHAPE, seed: 31 };
    let of = |first: f32, second: f32| -> Vec<f32> {
        (0..SHAPE.layers * SHAPE.heads)
            .map(|head| if head % SHAPE.heads < SHAPE.heads / 2 { first } else { second })
            .collect()
    };
    let (alike, rows) = errors(&text, Vec::new());
    let (ones, same_rows) = errors(&text, of(1.0, 1.0));
    assert_eq!((alike, rows), (ones, same_rows), "all the same is as none given");
    let (first, first_rows) = errors(&text, of(1.5, 0.5));
    let (second, second_rows) = errors(&text, of(0.5, 1.5));
    for rows_now in [first_rows, second_rows] {
        let ratio = rows_now as f64 / rows as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio} of the rows");
    }
    // Three times the draws are a third of the squared error, and less where keys are certain to be drawn: half is far from noise.
    let [gain, loss] = [first[0] / second[0], second[1] / first[1]];
    assert!(
        gain < 0.6 && loss < 0.6,
        "squared errors of the important heads, of what they were: {gain}, {loss}"
    );
    assert!(first[0] < alike[0] && first[1] > alike[1], "{first:?}, alike {alike:?}");
}

#[test]
fn importance_out_of_range_is_refused() {
    let heads = SHAPE.layers * SHAPE.heads;
    for importance in
        [vec![1.0; heads - 1], vec![0.0; heads], vec![f32::NAN; heads], vec![f32::INFINITY; heads]]
    {
        let refused = Session::new(config(importance.clone()));
        assert!(matches!(refused, Err(EngineError::Invalid(_))), "{importance:?}");
    }
}
