//! Layers that attend a window, and capped scores: what is attended, and that such layers have no index.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use engine::{Access, Attention, Budget, EngineError, Folder, Policy, Session, SessionConfig, Shape};
use half::bf16;

mod support;

use support::Text;

const SHAPE: Shape = Shape { layers: 3, heads: 2, kv_heads: 1, head_dim: 256 };
/// Of the first and the last layer; the one between attends everything.
const WINDOWS: [usize; 2] = [48, 1000];
const CAP: f32 = 2.0;
const PROMPT: usize = 1200;
/// Steps after it.
const STEPS: usize = 16;
const SKETCH: Policy = Policy::Sketch { bits: 4, residual: false, budget: Budget::Fraction(0.05) };
const LSH: Policy = Policy::Lsh { k: 6, l: 40 };

fn config() -> SessionConfig {
    let windows = vec![Some(WINDOWS[0]), None, Some(WINDOWS[1])];
    SessionConfig {
        attention: Attention { windows, score_cap: Some(CAP), ..Attention::default() },
        ..support::config(SHAPE)
    }
}

fn open(path: &Path, policy: Policy) -> Session {
    let folder = Folder { path: path.to_owned(), model: Vec::new(), access: Access::Write, create: true };
    Session::open(&config(), &folder, policy).expect("a session")
}

/// What a layer's attention of a token is, in f64.
fn reference(text: &Text, layer: usize, token: usize, window: usize) -> Vec<f64> {
    let d = SHAPE.head_dim;
    let rounded = |x: f32| f64::from(bf16::from_f32(x).to_f32());
    let mut out = Vec::new();
    for q in text.q(layer, token).chunks_exact(d) {
        let weighed = (token.saturating_sub(window - 1)..=token).map(|position| {
            let k = text.k(layer, position);
            let product: f64 = q.iter().zip(&k).map(|(&q, &k)| f64::from(q) * rounded(k)).sum();
            let score = product / (d as f64).sqrt();
            let cap = f64::from(CAP);
            ((cap * (score / cap).tanh()).exp(), text.v(layer, position))
        });
        let (mut total, mut sum) = (0.0, vec![0.0; d]);
        for (weight, v) in weighed {
            total += weight;
            sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight * rounded(v));
        }
        out.extend(sum.into_iter().map(|sum| sum / total));
    }
    out
}

fn furthest(got: &[f32], want: &[f64]) -> f64 {
    got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max)
}

#[test]
fn a_window_is_what_is_attended_by_every_policy() {
    let text = Text { shape: SHAPE, seed: 21 };
    let verified =
        Policy::Sketch { bits: 4, residual: false, budget: Budget::Verified { epsilon: 0.05, delta: 0.1 } };
    for policy in [Policy::Exact, LSH, SKETCH, verified] {
        let mut session = Session::new(config()).expect("a session");
        session.set_policy(policy).expect("in range");
        let prefilled = text.prefill(&mut session, 0..PROMPT);
        let outputs = text.decode(&mut session, PROMPT);
        let width = SHAPE.q_len();
        for (layer, window) in [(0, WINDOWS[0]), (2, WINDOWS[1])] {
            let out = &outputs[layer * width..][..width];
            assert!(furthest(out, &reference(&text, layer, PROMPT, window)) < 1e-4, "{policy:?} {layer}");
            // The control: a row more, or all of them, is something else.
            assert!(furthest(out, &reference(&text, layer, PROMPT, window + 1)) > 1e-4);
            for token in [PROMPT - 1, window - 1, 7] {
                let out = &prefilled[layer][token * width..][..width];
                let off = furthest(out, &reference(&text, layer, token, window));
                assert!(off < 0.01, "prefill of token {token} in layer {layer}: {off}");
            }
        }
        // Where keys are drawn, a mean over steps is what has to be near.
        let mut off = vec![0.0; width];
        for token in PROMPT..PROMPT + STEPS {
            let out = if token == PROMPT { outputs.clone() } else { text.decode(&mut session, token) };
            let want = reference(&text, 1, token, usize::MAX);
            for (off, (&out, want)) in off.iter_mut().zip(out[width..2 * width].iter().zip(want)) {
                *off += (f64::from(out) - want) / STEPS as f64;
            }
        }
        let whole = off.iter().map(|off| off.abs()).fold(0.0, f64::max);
        assert!(whole < if policy == Policy::Exact { 1e-4 } else { 0.2 }, "{policy:?}: {whole}");
    }
}

#[test]
fn only_a_layer_that_attends_everything_has_an_index() {
    let text = Text { shape: SHAPE, seed: 22 };
    let bytes = |attention: Attention, policy| {
        let mut session = Session::new(SessionConfig { attention, ..config() }).expect("a session");
        session.set_policy(policy).expect("in range");
        text.prefill(&mut session, 0..PROMPT);
        session.build_index(&AtomicBool::new(false)).expect("not cancelled");
        text.decode(&mut session, PROMPT);
        let stats = session.stats();
        assert!(stats.indexed_tokens > PROMPT - 400, "{stats:?}");
        (stats.index_bytes, stats.rows_read)
    };
    for policy in [LSH, SKETCH] {
        let (local, read) = bytes(config().attention, policy);
        let (all, _) = bytes(Attention::default(), policy);
        assert!(local > 0 && local < all / 2, "{local} bytes, and {all} where all layers have an index");
        assert!(read >= (SHAPE.heads * (WINDOWS[0] + WINDOWS[1])) as u64, "{read}");
    }
}

#[test]
fn opened_again_it_goes_on_bit_for_bit() {
    let text = Text { shape: SHAPE, seed: 23 };
    let step = |session: &mut Session, token: usize| {
        let out = text.decode(session, token);
        session.push_tokens(&[token as u32]).expect("it has a row");
        out
    };
    for policy in [LSH, SKETCH] {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("session");
        let mut session = open(&path, policy);
        text.prefill(&mut session, 0..PROMPT);
        session.push_tokens(&(0..PROMPT as u32).collect::<Vec<_>>()).expect("they have rows");
        session.build_index(&AtomicBool::new(false)).expect("not cancelled");
        step(&mut session, PROMPT);
        session.commit().expect("room on the disk");
        let want: Vec<_> = (PROMPT + 1..PROMPT + 40).map(|token| step(&mut session, token)).collect();
        drop(session);
        let mut session = open(&path, policy);
        let got: Vec<_> = (PROMPT + 1..PROMPT + 40).map(|token| step(&mut session, token)).collect();
        assert!(want == got, "{policy:?}");
    }
}

#[test]
fn windows_and_caps_out_of_range_are_refused() {
    for attention in [
        Attention { windows: vec![Some(0)], score_cap: None, ..Attention::default() },
        Attention { windows: vec![None; 4], score_cap: None, ..Attention::default() },
        Attention { windows: Vec::new(), score_cap: Some(0.0), ..Attention::default() },
        Attention { windows: Vec::new(), score_cap: Some(f32::NAN), ..Attention::default() },
    ] {
        let refused = Session::new(SessionConfig { attention: attention.clone(), ..config() });
        assert!(matches!(refused, Err(EngineError::Invalid(_))), "{attention:?}");
    }
}
