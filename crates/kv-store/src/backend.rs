//! The changes that a session makes to its folder, one method each, so that a test can stand in between.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// What a session asks of a file system when it changes something. Reading and mapping go to the files themselves.
///
/// A change is durable after [`Backend::sync`] of its file, for bytes and lengths, or [`Backend::sync_dir`] of its
/// directory, for names; until then it may survive a power loss, or parts of it, in any order.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Makes a directory.
    ///
    /// # Errors
    /// As the file system says; so with all other methods.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file of `bytes` zeroes that occupies no room yet, or empties the one that is there, for reading and writing.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<File>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or extends a file.
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()>;

    /// Returns once the file's bytes and length are on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Returns once the directory's names are on the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory another name in the same directory, over a file or an empty directory that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name on the same file system.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The file system as it is.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem;

impl Backend for FileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        if bytes > 0 {
            file.set_len(bytes)?;
        }
        Ok(file)
    }

    #[cfg(unix)]
    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn write_at(&self, mut file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Names cannot be synced there; the system orders them itself.
    #[cfg(not(unix))]
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}
