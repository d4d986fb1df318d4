//! Where a session lives: elements of every layer and KV head, in memory-mapped files that survive a crash.
//!
//! Bytes go in, mapped slices come out; what the bytes mean is not this crate's business. A *region* is a (layer, KV
//! head); a *column* is one kind of element, of which every region has some in each *segment* of [`SEGMENT_ROWS`] token
//! positions. A column has one file a segment, as sparse as the elements in it. `docs/session-format.md` says what is in
//! the files and what is promised.
#![deny(unsafe_code)]

mod archive;
mod backend;
mod column_file;
mod counts;
mod error;
mod format;
mod journal;
mod lock;
mod manifest;
mod mapping;
mod remove;
mod replay;
mod session;
mod sigbus;
mod spec;
mod sums;
mod verify;

pub use archive::{export, import};
pub use backend::{Backend, FileSystem};
pub use counts::Counts;
pub use error::StoreError;
pub use format::STATE_LIMIT;
pub use remove::{remove, remove_on};
pub use session::{Access, SessionStore};
pub use sigbus::install_sigbus_message;
pub use spec::{Column, JOURNAL_LIMIT, Pattern, SEGMENT_ROWS, Spec};
pub use verify::{Info, Problem, Report, inspect, verify};
