//! A fork and join for regions of a few microseconds.
//!
//! A decoding step has hundreds of parallel regions, one after another, with a little serial work between them. A pool
//! that puts its threads to sleep when there is nothing to do wakes them through the kernel each time, which takes longer
//! than many of the regions. The threads of a team stay awake from the step's beginning to its end and spin in between.

// A region's closure borrows from the caller's stack and is called by other threads: `each` argues why that is sound.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;

mod crew;

pub use crew::Crew;

/// Looks at the counter before a thread lets others run: some 100 microseconds, longer than a step's serial parts.
const SPINS: u32 = 4096;

/// The work of a region: a closure, and how to call it with a task's number.
#[derive(Clone, Copy)]
struct Region {
    count: usize,
    closure: *const (),
    call: unsafe fn(closure: *const (), task: usize),
}

/// What the threads share. A cache line each for what is written at different times.
struct Shared {
    /// Written by the leader alone, while no task is unclaimed or running.
    region: UnsafeCell<Region>,
    unclaimed: Line<AtomicUsize>,
    unfinished: Line<AtomicUsize>,
    dismissed: AtomicBool,
    panicked: AtomicBool,
}

#[repr(align(128))]
struct Line<T>(T);

// SAFETY: `region` is read only by a thread that has claimed a task of it and not yet finished that, and written only when
// there is no such thread (see `Team::each`); the claim's acquire meets the store's release.
unsafe impl Sync for Shared {}

// SAFETY: the region's pointers are used under the same conditions, on whatever thread.
unsafe impl Send for Shared {}

impl Shared {
    /// No region yet.
    fn new() -> Shared {
        unsafe fn nothing(_: *const (), _: usize) {}
        Shared {
            region: UnsafeCell::new(Region { count: 0, closure: std::ptr::null(), call: nothing }),
            unclaimed: Line(AtomicUsize::new(0)),
            unfinished: Line(AtomicUsize::new(0)),
            dismissed: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        }
    }

    /// Takes one task and runs it. False where none was left.
    fn work(&self) -> bool {
        let mut left = self.unclaimed.0.load(Ordering::Relaxed);
        loop {
            if left == 0 {
                return false;
            }
            match self.unclaimed.0.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => left = now,
            }
        }
        // SAFETY: a task of it is claimed and unfinished, so the leader leaves the region as it is, closure included.
        let Region { count, closure, call } = unsafe { *self.region.get() };
        // SAFETY: `call` is of the closure's type, and the closure lives until the task is finished.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { call(closure, count - left) }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.unfinished.0.fetch_sub(1, Ordering::Release);
        true
    }
}

/// Waits for `done` without sleeping.
fn spin_until(mut done: impl FnMut() -> bool) {
    let mut spins = 0;
    while !done() {
        if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Calls `work`, which says whether it found any, until all is `over`.
fn work_until(over: impl Fn() -> bool, work: impl Fn() -> bool) {
    while !over() {
        spin_until(|| work() || over());
    }
}

/// The threads of a pool, awake and waiting for the one that leads. Only the leader holds it.
pub struct Team<'a> {
    shared: &'a Shared,
    threads: usize,
    /// Not Sync: only one thread may begin regions, and tasks, which other threads run, may not.
    only_leader: PhantomData<*const ()>,
}

impl Team<'_> {
    /// Runs `lead` on a thread of the pool, with the others at its side until it returns.
    ///
    /// # Panics
    /// If `lead` or a task does, once every thread has left.
    pub fn assemble<R: Send>(pool: &ThreadPool, lead: impl FnOnce(&Team<'_>) -> R + Send) -> R {
        let shared = Shared::new();
        let lead = Mutex::new(Some(lead));
        let results = pool.broadcast(|thread| {
            // Whoever comes first leads, so that nobody waits for a thread which is not there yet.
            let lead = lead.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(lead) = lead else {
                work_until(|| shared.dismissed.load(Ordering::Acquire), || shared.work());
                return None;
            };
            let team = Team::of(&shared, thread.num_threads());
            let result = catch_unwind(AssertUnwindSafe(|| lead(&team)));
            shared.dismissed.store(true, Ordering::Release);
            Some(result)
        });
        match results.into_iter().flatten().next().expect("one thread leads") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The team of those who look after `shared`.
    pub(crate) fn of(shared: &Shared, threads: usize) -> Team<'_> {
        Team { shared, threads, only_leader: PhantomData }
    }

    /// Threads, the leader included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` with every number below `count`, each on whatever thread is free, and returns when all are done.
    /// Regions do not nest:
    ///
    /// ```compile_fail
    /// # fn lead(team: &team::Team<'_>) {
    /// team.each(2, |_| team.each(2, |_| ()));
    /// # }
    /// ```
    ///
    /// # Panics
    /// If `work` does.
    pub fn each<F: Fn(usize) + Sync>(&self, count: usize, work: F) {
        unsafe fn call<F: Fn(usize)>(closure: *const (), task: usize) {
            // SAFETY: `each` made the pointer from an F that it keeps alive.
            unsafe { (*closure.cast::<F>())(task) }
        }
        if count <= 1 || self.threads == 1 {
            return (0..count).for_each(work);
        }
        let Shared { region, unclaimed, unfinished, panicked, .. } = self.shared;
        // SAFETY: every task of the region before was finished when its `each` returned or panicked, none of it is
        // unclaimed, and no other thread begins regions: nobody reads this.
        unsafe { *region.get() = Region { count, closure: (&raw const work).cast(), call: call::<F> } };
        unfinished.0.store(count, Ordering::Relaxed);
        unclaimed.0.store(count, Ordering::Release);
        while self.shared.work() {}
        // `work` is borrowed by other threads until here, and not a moment longer.
        spin_until(|| unfinished.0.load(Ordering::Acquire) == 0);
        assert!(!panicked.load(Ordering::Relaxed), "a task panicked; its message is above");
    }

    /// As [`Team::each_mut`] for items whose work has regions of its own: a thread that takes an item leads a team, and one that
    /// finds none left joins those that others lead, so that no thread waits while there is work in parts.
    ///
    /// # Panics
    /// As [`Team::each`].
    pub fn lead_each<T: Send>(&self, items: &mut [T], lead: impl Fn(&Team<'_>, &mut T) + Sync) {
        let teams: Vec<Shared> = items.iter().map(|_| Shared::new()).collect();
        let (taken, unfinished) = (AtomicUsize::new(0), AtomicUsize::new(items.len()));
        let (first, threads) = (Raw(items.as_mut_ptr()), self.threads);
        // A task a thread; one that begins when all is over does nothing.
        self.each(threads, |_| {
            loop {
                let item = taken.fetch_add(1, Ordering::Relaxed);
                let Some(shared) = teams.get(item) else { break };
                let _finished = Finished(&unfinished);
                // SAFETY: every number is taken once, so no element is borrowed twice.
                lead(&Team::of(shared, threads), unsafe { &mut *first.at(item) });
            }
            work_until(|| unfinished.load(Ordering::Acquire) == 0, || teams.iter().any(Shared::work));
        });
    }

    /// As [`Team::each`], with the element of `items` in place of its number.
    ///
    /// # Panics
    /// As [`Team::each`].
    pub fn each_mut<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let first = Raw(items.as_mut_ptr());
        self.each(items.len(), |task| {
            // SAFETY: `each` calls with every index of the slice once, so no element is borrowed twice.
            work(unsafe { &mut *first.at(task) });
        });
    }

    /// What `work` returns for every number below `count`, in order.
    ///
    /// # Panics
    /// As [`Team::each`].
    pub fn map<T: Send>(&self, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut results: Vec<T> = Vec::with_capacity(count);
        let places = Raw(results.spare_capacity_mut().as_mut_ptr());
        self.each(count, |task| {
            // SAFETY: there is room for `count` elements, and each place is written once.
            unsafe { *places.at(task) = MaybeUninit::new(work(task)) };
        });
        // SAFETY: `each` returned, so all `count` elements are written.
        unsafe { results.set_len(count) };
        results
    }
}

/// One less is unfinished when it goes, by a panic too.
struct Finished<'a>(&'a AtomicUsize);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A slice's beginning, which threads may share: each uses elements that no other does.
struct Raw<T>(*mut T);

// SAFETY: those who make one say which element is whose; elements are Send.
unsafe impl<T: Send> Sync for Raw<T> {}

impl<T> Raw<T> {
    /// # Safety
    /// - `index` is within the slice.
    unsafe fn at(&self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}
