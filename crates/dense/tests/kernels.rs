//! Products of every weight format on every instruction set: against dequantised rows in f64.

use dense::{Activations, Cores, DenseKernels, Matrix, ROW_GROUP, WeightType, multiply};
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::mix::mix64;
use rayon::{ThreadPool, ThreadPoolBuilder};
use team::Team;

fn pool() -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(2).build().expect("two threads")
}

/// Numbers in [-1, 1) from a counter.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (mix64(seed << 32 | i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Rows of random blocks whose scales, where there are any, are around 0.01.
fn weights(kind: WeightType, rows: usize, size: usize) -> Vec<u8> {
    let bytes = rows * kind.row_bytes(size).expect("whole blocks");
    let mut out: Vec<u8> = (0..bytes as u64).map(|i| mix64(i) as u8).collect();
    let (_, block) = kind.block();
    for (number, block) in out.chunks_exact_mut(block).enumerate() {
        let value = noise(9, 1 + number)[number];
        match kind {
            WeightType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            WeightType::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            WeightType::Bf16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            _ => {
                // Where the scale is, what multiplies it, and that of the minimum or offset, where there is one.
                let (at, scale, minimum) = match kind {
                    WeightType::Q4_1 => (0, 0.01, Some(-0.08)),
                    WeightType::Q5_1 => (0, 0.01, Some(-0.16)),
                    WeightType::Q2K => (80, 0.01, Some(0.015)),
                    WeightType::Q3K => (108, 0.001, None),
                    WeightType::Q4K | WeightType::Q5K => (0, 0.001, Some(0.01)),
                    WeightType::Q6K => (208, 0.0005, None),
                    _ => (0, 0.01, None),
                };
                for (place, factor) in [scale].into_iter().chain(minimum).enumerate() {
                    let half = half::f16::from_f32(factor * (1.5 + value));
                    block[at + 2 * place..][..2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
    }
    out
}

#[test]
fn isa_dense_products() {
    let (here, missing): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|isa| isa.is_available());
    let names = |list: &[Isa]| list.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(" ");
    let missing = if missing.is_empty() { "none".to_owned() } else { names(&missing) };
    println!("isa-coverage: dense: tested {}; not on this machine: {missing}", names(&here));
    let pool = pool();
    for kind in WeightType::ALL {
        let sizes: &[usize] = match kind.block().0 {
            1 => &[1, 7, 16, 33, 96],
            32 => &[32, 64, 576],
            _ => &[256, 768],
        };
        for &size in sizes {
            for (rows, tokens) in [(1, 1), (5, 1), (9, 2), (13, 3), (64, 4), (70, 7), (21, 8), (8, 13)] {
                let bytes = weights(kind, rows, size);
                let matrix = Matrix::new(kind, size, &bytes).expect("whole rows");
                let values = noise(3, tokens * size);
                for &isa in &here {
                    let kernels = DenseKernels::from(Kernels::of(isa).expect("available"));
                    let mut x = Activations::default();
                    Team::assemble(&pool, |team| x.set(Cores { team, kernels }, &values, size));
                    let mut y = vec![f32::NAN; rows * tokens];
                    Team::assemble(&pool, |team| {
                        multiply(Cores { team, kernels }, &x, &mut [(matrix, &mut y)])
                    });
                    let packed = matrix.pack();
                    assert_eq!(packed.is_some(), !kind.is_wide() && rows >= ROW_GROUP);
                    if let Some(bytes) = packed {
                        let packed = Matrix::from_packed(kind, size, &bytes).expect("whole groups");
                        let mut again = vec![f32::NAN; rows * tokens];
                        Team::assemble(&pool, |team| {
                            multiply(Cores { team, kernels }, &x, &mut [(packed, &mut again)])
                        });
                        assert_eq!(again, y, "{kind:?} {size} x {rows}, {tokens} tokens, packed, {isa}");
                    }
                    for (token, (y, values)) in
                        y.chunks_exact(rows).zip(values.chunks_exact(size)).enumerate()
                    {
                        Team::assemble(&pool, |team| x.set(Cores { team, kernels }, values, size));
                        let mut alone = vec![f32::NAN; rows];
                        Team::assemble(&pool, |team| {
                            multiply(Cores { team, kernels }, &x, &mut [(matrix, &mut alone)])
                        });
                        assert_eq!(y, alone, "{kind:?} {size} x {rows}, token {token} of {tokens}, {isa}");
                        for (row, y) in y.iter().enumerate() {
                            let weights = matrix.row(row);
                            let terms =
                                weights.iter().zip(values).map(|(&w, &x)| f64::from(w) * f64::from(x));
                            let (mut exact, mut greatest) = (0.0, 0.0);
                            for term in terms {
                                exact += term;
                                greatest += term.abs();
                            }
                            // 16 bits of activation, offsets of half a block's range, and f32 sums.
                            let error = (f64::from(*y) - exact).abs();
                            assert!(
                                error <= 1e-4 * greatest + 1e-6,
                                "{kind:?} {size} x {rows}, {tokens} tokens, {isa}: {y} is not {exact}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn packed_rows_are_the_rows() {
    for kind in WeightType::ALL {
        // Three groups, and five rows that are left over.
        let bytes = weights(kind, 53, 256);
        let matrix = Matrix::new(kind, 256, &bytes).expect("whole rows");
        let Some(packed) = matrix.pack() else { continue };
        // Negative control: that they lie otherwise.
        assert!(packed != bytes && packed.len() == bytes.len());
        let packed = Matrix::from_packed(kind, 256, &packed).expect("whole groups");
        for row in [0, 1, 15, 16, 47, 48, 52] {
            assert_eq!(packed.row(row), matrix.row(row), "{kind:?}, row {row}");
        }
        assert!(packed.pack().is_none(), "once is enough");
        assert!(Matrix::from_packed(kind, 256, &bytes[..bytes.len() / 53 * 15]).is_none(), "no whole group");
    }
}

#[test]
fn activations_keep_fifteen_bits_and_zeros_stay_zero() {
    let mut values = noise(4, 64);
    values[32..].fill(0.0);
    let bytes: Vec<u8> = (0..64).flat_map(|_| [0x00, 0x3c]).collect();
    let row = Matrix::new(WeightType::F16, 64, &bytes).expect("a row");
    assert!(row.row(0).iter().all(|&w| w == 1.0));
    let identity: Vec<u8> = (0..32)
        .flat_map(|i| {
            let mut block = vec![0x00, 0x3c];
            block.extend((0..32).map(|j| u8::from(i == j)));
            block.extend([0u8; 34]);
            block
        })
        .collect();
    let identity = Matrix::new(WeightType::Q8_0, 64, &identity).expect("32 rows of 2 blocks");
    let pool = pool();
    let kernels = DenseKernels::from(Kernels::detect().expect("a kernel"));
    let mut x = Activations::default();
    Team::assemble(&pool, |team| x.set(Cores { team, kernels }, &values, 64));
    let mut y = vec![0.0; 32];
    Team::assemble(&pool, |team| multiply(Cores { team, kernels }, &x, &mut [(identity, &mut y)]));
    for (y, x) in y.iter().zip(&values) {
        assert!((y - x).abs() < 1.0 / 60_000.0, "{y} {x}");
    }
}
