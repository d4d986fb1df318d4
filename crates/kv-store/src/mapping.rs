//! Memory that shows a file, or a private copy of one.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::Pattern;

/// The mapped bytes of one file of a segment.
///
/// Writes go through the file and not through a shared mapping, because only a write call can *say* that the disk is full:
/// a store into a mapped page that gets no block is a SIGBUS.
#[derive(Debug)]
pub(crate) enum Mapping {
    /// The file as it is; what is written to it appears here.
    Shared(Mmap),
    /// Pages that were written here are this process's own; the others are the file's.
    Private(MmapMut),
}

impl Mapping {
    /// Shows the file, which has `bytes` bytes.
    pub fn shared(file: &File, bytes: usize, pattern: Pattern) -> io::Result<Mapping> {
        // SAFETY: a mapping must not change under a slice of it, nor its file shrink. The store hands out slices of elements
        // that were written, and writes to such elements only under `&mut` of the session that owns the mapping; another
        // process's writer leaves elements alone that a manifest has named, which are all that a reader maps this way.
        // No session shortens a column file; that others do is what `check_sizes` and the SIGBUS message are for.
        let map = unsafe { MmapOptions::new().len(bytes).map(file) }?;
        let mapping = Mapping::Shared(map);
        mapping.advise(pattern);
        Ok(mapping)
    }

    /// A copy of the file, which has `bytes` bytes, page by page as pages are written here.
    pub fn private(file: &File, bytes: usize, pattern: Pattern) -> io::Result<Mapping> {
        let mut options = MmapOptions::new();
        options.len(bytes).no_reserve_swap();
        // SAFETY: as for `shared`; elements that the file's manifest does not name, and a writer may thus change, are read
        // only after they were written here, which makes their pages this process's own.
        let map = unsafe { options.map_copy(file) }?;
        let mapping = Mapping::Private(map);
        mapping.advise(pattern);
        Ok(mapping)
    }

    /// Zeroes without a file.
    pub fn anonymous(bytes: usize) -> io::Result<Mapping> {
        MmapOptions::new().len(bytes).no_reserve_swap().map_anon().map(Mapping::Private)
    }

    /// The bytes of a range.
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        match self {
            Mapping::Shared(map) => &map[range],
            Mapping::Private(map) => &map[range],
        }
    }

    /// Overwrites bytes of a private mapping.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        match self {
            Mapping::Shared(_) => unreachable!("shared mappings are written through their file"),
            Mapping::Private(map) => map[offset..offset + bytes.len()].copy_from_slice(bytes),
        }
    }

    /// Gives the memory of a shared mapping back: its pages are read from the file again when they are needed. It is a
    /// hint, so a refusal is no error.
    #[cfg(unix)]
    pub fn evict(&self, file: &File) {
        if let Mapping::Shared(map) = self {
            // SAFETY: the mapping is shared and of a file, so that a dropped page comes back with the same bytes.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            #[cfg(target_os = "linux")]
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
            #[cfg(not(target_os = "linux"))]
            let _ = file;
        }
    }

    #[cfg(not(unix))]
    pub fn evict(&self, _: &File) {}

    /// Hints, so a refusal is no error. Large pages save TLB misses where the file system has them.
    #[cfg(unix)]
    fn advise(&self, pattern: Pattern) {
        let advice = match pattern {
            Pattern::Random => memmap2::Advice::Random,
            Pattern::Sequential => memmap2::Advice::Sequential,
        };
        let _ = match self {
            Mapping::Shared(map) => map.advise(advice),
            Mapping::Private(map) => map.advise(advice),
        };
        #[cfg(target_os = "linux")]
        if let Mapping::Shared(map) = self {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
    }

    #[cfg(not(unix))]
    fn advise(&self, _: Pattern) {}
}
