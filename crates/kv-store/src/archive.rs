//! A session as one file, and back: a tar archive in zstd, with the names that the files have in the session's folder.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::backend::{Backend, FileSystem};
use crate::error::failed;
use crate::session::{Access, SessionStore, entries, is_session_file, sibling};
use crate::{StoreError, inspect, verify};

/// zstd's own default: rows are nearly random, and higher levels gain nothing on them.
const LEVEL: i32 = 3;
/// Bytes that are left out of a file, as a hole, where all are zero.
const BLOCK: usize = 64 << 10;

/// Writes the last commit of the session in `directory` into a new file at `archive`; returns its length. A writer may go
/// on meanwhile.
///
/// # Errors
/// If there is no session, something is at `archive` already, or the file system refuses. There is no file at `archive` then.
pub fn export(directory: &Path, archive: &Path) -> Result<u64, StoreError> {
    if archive.exists() {
        return Err(StoreError::AlreadyExists { path: archive.to_owned() });
    }
    // A fork stays as it is while it is packed, whatever a writer does with the session.
    let (_, still) = sibling(directory, "exporting")?;
    discard(&still)?;
    let info = inspect(directory)?;
    let mut store = SessionStore::open(directory, info.spec, &info.fingerprint, Access::Read)?;
    store.fork(&still, &[])?;
    let (parent, unfinished) = sibling(archive, "unfinished")?;
    let packed = pack(&still, &unfinished);
    let named = packed.and_then(|bytes| {
        fs::rename(&unfinished, archive).map_err(failed("name a file", archive))?;
        FileSystem.sync_dir(&parent).map_err(failed("sync a folder", &parent))?;
        Ok(bytes)
    });
    if named.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    discard(&still)?;
    named
}

fn pack(directory: &Path, archive: &Path) -> Result<u64, StoreError> {
    let wrong = |action| move |error| StoreError::from_io(action, archive, 0, error);
    let file = File::create(archive).map_err(wrong("create a file"))?;
    let packer = zstd::Encoder::new(file, LEVEL).map_err(wrong("compress"))?;
    let mut tar = tar::Builder::new(packer);
    let mut names: Vec<String> = entries(directory)?.filter(|name| *name != crate::format::LOCK).collect();
    names.sort();
    for name in names {
        tar.append_path_with_name(directory.join(&name), &name).map_err(wrong("write an archive"))?;
    }
    let file = tar.into_inner().and_then(zstd::Encoder::finish).map_err(wrong("write an archive"))?;
    file.sync_all().map_err(wrong("sync a file"))?;
    Ok(file.metadata().map_err(wrong("look at a file"))?.len())
}

/// Makes the session that [`export`] packed into `archive`, in `directory`, which is not there yet or is empty. Every
/// checksum is compared before the folder has its name.
///
/// # Errors
/// If the archive is damaged or none of a session, something is in the folder already, or the file system refuses. There is no
/// folder then.
pub fn import(archive: &Path, directory: &Path) -> Result<(), StoreError> {
    let (parent, unfinished) = sibling(directory, "importing")?;
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(StoreError::AlreadyExists { path: directory.to_owned() });
    }
    discard(&unfinished)?;
    let made = unpack(archive, &unfinished).and_then(|()| {
        if let Some(problem) = verify(&unfinished)?.problems.into_iter().next() {
            return Err(StoreError::corrupt(
                archive,
                0,
                format!("what it holds is damaged: {}", problem.what),
            ));
        }
        FileSystem.sync_dir(&unfinished).map_err(failed("sync a folder", &unfinished))?;
        fs::rename(&unfinished, directory).map_err(failed("name a session", directory))?;
        FileSystem.sync_dir(&parent).map_err(failed("sync a folder", &parent))
    });
    if made.is_err() {
        discard(&unfinished)?;
    }
    made
}

fn unpack(archive: &Path, directory: &Path) -> Result<(), StoreError> {
    let damaged =
        |error: io::Error| StoreError::corrupt(archive, 0, format!("no session's archive: {error}"));
    let file = File::open(archive).map_err(failed("open a file", archive))?;
    fs::create_dir(directory).map_err(failed("create a folder", directory))?;
    let mut tar = tar::Archive::new(zstd::Decoder::new(file).map_err(damaged)?);
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        // Names alone, and files alone: nothing can point out of the folder.
        let plain = Path::new(&name).file_name().is_some_and(|last| last == name.as_str());
        if !plain || !is_session_file(&name) || !(kind.is_file() || kind.is_gnu_sparse()) {
            return Err(StoreError::corrupt(archive, 0, format!("no session has a file {name:?}")));
        }
        let path = directory.join(&name);
        let file = File::create_new(&path).map_err(failed("create a file", &path))?;
        write_with_holes(&mut entry, &file).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                damaged(error)
            }
            _ => StoreError::from_io("write a file", &path, BLOCK as u64, error),
        })?;
        file.sync_all().map_err(failed("sync a file", &path))?;
    }
    Ok(())
}

/// Copies all of `from`, but leaves blocks of zeroes out, so that a file takes as much of the disk as it did.
fn write_with_holes(from: &mut impl Read, mut to: &File) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut bytes = 0;
    loop {
        block.clear();
        from.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return to.set_len(bytes);
        }
        if block.iter().any(|&byte| byte != 0) {
            to.seek(SeekFrom::Start(bytes))?;
            to.write_all(&block)?;
        }
        bytes += block.len() as u64;
    }
}

/// Removes what a call that was cut off left behind.
fn discard(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove a folder", directory)(error))
        }
        _ => Ok(()),
    }
}
