//! The power goes: what was not synced is there, is not, or is in part.
#![cfg(unix)]

mod common;

use std::sync::Arc;

use common::Random;
use common::disk::{Disk, Op};
use common::history::History;
use common::power::PowerModel;

const IMAGES: usize = 3_000;

#[test]
fn every_image_of_the_disk_opens_at_the_last_commit_or_the_one_under_way() {
    let root = common::scratch();
    let history = History::live(root.path(), Arc::new(Disk::new(None)));
    let ops = history.disk().ops();
    for seed in 0..IMAGES {
        check_image(&history, root.path(), &ops, seed);
    }
    println!("{IMAGES} images of {} calls", ops.len());
}

/// A store that synced nothing before it replaced its manifest would be found out.
#[test]
fn images_without_syncs_do_not_all_open() {
    let root = common::scratch();
    let history = History::live(root.path(), Arc::new(Disk::new(None)));
    let unsynced: Vec<Op> = history
        .disk()
        .ops()
        .into_iter()
        .map(|op| match op {
            // A sync of a file that does not happen: nothing in its place.
            Op::Sync { ino } => Op::Write { ino, offset: 0, bytes: Vec::new() },
            op => op,
        })
        .collect();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let lost = (0..60)
        .filter(|&seed| {
            std::panic::catch_unwind(|| check_image(&history, root.path(), &unsynced, seed)).is_err()
        })
        .count();
    std::panic::set_hook(hook);
    assert!(lost > 10, "only {lost} of 60 images show it");
}

fn check_image(history: &History, root: &std::path::Path, ops: &[Op], seed: usize) {
    let mut random = Random(seed as u64);
    let mut calls = random.below(ops.len() + 1);
    // Most is open just before a folder is synced.
    if random.below(2) == 0 {
        let rest = ops[calls..].iter();
        calls += rest.take_while(|op| !matches!(op, Op::SyncDir(_))).count();
    }
    let mut model = PowerModel::new(root);
    ops[..calls].iter().for_each(|op| model.apply(op));
    let image = common::scratch();
    let kept = [0.0, 0.1, 0.5, 0.9, 1.0][random.below(5)];
    let sector = [512, 4096][random.below(2)];
    model.image(image.path(), &mut random, kept, sector);
    history.check(image.path(), calls);
}
