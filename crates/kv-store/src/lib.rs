//! Where the rows of a session live: K and V of every token, in memory-mapped files.
//!
//! Bytes go in, mapped slices come out; what the bytes mean is not this crate's business. A *row* is the K and V of
//! one token in one *region*, a (layer, KV head); a *segment* is [`SEGMENT_ROWS`] consecutive rows of a region, and
//! one file holds that segment of every region. Files appear as the text grows and are as sparse as the rows in them.
#![deny(unsafe_code)]

mod error;
mod layout;
mod segment_file;
mod store;

pub use error::StoreError;
pub use layout::{Layout, SEGMENT_ROWS};
pub use store::RowStore;
