//! Who may use a session right now.
//!
//! A task in the background *takes* the session out of its slot and puts it back when it ends, so that no lock is
//! held while work is done: calls on JavaScript's thread find the slot working and fail at once, and never wait.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{EngineError, Session};

use crate::failure::{Failure, contained};

/// A session, or the place that it will come back to.
pub struct Slot(Mutex<State>);

enum State {
    Idle(Box<Session>),
    /// A task has it. Setting `cancel` makes the task stop soon.
    Working {
        cancel: Arc<AtomicBool>,
    },
    /// Disposed of, or lost to a panic. A task that still has it will drop it.
    Gone,
}

impl Slot {
    pub fn new(session: Session) -> Slot {
        Slot(Mutex::new(State::Idle(Box::new(session))))
    }

    /// Uses the session on the calling thread.
    pub fn with<T>(&self, work: impl FnOnce(&mut Session) -> Result<T, EngineError>) -> Result<T, Failure> {
        let mut state = self.lock();
        match &mut *state {
            State::Idle(session) => contained(|| work(session)).unwrap_or_else(|panicked| {
                *state = State::Gone;
                Err(panicked)
            }),
            State::Working { .. } => Err(Failure::busy()),
            State::Gone => Err(Failure::disposed()),
        }
    }

    /// Takes the session for a task, until the claim is dropped.
    pub fn claim(self: &Arc<Self>) -> Result<Claim, Failure> {
        let cancel = Arc::new(AtomicBool::new(false));
        let mut state = self.lock();
        match mem::replace(&mut *state, State::Working { cancel: Arc::clone(&cancel) }) {
            State::Idle(session) => Ok(Claim { slot: Arc::clone(self), session: Some(session), cancel }),
            other => {
                let failure =
                    if matches!(other, State::Gone) { Failure::disposed() } else { Failure::busy() };
                *state = other;
                Err(failure)
            }
        }
    }

    /// Asks a running task to stop. Without one it does nothing: the next task is not affected.
    pub fn cancel(&self) {
        if let State::Working { cancel } = &*self.lock() {
            cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Drops the session, now or as soon as the running task has stopped.
    pub fn dispose(&self) {
        self.cancel();
        let state = mem::replace(&mut *self.lock(), State::Gone);
        drop(state);
    }

    /// The state is replaced whole, so a thread that panicked cannot have left half of one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's hold on a session. Dropping it gives the session back, or frees it if the slot is gone.
pub struct Claim {
    slot: Arc<Slot>,
    /// None after a panic.
    session: Option<Box<Session>>,
    cancel: Arc<AtomicBool>,
}

impl Claim {
    /// Uses the session on any thread.
    pub fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Session, &AtomicBool) -> Result<T, EngineError>,
    ) -> Result<T, Failure> {
        let Some(session) = &mut self.session else { return Err(Failure::disposed()) };
        contained(|| work(session, &self.cancel)).unwrap_or_else(|panicked| {
            self.session = None;
            Err(panicked)
        })
    }
}

/// Uses several sessions at once on any thread, each with what cancels it. A panic loses all of them.
pub fn run_all<T>(
    claims: &mut [&mut Claim],
    work: impl FnOnce(Vec<(&mut Session, &AtomicBool)>) -> T,
) -> Result<T, Failure> {
    let sessions: Option<Vec<_>> =
        claims.iter_mut().map(|claim| Some((&mut **claim.session.as_mut()?, &*claim.cancel))).collect();
    let Some(sessions) = sessions else { return Err(Failure::disposed()) };
    contained(|| Ok(work(sessions))).flatten().inspect_err(|_| {
        for claim in claims {
            claim.session = None;
        }
    })
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        if let State::Working { .. } = *state {
            *state = self.session.take().map_or(State::Gone, State::Idle);
        }
    }
}
