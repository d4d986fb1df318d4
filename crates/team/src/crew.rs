//! Threads that stay awake for a while after a leader has left, for regions that come from outside, again and again.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Shared, Team, spin_until};

/// How long threads stay awake when nobody leads: longer than a device takes for a layer, or for a model's output head.
const LINGER: Duration = Duration::from_millis(2);

/// Looks at the counter before a thread lets others run in between: a microsecond or two. Whoever leads may wait for a device meanwhile, and for that
/// needs a core like any other.
const LOOKS: u32 = 64;

/// A team for work that comes in pieces, such as the attention of a step whose dense layers are elsewhere. [`Team::assemble`] wakes its threads through
/// the kernel, which took 40 to 300 microseconds for 16 of them; those of a crew are awake if its last piece was over less than two
/// milliseconds ago.
pub struct Crew {
    shared: Arc<Shared>,
    rest: Arc<Rest>,
    /// One leads at a time.
    leader: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

/// When there is nothing to do.
#[derive(Default)]
struct Rest {
    led: AtomicBool,
    dismissed: AtomicBool,
    /// Threads that sleep.
    sleeping: Mutex<usize>,
    wake: Condvar,
}

impl Crew {
    /// A crew of so many threads, the leader's among them.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(threads: usize) -> io::Result<Crew> {
        let mut crew = Crew {
            shared: Arc::new(Shared::new()),
            rest: Arc::default(),
            leader: Mutex::default(),
            threads: Vec::new(),
        };
        for _ in 1..threads {
            let (shared, rest) = (Arc::clone(&crew.shared), Arc::clone(&crew.rest));
            crew.threads.push(Builder::new().name("crew".to_owned()).spawn(move || rest.serve(&shared))?);
        }
        Ok(crew)
    }

    /// Threads, the leader's included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `lead` on this thread with the others at its side, once nobody else leads.
    ///
    /// # Panics
    /// If `lead` or a task does.
    pub fn lead<R>(&self, lead: impl FnOnce(&Team<'_>) -> R) -> R {
        let _leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a leader before, who has heard of it.
        self.shared.panicked.store(false, Ordering::Relaxed);
        self.rest.end();
        let result = catch_unwind(AssertUnwindSafe(|| lead(&Team::of(&self.shared, self.threads()))));
        self.rest.led.store(false, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Rest {
    /// What a thread does until it is dismissed.
    fn serve(&self, shared: &Shared) {
        let mut looks = 0;
        let mut idle_since = None;
        let dismissed = || self.dismissed.load(Ordering::Relaxed);
        while !dismissed() {
            if shared.work() {
                looks = 0;
                continue;
            }
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            if self.led.load(Ordering::Acquire) {
                // As in a team: what a leader does between regions takes less than a turn of the scheduler's.
                idle_since = None;
                spin_until(|| shared.work() || !self.led.load(Ordering::Acquire) || dismissed());
                looks = 0;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() < LINGER {
                thread::yield_now();
            } else {
                self.sleep();
                (looks, idle_since) = (0, None);
            }
        }
    }

    fn sleep(&self) {
        let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sleeping += 1;
        while !self.led.load(Ordering::Acquire) && !self.dismissed.load(Ordering::Relaxed) {
            sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        *sleeping -= 1;
    }

    /// Somebody leads. Under the lock, so that no thread falls asleep over it.
    fn end(&self) {
        let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.led.store(true, Ordering::Release);
        if *sleeping > 0 {
            self.wake.notify_all();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.rest.dismissed.store(true, Ordering::Relaxed);
        self.rest.end();
        for thread in self.threads.drain(..) {
            // A thread has nothing that can panic outside of tasks, whose panics are their leader's.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::{Crew, LINGER};

    fn sum(crew: &Crew, count: usize) -> usize {
        let total = AtomicUsize::new(0);
        crew.lead(|team| team.each(count, |task| _ = total.fetch_add(task, Ordering::Relaxed)));
        total.into_inner()
    }

    #[test]
    fn every_task_is_done_once_whether_threads_are_awake_or_asleep() {
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).expect("threads");
            for pause in [Duration::ZERO, LINGER / 4, 3 * LINGER] {
                for _ in 0..20 {
                    assert_eq!(sum(&crew, 100), 4950, "{threads} threads, {pause:?}");
                    thread::sleep(pause);
                }
            }
        }
    }

    #[test]
    fn a_crew_leaves_at_once_whatever_its_threads_do() {
        for round in 0..200 {
            let crew = Crew::new(3).expect("threads");
            if round % 2 == 0 {
                sum(&crew, 10);
            }
            drop(crew);
        }
    }

    #[test]
    fn leaders_wait_for_one_another() {
        let crew = Crew::new(3).expect("threads");
        let leading = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        crew.lead(|team| {
                            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "alone");
                            team.each(8, |_| ());
                            leading.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_is_its_leaders_and_the_crew_goes_on() {
        let crew = Crew::new(2).expect("threads");
        for fails in [3, 7] {
            let led = catch_unwind(AssertUnwindSafe(|| {
                crew.lead(|team| team.each(10, |task| assert_ne!(task, fails, "as the test wants")));
            }));
            assert!(led.is_err());
            assert_eq!(sum(&crew, 10), 45);
        }
    }
}
