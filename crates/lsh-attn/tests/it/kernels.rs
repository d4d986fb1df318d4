//! Every kernel on every instruction set of this machine, at lengths around the lane counts and from unaligned addresses: sums
//! of floats against sums in f64, all else against scalar. Tolerances are those that `Kernels` states.

use crate::support::{Random, bf16};
use lsh_attn::hash::{HashPlan, Hasher, LANES};
use lsh_attn::inclusion::InclusionTable;
use lsh_attn::kernels::{GemmShape, Isa, Kernels, PANEL};
use lsh_attn::rows::widen;
use lsh_attn::softmax::weigh;

pub const DIMS: [usize; 7] = [16, 48, 64, 80, 96, 128, 256];
pub const COUNTS: [usize; 12] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 70];
const QUERIES: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 1];
const ULP: f32 = 1.0 / (1u32 << 24) as f32;

/// Runs `check` for every instruction set that this machine has, and says which those were.
pub fn on_each_isa(name: &str, check: impl Fn(Kernels)) {
    let (here, missing): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|isa| isa.is_available());
    let names = |list: &[Isa]| list.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(" ");
    println!(
        "isa-coverage: {name}: tested {}; not on this machine: {}",
        names(&here),
        match missing.len() {
            0 => "none".to_owned(),
            _ => names(&missing),
        }
    );
    for isa in here {
        check(Kernels::of(isa).expect("available"));
    }
}

fn scalar() -> Kernels {
    Kernels::of(Isa::Scalar).expect("always there")
}

/// bf16 numbers, one element into their allocation so that vectors are not aligned.
fn unaligned_rows(random: &mut Random, elements: usize) -> Vec<u16> {
    (0..elements + 1).map(|_| half::bf16::from_f32(random.normal()).to_bits()).collect()
}

#[test]
fn isa_ln_inclusion() {
    let table = InclusionTable::new(10, 150);
    let cosines: Vec<f32> =
        (-1100..=1100).map(|x| x as f32 / 1000.0).chain([f32::NAN, f32::INFINITY]).collect();
    let mut want = cosines.clone();
    table.ln_u(scalar(), &mut want);
    // Not all the same: a table of one value would be bit-exact too.
    assert!(want[100] < -60.0 && want[2100] == 0.0);
    on_each_isa("ln_inclusion", |kernels| {
        let mut got = cosines.clone();
        table.ln_u(kernels, &mut got);
        assert_eq!(got, want, "{kernels:?}");
    });
}

#[test]
fn isa_dot_gathered_and_add_gathered() {
    on_each_isa("dot_gathered, add_gathered", |kernels| {
        let mut random = Random::new(1);
        for dim in DIMS {
            for (count, queries) in COUNTS.into_iter().zip(QUERIES) {
                let rows = unaligned_rows(&mut random, 100 * 2 * dim);
                let rows = &rows[1..];
                let q = random.normals(queries * dim + 1);
                // Four more ids than results: rows that come next.
                let ids: Vec<u16> = (0..count + 4).map(|_| (random.uniform() * 100.0) as u16).collect();
                let mut got = vec![0.0; queries * count];
                kernels.dot_gathered(&q[1..], bf16(rows, dim), &ids, &mut got);
                assert_products(&got, &q[1..], rows, dim, &ids[..count], kernels);

                let weights = random.normals(queries * count);
                let before = random.normals(queries * dim + 1);
                let mut got = before.clone();
                kernels.add_gathered(&mut got[1..], bf16(rows, dim), &ids[..count], &weights);
                assert_sums(&got[1..], &before[1..], rows, dim, &ids[..count], &weights, kernels);
            }
        }
    });
}

#[test]
fn isa_dot_block_and_add_block() {
    on_each_isa("dot_block, add_block", |kernels| {
        let mut random = Random::new(3);
        for dim in DIMS {
            for (count, queries) in COUNTS.into_iter().zip(QUERIES) {
                let rows = unaligned_rows(&mut random, count * 2 * dim);
                let rows = &rows[1..];
                let ids: Vec<u16> = (0..count as u16).collect();
                let q = random.normals(queries * dim);
                let mut got = vec![0.0; queries * count];
                kernels.dot_block(&q, bf16(rows, dim), &mut got);
                assert_products(&got, &q, rows, dim, &ids, kernels);

                let weights = random.normals(queries * count);
                let before = random.normals(queries * dim);
                let mut got = before.clone();
                kernels.add_block(&mut got, bf16(rows, dim), &weights);
                assert_sums(&got, &before, rows, dim, &ids, &weights, kernels);
            }
        }
    });
}

/// `got[g * n + i]` against `q[g] . k[ids[i]]`.
fn assert_products(got: &[f32], q: &[f32], rows: &[u16], dim: usize, ids: &[u16], kernels: Kernels) {
    for (at, &got) in got.iter().enumerate() {
        let (q, id) = (&q[at / ids.len() * dim..][..dim], usize::from(ids[at % ids.len()]));
        let key = &rows[id * 2 * dim..][..dim];
        let terms = q.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(widen(k)));
        assert_sum(got, terms, dim, kernels);
    }
}

/// `got[g]` against `before[g] + sum_i weights[g * n + i] * v[ids[i]]`.
fn assert_sums(
    got: &[f32],
    before: &[f32],
    rows: &[u16],
    dim: usize,
    ids: &[u16],
    weights: &[f32],
    kernels: Kernels,
) {
    for (at, (&got, &before)) in got.iter().zip(before).enumerate() {
        let weights = &weights[at / dim * ids.len()..][..ids.len()];
        let terms = weights.iter().zip(ids).map(|(&weight, &id)| {
            f64::from(weight) * f64::from(widen(rows[(2 * usize::from(id) + 1) * dim + at % dim]))
        });
        assert_sum(got, std::iter::once(f64::from(before)).chain(terms), ids.len() + 2, kernels);
    }
}

/// Within so many roundings of the exact sum.
fn assert_sum(got: f32, terms: impl Iterator<Item = f64>, roundings: usize, kernels: Kernels) {
    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
    let bound = roundings as f64 * f64::from(ULP) * size;
    assert!((f64::from(got) - sum).abs() <= bound, "{kernels:?}: {got} {sum}, bound {bound}");
}

#[test]
fn isa_max() {
    on_each_isa("max", |kernels| {
        let mut random = Random::new(8);
        for count in COUNTS {
            let x = random.normals(count);
            let want = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(kernels.max(&x), want, "{kernels:?} {count}");
        }
    });
}

#[test]
fn isa_weigh() {
    on_each_isa("weigh", |kernels| {
        for temperature in [0.3f32, 1.0, 40.0] {
            let scores: Vec<f32> = (0..1003).map(|i| (i * 7919 % 1003) as f32 / 40.0 - 5.0).collect();
            let mut got = vec![0.0; scores.len()];
            weigh(kernels, &scores, 20.05, temperature, &mut got);
            for (&score, &got) in scores.iter().zip(&got) {
                let wanted = ((f64::from(score) - f64::from(20.05f32)) / f64::from(temperature)).exp();
                let bound = if wanted > 1e-37 { 1e-5 * wanted } else { 2e-38 };
                assert!(
                    (f64::from(got) - wanted).abs() <= bound,
                    "{score} at {temperature}: {got}, not {wanted}"
                );
            }
        }
        let mut far = [1.0; 3];
        weigh(kernels, &[3.0, f32::NEG_INFINITY, -1e30], 3.0, f32::MIN_POSITIVE, &mut far);
        assert!(far[0] == 1.0 && far[1..].iter().all(|weight| (0.0..=2e-38).contains(weight)), "{far:?}");
    });
}

#[test]
fn isa_exp_sum() {
    on_each_isa("exp_sum", |kernels| {
        let mut random = Random::new(4);
        for count in COUNTS {
            let mut got: Vec<f32> = (0..count).map(|_| -80.0 * random.uniform() as f32).collect();
            if let [first, second, ..] = got.as_mut_slice() {
                (*first, *second) = (0.0, -1e30);
            }
            let max = 1.5;
            let exact: Vec<f64> = got.iter().map(|&x| f64::from(x - max).exp()).collect();
            let sum = kernels.exp_sum(&mut got, max);
            for (got, exact) in got.iter().zip(&exact) {
                let error = (f64::from(*got) - exact).abs();
                assert!(error <= 4e-7 * exact + 2e-38, "{kernels:?}: {got} {exact}");
            }
            assert!((f64::from(sum) - exact.iter().sum::<f64>()).abs() <= 1e-5 * exact.iter().sum::<f64>());
        }
    });
}

#[test]
fn isa_narrow_is_bit_exact() {
    on_each_isa("narrow", |kernels| {
        let mut random = Random::new(9);
        for count in COUNTS {
            let mut x = random.normals(count);
            // Ties, whose last bit that stays is even and odd, and the least above one.
            for (x, bits) in x.iter_mut().zip([0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0xBF81_8000]) {
                *x = f32::from_bits(bits);
            }
            let mut got = vec![0; count];
            kernels.narrow(&x, &mut got);
            let want: Vec<u16> = x.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect();
            assert_eq!(got, want, "{kernels:?} {count}");
        }
    });
}

#[test]
fn isa_gemm() {
    on_each_isa("gemm", |kernels| {
        let mut random = Random::new(5);
        for m in COUNTS {
            for (n, k) in [(16, 0), (16, 2), (48, 18), (64, 64), (80, 64), (128, 34), (80, 130)] {
                let mut bf16 =
                    |count| random.normals(count).into_iter().map(half::bf16::from_f32).collect::<Vec<_>>();
                let (a, b) = (bf16(m * k), bf16(k * n));
                let c = random.normals(m * n);
                let a_bits: Vec<u16> = a.iter().map(|a| a.to_bits()).collect();
                let mut pairs = vec![0; k / 2 * n];
                for (i, b) in b.chunks_exact(2 * n).enumerate() {
                    for column in 0..n {
                        let pair = u32::from(b[column].to_bits()) | u32::from(b[n + column].to_bits()) << 16;
                        pairs[(column / PANEL * k / 2 + i) * PANEL + column % PANEL] = pair;
                    }
                }
                let mut got = c.clone();
                kernels.gemm(GemmShape { m, n, k }, &a_bits, &pairs, &mut got);
                for (at, &got) in got.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let terms = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[i * n + column]));
                    assert_sum(got, std::iter::once(f64::from(c[at])).chain(terms), k + 2, kernels);
                }
            }
        }
    });
}

#[test]
fn isa_hash_is_bit_exact() {
    on_each_isa("hash", |kernels| {
        for (dim, k, l) in [(1, 1, 2), (16, 5, 7), (64, 10, 150), (80, 8, 75), (128, 16, 40), (256, 10, 150)]
        {
            let plan = HashPlan::new(dim, k, l, 6);
            let vectors = Random::new(7).normals(LANES * dim);
            let codes = |kernels| {
                Hasher::new(&plan).hash(kernels, &plan, LANES, |lane, j| vectors[lane * dim + j]).to_vec()
            };
            assert_eq!(codes(kernels), codes(scalar()), "{kernels:?} d {dim}");
        }
    });
}

#[test]
fn an_id_beyond_the_rows_is_refused() {
    on_each_isa("bounds", |kernels| {
        let beyond = std::panic::catch_unwind(|| {
            kernels.dot_gathered(&[0.0; 64], bf16(&[0; 10 * 128], 64), &[3, 10], &mut [0.0; 2]);
        });
        assert!(beyond.is_err());
    });
}
