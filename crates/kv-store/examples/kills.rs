//! Kills a process that appends and commits, again and again, and looks at what it leaves:
//! `cargo run --release -p kv-store --example kills -- [KILLS] [SEED]`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use common::kills::{campaign, child};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, directory] = &arguments[..]
        && word == "child"
    {
        child(&PathBuf::from(directory));
    }
    let number = |index: usize, default| arguments.get(index).map_or(default, |text| text.parse().unwrap());
    let (kills, seed) = (number(0, 1000), number(1, 1));
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("session");
    let tally = campaign(&directory, kills as usize, seed, || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg("child").arg(&directory);
        command
    });
    println!("{tally:?}");
    if (tally.lost, tally.broken) == (0, 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
