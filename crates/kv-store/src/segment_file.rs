//! One file with a segment of every region, written through the file and read through its mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::StoreError;

/// An unnamed, sparse file of a fixed length.
///
/// Writes go through the file and not through the mapping, because only a write call can *say* that the disk is full:
/// a store into a mapped page that gets no block, even on a file system which copies on write, is a SIGBUS.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: File,
    map: Mmap,
}

impl SegmentFile {
    /// Makes a file of `bytes` zeroes, none of which occupies disk or memory yet. It has no name, or loses it at
    /// once, so that nothing stays behind however the process ends.
    pub(crate) fn create(directory: &Path, bytes: usize) -> Result<SegmentFile, StoreError> {
        let failed = |action| move |error| StoreError::from_io(action, directory, bytes as u64, error);
        let file = tempfile::tempfile_in(directory).map_err(failed("create a file"))?;
        file.set_len(bytes as u64).map_err(failed("size a file"))?;
        // SAFETY: the mapping is as long as the file, and the file stays so: it is unlinked and private to this
        // process, the handle never leaves this struct, and nothing here calls `set_len` again. Bytes change only in
        // `write`, whose `&mut self` excludes every slice of the mapping that `read` hands out under `&self`.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file) }.map_err(failed("map a file"))?;
        advise(&map);
        Ok(SegmentFile { file, map })
    }

    /// Overwrites bytes from `offset` on; they are inside the file. After an error some of them may have changed.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(offset + bytes.len() <= self.map.len());
        write_all_at(&self.file, bytes, offset as u64)
    }

    /// The bytes of a range.
    pub(crate) fn read(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// Bytes of disk that the file occupies.
    #[cfg(all(test, unix))]
    pub(crate) fn occupied(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().expect("an open file has metadata").blocks() * 512
    }
}

/// A sample touches rows here and there: reading ahead would fetch what nobody asked for, and large pages save TLB
/// misses where the file system has them. Both are hints, so a refusal is no error.
#[cfg(unix)]
fn advise(map: &Mmap) {
    let _ = map.advise(memmap2::Advice::Random);
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
}

#[cfg(not(unix))]
fn advise(_: &Mmap) {}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_all_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}
