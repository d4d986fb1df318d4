//! Sessions that are attended together in a layer: each gets to the bit what it gets alone, and nobody's failure is another's.

use std::sync::atomic::{AtomicBool, Ordering};

use engine::{
    AttendRow, Attention, Budget, EngineError, Policy, RowType, Session, SessionConfig, Shape, attend_batch,
};

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 2, heads: 6, kv_heads: 2, head_dim: 64 };
const STEPS: usize = 6;

/// Lengths and policies: of the sessions of a batch some are attended by all threads, others by one.
const MEMBERS: [(usize, Policy, RowType); 6] = [
    (900, Policy::Sketch { bits: 4, budget: Budget::ByLength, residual: false }, RowType::Bf16),
    (4000, Policy::Sketch { bits: 2, budget: Budget::Fraction(0.05), residual: true }, RowType::Bf16),
    (1500, Policy::Lsh { k: 6, l: 40 }, RowType::Bf16),
    (40, Policy::Exact, RowType::Bf16),
    (700, Policy::Exact, RowType::Int8),
    (1, Policy::Lsh { k: 6, l: 40 }, RowType::Bf16),
];

fn text(member: usize) -> Text {
    Text { shape: SHAPE, seed: 100 + member as u64 }
}

fn sessions(threads: usize) -> Vec<Session> {
    let of = |(member, (tokens, policy, rows)): (usize, (usize, Policy, RowType))| {
        let directory = std::env::temp_dir();
        let attention = Attention::default();
        let config = SessionConfig { shape: SHAPE, rows, threads, seed: member as u64, directory, attention };
        let mut session = Session::new(config).expect("a session");
        session.set_policy(policy).expect("in range");
        text(member).prefill(&mut session, 0..tokens);
        session.build_index(&AtomicBool::new(false)).expect("not cancelled");
        session
    };
    MEMBERS.into_iter().enumerate().map(of).collect()
}

/// A layer's attention of the token at `step` of each session's text, and the outcomes; NaN where nothing was written.
fn together(
    sessions: &mut [Session],
    layer: usize,
    step: usize,
    cancels: &[AtomicBool],
) -> (Vec<Vec<f32>>, Vec<Result<(), EngineError>>) {
    let inputs: Vec<_> = (0..sessions.len())
        .map(|member| {
            let (text, position) = (text(member), MEMBERS[member].0 + step);
            (text.q(layer, position), text.k(layer, position), text.v(layer, position))
        })
        .collect();
    let mut outs = vec![vec![f32::NAN; SHAPE.q_len()]; sessions.len()];
    let mut rows: Vec<_> = sessions
        .iter_mut()
        .zip(&inputs)
        .zip(&mut outs)
        .zip(cancels)
        .map(|(((session, (q, k, v)), out), cancel)| AttendRow { session, q, k, v, out, cancel })
        .collect();
    let outcomes = attend_batch(layer, &mut rows).expect("threads");
    (outs, outcomes)
}

fn nobody() -> [AtomicBool; MEMBERS.len()] {
    std::array::from_fn(|_| AtomicBool::new(false))
}

/// `[step][member]`, the outputs of all layers one after the other.
fn steps_together(sessions: &mut [Session]) -> Vec<Vec<Vec<f32>>> {
    let step = |step| {
        let mut outputs = vec![Vec::new(); sessions.len()];
        for layer in 0..SHAPE.layers {
            let (outs, outcomes) = together(sessions, layer, step, &nobody());
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            outputs.iter_mut().zip(outs).for_each(|(all, out)| all.extend(out));
        }
        outputs
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn each_gets_to_the_bit_what_it_gets_alone() {
    let mut alone = sessions(2);
    let expected: Vec<Vec<Vec<f32>>> = (0..STEPS)
        .map(|step| {
            let one = |(member, session): (usize, &mut Session)| {
                text(member).decode(session, MEMBERS[member].0 + step)
            };
            alone.iter_mut().enumerate().map(one).collect()
        })
        .collect();
    for threads in [1, 3] {
        let mut batch = sessions(threads);
        assert_eq!(steps_together(&mut batch), expected, "{threads} threads");
        for (own, other) in alone.iter().zip(&batch) {
            let (own, other) = (own.stats(), other.stats());
            assert_eq!((own.tokens, own.rows_read), (other.tokens, other.rows_read));
            assert!(!other.attend_time.is_zero());
        }
    }
    // Negative control: over one key that is another's the same queries get something else.
    let mut other = sessions(2);
    let token = MEMBERS[0].0;
    for layer in 0..SHAPE.layers {
        let (k, v) = (text(1).k(layer, token), text(1).v(layer, token));
        other[0].append(layer, &k, &v).expect("stored");
    }
    let got = steps_together(&mut other);
    assert_ne!(got[0][0], expected[0][0]);
    assert_eq!(got[0][1..], expected[0][1..]);
}

#[test]
fn who_fails_stays_behind_with_zeros_and_the_others_go_on() {
    let (mut batch, mut whole) = (sessions(2), sessions(2));
    let cancels = nobody();
    cancels[2].store(true, Ordering::Relaxed);
    let (expected, _) = together(&mut whole, 0, 0, &nobody());
    let (outs, outcomes) = together(&mut batch, 0, 0, &cancels);
    for (member, outcome) in outcomes.iter().enumerate() {
        if member == 2 {
            assert!(matches!(outcome, Err(EngineError::Cancelled)), "{outcome:?}");
            assert_eq!(outs[member], vec![0.0; SHAPE.q_len()]);
        } else {
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(outs[member], expected[member]);
        }
    }
    // Nothing was appended to it: it takes the same token later.
    let (text, position) = (text(2), MEMBERS[2].0);
    let mut out = vec![0.0; SHAPE.q_len()];
    batch[2]
        .decode(0, &text.q(0, position), &text.k(0, position), &text.v(0, position), &mut out)
        .expect("decoded");
    assert_eq!(out, expected[2]);
}

#[test]
fn a_layer_that_is_not_there_is_everyones_failure_and_a_batch_may_be_empty() {
    let mut batch = sessions(2);
    let (outs, outcomes) = together(&mut batch, SHAPE.layers, 0, &nobody());
    for (out, outcome) in outs.iter().zip(outcomes) {
        assert!(matches!(outcome, Err(EngineError::Invalid(_))), "{outcome:?}");
        assert_eq!(*out, vec![0.0; SHAPE.q_len()]);
    }
    assert!(attend_batch(0, &mut []).expect("nobody").is_empty());
}
