//! Intervals hold as often as they say, and the same test sees when they do not.

use std::sync::LazyLock;

use lsh_attn::mix::{derive_seed, mix64, normals};
use lsh_attn::rows::RowType;
use lsh_attn::sketch::{Draw, QueryCodes, SketchIndex, SketchPlan, attend_drawn};

use super::*;

const DIM: usize = 64;
const KEYS: usize = 1024;
const SCENES: u64 = 100;
const DRAWS_OF_SCENE: u64 = 20;
const DRAWS: u64 = SCENES * DRAWS_OF_SCENE;
/// Keys that a draw expects.
const EXPECTED: f32 = 80.0;
const DELTA: f64 = 0.05;

/// What 2,000 draws said of their errors, and what the errors were, as squares relative to the output.
struct Outcome {
    spreads: Vec<Spread>,
    real: Vec<f64>,
}

/// Error of one number, of which intervals have least to spare, and in all dimensions.
static ONE: LazyLock<Outcome> = LazyLock::new(|| Outcome::of(1));
static ALL: LazyLock<Outcome> = LazyLock::new(|| Outcome::of(DIM));

impl Outcome {
    /// Draws from 100 scenes: what a systematic draw's error is depends on the order of the keys.
    fn of(directions: usize) -> Outcome {
        let mut outcome = Outcome { spreads: Vec::new(), real: Vec::new() };
        (0..SCENES).for_each(|scene| outcome.add(scene, directions));
        outcome
    }

    /// Draws from keys whose scores spread by 2. Values have a common part, and one of their own in `directions` dimensions: as
    /// much in one direction as in 64.
    fn add(&mut self, scene: u64, directions: usize) {
        let kernels = Kernels::detect().expect("a kernel");
        let random = |what: u64, count: usize| normals(derive_seed(scene, what), count);
        let (keys, q) = (random(1, KEYS * DIM), random(2, DIM));
        let own = random(3, KEYS * DIM);
        let size = 4.0 / (directions as f32).sqrt();
        let values: Vec<f32> = own
            .iter()
            .enumerate()
            .map(|(at, x)| 1.0 + if at % DIM < directions { size * x } else { 0.0 })
            .collect();
        let q: Vec<f32> = q.iter().map(|q| q * 2.0 / (DIM as f32).sqrt()).collect();
        let units = RowType::Bf16.units(DIM);
        let mut stored = vec![0; KEYS * units];
        for (key, row) in stored.chunks_exact_mut(units).enumerate() {
            RowType::Bf16.encode(&keys[key * DIM..][..DIM], &values[key * DIM..][..DIM], row);
        }
        let rows = Rows::new(RowType::Bf16, DIM, &stored);
        let mut whole = Partial::new(1, DIM);
        whole.add_rows(kernels, &q, rows, &mut Vec::new());
        let exact = Output::new(&whole, 1, DIM);

        let plan = SketchPlan::new(DIM, 4, scene);
        let (mut index, mut blocks) = (SketchIndex::new(0, vec![0.0; DIM]), Vec::new());
        index.extend(kernels, &plan, rows, KEYS, &mut blocks);
        let mut codes = QueryCodes::default();
        codes.encode(kernels, &plan, &q);
        let (mut weights, mut totals) = (vec![0; KEYS], [0.0]);
        let queries = codes.queries(0, &[0.0]);
        let (bits, padded_dim) = (plan.bits(), plan.padded_dim());
        kernels.sketch_weights(bits, padded_dim, &blocks, queries, &mut weights, &mut totals);
        let coefficients = [EXPECTED / totals[0]];
        for seed in 0..DRAWS_OF_SCENE {
            let start = (mix64(derive_seed(scene + SCENES, seed)) >> 11) as f64 / (1u64 << 53) as f64;
            let how = Draw { coefficients: &coefficients, floor: 5e-4, start, first: 0 };
            let (mut ids, mut ln_pi, mut partial) = (Vec::new(), Vec::new(), Partial::new(1, DIM));
            kernels.draw_keys(&weights, how, &mut ids, &mut ln_pi);
            attend_drawn(kernels, &q, rows, (&ids, &ln_pi), &mut Vec::new(), &mut partial);
            let output = Output::new(&partial, 1, DIM);
            self.real.push(f64::from(square_distance(&output.o, &exact.o)) * exact.inverse_squares[0]);
            self.spreads.extend(output.spreads(kernels, &q, rows, (&ids, &ln_pi)));
        }
    }

    /// Draws whose error was beyond their interval, with the estimated variance times `factor`.
    fn beyond(&self, factor: f64) -> usize {
        let z = normal_quantile(DELTA);
        let bound = |spread: &Spread| {
            let term_squares = spread.term_squares * factor * factor;
            Spread { variance: spread.variance * factor, term_squares }.bound(z)
        };
        self.spreads.iter().zip(&self.real).filter(|(spread, real)| real.sqrt() > bound(spread)).count()
    }
}

/// The most of 2,000 events whose 95% Clopper-Pearson interval ends below 5%, and the fewest of which it begins above.
const AT_MOST: usize = 80;
const AT_LEAST: usize = 121;

#[test]
fn intervals_of_one_number_are_rarely_wrong() {
    let beyond = ONE.beyond(1.0);
    assert!(beyond <= AT_MOST, "{beyond} of {DRAWS}");
}

#[test]
fn half_the_variance_fails_the_same_test() {
    let beyond = ONE.beyond(0.5);
    assert!(beyond >= AT_LEAST, "{beyond} of {DRAWS}");
}

#[test]
fn in_many_dimensions_intervals_have_room() {
    let beyond = ALL.beyond(1.0);
    assert!(beyond <= DRAWS as usize / 200, "{beyond} of {DRAWS}");
}

#[test]
fn the_mean_square_is_what_is_predicted() {
    for outcome in [&*ONE, &*ALL] {
        let mean = |of: &mut dyn Iterator<Item = f64>| of.sum::<f64>() / DRAWS as f64;
        let predicted = mean(&mut outcome.spreads.iter().map(|spread| spread.variance));
        let real = mean(&mut outcome.real.iter().copied());
        assert!((0.85..1.1).contains(&(real / predicted)), "{real}, predicted {predicted}");
    }
}

#[test]
fn quantiles_are_those_of_tables() {
    for (delta, z) in [(0.2, 1.28155), (0.05, 1.95996), (0.01, 2.57583), (0.001, 3.29053)] {
        assert!((normal_quantile(delta) - z).abs() < 5e-4, "{delta}");
    }
    for (freedom, t) in [(4.0, 2.7764), (10.0, 2.2281), (30.0, 2.0423), (1e6, 1.95997)] {
        assert!((student_quantile(1.95996, freedom) / t - 1.0).abs() < 0.01, "{freedom}");
    }
    // With fewer degrees of freedom, an interval that is too wide.
    for (freedom, t) in [(1.0, 12.7062), (2.0, 4.3027), (3.0, 3.1825)] {
        assert!((1.0..1.5).contains(&(student_quantile(1.95996, freedom) / t)), "{freedom}");
    }
}

#[test]
fn an_interval_of_an_error_as_large_as_the_output_has_no_end() {
    let spread = |variance: f64| Spread { variance, term_squares: 1e-3 * variance * variance };
    assert_eq!(spread(1.0).bound(1.96), f64::INFINITY);
    assert!((spread(1e-4).bound(1.96) - 0.0196 / 0.9804).abs() < 1e-4);
    assert_eq!(Spread::default().bound(1.96), 0.0);
}
