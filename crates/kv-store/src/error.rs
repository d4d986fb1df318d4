//! What can go wrong with rows.

use std::io;
use std::path::{Path, PathBuf};

use crate::Layout;

/// An error of the store. [`StoreError::code`] is stable; the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system has no room, or a quota or limit stands in the way.
    #[error("no room for {needed} more bytes in {}: {source}; free some space or choose another directory", path.display())]
    DiskFull {
        /// The directory that holds the files.
        path: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} in {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The directory that holds the files.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A layout without regions or rows, or one whose segment no file can hold.
    #[error("{0:?} has no rows, or more than a file can hold")]
    Layout(Layout),
    /// There is no such layer or KV head.
    #[error("layer {layer}, KV head {kv_head} is outside {layout:?}")]
    Region {
        /// The layer asked for.
        layer: usize,
        /// The KV head asked for.
        kv_head: usize,
        /// What there is.
        layout: Layout,
    },
    /// The rows would leave a hole behind the last row of their region.
    #[error("rows at position {position} would leave a hole: the region has {len} rows")]
    Hole {
        /// Where the rows were to go.
        position: usize,
        /// Rows of the region.
        len: usize,
    },
    /// The elements are not a whole number of rows.
    #[error("{elements} elements are not whole rows of {row_elements}")]
    RaggedRows {
        /// Elements passed.
        elements: usize,
        /// Elements of a row.
        row_elements: usize,
    },
}

impl StoreError {
    /// The code that crosses into JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::DiskFull { .. } => "DISK_FULL",
            StoreError::Io { .. } => "STORE_IO",
            StoreError::Layout(_)
            | StoreError::Region { .. }
            | StoreError::Hole { .. }
            | StoreError::RaggedRows { .. } => "INVALID_OPTION",
        }
    }

    /// Sorts a failure of the file system while `needed` bytes were asked of it.
    pub(crate) fn from_io(action: &'static str, path: &Path, needed: u64, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StoreError::DiskFull { path, needed, source }
            }
            _ => StoreError::Io { action, path, source },
        }
    }
}
