//! A session is cut off at every single call that changes its folder.
#![cfg(unix)]

mod common;

use std::sync::Arc;

use common::disk::Disk;
use common::history::History;

#[test]
fn a_cut_at_any_call_leaves_the_last_commit_or_the_one_under_way() {
    let whole = common::scratch();
    let history = History::live(whole.path(), Arc::new(Disk::new(None)));
    let calls = history.disk().count();
    history.check(whole.path(), calls);
    for cut in 0..calls {
        let root = common::scratch();
        let history = History::live(root.path(), Arc::new(Disk::new(Some(cut))));
        history.check(root.path(), cut);
    }
    println!("{}", history.summary());
    println!("cut at {calls} calls");
    assert!(calls >= 200, "{calls} calls");
}
