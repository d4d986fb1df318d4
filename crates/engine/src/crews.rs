//! The threads that attend for steps whose dense layers are elsewhere: one crew for all sessions that ask for so many.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use team::Crew;

use crate::EngineError;

/// Crews that a session has.
static CREWS: Mutex<Vec<Weak<Crew>>> = Mutex::new(Vec::new());

/// The crew of `threads` threads, which is there as long as somebody has it.
///
/// # Errors
/// If a thread cannot be started.
pub(crate) fn crew_of(threads: usize) -> Result<Arc<Crew>, EngineError> {
    let mut crews = CREWS.lock().unwrap_or_else(PoisonError::into_inner);
    crews.retain(|crew| crew.strong_count() > 0);
    if let Some(crew) = crews.iter().filter_map(Weak::upgrade).find(|crew| crew.threads() == threads) {
        return Ok(crew);
    }
    let crew = Crew::new(threads).map(Arc::new).map_err(|cause| EngineError::Threads { threads, cause })?;
    crews.push(Arc::downgrade(&crew));
    Ok(crew)
}
