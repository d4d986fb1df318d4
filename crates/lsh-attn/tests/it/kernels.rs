//! Every kernel on every instruction set of this machine against scalar, at lengths around the lane counts and
//! from unaligned addresses. Tolerances are those that `Kernels` states.

use crate::support::{Random, bf16};
use lsh_attn::hash::{HashPlan, Hasher, LANES};
use lsh_attn::inclusion::InclusionTable;
use lsh_attn::kernels::{GemmShape, Isa, Kernels, PANEL};
use lsh_attn::rows::widen;

pub const DIMS: [usize; 7] = [16, 48, 64, 80, 96, 128, 256];
pub const COUNTS: [usize; 12] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 70];
const ULP: f32 = 1.0 / (1u32 << 24) as f32;

/// Runs `check` for every instruction set but scalar that this machine has, and says which those were.
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
            for (count, queries) in COUNTS.into_iter().zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 1]) {
                let rows = unaligned_rows(&mut random, 100 * 2 * dim);
                let rows = &rows[1..];
                let q = random.normals(queries * dim + 1);
                // Four more ids than results: rows that come next.
                let ids: Vec<u16> = (0..count + 4).map(|_| (random.uniform() * 100.0) as u16).collect();
                let (mut got, mut want) = (vec![0.0; queries * count], vec![0.0; queries * count]);
                kernels.dot_gathered(&q[1..], bf16(rows, dim), &ids, &mut got);
                scalar().dot_gathered(&q[1..], bf16(rows, dim), &ids, &mut want);
                for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (q, id) = (&q[1 + at / count * dim..][..dim], usize::from(ids[at % count]));
                    let row = &rows[id * 2 * dim..];
                    let size: f32 = q.iter().zip(row).map(|(q, &k)| (q * widen(k)).abs()).sum();
                    assert!(
                        (got - want).abs() <= dim as f32 * ULP * size,
                        "{kernels:?} d {dim}: {got} {want}"
                    );
                }
                let weights = random.normals(queries * count);
                let mut got = random.normals(queries * dim + 1);
                let mut want = got.clone();
                kernels.add_gathered(&mut got[1..], bf16(rows, dim), &ids[..count], &weights);
                scalar().add_gathered(&mut want[1..], bf16(rows, dim), &ids[..count], &weights);
                assert_close(&got, &want, (count + 1) as f32 * 8.0 * ULP * (count + 1) as f32, kernels);
            }
        }
    });
}

#[test]
fn isa_dot_block_and_add_block() {
    on_each_isa("dot_block, add_block", |kernels| {
        let mut random = Random::new(3);
        for dim in DIMS {
            for (count, queries) in COUNTS.into_iter().zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 1]) {
                let rows = unaligned_rows(&mut random, count * 2 * dim);
                let q = random.normals(queries * dim);
                let (mut got, mut want) = (vec![0.0; queries * count], vec![0.0; queries * count]);
                kernels.dot_block(&q, bf16(&rows[1..], dim), &mut got);
                scalar().dot_block(&q, bf16(&rows[1..], dim), &mut want);
                assert_close(&got, &want, dim as f32 * ULP * 4.0 * dim as f32, kernels);

                let weights = random.normals(queries * count);
                let mut got = random.normals(queries * dim);
                let mut want = got.clone();
                kernels.add_block(&mut got, bf16(&rows[1..], dim), &weights);
                scalar().add_block(&mut want, bf16(&rows[1..], dim), &weights);
                assert_close(&got, &want, (count + 1) as f32 * 8.0 * ULP * (count + 1) as f32, kernels);
            }
        }
    });
}

#[test]
fn isa_max() {
    on_each_isa("max", |kernels| {
        let mut random = Random::new(8);
        for count in COUNTS {
            let x = random.normals(count);
            assert_eq!(kernels.max(&x), scalar().max(&x), "{kernels:?} {count}");
        }
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
            for (n, k) in [(16, 0), (16, 2), (48, 18), (64, 64), (80, 64), (128, 34)] {
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
                for (at, got) in got.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let terms = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[i * n + column]));
                    let (mut want, mut size) = (f64::from(c[at]), f64::from(c[at].abs()));
                    for term in terms {
                        want += term;
                        size += term.abs();
                    }
                    let bound = (k + 2) as f64 * f64::from(ULP) * size;
                    assert!((f64::from(*got) - want).abs() <= bound, "{kernels:?} {m} {n} {k}: {got} {want}");
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

fn assert_close(got: &[f32], want: &[f32], tolerance: f32, kernels: Kernels) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance,
            "{kernels:?} element {index}: {got} {want} tolerance {tolerance}"
        );
    }
}
