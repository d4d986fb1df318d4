//! One layer's attention in one step, by policy: Llama-3.1-8B's heads over 4,096 to 262,144 synthetic keys. With SHORT=1 in the
//! environment, to 32,768.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{Attention, Budget, Policy, RowType, Session, SessionConfig, Shape, Synthetic};

/// Steps before a policy is timed, in which its budget settles.
const WARM_UP: usize = 24;

fn policies(c: &mut Criterion) {
    let short = std::env::var_os("SHORT").is_some();
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    for head_dim in [64, 128] {
        let shape = Shape { layers: 1, heads: 32, kv_heads: 8, head_dim };
        let width = shape.kv_len();
        let mut group =
            c.benchmark_group(format!("step, 32 heads, 8 KV heads, d {head_dim}, {threads} threads"));
        for context in [4096, 32_768, 98_304, 262_144] {
            if short && context > 32_768 {
                continue;
            }
            let synthetic = Synthetic::new(shape, context + 1, 1);
            let directory = std::env::temp_dir();
            let mut session = Session::new(SessionConfig {
                shape,
                attention: Attention::default(),
                rows: RowType::Bf16,
                threads,
                seed: 0,
                directory,
            })
            .expect("a session");
            let (k, v) = (&synthetic.keys, &synthetic.values);
            session.append(0, &k[..context * width], &v[..context * width]).expect("room for the rows");
            let (k, v) = (&k[context * width..], &v[context * width..]);
            let q = synthetic.queries(7);
            let mut exact = vec![0.0; shape.q_len()];
            session.decode(0, &q, k, v, &mut exact).expect("a step");
            group.throughput(Throughput::Bytes((context * 2 * width * size_of::<u16>()) as u64));
            // The bounds are loose: they tell a kernel that is wrong from one that samples.
            for (name, policy, bound) in [
                ("exact", Policy::Exact, 1e-6),
                ("lsh", Policy::Lsh { k: 10, l: 150 }, 0.5),
                ("sketch", Policy::Sketch { bits: 4, budget: Budget::ByLength, residual: false }, 0.05),
            ] {
                session.truncate(context).expect("fewer tokens");
                session.set_policy(policy).expect("in range");
                session.build_index(&AtomicBool::new(false)).expect("not cancelled");
                let mut out = vec![0.0; shape.q_len()];
                let mut step = |out: &mut [f32]| {
                    session.truncate(context).expect("fewer tokens");
                    session.decode(0, &q, k, v, out).expect("a step");
                };
                (0..WARM_UP).for_each(|_| step(&mut out));
                let error = relative_l2(&out, &exact);
                assert!(error <= bound, "{name} after {context} is off by {error}");
                group.bench_function(BenchmarkId::new(name, context), |b| {
                    b.iter(|| step(black_box(&mut out)));
                });
            }
        }
    }
}

fn relative_l2(got: &[f32], want: &[f32]) -> f32 {
    let square = |x: f32| x * x;
    let error: f32 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
    (error / want.iter().copied().map(square).sum::<f32>()).sqrt()
}

criterion_group! {
    name = steps;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = policies
}
criterion_main!(steps);
