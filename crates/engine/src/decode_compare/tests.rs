//! The rules on numbers, and over rows of a store.

use lsh_attn::kernels::Kernels;
use lsh_attn::mix::{derive_seed, normals};
use lsh_attn::rows::RowType;
use proptest::prelude::*;

use super::*;
use crate::config::{Attention, Shape};
use crate::storage::{Layout, Storage};

const SHAPE: Shape = Shape { layers: 1, heads: 2, kv_heads: 1, head_dim: 64 };

/// A store of one KV head with `tokens` rows, roughly normal.
fn storage(tokens: usize) -> Storage {
    let layout =
        Layout { shape: SHAPE, row_type: RowType::Bf16, tables: None, attention: Attention::default() };
    let mut storage = Storage::ephemeral(&std::env::temp_dir(), layout).expect("a store");
    let mut row = vec![0; 128];
    for token in 0..tokens {
        let numbers = normals(derive_seed(7, token as u64), 128);
        RowType::Bf16.encode(&numbers[..64], &numbers[64..], &mut row);
        storage.write_rows(0, 0, token, &row).expect("room");
    }
    storage
}

fn step(storage: &Storage, tokens: usize) -> Step<'_> {
    let kernels = Kernels::detect().expect("kernels");
    Step {
        shape: SHAPE,
        kernels,
        storage,
        layer: 0,
        tokens,
        window: usize::MAX,
        score_cap: None,
        importance: &[],
        draws: None,
    }
}

fn key(storage: &Storage, token: usize) -> Vec<f32> {
    let mut key = vec![0.0; 64];
    storage.rows(0, 0, token / SEGMENT_ROWS).key(token % SEGMENT_ROWS, &mut key);
    key
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

proptest! {
    #[test]
    fn the_greatest_are_taken(values in prop::collection::vec(-9.0f32..9.0, 1..80), share in 0.0f64..1.0) {
        let wanted = 1 + (share * (values.len() - 1) as f64) as usize;
        let chosen = greatest(&values, wanted);
        prop_assert_eq!(chosen.len(), wanted);
        let least = chosen.iter().map(|&(place, _)| values[place]).fold(f32::INFINITY, f32::min);
        let taken = |place: usize| chosen.iter().any(|&(other, _)| other == place);
        prop_assert!((0..values.len()).all(|place| taken(place) || values[place] <= least));
        prop_assert!(chosen.iter().all(|&(_, ln_pi)| ln_pi == 0.0));
    }

    #[test]
    fn inclusion_sums_to_what_is_wanted_and_goes_with_the_weights(
        scores in prop::collection::vec(-30.0f32..30.0, 2..200), share in 0.0f64..1.0,
    ) {
        let wanted = 1 + (share * (scores.len() - 1) as f64) as usize;
        let pi = inclusion(&scores, wanted);
        prop_assert!((pi.iter().sum::<f64>() - wanted as f64).abs() < 1e-6 * wanted as f64);
        prop_assert!(pi.iter().all(|&pi| pi > 0.0 && pi <= 1.0));
        for (a, pi_a) in scores.iter().zip(&pi) {
            for (b, pi_b) in scores.iter().zip(&pi).filter(|(_, pi)| **pi < 1.0) {
                let ratio = (f64::from(*a) - f64::from(*b)).exp();
                let proportional = (pi_a / pi_b / ratio - 1.0).abs() < 1e-6;
                let cut_off = *pi_a == 1.0 && ratio * pi_b > 1.0 - 1e-6;
                prop_assert!(proportional || cut_off, "{pi_a} of {a} and {pi_b} of {b}");
            }
        }
    }
}

#[test]
fn every_key_is_drawn_as_often_as_its_probability_says() {
    let scores: Vec<f32> = normals(3, 60).iter().map(|x| 2.0 * x).collect();
    let pi = inclusion(&scores, 6);
    // Starts on a fine grid: what is counted is an integral, not a sample.
    const STARTS: usize = 20_000;
    let mut counts = vec![0usize; scores.len()];
    for start in 0..STARTS {
        let chosen = drawn(&scores, 6, (start as f64 + 0.5) / STARTS as f64);
        assert!((5..=7).contains(&chosen.len()));
        for (place, ln_pi) in chosen {
            counts[place] += 1;
            assert!((f64::from(ln_pi) - pi[place].ln()).abs() < 1e-5);
        }
    }
    for (place, (&count, pi)) in counts.iter().zip(&pi).enumerate() {
        assert!(
            (count as f64 / STARTS as f64 - pi).abs() < 2.0 / STARTS as f64 + 1e-9,
            "key {place}: {count}, {pi}"
        );
    }
}

#[test]
fn the_oracle_is_unbiased_and_a_softened_probability_is_not() {
    const TOKENS: usize = 800;
    let storage = storage(TOKENS);
    let step = step(&storage, TOKENS);
    let q: Vec<f32> = normals(11, 64).iter().map(|x| x * 0.4).collect();
    let scores = scores(step, 0, 0..TOKENS, &q);
    let reference = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // den and the first element of num, relative to e^reference.
    let sums = |partial: &Partial| {
        let scale = f64::from(partial.max(0) - reference).exp();
        [f64::from(partial.den(0)) * scale, f64::from(partial.num(0)[0]) * scale]
    };
    let everything: Vec<Chosen> = (0..TOKENS).map(|key| (key, 0.0)).collect();
    let exact = sums(&attend_chosen(step, 0, 0, &q, &everything));
    // Each start of the line is as likely as another.
    const STARTS: usize = 4000;
    let mean = |soften: f32| {
        let mut mean = [0.0; 2];
        for start in 0..STARTS {
            let mut chosen = drawn(&scores, 20, (start as f64 + 0.5) / STARTS as f64);
            chosen.iter_mut().for_each(|(_, ln_pi)| *ln_pi = (ln_pi.exp() + soften).ln());
            let sums = sums(&attend_chosen(step, 0, 0, &q, &chosen));
            mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += sum / STARTS as f64);
        }
        mean
    };
    let error = |mean: [f64; 2]| {
        mean.iter().zip(exact).map(|(mean, exact)| (mean / exact - 1.0).abs()).fold(0.0, f64::max)
    };
    let (unbiased, softened) = (error(mean(0.0)), error(mean(1e-2)));
    assert!(unbiased < 0.01, "{unbiased}");
    assert!(softened > 0.02, "the control: {softened}");
}

#[test]
fn no_score_of_a_page_exceeds_its_bound_and_some_exceed_a_mean() {
    let storage = storage(33_000);
    let step = step(&storage, 33_000);
    let q = normals(12, 128);
    // Over the end of a segment, and with a last page that is not full.
    let range = 32_000..32_999;
    let bounds = page_bounds(step, 0, range.clone(), &q);
    let pages = range.len().div_ceil(PAGE_KEYS);
    let (mut exceeding, mut tight) = (0, 0);
    for (query, q) in q.chunks_exact(64).enumerate() {
        for (place, token) in range.clone().enumerate() {
            let (score, bound) = (dot(q, &key(&storage, token)), bounds[query * pages + place / PAGE_KEYS]);
            assert!(score <= bound + 1e-3, "query {query}, token {token}: {score} above {bound}");
            // The control: a bound of half the size would be none. And it is not just a large number.
            exceeding += usize::from(score > bound * 0.25);
            tight += usize::from(bound < 64.0 * 3.5);
        }
    }
    assert!(exceeding > 0 && tight > 0, "{exceeding} {tight}");
}

#[test]
fn scores_are_those_of_the_keys_over_segments() {
    let storage = storage(33_000);
    let step = step(&storage, 33_000);
    let q = normals(13, 128);
    let range = 32_700..32_800;
    let scores = scores(step, 0, range.clone(), &q);
    for (query, q) in q.chunks_exact(64).enumerate() {
        for (place, token) in range.clone().enumerate() {
            let expected = dot(q, &key(&storage, token));
            assert!((scores[query * range.len() + place] - expected).abs() < 1e-3, "{token}");
        }
    }
}
