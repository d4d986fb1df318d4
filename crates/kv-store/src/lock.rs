//! One writer a session, across processes: a lock of the operating system on a file that says who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::StoreError;
use crate::error::failed;
use crate::format::LOCK;

/// Held while the session is open for writing. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started by another thread has the file too, until it runs its
    /// own program, and the lock with it.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock of the session in `directory`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another writer has it, in this process or another.
    pub fn take(directory: &Path) -> Result<Lock, StoreError> {
        let path = directory.join(LOCK);
        loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(
                    |error| match error.kind() {
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                            StoreError::NotFound { path: directory.to_owned() }
                        }
                        _ => failed("open the lock", &path)(error),
                    },
                )?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked { path: directory.to_owned(), owner: owner(&mut file) });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock the session", &path)(error)),
            }
            // The folder may have been removed, and another made, between opening the lock and taking it.
            if !is_at(&file, &path) {
                continue;
            }
            // Who holds it is for the other's message only, so that failing to write it is no error.
            let _ = file.set_len(0).and_then(|()| file.write_all(introduction().as_bytes()));
            return Ok(Lock { file });
        }
    }
}

fn introduction() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{} {} {now}", std::process::id(), host())
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let words: Vec<&str> = text.split_whitespace().collect();
    match (&words[..], SystemTime::now().duration_since(UNIX_EPOCH)) {
        ([process, host, since], Ok(now)) => {
            let seconds = now.as_secs().saturating_sub(since.parse().unwrap_or(0));
            format!("process {process} on {host}, for {seconds} s")
        }
        _ => "a process that has not said which".to_owned(),
    }
}

#[cfg(unix)]
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().replace(char::is_whitespace, "-");
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// An open file keeps its folder from being removed there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_where_it_is_dropped_though_a_starting_process_has_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        let inherited = lock.file.try_clone().unwrap();
        assert!(Lock::take(directory.path()).is_err(), "the control: it is held");
        drop(lock);
        Lock::take(directory.path()).unwrap();
        drop(inherited);
    }
}
