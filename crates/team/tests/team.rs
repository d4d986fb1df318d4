//! Every task runs once, on all threads that are there; what panics does not hang.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use rayon::{ThreadPool, ThreadPoolBuilder};
use team::Team;

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn every_task_of_many_regions_runs_once() {
    for threads in [1, 2, 5] {
        Team::assemble(&pool(threads), |team| {
            assert_eq!(team.threads(), threads);
            for region in 0..20_000 {
                let count = region % 7;
                let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.each(count, |task| {
                    runs[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "region {region}");
            }
        });
    }
}

#[test]
fn writes_of_a_region_are_seen_by_the_next() {
    Team::assemble(&pool(3), |team| {
        let mut items = vec![0u64; 100];
        for round in 0..2_000 {
            team.each_mut(&mut items, |item| *item += 1);
            let total: u64 = team.map(items.len(), |task| items[task]).iter().sum();
            assert_eq!(total, 100 * (round + 1));
        }
    });
}

/// Tasks that three threads have to run at the same time: none ends before all have begun.
#[derive(Default)]
struct Meeting {
    begun: AtomicUsize,
    threads: Mutex<HashSet<ThreadId>>,
}

impl Meeting {
    fn attend(&self) {
        self.threads.lock().unwrap().insert(thread::current().id());
        self.begun.fetch_add(1, Ordering::SeqCst);
        while self.begun.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
    }

    fn threads(&self) -> usize {
        self.threads.lock().unwrap().len()
    }
}

#[test]
fn tasks_run_on_every_thread() {
    let meeting = Meeting::default();
    Team::assemble(&pool(3), |team| team.each(3, |_| meeting.attend()));
    assert_eq!(meeting.threads(), 3);
}

#[test]
fn a_panic_ends_the_team_and_not_the_pool() {
    let pool = pool(2);
    for lead in [false, true] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            Team::assemble(&pool, |team| {
                team.each(8, |task| assert!(lead || task != 5, "expected by the test"));
                panic!("expected by the test");
            })
        }));
        assert!(outcome.is_err());
    }
    assert_eq!(Team::assemble(&pool, |team| team.map(4, |task| task * task)), [0, 1, 4, 9]);
}

#[test]
fn items_have_teams_of_their_own() {
    for threads in [1, 2, 5] {
        Team::assemble(&pool(threads), |team| {
            for count in (0..7).chain(0..300) {
                let mut items: Vec<(usize, usize)> = (0..count).map(|item| (item, 0)).collect();
                team.lead_each(&mut items, |own, (item, sum)| {
                    assert_eq!(own.threads(), threads);
                    for _ in 0..2 {
                        *sum += own.map(*item, |inner| inner).into_iter().sum::<usize>();
                    }
                });
                assert!(items.iter().all(|&(item, sum)| sum == item * (item.max(1) - 1)), "{count} items");
            }
        });
    }
}

#[test]
fn who_finds_no_item_left_helps() {
    let meeting = Meeting::default();
    Team::assemble(&pool(3), |team| {
        team.lead_each(&mut [()], |own, ()| own.each(3, |_| meeting.attend()));
    });
    assert_eq!(meeting.threads(), 3);
}

#[test]
fn a_panic_under_a_leader_hangs_nobody() {
    let pool = pool(2);
    for in_task in [false, true] {
        let led = AtomicUsize::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            Team::assemble(&pool, |team| {
                team.lead_each(&mut [0, 1, 2, 3, 4, 5], |own, item| {
                    led.fetch_add(1, Ordering::Relaxed);
                    own.each(4, |task| assert!(*item != 1 || !in_task || task != 2, "expected by the test"));
                    assert!(*item != 1 || in_task, "expected by the test");
                });
            });
        }));
        assert!(outcome.is_err());
        assert!(led.load(Ordering::Relaxed) >= 2);
    }
    assert_eq!(Team::assemble(&pool, |team| team.map(4, |task| task * task)), [0, 1, 4, 9]);
}
