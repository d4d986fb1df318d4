//! A session whose rows are three times the memory that its process may have.
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use engine::{Access, Attention, Budget, Folder, Policy, RowType, Session, SessionConfig, Shape};
use support::Text;

const CHILD: &str = "MAGICPIG_LARGER_THAN_MEMORY";
const NAME: &str = "it_decodes_as_with_all_of_the_memory_needs_a_memory_cgroup";
const SHAPE: Shape = Shape { layers: 4, heads: 8, kv_heads: 2, head_dim: 128 };
const TOKENS: usize = 65_536;
const CHUNK: usize = 1024;
const STEPS: usize = 24;
/// Bytes of all rows, of which the process may have a third.
const ROW_BYTES: usize = TOKENS * 4 * 2 * 512;

/// Only a control group limits the page cache that a process has, and only some may make one. Where it cannot be made, the
/// test says so and runs the same work without a limit.
#[test]
fn it_decodes_as_with_all_of_the_memory_needs_a_memory_cgroup() {
    if let Some(folder) = env::var_os(CHILD) {
        return work(Path::new(&folder));
    }
    let root = tempfile::tempdir_in(env::temp_dir()).expect("a folder");
    let free = run(&root.path().join("free"), None);
    let group = Group::new(ROW_BYTES / 3);
    if group.is_none() {
        println!("NOT LIMITED: this process may not make a memory cgroup here");
    }
    let limited = run(&root.path().join("limited"), group.as_ref());
    let line = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        text.lines().find(|line| line.starts_with("outputs")).expect("the child's figures").to_owned()
    };
    let (free, limited) = (line(&free), line(&limited));
    println!("{} MB of rows; all of the memory: {free}; a third of it: {limited}", ROW_BYTES >> 20);
    let digest = |line: &str| line.split_whitespace().nth(1).expect("a digest").to_owned();
    assert_eq!(digest(&free), digest(&limited));
}

fn run(folder: &Path, group: Option<&Group>) -> Output {
    let enter =
        group.map_or(":".to_owned(), |group| format!("echo $$ > {}/cgroup.procs", group.path.display()));
    Command::new("sh")
        .args(["-c", &format!(r#"{enter} && exec "$0" --exact --nocapture {NAME}"#)])
        .arg(env::current_exe().expect("this test's path"))
        .env(CHILD, folder)
        .output()
        .expect("a shell")
}

/// Writes a session in pieces, opens it again and decodes.
fn work(path: &Path) {
    let text = Text { shape: SHAPE, seed: 4 };
    let config = SessionConfig {
        shape: SHAPE,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 2,
        seed: 0,
        directory: env::temp_dir(),
    };
    let folder = Folder { path: path.to_owned(), model: Vec::new(), access: Access::Write, create: true };
    let policy = Policy::Sketch { bits: 4, budget: Budget::Fraction(0.005), residual: false };
    let mut session = Session::open(&config, &folder, policy).expect("a new session");
    for first in (0..TOKENS).step_by(CHUNK) {
        for layer in 0..SHAPE.layers {
            let of = |part: &dyn Fn(usize) -> Vec<f32>| -> Vec<f32> {
                (first..first + CHUNK).flat_map(part).collect()
            };
            let (k, v) = (of(&|token| text.k(layer, token)), of(&|token| text.v(layer, token)));
            session.append(layer, &k, &v).expect("room on the disk");
        }
        session.push_tokens(&vec![0; CHUNK]).expect("they have rows");
        session.build_index(&AtomicBool::new(false)).expect("not cancelled");
        session.commit().expect("room on the disk");
    }
    session.close().expect("room on the disk");

    let opening = Instant::now();
    let mut session = Session::open(&config, &folder, policy).expect("it is there");
    let opening = opening.elapsed();
    let (mut digest, mut times) = (0u64, Vec::new());
    for token in TOKENS..TOKENS + STEPS {
        let started = Instant::now();
        let out = text.decode(&mut session, token);
        session.push_tokens(&[0]).expect("it has a row");
        times.push(started.elapsed());
        let mix = |digest: u64, x: &f32| (digest ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3);
        digest = out.iter().fold(digest, mix);
    }
    session.commit().expect("room on the disk");
    times.sort();
    let (median, worst): (Duration, Duration) = (times[STEPS / 2], times[STEPS - 1]);
    println!(
        "outputs {digest:016x}, opened in {opening:.1?}, a step {median:.1?}, the slowest {worst:.1?}, at most {} MB resident",
        peak() >> 10
    );
}

/// Kilobytes that the process had in memory at most.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// A control group that limits the memory of processes in it.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new(bytes: usize) -> Option<Group> {
        let name = format!("magicpig-test-{}", process::id());
        // Version 1 has a hierarchy for memory of its own, version 2 one for everything.
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.into_iter().find_map(|(root, limit)| {
            let path = Path::new(root).join(&name);
            fs::create_dir(&path).ok()?;
            let group = Group { path };
            fs::write(group.path.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
