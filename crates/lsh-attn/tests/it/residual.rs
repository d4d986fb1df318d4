//! Residual correction: kernels bit-exact across instruction sets, sums unbiased, and less variance than without.

use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::rows::widen;
use lsh_attn::sketch::{
    BLOCK_KEYS, Draw, QueryCodes, Residual, SKETCH_BITS, SketchIndex, SketchPlan, ValueBlocks, attend_drawn,
};
use lsh_attn::softmax::Partial;

use crate::kernels::on_each_isa;
use crate::sketch::{LOG2_E, Scene, dot, uniform};
use crate::support::bf16;

/// What a step makes of a scene before it draws.
struct Step {
    plan: SketchPlan,
    values: Vec<u8>,
    /// `[blocks, queries, 16]`, bf16
    weights: Vec<u16>,
    residual: Residual,
}

fn scan(kernels: Kernels, scene: &Scene, bits: u32) -> Step {
    let plan = SketchPlan::new(scene.dim, bits, 3);
    let mut index = SketchIndex::new(0, scene.centre.clone());
    let (mut blocks, mut values) = (Vec::new(), Vec::new());
    let rows = bf16(&scene.rows, scene.dim);
    index.extend(kernels, &plan, rows, scene.count, &mut blocks);
    ValueBlocks::encode(kernels, &plan, rows.slice(0..index.end()), &mut values);
    let mut codes = QueryCodes::default();
    codes.encode(kernels, &plan, &scene.q);
    let offsets: Vec<f32> = scene.q.chunks_exact(scene.dim).map(|q| dot(q, &scene.centre) * LOG2_E).collect();
    let mut weights = vec![0; index.count() * scene.queries * BLOCK_KEYS];
    let mut totals = vec![0.0; scene.queries];
    let queries = codes.queries(0, &offsets);
    kernels.sketch_weights(bits, plan.padded_dim(), &blocks, queries, &mut weights, &mut totals);
    let mut residual = Residual::new(&plan, scene.queries);
    residual.add(kernels, &plan, ValueBlocks(&values), &weights, &totals);
    Step { plan, values, weights, residual }
}

impl Step {
    fn coefficients(&self, lambda: f32) -> Vec<f32> {
        self.residual.totals().iter().map(|total| lambda / *total as f32).collect()
    }

    /// Corrected den and num, the latter in direction (1, ..., 1), of each query in one draw, and those of the sample alone. What codes
    /// say of drawn keys is taken away over `known_as(pi)`.
    fn draw(&self, scene: &Scene, seed: u64, known_as: impl Fn(f32) -> f32) -> [Vec<f64>; 2] {
        let kernels = Kernels::detect().expect("a kernel");
        let coefficients = self.coefficients(25.0);
        let how = Draw { coefficients: &coefficients, floor: 5e-4, start: uniform(seed), first: 0 };
        let (mut ids, mut ln_pi) = (Vec::new(), Vec::new());
        kernels.draw_keys(&self.weights, how, &mut ids, &mut ln_pi);
        let known: Vec<f32> = ln_pi.iter().map(|ln_pi| known_as(ln_pi.exp()).ln()).collect();
        let drawn = (ids.as_slice(), ln_pi.as_slice());
        let mut partial = Partial::new(scene.queries, scene.dim);
        let rows = bf16(&scene.rows, scene.dim);
        attend_drawn(kernels, &scene.q, rows, drawn, &mut Vec::new(), &mut partial);
        let mut residual = self.residual.clone();
        let codes = (ValueBlocks(&self.values), self.weights.as_slice());
        residual.take_away(kernels, &self.plan, codes, 0, (&ids, &known));
        let values = residual.values(kernels, &self.plan);
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
        let (mut corrected, mut alone) = (Vec::new(), Vec::new());
        for (query, values) in values.chunks_exact(scene.dim).enumerate() {
            let scale = f64::from(partial.max(query)).exp();
            let sums = [f64::from(partial.den(query)) * scale, sum(partial.num(query)) * scale];
            alone.extend(sums);
            corrected.extend([sums[0] + residual.totals()[query], sums[1] + sum(values)]);
        }
        [corrected, alone]
    }
}

/// den and num, the latter in direction (1, ..., 1), of each query.
fn exact(scene: &Scene) -> Vec<f64> {
    let of = |query: usize| {
        let (mut den, mut num) = (0.0, 0.0);
        for id in 0..scene.count {
            let weight = f64::from(scene.score(query, id)).exp();
            den += weight;
            num += weight * scene.row(id)[scene.dim..].iter().map(|&v| f64::from(widen(v))).sum::<f64>();
        }
        [den, num]
    };
    (0..scene.queries).flat_map(of).collect()
}

fn mean_and_variance(x: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = x.clone().count() as f64;
    let mean = x.clone().sum::<f64>() / n;
    (mean, x.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

/// How many standard errors the means of corrected num and den over 2,000 draws are off, worst over queries, where codes
/// are taken away over `known_as(pi)`; and their variances relative to the squares of what they estimate, summed over queries, which is
/// what the draw is made for, by those of the sample alone.
fn deviation(bits: u32, known_as: impl Fn(f32) -> f32) -> (f64, f64) {
    const DRAWS: u64 = 2000;
    let scene = Scene::new(64, 3, 1600);
    let scanned = scan(Kernels::detect().expect("a kernel"), &scene, bits);
    let draws: Vec<[Vec<f64>; 2]> = (0..DRAWS).map(|seed| scanned.draw(&scene, seed, &known_as)).collect();
    let (mut worst, mut corrected, mut plain): (f64, f64, f64) = (0.0, 0.0, 0.0);
    for (number, exact) in exact(&scene).into_iter().enumerate() {
        let [(mean, variance), (_, alone)] =
            [0, 1].map(|which| mean_and_variance(draws.iter().map(move |draw| draw[which][number])));
        worst = worst.max((mean - exact).abs() / (variance / DRAWS as f64).sqrt());
        corrected += variance / exact.powi(2);
        plain += alone / exact.powi(2);
    }
    (worst, corrected / plain)
}

#[test]
fn corrected_sums_are_unbiased_at_every_code_length_and_vary_less_where_codes_are_good() {
    // With shorter codes estimates that are too great by chance dominate these keys' sum: unbiased, and no better than without.
    for (bits, most) in [(1, f64::INFINITY), (2, f64::INFINITY), (4, 0.3), (8, 0.06)] {
        let (worst, variance) = deviation(bits, |pi| pi);
        assert!(worst <= 3.0, "{bits} bits: off by {worst:.2} standard errors");
        assert!(variance < most, "{bits} bits: {variance} of the variance without correction");
    }
}

#[test]
fn taking_away_over_a_softened_probability_fails_the_same_test() {
    let (worst, _) = deviation(2, |pi| pi + 1e-3);
    assert!(worst > 3.0, "off by {worst:.2} standard errors only");
}

#[test]
fn a_sum_that_cannot_be_leaves_the_sample_alone() {
    let kernels = Kernels::detect().expect("a kernel");
    let scene = Scene::new(64, 3, 320);
    let Step { plan, residual, .. } = scan(kernels, &scene, 4);
    let mut sampled = Partial::new(scene.queries, scene.dim);
    sampled.add_rows(kernels, &scene.q, bf16(&scene.rows, scene.dim), &mut Vec::new());
    let [mut out, mut alone] = [vec![0.0; scene.q.len()], vec![0.0; scene.q.len()]];
    sampled.finish(&mut alone);
    let references = vec![0.0; scene.queries];
    residual.finish(kernels, &plan, &sampled, (&references, &vec![0.0; scene.queries]), &mut out);
    assert_ne!(out, alone);
    residual.finish(kernels, &plan, &sampled, (&references, &vec![1e30; scene.queries]), &mut out);
    assert_eq!(out, alone);
}

#[test]
fn isa_residual_is_bit_exact() {
    let scalar = Kernels::of(Isa::Scalar).expect("always there");
    on_each_isa("residual", |kernels| {
        for (dim, queries) in [(64, 3), (80, 1), (96, 2), (128, 4), (256, 7)] {
            let scene = Scene::new(dim, queries, 16 * 9);
            for bits in SKETCH_BITS {
                let (want, got) = (scan(scalar, &scene, bits), scan(kernels, &scene, bits));
                let what = format!("{kernels:?} d {dim} {bits} bits");
                assert_eq!(want.values, got.values, "{what}");
                assert_eq!(want.residual, got.residual, "{what}");
            }
        }
    });
}
