//! A process that appends and commits is killed again and again, and goes on with what it left behind.

use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kv_store::{Access, SessionStore, StoreError, verify};

use super::{Random, Snapshot, counts, fingerprint, grow, open, spec};

/// Tokens at which the process begins a shorter text.
const MANY: usize = 60;

/// What a campaign saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub kills: usize,
    /// Kills after which a commit was found that had not been acknowledged.
    pub unacknowledged: usize,
    /// Commits that were acknowledged, over all lives.
    pub commits: u64,
    /// Commits that were acknowledged and not found.
    pub lost: usize,
    /// Times the session did not open or was not as its last commit said.
    pub broken: usize,
}

/// Commits until it is killed; the number of each goes to stdout once it is acknowledged.
pub fn child(directory: &Path) -> ! {
    let mut store = match open(directory, Access::Write) {
        Ok(store) => store,
        Err(StoreError::NotFound { .. }) => {
            SessionStore::create(directory, spec(), &fingerprint()).expect("a session can be made")
        }
        Err(error) => panic!("{error}"),
    };
    let mut number = numbered(&store).expect("the session is as its state says");
    loop {
        number += 1;
        let mut random = Random(number);
        let tokens = store.token_count();
        let back = match random.below(8) {
            0 => tokens.min(random.below(12)),
            _ if tokens > MANY => random.below(tokens),
            _ => 0,
        };
        store.truncate(tokens - back, &counts(tokens - back)).unwrap();
        let more = 1 + if random.below(6) == 0 { random.below(20) } else { random.below(3) };
        grow(&mut store, &mut random, more).unwrap();
        let state = [number.to_le_bytes(), digest(&store).to_le_bytes()].concat();
        let all = store.common_counts();
        store.commit(&state, &all).unwrap();
        if random.below(10) == 0 {
            store.flush().unwrap();
        }
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{number}").and_then(|()| stdout.flush()).expect("the parent listens");
    }
}

/// Kills `command`'s process, which is to call [`child`], `kills` times, and looks at the session after each.
pub fn campaign(directory: &Path, kills: usize, seed: u64, command: impl Fn() -> Command) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut acknowledged = 0;
    for _ in 0..kills {
        let mut process = command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut text = String::new();
        // After some commits, whatever the machine's speed, and anywhere in the next; or while it opens.
        let some = random.below(6);
        while numbers(&text).count() < some && stdout.read_line(&mut text).unwrap() > 0 {}
        std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        process.kill().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        process.wait().unwrap();
        tally.kills += 1;
        let before = acknowledged;
        acknowledged = numbers(&text).fold(acknowledged, u64::max);
        tally.commits += acknowledged - before;
        match look(directory) {
            Ok(found) => {
                tally.lost += usize::from(found < acknowledged);
                tally.broken += usize::from(found > acknowledged + 1);
                tally.unacknowledged += usize::from(found == acknowledged + 1);
                acknowledged = found;
            }
            Err(_) if acknowledged == 0 && !directory.exists() => {}
            Err(problem) => {
                eprintln!("after {} kills: {problem}", tally.kills);
                tally.broken += 1;
            }
        }
    }
    tally
}

/// The commits that were acknowledged. A test harness in the child may say more than numbers, and the last line may be cut
/// off.
fn numbers(text: &str) -> impl Iterator<Item = u64> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|line| line.parse().ok())
}

/// The number of the last commit, if the session opens and all of it is as it was written.
fn look(directory: &Path) -> Result<u64, String> {
    let store = open(directory, Access::Read).map_err(|error| error.to_string())?;
    let report = verify(directory).map_err(|error| error.to_string())?;
    if !report.problems.is_empty() {
        return Err(format!("{:?}", report.problems));
    }
    numbered(&store).ok_or_else(|| "the session is not as its state says".to_owned())
}

fn numbered(store: &SessionStore) -> Option<u64> {
    match store.state() {
        [] => Some(0),
        state => {
            let (number, hash) = state.split_at(8);
            let same = u64::from_le_bytes(hash.try_into().ok()?) == digest(store);
            same.then_some(u64::from_le_bytes(number.try_into().ok()?))
        }
    }
}

fn digest(store: &SessionStore) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Snapshot { tokens, elements, .. } = Snapshot::of(store, &[]);
    tokens.iter().for_each(|&token| hasher.write_u32(token));
    elements.iter().flatten().flatten().for_each(|bytes| hasher.write(bytes));
    hasher.finish()
}
