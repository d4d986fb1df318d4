//! Each kernel on each instruction set of this machine, at shapes that decoding and prefill use. The tests of
//! `lsh-attn` hold every instruction set to scalar; here each result is compared once more before it is timed.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use benches::{bf16, stored};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lsh_attn::hash::{HashPlan, Hasher, LANES};
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::mix::normals;
use lsh_attn::prefill::{PrefillScratch, QueryBlock, attend_causal};
use lsh_attn::rows::{RowType, Rows};
use lsh_attn::segment_index::SegmentIndex;
use lsh_attn::sketch::{QueryCodes, SKETCH_BITS, SketchIndex, SketchPlan};
use lsh_attn::softmax::Partial;

fn each_isa() -> impl Iterator<Item = Kernels> {
    Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok())
}

/// Exact decoding of one KV head: Llama's four queries over 4,096 rows of d 128.
fn decode_rows(c: &mut Criterion) {
    let (dim, queries, count) = (128, 4, 4096);
    let q = normals(1, queries * dim);
    for row_type in RowType::ALL {
        let stored = stored(row_type, 2, count, dim);
        let rows = Rows::new(row_type, dim, &stored);
        let attend = |kernels| {
            let mut partial = Partial::new(queries, dim);
            partial.add_rows(kernels, &q, rows, &mut Vec::new());
            let mut out = vec![0.0; queries * dim];
            partial.finish(&mut out);
            out
        };
        let expected = attend(Kernels::of(Isa::Scalar).expect("always there"));
        let name = format!("exact decode, 4 queries, 4096 rows, d 128, {}", row_type.name());
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes((count * rows.row_bytes()) as u64));
        for kernels in each_isa() {
            let worst = attend(kernels).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{kernels:?} is off by {worst}");
            group.bench_function(kernels.isa().name(), |b| b.iter(|| black_box(attend(kernels))));
        }
    }
}

/// Exact prefill of one KV head: SmolLM2's three queries, 64 tokens after 4,096.
fn prefill_block(c: &mut Criterion) {
    for (dim, group) in [(64, 3), (128, 4)] {
        let (position, tokens) = (4032, 48);
        let rows = stored(RowType::Bf16, 3, position + tokens, dim);
        let q = normals(4, tokens * group * dim);
        let block = QueryBlock {
            q: &q,
            stride: group * dim,
            group,
            head_dim: dim,
            tokens,
            position,
            window: usize::MAX,
            score_cap: None,
        };
        let mut out = vec![0.0; q.len()];
        let mut scratch = PrefillScratch::default();
        let mut bench = c.benchmark_group(format!("exact prefill, {group} x 48 queries, 4080 rows, d {dim}"));
        // Multiplications and additions of both products.
        bench.throughput(Throughput::Elements((4 * tokens * group * dim * (position + tokens / 2)) as u64));
        for kernels in each_isa() {
            bench.bench_function(kernels.isa().name(), |b| {
                b.iter(|| {
                    attend_causal(
                        kernels,
                        block,
                        &[bf16(&rows, dim)],
                        &mut out,
                        &mut scratch,
                        &AtomicBool::new(false),
                    )
                })
            });
        }
    }
}

/// Hashing keys, and building tables from their codes, K 10 and L 150.
fn index(c: &mut Criterion) {
    for dim in [64, 128] {
        let count = 4096;
        let plan = HashPlan::new(dim, 10, 150, 5);
        let (vectors, rows) = (normals(6, LANES * dim), stored(RowType::Bf16, 7, count, dim));
        let mut group = c.benchmark_group(format!("hash 16 vectors, d {dim}"));
        group.throughput(Throughput::Elements(LANES as u64));
        for kernels in each_isa() {
            let mut hasher = Hasher::new(&plan);
            group.bench_function(kernels.isa().name(), |b| {
                b.iter(|| black_box(hasher.hash(kernels, &plan, LANES, |lane, j| vectors[lane * dim + j])[0]))
            });
        }
        group.finish();
        let mut group = c.benchmark_group(format!("index 4096 keys, d {dim}"));
        group.throughput(Throughput::Elements(count as u64));
        for kernels in each_isa() {
            group.bench_function(kernels.isa().name(), |b| {
                b.iter(|| {
                    let mut index = SegmentIndex::new(0);
                    index.extend(kernels, &plan, bf16(&rows, dim), count);
                    index
                })
            });
        }
    }
}

/// Codes of 4,096 keys: made, and scanned for the four queries of a KV head.
fn sketch(c: &mut Criterion) {
    for dim in [64, 128] {
        let (count, queries) = (4096, 4);
        let (q, rows) = (normals(8, queries * dim), stored(RowType::Bf16, 9, count, dim));
        for bits in SKETCH_BITS {
            let plan = SketchPlan::new(dim, bits, 1);
            let scan = |kernels: Kernels| {
                let mut index = SketchIndex::new(0, vec![0.0; dim]);
                let mut blocks = Vec::new();
                index.extend(kernels, &plan, bf16(&rows, dim), count, &mut blocks);
                let mut codes = QueryCodes::default();
                codes.encode(kernels, &plan, &q);
                (blocks, codes)
            };
            let weights = |kernels: Kernels, blocks: &[u8], codes: &QueryCodes| {
                let (mut weights, mut totals) = (vec![0; count * queries], [0.0; 4]);
                let queries = codes.queries(0, &[0.0; 4]);
                kernels.sketch_weights(bits, plan.padded_dim(), blocks, queries, &mut weights, &mut totals);
                (weights, totals)
            };
            let scalar = Kernels::of(Isa::Scalar).expect("always there");
            let (blocks, codes) = scan(scalar);
            let expected = weights(scalar, &blocks, &codes);
            let mut group =
                c.benchmark_group(format!("sketch scan, 4 queries, 4096 keys, d {dim}, {bits} bits"));
            group.throughput(Throughput::Bytes(blocks.len() as u64));
            for kernels in each_isa() {
                assert_eq!(weights(kernels, &blocks, &codes), expected, "{kernels:?}");
                group.bench_function(kernels.isa().name(), |b| {
                    b.iter(|| black_box(weights(kernels, &blocks, &codes)))
                });
            }
            group.finish();
            let mut group = c.benchmark_group(format!("sketch 4096 keys, d {dim}, {bits} bits"));
            group.throughput(Throughput::Elements(count as u64));
            for kernels in each_isa() {
                group.bench_function(kernels.isa().name(), |b| b.iter(|| scan(kernels)));
            }
        }
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = decode_rows, prefill_block, index, sketch
}
criterion_main!(kernels);
