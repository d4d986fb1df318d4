//! One column in one segment: its file and what is mapped of it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::backend::Backend;
use crate::error::failed;
use crate::manifest::missing;
use crate::mapping::Mapping;
use crate::spec::Lane;
use crate::{Access, StoreError};

/// An open file of `lane.file_bytes()` bytes, or a reader's memory where no file is named yet.
#[derive(Debug)]
pub(crate) struct ColumnFile {
    /// None if the elements are in memory only.
    pub file: Option<File>,
    pub map: Mapping,
    /// Where the file is, or the folder if it has no name.
    pub path: PathBuf,
    /// Generation in its name; 0 without a name.
    pub generation: u64,
    /// Whether bytes were written since the last sync.
    pub unsynced: bool,
}

impl ColumnFile {
    /// A new file at `path`.
    pub fn create(
        backend: &dyn Backend,
        path: PathBuf,
        generation: u64,
        lane: &Lane,
    ) -> Result<ColumnFile, StoreError> {
        let bytes = lane.file_bytes();
        let file = backend
            .create(&path, bytes as u64)
            .map_err(|error| StoreError::from_io("create a file", &path, bytes as u64, error))?;
        ColumnFile::map(file, path, generation, lane)
    }

    /// A new file that has no name, or loses it at once, so that nothing stays behind however the process ends.
    pub fn unnamed(directory: &Path, lane: &Lane) -> Result<ColumnFile, StoreError> {
        let bytes = lane.file_bytes() as u64;
        let failed = |action| move |error| StoreError::from_io(action, directory, bytes, error);
        let file = tempfile::tempfile_in(directory).map_err(failed("create a file"))?;
        file.set_len(bytes).map_err(failed("size a file"))?;
        ColumnFile::map(file, directory.to_owned(), 0, lane)
    }

    /// A file that a manifest names.
    ///
    /// # Errors
    /// If it is missing or does not have its length.
    pub fn open(
        path: PathBuf,
        generation: u64,
        lane: &Lane,
        access: Access,
    ) -> Result<ColumnFile, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .open(&path)
            .map_err(|error| missing(&path, "open a file", error))?;
        let found = file.metadata().map_err(failed("look at a file", &path))?.len();
        check_length(&path, lane, found)?;
        ColumnFile::map(file, path, generation, lane)
    }

    fn map(file: File, path: PathBuf, generation: u64, lane: &Lane) -> Result<ColumnFile, StoreError> {
        let map =
            Mapping::shared(&file, lane.file_bytes(), lane.pattern).map_err(failed("map a file", &path))?;
        Ok(ColumnFile { file: Some(file), map, path, generation, unsynced: false })
    }

    /// Memory instead of a file, for a reader whose journal goes beyond the files.
    pub fn in_memory(directory: &Path, lane: &Lane) -> Result<ColumnFile, StoreError> {
        let map = Mapping::anonymous(lane.file_bytes()).map_err(failed("map memory", directory))?;
        Ok(ColumnFile { file: None, map, path: directory.to_owned(), generation: 0, unsynced: false })
    }

    /// Makes pages that are written from now on this process's own.
    pub fn make_private(&mut self, lane: &Lane) -> Result<(), StoreError> {
        if let (Mapping::Shared(_), Some(file)) = (&self.map, &self.file) {
            self.map = Mapping::private(file, lane.file_bytes(), lane.pattern)
                .map_err(failed("map a file", &self.path))?;
        }
        Ok(())
    }

    /// Writes elements of a region through the file.
    pub fn write(&mut self, backend: &dyn Backend, offset: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let file = self.file.as_ref().expect("a session that can be written has files");
        self.unsynced = true;
        backend
            .write_at(file, offset as u64, bytes)
            .map_err(|error| StoreError::from_io("write elements", &self.path, bytes.len() as u64, error))
    }

    /// The first `count` elements of a region.
    pub fn elements(&self, lane: &Lane, region: usize, count: usize) -> &[u8] {
        self.map.read(lane.offset(region, 0)..lane.offset(region, count))
    }

    /// Asks the system how long the file is.
    ///
    /// # Errors
    /// [`StoreError::Truncated`] if it has become shorter.
    pub fn check_size(&self, lane: &Lane) -> Result<(), StoreError> {
        match &self.file {
            Some(file) => {
                let found = file.metadata().map_err(failed("look at a file", &self.path))?.len();
                check_length(&self.path, lane, found)
            }
            None => Ok(()),
        }
    }
}

/// Whether a column's file has its length.
pub(crate) fn check_length(path: &Path, lane: &Lane, found: u64) -> Result<(), StoreError> {
    let expected = lane.file_bytes() as u64;
    if found < expected {
        return Err(StoreError::Truncated { path: path.to_owned(), expected, found });
    }
    if found > expected {
        return Err(StoreError::corrupt(path, expected, "there are bytes after the end"));
    }
    Ok(())
}
