//! The `sketch` proposal: kernels bit-exact across instruction sets, inclusion equal to pi, and unbiased sums.

use lsh_attn::hash::Lanes;
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::mix::{derive_seed, mix64};
use lsh_attn::rows::widen;
use lsh_attn::sketch::{BLOCK_KEYS, Draw, QueryCodes, SKETCH_BITS, SketchIndex, SketchPlan, attend_drawn};
use lsh_attn::softmax::Partial;

use crate::kernels::on_each_isa;
use crate::support::{Random, bf16, rows};

pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Keys with a common part, and queries that lean towards some of them.
pub(crate) struct Scene {
    pub dim: usize,
    pub queries: usize,
    pub q: Vec<f32>,
    pub rows: Vec<u16>,
    pub count: usize,
    pub centre: Vec<f32>,
}

impl Scene {
    pub fn new(dim: usize, queries: usize, count: usize) -> Scene {
        let mut random = Random::new(dim as u64);
        let common = random.normals(dim);
        let topic = random.normals(dim);
        let mut keys = Vec::new();
        for key in 0..count {
            let lean = if key % 23 == 0 { 1.2 } else { 0.1 };
            keys.extend((0..dim).map(|j| common[j] * 2.0 + topic[j] * lean + random.normal()));
        }
        let values: Vec<f32> = random.normals(count * dim).iter().map(|v| v + 1.0).collect();
        let scale = 2.0 / (dim as f32).sqrt();
        let q = (0..queries * dim).map(|i| (topic[i % dim] * 0.5 + random.normal()) * scale).collect();
        Scene {
            dim,
            queries,
            q,
            rows: rows(&keys, &values, dim),
            count,
            centre: common.iter().map(|c| 2.0 * c).collect(),
        }
    }

    pub fn row(&self, id: usize) -> &[u16] {
        &self.rows[id * 2 * self.dim..][..2 * self.dim]
    }

    pub fn score(&self, query: usize, id: usize) -> f32 {
        let key: Vec<f32> = self.row(id)[..self.dim].iter().map(|&k| widen(k)).collect();
        dot(&self.q[query * self.dim..][..self.dim], &key)
    }
}

/// Everything a step makes of a scene before it draws.
struct Step {
    blocks: Vec<u8>,
    /// `[blocks, queries, 16]`, bf16
    weights: Vec<u16>,
    totals: Vec<f32>,
}

fn scan(kernels: Kernels, scene: &Scene, bits: u32) -> Step {
    let plan = SketchPlan::new(scene.dim, bits, 3);
    let mut index = SketchIndex::new(0, scene.centre.clone());
    let mut blocks = Vec::new();
    index.extend(kernels, &plan, bf16(&scene.rows, scene.dim), scene.count, &mut blocks);
    let mut codes = QueryCodes::default();
    codes.encode(kernels, &plan, &scene.q);
    let offsets: Vec<f32> = scene.q.chunks_exact(scene.dim).map(|q| dot(q, &scene.centre) * LOG2_E).collect();
    let mut weights = vec![0; index.count() * scene.queries * BLOCK_KEYS];
    let mut totals = vec![0.0; scene.queries];
    let queries = codes.queries(0, &offsets);
    kernels.sketch_weights(bits, plan.padded_dim(), &blocks, queries, &mut weights, &mut totals);
    Step { blocks, weights, totals }
}

impl Step {
    /// The estimated weight of a key.
    fn weight(&self, query: usize, id: usize) -> f32 {
        let block = id / BLOCK_KEYS * self.totals.len() + query;
        widen(self.weights[block * BLOCK_KEYS + id % BLOCK_KEYS])
    }

    fn coefficients(&self, lambda: f32) -> Vec<f32> {
        self.totals.iter().map(|total| lambda / total).collect()
    }

    /// The probability that a key is drawn.
    fn pi(&self, coefficients: &[f32], floor: f32, id: usize) -> f32 {
        let square = |(query, coefficient): (usize, &f32)| (self.weight(query, id) * coefficient).powi(2);
        (coefficients.iter().enumerate().map(square).sum::<f32>().sqrt() + floor).min(1.0)
    }
}

#[test]
fn isa_sketch_is_bit_exact() {
    let scalar = Kernels::of(Isa::Scalar).expect("always there");
    on_each_isa("sketch", |kernels| {
        for dim in [64, 80, 96, 128, 256] {
            for queries in [1, 3, 4, 5, 8] {
                let scene = Scene::new(dim, queries, 16 * 9);
                for bits in SKETCH_BITS {
                    let (want, got) = (scan(scalar, &scene, bits), scan(kernels, &scene, bits));
                    assert_eq!(want.blocks, got.blocks, "{kernels:?} d {dim} {bits} bits");
                    assert_eq!(want.weights, got.weights, "{kernels:?} d {dim} {bits} bits");
                    assert_eq!(want.totals, got.totals, "{kernels:?} d {dim} {bits} bits");
                    let coefficients = want.coefficients(8.0);
                    let of = |kernels| drawn(kernels, &want, &coefficients, 1e-3, dim as u64);
                    assert_eq!(of(scalar), of(kernels), "{kernels:?} d {dim} {bits} bits");
                }
            }
        }
        let mut x: Vec<Lanes> = (0..64).map(|i| Lanes([i as f32; 16])).collect();
        let mut y = x.clone();
        let signs: Vec<f32> = (0..128).map(|i| if i % 3 == 0 { 0.125 } else { -0.125 }).collect();
        scalar.rotate(&signs, &mut x);
        kernels.rotate(&signs, &mut y);
        assert!(x.iter().zip(&y).all(|(x, y)| x.0 == y.0));
    });
}

#[test]
fn more_bits_estimate_scores_better() {
    let kernels = Kernels::detect().expect("a kernel");
    for dim in [64, 128] {
        let scene = Scene::new(dim, 3, 1600);
        let error = |bits: u32| {
            let scanned = scan(kernels, &scene, bits);
            let mut squares = 0.0;
            for query in 0..scene.queries {
                for id in 0..scene.count {
                    squares += (scanned.weight(query, id).ln() - scene.score(query, id)).powi(2);
                }
            }
            (squares / (scene.count * scene.queries) as f32).sqrt()
        };
        let spread = {
            let scores: Vec<f32> = (0..scene.count).map(|id| scene.score(0, id)).collect();
            let mean = scores.iter().sum::<f32>() / scores.len() as f32;
            (scores.iter().map(|s| (s - mean).powi(2)).sum::<f32>() / scores.len() as f32).sqrt()
        };
        let [one, two, four, eight] = SKETCH_BITS.map(|bits| error(bits) / spread);
        let errors = format!("d {dim}: {one} {two} {four} {eight}");
        assert!(eight < 0.03 && four < 0.17 && two < 0.5 && one < 1.1, "{errors}");
        assert!(eight < 0.25 * four && four < 0.45 * two && two < 0.7 * one, "{errors}");
    }
}

#[test]
fn grown_in_pieces_is_made_at_once_and_truncating_takes_back() {
    let kernels = Kernels::detect().expect("a kernel");
    let scene = Scene::new(64, 1, 500);
    let plan = SketchPlan::new(64, 4, 1);
    let (mut whole, mut blocks) = (SketchIndex::new(4, scene.centre.clone()), Vec::new());
    whole.extend(kernels, &plan, bf16(&scene.rows, scene.dim), 500, &mut blocks);
    assert_eq!(whole.end(), 4 + 31 * BLOCK_KEYS, "whole blocks only");
    let (mut pieces, mut grown) = (SketchIndex::new(4, scene.centre.clone()), Vec::new());
    for end in [3, 20, 21, 300, 299, 500] {
        pieces.extend(kernels, &plan, bf16(&scene.rows, scene.dim), end, &mut grown);
        assert!(pieces.end() <= end.max(4));
    }
    assert_eq!(grown, blocks);
    pieces.truncate(300);
    assert_eq!(pieces.end(), 4 + 18 * BLOCK_KEYS);
    grown.truncate(pieces.count() * plan.block_bytes());
    pieces.extend(kernels, &plan, bf16(&scene.rows, scene.dim), 500, &mut grown);
    assert_eq!(grown, blocks);
    pieces.truncate(0);
    assert_eq!((pieces.end(), pieces.count()), (4, 0));
}

pub(crate) fn uniform(seed: u64) -> f64 {
    (mix64(derive_seed(77, seed)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Ids and ln pi of one draw, and how many were expected.
fn drawn(
    kernels: Kernels,
    step: &Step,
    coefficients: &[f32],
    floor: f32,
    seed: u64,
) -> (Vec<u16>, Vec<f32>, f64) {
    let (mut ids, mut ln_pi) = (Vec::new(), Vec::new());
    let how = Draw { coefficients, floor, start: uniform(seed), first: 0 };
    let expected = kernels.draw_keys(&step.weights, how, &mut ids, &mut ln_pi);
    (ids, ln_pi, expected)
}

#[test]
fn inclusion_is_pi_for_every_key() {
    let kernels = Kernels::detect().expect("a kernel");
    let scene = Scene::new(64, 3, 800);
    let scanned = scan(kernels, &scene, 2);
    let (coefficients, floor) = (scanned.coefficients(20.0), 1e-3);
    const DRAWS: u64 = 20_000;
    let mut counts = vec![0u32; scene.count];
    let mut total = 0;
    let mut expected = 0.0;
    for seed in 0..DRAWS {
        let (ids, ln_pi, most_likely) = drawn(kernels, &scanned, &coefficients, floor, seed);
        expected = most_likely;
        total += ids.len();
        assert!(
            (ids.len() as f64 - most_likely).abs() < 1.0 + 1e-3,
            "systematic: {} of {most_likely}",
            ids.len()
        );
        assert!(ids.is_sorted_by(|a, b| a < b));
        for (&id, ln_pi) in ids.iter().zip(ln_pi) {
            counts[usize::from(id)] += 1;
            let pi = scanned.pi(&coefficients, floor, usize::from(id));
            assert!((ln_pi.exp() / pi - 1.0).abs() < 1e-4);
        }
    }
    let mut sum = 0.0;
    let mut certain = 0;
    for (id, &count) in counts.iter().enumerate() {
        let pi = f64::from(scanned.pi(&coefficients, floor, id));
        sum += pi;
        certain += u32::from(pi == 1.0);
        let error = (pi * (1.0 - pi) / DRAWS as f64).sqrt();
        let measured = f64::from(count) / DRAWS as f64;
        assert!((measured - pi).abs() <= 4.5 * error + 1e-4, "key {id}: {measured} is not {pi}");
    }
    assert!(certain > 0 && certain < 30, "{certain} keys are always drawn");
    assert!((sum - expected).abs() < 1e-2 && (total as f64 / DRAWS as f64 - sum).abs() < 0.02);
}

/// How many standard errors the mean of num and den over 2,000 draws is off, worst over queries, with pi replaced by
/// `known_as(pi)` in the estimator.
fn worst_deviation(bits: u32, cap: Option<f32>, known_as: impl Fn(f32) -> f32) -> f64 {
    let kernels = Kernels::detect().expect("a kernel");
    let scene = Scene::new(64, 3, 1600);
    let scanned = scan(kernels, &scene, bits);
    let (coefficients, floor) = (scanned.coefficients(25.0), 5e-4);
    let direction = vec![1.0; scene.dim];
    let mut estimates = vec![Vec::new(); 2 * scene.queries];
    for seed in 0..2000 {
        let (ids, ln_pi, _) = drawn(kernels, &scanned, &coefficients, floor, seed);
        let known: Vec<f32> = ln_pi.iter().map(|ln_pi| known_as(ln_pi.exp()).ln()).collect();
        let mut partial = Partial::new(scene.queries, scene.dim).with_cap(cap);
        let drawn = (ids.as_slice(), known.as_slice());
        attend_drawn(kernels, &scene.q, bf16(&scene.rows, scene.dim), drawn, &mut Vec::new(), &mut partial);
        for query in 0..scene.queries {
            let scale = f64::from(partial.max(query)).exp();
            estimates[2 * query].push(f64::from(partial.den(query)) * scale);
            estimates[2 * query + 1].push(f64::from(dot(partial.num(query), &direction)) * scale);
        }
    }
    let mut worst: f64 = 0.0;
    for query in 0..scene.queries {
        let (mut den, mut num) = (0.0, 0.0);
        for id in 0..scene.count {
            let score = f64::from(scene.score(query, id));
            let weight = cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh()).exp();
            den += weight;
            num += weight * scene.row(id)[scene.dim..].iter().map(|&v| f64::from(widen(v))).sum::<f64>();
        }
        for (estimates, exact) in estimates[2 * query..].iter().zip([den, num]) {
            let n = estimates.len() as f64;
            let mean = estimates.iter().sum::<f64>() / n;
            let variance = estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
            worst = worst.max((mean - exact).abs() / (variance / n).sqrt());
        }
    }
    worst
}

#[test]
fn numerator_and_denominator_are_unbiased_at_every_code_length() {
    for bits in SKETCH_BITS {
        let worst = worst_deviation(bits, None, |pi| pi);
        assert!(worst <= 3.0, "{bits} bits: off by {worst:.2} standard errors");
    }
    let worst = worst_deviation(4, Some(2.0), |pi| pi);
    assert!(worst <= 3.0, "capped scores: off by {worst:.2} standard errors");
}

#[test]
fn a_softened_probability_fails_the_same_test() {
    let worst = worst_deviation(4, None, |pi| pi + 1e-3);
    assert!(worst > 3.0, "off by {worst:.2} standard errors only");
}
