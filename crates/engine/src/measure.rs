//! What one layer's attention costs, and how far a policy's output is from exact, on synthetic rows.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::synthetic::Synthetic;
use crate::{EngineError, Policy, Session, SessionConfig, Shape};

/// Steps whose medians are reported, and those before them that let a budget settle and caches fill.
const STEPS: usize = 32;
const WARM_UP: usize = 16;
/// Bytes that are streamed to measure the memory: far more than any cache.
const STREAM_BYTES: usize = 512 << 20;

/// Medians over steps of one layer, each of all sequences.
#[derive(Clone, Copy, Debug)]
pub struct AttentionMeasurement {
    /// Hashing or rotating the queries.
    pub hash: Duration,
    /// Finding the rows to read: buckets and collisions, or scan and draw.
    pub retrieve: Duration,
    /// Reading them.
    pub attend: Duration,
    /// The whole step, static set and insertion included.
    pub step: Duration,
    /// The same with every row read.
    pub exact: Duration,
    /// What the memory delivers to the threads, in bytes a second.
    pub stream: f64,
    /// Bytes of rows that `exact` reads.
    pub row_bytes: u64,
    /// Building the index of all rows of all sequences.
    pub index: Duration,
    /// Bytes of index for a key of a KV head.
    pub index_bytes_per_key: f64,
    /// Mean fraction of the indexed keys that were read.
    pub budget: f64,
    /// |o - exact o| / |exact o| over the same rows, all heads together, root mean square over steps.
    pub relative_l2: f64,
}

/// Measures `policy` on one layer of `batch` sequences with `context` tokens each, whose steps are taken together: one after
/// the other by all threads, since no two read the same rows.
///
/// # Errors
/// As [`Session::new`] and [`Session::set_policy`]; if the context is too short to have anything to sample, or there is no
/// sequence.
pub fn measure_attention(
    config: &SessionConfig,
    context: usize,
    policy: Policy,
    batch: usize,
) -> Result<AttentionMeasurement, EngineError> {
    let shape = Shape { layers: 1, ..config.shape };
    if context < 1024 {
        return Err(EngineError::Invalid(format!("context = {context}; it must be 1024 or more")));
    }
    if batch == 0 {
        return Err(EngineError::Invalid("batch = 0; it must be 1 or more".to_owned()));
    }
    let synthetic = Synthetic::new(shape, context + 2 * (STEPS + WARM_UP), 1);
    let width = shape.kv_len();
    let mut sessions = Vec::with_capacity(batch);
    let mut index = Duration::ZERO;
    for seed in 0..batch as u64 {
        let mut session = Session::new(SessionConfig { shape, seed: config.seed + seed, ..config.clone() })?;
        session.set_policy(policy)?;
        session.append(0, &synthetic.keys[..context * width], &synthetic.values[..context * width])?;
        let started = Instant::now();
        session.build_index(&AtomicBool::new(false))?;
        index += started.elapsed();
        sessions.push(session);
    }
    let stream = stream_bandwidth(&sessions[0], config.threads);

    let mut out = vec![0.0; shape.q_len()];
    let mut exact_out = vec![0.0; shape.q_len()];
    let (mut steps, mut exacts, mut phases) = (Vec::new(), Vec::new(), Vec::new());
    let (mut squares, mut sampled, mut indexed) = (0.0, 0, 0);
    for number in 0..STEPS + WARM_UP {
        let mut total = (Duration::ZERO, Duration::ZERO);
        let mut phase = (Duration::ZERO, Duration::ZERO);
        for (sequence, session) in sessions.iter_mut().enumerate() {
            let q = synthetic.queries((number * batch + sequence) as u64);
            let timed = |session: &mut Session, row: usize, out: &mut [f32]| {
                session.reset_stats();
                let row = (context + row) * width..(context + row + 1) * width;
                let started = Instant::now();
                session.decode(0, &q, &synthetic.keys[row.clone()], &synthetic.values[row], out)?;
                Ok::<_, EngineError>((started.elapsed(), session.stats()))
            };
            let (step, stats) = timed(session, number, &mut out)?;
            session.truncate(context + number)?;
            session.set_policy(Policy::Exact)?;
            let (exact, _) = timed(session, number, &mut exact_out)?;
            session.set_policy(policy)?;
            total = (total.0 + step, total.1 + exact);
            phase = (phase.0 + stats.hash_time, phase.1 + stats.retrieve_time);
            if number >= WARM_UP {
                sampled += stats.sampled_rows;
                indexed += stats.indexed_rows;
                let square = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
                let difference: Vec<f32> = out.iter().zip(&exact_out).map(|(a, b)| a - b).collect();
                squares += square(&difference) / square(&exact_out);
            }
        }
        if number >= WARM_UP {
            steps.push(total.0);
            exacts.push(total.1);
            phases.push(phase);
        }
    }
    let hash = median(phases.iter().map(|phase| phase.0).collect());
    let retrieve = median(phases.iter().map(|phase| phase.1).collect());
    let step = median(steps);
    let stats = sessions[0].stats();
    Ok(AttentionMeasurement {
        hash,
        retrieve,
        attend: step.saturating_sub(hash + retrieve),
        step,
        exact: median(exacts),
        stream,
        row_bytes: (batch * context * shape.kv_heads * config.rows.row_bytes(shape.head_dim)) as u64,
        index,
        index_bytes_per_key: stats.index_bytes as f64 / (stats.indexed_tokens * shape.kv_heads).max(1) as f64,
        budget: if indexed == 0 { 1.0 } else { sampled as f64 / indexed as f64 },
        relative_l2: (squares / (STEPS * batch) as f64).sqrt(),
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes a second that the session's threads read from memory in straight lines: the best of five passes.
fn stream_bandwidth(session: &Session, threads: usize) -> f64 {
    let words = vec![1u64; STREAM_BYTES / size_of::<u64>()];
    let pass = || {
        let started = Instant::now();
        let sum: u64 = session.pool().install(|| {
            words
                .par_chunks(words.len().div_ceil(threads))
                .map(|words| words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)))
                .sum()
        });
        black_box(sum);
        started.elapsed()
    };
    let best = (0..5).map(|_| pass()).min().unwrap_or_default();
    STREAM_BYTES as f64 / best.as_secs_f64()
}
