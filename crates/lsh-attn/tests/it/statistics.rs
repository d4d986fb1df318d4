//! That `lsh` is statistically right: inclusion equals u at every angle, and the estimator is unbiased. Seeds are
//! fixed. The estimator's test also runs on the original's `ln(u + 1e-4)`, which must fail it.

use crate::support::{Random, bf16, rows};
use lsh_attn::collisions::Collisions;
use lsh_attn::hash::{HashPlan, Hasher, LANES};
use lsh_attn::inclusion::{InclusionTable, ln_inclusion};
use lsh_attn::kernels::Kernels;
use lsh_attn::rows::widen;
use lsh_attn::sampled::{Sample, SampleScratch, SampledQuery, attend_samples};
use lsh_attn::segment_index::SegmentIndex;
use lsh_attn::softmax::Partial;
use lsh_attn::stored_runs::StoredRuns;

fn kernels() -> Kernels {
    Kernels::detect().expect("MAGICPIG_ISA names an available instruction set")
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean and standard error of independent values.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// A vector at `cosine` to `q`, otherwise random.
fn at_angle(random: &mut Random, q: &[f32], cosine: f32) -> Vec<f32> {
    let noise = random.normals(q.len());
    let q_norm = dot(q, q).sqrt();
    let along = dot(&noise, q) / (q_norm * q_norm);
    let across: Vec<f32> = noise.iter().zip(q).map(|(n, q)| n - along * q).collect();
    let across_norm = dot(&across, &across).sqrt();
    let sine = (1.0 - cosine * cosine).sqrt();
    q.iter().zip(&across).map(|(q, a)| q / q_norm * cosine + a / across_norm * sine).collect()
}

const BINS: [f32; 8] = [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7];

/// Fraction of keys at `cosine` that at least two of L tables put beside the query: mean over `plans`, and its
/// standard error.
fn measured_inclusion(plans: &[HashPlan], cosine: f32) -> (f64, f64) {
    const KEYS: usize = 256;
    let dim = plans[0].dim();
    let mut random = Random::new(dim as u64);
    let fraction = |plan: &HashPlan| {
        let mut hasher = Hasher::new(plan);
        let q = random.normals(dim);
        let query: Vec<u16> =
            hasher.hash(kernels(), plan, 1, |_, j| q[j]).iter().map(|lanes| lanes[0]).collect();
        let mut included = 0;
        for _ in 0..KEYS / LANES {
            let keys: Vec<_> = (0..LANES).map(|_| at_angle(&mut random, &q, cosine)).collect();
            let codes = hasher.hash(kernels(), plan, LANES, |lane, j| keys[lane][j]);
            let collisions =
                |lane: usize| codes.iter().zip(&query).filter(|(codes, q)| codes[lane] == **q).count();
            included += (0..LANES).filter(|&lane| collisions(lane) >= 2).count();
        }
        included as f64 / KEYS as f64
    };
    mean_and_error(&plans.iter().map(fraction).collect::<Vec<_>>())
}

/// The bound of the inclusion test: 5% of u, or 3 standard errors where those are more.
fn is_inclusion((mean, error): (f64, f64), u: f64) -> bool {
    (mean - u).abs() <= (0.05 * u).max(3.0 * error)
}

fn plans(dim: usize, k: usize, l: usize) -> Vec<HashPlan> {
    (0..40).map(|seed| HashPlan::new(dim, k, l, seed)).collect()
}

#[test]
fn inclusion_is_u_in_every_cosine_bin() {
    for (dim, k, l) in
        [(64, 10, 150), (80, 10, 150), (96, 10, 150), (128, 10, 150), (128, 8, 75), (256, 10, 150)]
    {
        let plans = plans(dim, k, l);
        for cosine in BINS {
            let u = ln_inclusion(f64::from(cosine), k, l).exp();
            let (mean, error) = measured_inclusion(&plans, cosine);
            assert!(
                is_inclusion((mean, error), u),
                "d {dim} K {k} L {l} cos {cosine}: measured {mean:.5}, u {u:.5}, standard error {error:.5}"
            );
        }
    }
}

#[test]
fn inclusion_at_a_slightly_different_angle_fails_the_same_test() {
    let plans = plans(128, 10, 150);
    for cosine in [0.2f32, 0.3, 0.4, 0.5] {
        let u = ln_inclusion(f64::from(cosine), 10, 150).exp();
        assert!(!is_inclusion(measured_inclusion(&plans, cosine + 0.05), u), "cos {cosine}");
    }
}

/// Keys as models have them: a common part, a few near the query, most far from it.
struct Scene {
    dim: usize,
    q: Vec<f32>,
    rows: Vec<u16>,
    count: usize,
}

impl Scene {
    fn new() -> Scene {
        let (dim, count) = (64, 768);
        let mut random = Random::new(11);
        let q: Vec<f32> = random.normals(dim);
        let common = random.normals(dim);
        let q_norm = dot(&q, &q).sqrt();
        let mut keys = Vec::new();
        for key in 0..count {
            // Mostly beyond 90 degrees, where u is near 1e-4: the bulk of many keys' mass.
            let cosine = if key % 16 == 0 { 0.45 } else { -0.02 + 0.04 * random.uniform() as f32 };
            let direction = at_angle(&mut random, &q, cosine);
            keys.extend(direction.iter().zip(&common).map(|(x, c)| x * q_norm * 0.5 + c));
        }
        let values: Vec<f32> = random.normals(count * dim).iter().map(|v| v + 1.0).collect();
        // Scaled as attention does it.
        let scaled = q.iter().map(|q| q / (dim as f32).sqrt()).collect();
        Scene { dim, q: scaled, rows: rows(&keys, &values, dim), count }
    }

    fn key(&self, id: usize) -> Vec<f32> {
        self.rows[id * 2 * self.dim..][..self.dim].iter().map(|&k| widen(k)).collect()
    }

    fn value(&self, id: usize) -> Vec<f32> {
        self.rows[(id * 2 + 1) * self.dim..][..self.dim].iter().map(|&v| widen(v)).collect()
    }

    /// Exact denominator and numerator, projected on a few directions.
    fn exact(&self, directions: &[Vec<f32>]) -> Vec<f64> {
        let mut sums = vec![0.0; 1 + directions.len()];
        for id in 0..self.count {
            let weight = f64::from(dot(&self.q, &self.key(id))).exp();
            sums[0] += weight;
            for (sum, direction) in sums[1..].iter_mut().zip(directions) {
                *sum += weight * f64::from(dot(&self.value(id), direction));
            }
        }
        sums
    }
}

/// Directions in which numerators are compared: the mean value's, and two random ones.
fn directions(dim: usize) -> Vec<Vec<f32>> {
    let mut random = Random::new(12);
    vec![vec![1.0; dim], random.normals(dim), random.normals(dim)]
}

/// How many standard errors the mean estimate over `seeds` seeds is off, worst of denominator and numerators.
fn worst_deviation(scene: &Scene, seeds: u64, estimate: impl Fn(u64, &[Vec<f32>]) -> Vec<f64>) -> f64 {
    let directions = directions(scene.dim);
    let exact = scene.exact(&directions);
    let estimates: Vec<Vec<f64>> = (0..seeds).map(|seed| estimate(seed, &directions)).collect();
    exact
        .iter()
        .enumerate()
        .map(|(index, exact)| {
            let values: Vec<f64> = estimates.iter().map(|estimate| estimate[index]).collect();
            let (mean, error) = mean_and_error(&values);
            (mean - exact).abs() / error
        })
        .fold(0.0, f64::max)
}

const K: usize = 12;
const L: usize = 150;
const SEEDS: u64 = 2000;

struct Drawn {
    index: SegmentIndex,
    codes: Vec<u16>,
}

fn draw(scene: &Scene, seed: u64) -> Drawn {
    let plan = HashPlan::new(scene.dim, K, L, seed);
    let mut index = SegmentIndex::new(0);
    index.extend(kernels(), &plan, bf16(&scene.rows, scene.dim), scene.count);
    let codes =
        Hasher::new(&plan).hash(kernels(), &plan, 1, |_, j| scene.q[j]).iter().map(|c| c[0]).collect();
    Drawn { index, codes }
}

#[test]
fn numerator_and_denominator_are_unbiased() {
    let scene = Scene::new();
    let inclusion = InclusionTable::new(K, L);
    let worst = worst_deviation(&scene, SEEDS, |seed, directions| {
        let Drawn { index, codes } = draw(&scene, seed);
        let query = SampledQuery { q: &scene.q, codes: &codes };
        let sample =
            Sample { query, index: index.view(StoredRuns::NONE), rows: bf16(&scene.rows, scene.dim) };
        let mut partial = Partial::new(1, scene.dim);
        attend_samples(
            kernels(),
            &inclusion,
            &[sample],
            &mut SampleScratch::default(),
            || Partial::new(1, scene.dim),
            |_, _, of_sample| partial = of_sample,
        );
        if partial.den(0) == 0.0 {
            return vec![0.0; 1 + directions.len()];
        }
        let scale = f64::from(partial.max(0)).exp();
        std::iter::once(f64::from(partial.den(0)))
            .chain(directions.iter().map(|direction| f64::from(dot(partial.num(0), direction))))
            .map(|sum| sum * scale)
            .collect()
    });
    assert!(worst <= 3.0, "off by {worst:.2} standard errors");
}

#[test]
fn the_originals_offset_fails_the_same_test() {
    let scene = Scene::new();
    let off_by = |offset: f64| {
        worst_deviation(&scene, SEEDS, |seed, directions| {
            let Drawn { index, codes } = draw(&scene, seed);
            let mut ids = Vec::new();
            index.view(StoredRuns::NONE).sample(
                kernels(),
                &codes,
                &mut Collisions::default(),
                &mut ids,
                || (),
            );
            let mut sums = vec![0.0; 1 + directions.len()];
            for id in ids.into_iter().map(usize::from) {
                let key = scene.key(id);
                let centred: Vec<f32> = key.iter().zip(index.centre()).map(|(k, c)| k - c).collect();
                let norms = dot(&scene.q, &scene.q).sqrt() * dot(&centred, &centred).sqrt();
                let u = ln_inclusion(f64::from(dot(&scene.q, &centred) / norms), K, L).exp();
                let weight = f64::from(dot(&scene.q, &key)).exp() / (u + offset);
                sums[0] += weight;
                for (sum, direction) in sums[1..].iter_mut().zip(directions) {
                    *sum += weight * f64::from(dot(&scene.value(id), direction));
                }
            }
            sums
        })
    };
    let (unbiased, original) = (off_by(0.0), off_by(1e-4));
    assert!(unbiased <= 3.0, "without the offset: off by {unbiased:.2} standard errors");
    assert!(original > 3.0, "with the offset: off by {original:.2} standard errors only");
}
