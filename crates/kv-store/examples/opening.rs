//! What opening, verifying and a commit of one token cost at lengths up to 1M tokens: `cargo run --release -p kv-store --example opening -- [ROUNDS]`.
//!
//! Elements are small, so that the sessions fit a disk; opening does not look at them. The columns and regions are as many
//! as a model of 30 layers and 3 KV heads has.

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use kv_store::{Access, Column, Counts, Pattern, SEGMENT_ROWS, SessionStore, Spec, StoreError, verify};

const REGIONS: usize = 90;

fn main() -> Result<(), StoreError> {
    let rounds = env::args().nth(1).map_or(41, |text| text.parse().expect("a number of rounds"));
    let root = tempfile::tempdir().expect("a folder");
    println!(
        "tokens segments files journal_bytes open_read_us open_write_us verify_ms commit_us check_sizes_us"
    );
    for tokens in [8_192, 32_768, 131_072, 524_288, 1_048_576] {
        let directory = root.path().join(tokens.to_string());
        let commit = make(&directory, tokens)?;
        let read = median(rounds, || SessionStore::open(&directory, spec(), &[], Access::Read).map(drop))?;
        let write = median(rounds, || SessionStore::open(&directory, spec(), &[], Access::Write).map(drop))?;
        let started = Instant::now();
        assert!(verify(&directory)?.problems.is_empty());
        let verified = started.elapsed();
        let store = SessionStore::open(&directory, spec(), &[], Access::Read)?;
        assert_eq!(store.token_count(), tokens);
        let files = std::fs::read_dir(&directory).expect("a folder").count();
        println!(
            "{tokens} {} {files} {} {} {} {} {} {}",
            store.segments(),
            kv_store::inspect(&directory)?.journal_bytes,
            read.as_micros(),
            write.as_micros(),
            verified.as_millis(),
            commit.as_micros(),
            median(rounds, || store.check_sizes())?.as_micros()
        );
        drop(store);
        kv_store::remove(&directory)?;
    }
    Ok(())
}

fn spec() -> Spec {
    let column = |name: &str, element_bytes, per_segment| Column {
        name: name.to_owned(),
        element_bytes,
        per_segment,
        pattern: Pattern::Random,
    };
    let columns = vec![
        column("rows", 4, SEGMENT_ROWS),
        column("codes", 16, SEGMENT_ROWS / 16),
        column("centres", 256, 1),
    ];
    Spec::new(REGIONS, columns)
}

/// A session with so many tokens, the last 100 of them in the journal, and how long a commit of one of these took.
fn make(directory: &Path, tokens: usize) -> Result<Duration, StoreError> {
    let mut store = SessionStore::create(directory, spec(), &[])?;
    let (mut have, mut times) = (0, Vec::new());
    for target in
        (0..tokens - 100).step_by(SEGMENT_ROWS).skip(1).chain([tokens - 100]).chain(tokens - 99..=tokens)
    {
        for region in 0..REGIONS {
            store.write(0, region, have, &vec![region as u8; 4 * (target - have)])?;
            store.write(1, region, have / 16, &vec![7; 16 * (target / 16 - have / 16)])?;
            let centres = target / SEGMENT_ROWS - have / SEGMENT_ROWS;
            store.write(2, region, have / SEGMENT_ROWS, &vec![9; 256 * centres])?;
        }
        store.push_tokens(&vec![1; target - have])?;
        let all: Counts = store.common_counts();
        let started = Instant::now();
        store.commit(b"state", &all)?;
        times.push(started.elapsed());
        have = target;
    }
    times.drain(..times.len() - 99);
    times.sort();
    Ok(times[times.len() / 2])
}

fn median(rounds: usize, mut act: impl FnMut() -> Result<(), StoreError>) -> Result<Duration, StoreError> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let started = Instant::now();
        act()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[rounds / 2])
}
