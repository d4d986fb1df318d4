//! Products of a matrix that no cache holds with one token and with the eight of a batch, for each format of weights on each instruction
//! set, packed where they are of blocks: what decoding is made of. Two threads; the throughput is of weights times tokens.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dense::{Activations, Cores, DenseKernels, Matrix, WeightType, multiply};
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::mix::{mix64, normals};
use rayon::ThreadPoolBuilder;
use team::Team;

const ROWS: usize = 24_576;
const INPUTS: usize = 4096;
const BATCHES: [usize; 2] = [1, 8];

fn products(c: &mut Criterion) {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    let values = normals(1, INPUTS);
    for kind in WeightType::ALL {
        let row_bytes = kind.row_bytes(INPUTS).expect("whole blocks");
        // Bytes whose pairs are small numbers, whichever of them are scales.
        let row: Vec<u8> = (0..row_bytes as u64).map(|i| 0x20 | (mix64(i) & 15) as u8).collect();
        let bytes = row.repeat(ROWS);
        let matrix = Matrix::new(kind, INPUTS, &bytes).expect("whole rows");
        let packed = matrix.pack();
        let exact: f64 = matrix.row(0).iter().zip(&values).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        let scale: f64 =
            matrix.row(0).iter().zip(&values).map(|(&w, &x)| (f64::from(w) * f64::from(x)).abs()).sum();
        for tokens in BATCHES {
            let mut group =
                c.benchmark_group(format!("{ROWS} x {INPUTS} of {}, {tokens} tokens", kind.name()));
            group.throughput(Throughput::Elements((ROWS * INPUTS * tokens) as u64));
            for kernels in Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok()) {
                let name = kernels.isa().name();
                let kernels = DenseKernels::from(kernels);
                let mut x = Activations::default();
                Team::assemble(&pool, |team| x.set(Cores { team, kernels }, &values.repeat(tokens), INPUTS));
                let mut y = vec![0.0; ROWS * tokens];
                let packed = packed.as_deref().and_then(|bytes| Matrix::from_packed(kind, INPUTS, bytes));
                let matrix = packed.unwrap_or(matrix);
                let mut product = || {
                    Team::assemble(&pool, |team| {
                        multiply(Cores { team, kernels }, &x, &mut [(matrix, black_box(&mut y))])
                    });
                };
                product();
                group.bench_function(name, |b| b.iter(&mut product));
                let worst = y.iter().map(|&y| (f64::from(y) - exact).abs()).fold(0.0, f64::max);
                assert!(worst <= 1e-4 * scale, "{name} is off by {worst} of {scale}");
            }
        }
    }
}

criterion_group! {
    name = dense;
    config = Criterion::default().warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(600)).sample_size(10);
    targets = products
}
criterion_main!(dense);
