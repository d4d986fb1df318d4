//! Removing a session, which leaves one that opens or one that is plainly gone.

use std::io;
use std::path::Path;

use crate::StoreError;
use crate::backend::{Backend, FileSystem};
use crate::error::failed;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::session::{entries, is_session_file, sibling};

/// Removes the session in `directory`, damaged or not. Readers that have it open are not disturbed.
///
/// # Errors
/// If there is no session, a writer has it open, the folder also holds files that are not the session's, or the file
/// system refuses.
pub fn remove(directory: &Path) -> Result<(), StoreError> {
    remove_on(&FileSystem, directory)
}

/// As [`remove`], with every change going through `backend`.
///
/// # Errors
/// As [`remove`].
pub fn remove_on(backend: &dyn Backend, directory: &Path) -> Result<(), StoreError> {
    let (parent, doomed) = sibling(directory, "removing")?;
    // What a crash left of an earlier removal, of a session with the same name.
    match entries(&doomed) {
        Ok(_) => clear(backend, &doomed)?,
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Err(error @ (StoreError::NotFound { .. } | StoreError::Foreign { .. })) = Manifest::read(directory)
    {
        return Err(error);
    }
    let lock = Lock::take(directory)?;
    if let Some(name) = entries(directory)?.find(|name| !is_session_file(name)) {
        return Err(StoreError::Foreign { path: directory.join(name) });
    }
    // From here on the session is gone, whatever comes between.
    backend.rename(directory, &doomed).map_err(failed("remove a session", directory))?;
    backend.sync_dir(&parent).map_err(failed("sync a folder", &parent))?;
    drop(lock);
    clear(backend, &doomed)?;
    backend.sync_dir(&parent).map_err(failed("sync a folder", &parent))
}

fn clear(backend: &dyn Backend, doomed: &Path) -> Result<(), StoreError> {
    for name in entries(doomed)? {
        let path = doomed.join(name);
        backend.remove_file(&path).map_err(failed("remove a file", &path))?;
    }
    backend.remove_dir(doomed).map_err(failed("remove a folder", doomed))
}
