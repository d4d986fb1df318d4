//! A short campaign of kills; `cargo run --release -p kv-store --example kills -- 1000` runs a long one.
#![cfg(unix)]

mod common;

use std::env;
use std::path::PathBuf;
use std::process::Command;

use common::kills::{campaign, child};

const CHILD: &str = "KV_STORE_KILLS_CHILD";
const NAME: &str = "killed_processes_lose_no_commit_that_was_acknowledged";

#[test]
fn killed_processes_lose_no_commit_that_was_acknowledged() {
    if let Some(directory) = env::var_os(CHILD) {
        child(&PathBuf::from(directory));
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let tally = campaign(&directory, 60, 1, || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", NAME]).env(CHILD, &directory);
        command
    });
    println!("{tally:?}");
    assert_eq!((tally.kills, tally.lost, tally.broken), (60, 0, 0));
    assert!(tally.commits > 60, "{tally:?}");
}
