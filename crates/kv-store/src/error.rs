//! What can go wrong with rows and sessions.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the store. [`StoreError::code`] is stable; the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system has no room, or a quota or limit stands in the way.
    #[error("no room{} in {}: {source}; free some space or choose another directory", for_bytes(*needed), path.display())]
    DiskFull {
        /// The file, or the directory that holds the files.
        path: PathBuf,
        /// Bytes that were to be written; 0 where that is not known.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file system does not let this user do it.
    #[error("not allowed to {action} in {}: {source}", path.display())]
    PermissionDenied {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} in {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file, or the directory that holds the files.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder holds no session, or is not there.
    #[error("there is no session in {}", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// Something is already where a session was to be made.
    #[error("{} is there already; choose another place", path.display())]
    AlreadyExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another writer has the session open.
    #[error("the session in {} is open for writing by {owner}; close it there, or open it for reading", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds it: process, host and for how long, as that process wrote them.
        owner: String,
    },
    /// The session was made for something else. There is no way around it: its bytes would be misread.
    #[error("the session in {} was made with {}; open it as it was made, or choose another folder", path.display(), difference(field, stored, expected))]
    Fingerprint {
        /// The folder.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// Its value in the session.
        stored: String,
        /// Its value as the caller gave it.
        expected: String,
    },
    /// A later version of this program wrote the session.
    #[error("{} has format version {found}; this program reads up to version {supported}", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version that is understood.
        supported: u32,
    },
    /// The file was not written by this program.
    #[error("{} is not a file of a session", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Bytes are not what was written.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damage was noticed.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file is shorter than the session says.
    #[error("{} has {found} bytes and should have {expected}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A file that the session names is not there.
    #[error("{} is missing", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The session was opened for reading.
    #[error("the session in {} is open for reading only", path.display())]
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },
    /// A sync failed before: what the disk holds is not known, so nothing more is written.
    #[error("an earlier write to {} failed; open the session again to go on from its last commit", path.display())]
    Broken {
        /// The folder.
        path: PathBuf,
    },
    /// Columns that no file can hold, or whose names do not fit.
    #[error("{0}")]
    Spec(String),
    /// A place, count or length that does not fit the session.
    #[error("{0}")]
    Argument(String),
    /// The elements would leave a hole behind the last one of their region.
    #[error("elements at {position} would leave a hole: the region has {len} in their segment")]
    Hole {
        /// Where the rows were to go.
        position: usize,
        /// Rows of the region.
        len: usize,
    },
    /// The bytes are not whole elements.
    #[error("{bytes} bytes are not whole elements of {element_bytes}")]
    Ragged {
        /// Bytes passed.
        bytes: usize,
        /// Bytes of an element.
        element_bytes: usize,
    },
}

impl StoreError {
    /// The code that crosses into JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::DiskFull { .. } => "DISK_FULL",
            StoreError::PermissionDenied { .. } => "PERMISSION_DENIED",
            StoreError::Io { .. } => "STORE_IO",
            StoreError::NotFound { .. } => "SESSION_NOT_FOUND",
            StoreError::AlreadyExists { .. } => "SESSION_EXISTS",
            StoreError::Locked { .. } => "SESSION_LOCKED",
            StoreError::Fingerprint { .. } => "SESSION_MISMATCH",
            StoreError::NewerVersion { .. } => "SESSION_NEWER",
            StoreError::Foreign { .. } => "SESSION_FOREIGN",
            StoreError::Corrupt { .. } => "SESSION_CORRUPT",
            StoreError::Truncated { .. } => "SESSION_TRUNCATED",
            StoreError::MissingFile { .. } => "SESSION_FILE_MISSING",
            StoreError::ReadOnly { .. } => "SESSION_READ_ONLY",
            StoreError::Broken { .. } => "SESSION_BROKEN",
            StoreError::Spec(_)
            | StoreError::Argument(_)
            | StoreError::Hole { .. }
            | StoreError::Ragged { .. } => "INVALID_OPTION",
        }
    }

    /// Sorts a failure of the file system while `needed` bytes were asked of it.
    pub(crate) fn from_io(action: &'static str, path: &Path, needed: u64, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StoreError::DiskFull { path, needed, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::PermissionDenied { action, path, source }
            }
            _ => StoreError::Io { action, path, source },
        }
    }

    /// Bytes at `offset` of `path` are not what was written.
    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { path: path.to_owned(), offset, what: what.into() }
    }
}

/// " for 755 MB more", where the number is known.
fn for_bytes(needed: u64) -> String {
    match needed {
        0 => String::new(),
        1..1_000_000 => format!(" for {needed} more bytes"),
        _ => format!(" for {} MB more", needed.div_ceil(1_000_000)),
    }
}

/// What a field was and what it was to be; digests say nothing to anybody.
fn difference(field: &str, stored: &str, expected: &str) -> String {
    let digest = |value: &str| value.len() >= 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digest(stored) && digest(expected) {
        format!("a model of other {field}")
    } else {
        format!("{field} {stored}, and not with {expected}")
    }
}

/// For `map_err`: a failure of the file system that asked for no room.
pub(crate) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::from_io(action, path, 0, source)
}
