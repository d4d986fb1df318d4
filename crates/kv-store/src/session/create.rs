//! Making a session's folder, which appears whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{Backend, FileSystem};
use crate::error::failed;
use crate::format::{self, LOCK, MANIFEST};
use crate::journal::Identity;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::session::SessionStore;
use crate::{Spec, StoreError};

impl SessionStore {
    /// Makes an empty session in the folder `directory`, which is not there yet or is empty, and opens it for writing.
    ///
    /// `fingerprint` is an ordered list of fields and values that must be the same whenever the session is opened.
    ///
    /// # Errors
    /// If the columns do not fit, something is already there, or the file system refuses.
    pub fn create(
        directory: &Path,
        spec: Spec,
        fingerprint: &[(String, String)],
    ) -> Result<SessionStore, StoreError> {
        SessionStore::create_on(Arc::new(FileSystem), directory, spec, fingerprint)
    }

    /// As [`SessionStore::create`], with every change going through `backend`.
    ///
    /// # Errors
    /// As [`SessionStore::create`].
    pub fn create_on(
        backend: Arc<dyn Backend>,
        directory: &Path,
        spec: Spec,
        fingerprint: &[(String, String)],
    ) -> Result<SessionStore, StoreError> {
        spec.lanes()?;
        let nursery = Nursery::begin(&*backend, directory)?;
        let lock = nursery.finish(&Manifest {
            session: new_session(),
            generation: 1,
            spec: spec.clone(),
            fingerprint: fingerprint.to_vec(),
            state: Vec::new(),
            segments: Vec::new(),
        })?;
        SessionStore::open_locked(backend, lock, directory, spec, fingerprint)
    }
}

/// A folder beside the one to be, which takes its name once it is complete. What a crash leaves of it is cleared away by
/// the next attempt to make a session of that name.
#[derive(Debug)]
pub(crate) struct Nursery<'a> {
    backend: &'a dyn Backend,
    target: PathBuf,
    parent: PathBuf,
    /// The folder while it is being filled.
    pub directory: PathBuf,
    /// Taken once the folder has its name.
    lock: Option<Lock>,
}

/// What could not be completed gives its room back, which may be what was short.
impl Drop for Nursery<'_> {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Ok(names) = entries(&self.directory)
        {
            for name in names {
                let _ = self.backend.remove_file(&self.directory.join(name));
            }
            let _ = self.backend.remove_dir(&self.directory);
        }
    }
}

impl<'a> Nursery<'a> {
    /// # Errors
    /// If something is where the folder is to be, or the file system refuses.
    pub fn begin(backend: &'a dyn Backend, target: &Path) -> Result<Nursery<'a>, StoreError> {
        check_vacant(target)?;
        let (parent, directory) = sibling(target, "building")?;
        match backend.create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.is_dir() => {
                return Err(StoreError::NotFound { path: parent });
            }
            Err(error) => return Err(failed("make a session", &parent)(error)),
        }
        let lock = Some(Lock::take(&directory)?);
        for entry in entries(&directory)?.filter(|name| name != LOCK) {
            let path = directory.join(entry);
            backend.remove_file(&path).map_err(failed("clear a half-made session away", &path))?;
        }
        Ok(Nursery { backend, target: target.to_owned(), parent, directory, lock })
    }

    /// Makes a file with `write` and returns once its bytes are on the disk.
    ///
    /// # Errors
    /// As the file system says.
    pub fn file(
        &self,
        path: &Path,
        bytes: u64,
        write: impl FnOnce(&fs::File) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        // The folder's name for people is the one that it will have.
        let sorted = |error| StoreError::from_io("write a file", &self.target, bytes, error);
        let file = self.backend.create(path, bytes).map_err(sorted)?;
        write(&file).map_err(sorted)?;
        self.backend.sync(&file).map_err(failed("sync a file", path))
    }

    /// Writes manifest and journal, and gives the folder its name. The session is locked by the caller from then on.
    ///
    /// # Errors
    /// As the file system says; and if something has taken the name meanwhile.
    pub fn finish(mut self, manifest: &Manifest) -> Result<Lock, StoreError> {
        let identity = Identity { session: manifest.session, generation: manifest.generation };
        let opening = identity.opening();
        self.file(&manifest.journal(&self.directory), 0, |file| self.backend.write_at(file, 0, &opening))?;
        let bytes = manifest.encode();
        self.file(&self.directory.join(MANIFEST), 0, |file| self.backend.write_at(file, 0, &bytes))?;
        self.backend.sync_dir(&self.directory).map_err(failed("sync a folder", &self.directory))?;
        self.backend.rename(&self.directory, &self.target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory => StoreError::AlreadyExists { path: self.target.clone() },
            _ => failed("name a session", &self.target)(error),
        })?;
        let lock = self.lock.take().expect("it is taken here");
        self.backend.sync_dir(&self.parent).map_err(failed("sync a folder", &self.parent))?;
        Ok(lock)
    }
}

/// # Errors
/// If something is at `directory` that is not an empty folder.
fn check_vacant(directory: &Path) -> Result<(), StoreError> {
    let taken = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if taken { Err(StoreError::AlreadyExists { path: directory.to_owned() }) } else { Ok(()) }
}

/// The folder's parent, and a hidden name beside it.
pub(crate) fn sibling(directory: &Path, purpose: &str) -> Result<(PathBuf, PathBuf), StoreError> {
    let name = directory.file_name().ok_or_else(|| {
        StoreError::Argument(format!("{} is no name for a session's folder", directory.display()))
    })?;
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let hidden = parent.join(format!(".{}.{purpose}", name.to_string_lossy()));
    Ok((parent, hidden))
}

/// The names in a folder.
pub(crate) fn entries(directory: &Path) -> Result<impl Iterator<Item = String>, StoreError> {
    let names = fs::read_dir(directory).map_err(failed("list a folder", directory))?;
    Ok(names.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())))
}

/// Whether sessions give files this name.
pub(crate) fn is_session_file(name: &str) -> bool {
    name == MANIFEST || name == LOCK || format::is_ours(name)
}

/// A number that other sessions do not have.
pub(super) fn new_session() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}
