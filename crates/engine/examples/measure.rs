//! Measures one layer.
use engine::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let ctx: usize = a[1].parse().unwrap();
    let shape = match a.get(3).map(String::as_str) {
        Some("smol") => Shape { layers: 1, heads: 9, kv_heads: 3, head_dim: 64 },
        _ => Shape { layers: 1, heads: 32, kv_heads: 8, head_dim: 128 },
    };
    let policies: Vec<Policy> = match a[2].as_str() {
        "lsh" => vec![Policy::Lsh { k: 10, l: 150 }],
        "sketch" => vec![
            Policy::Sketch { bits: 4, budget: 0.02 },
            Policy::Sketch { bits: 4, budget: 0.01 },
            Policy::Sketch { bits: 4, budget: 0.005 },
            Policy::Sketch { bits: 2, budget: 0.01 },
        ],
        _ => vec![Policy::Exact],
    };
    for p in policies {
        let m = measure_attention(
            SessionConfig {
                shape,
                threads: 2,
                seed: 1,
                directory: std::env::var("DIR").unwrap_or("/tmp".into()).into(),
            },
            ctx,
            p,
        )
        .unwrap();
        println!(
            "{p:?} hash {:.3} retrieve {:.3} attend {:.3} step {:.3} exact {:.3} ms; stream {:.1} GB/s limit {:.2} ms; index {:.2} s {:.1} B/key; budget {:.4} relL2 {:.4}",
            m.hash.as_secs_f64() * 1e3,
            m.retrieve.as_secs_f64() * 1e3,
            m.attend.as_secs_f64() * 1e3,
            m.step.as_secs_f64() * 1e3,
            m.exact.as_secs_f64() * 1e3,
            m.stream / 1e9,
            m.row_bytes as f64 / m.stream * 1e3,
            m.index.as_secs_f64(),
            m.index_bytes_per_key,
            m.budget,
            m.relative_l2
        );
    }
}
