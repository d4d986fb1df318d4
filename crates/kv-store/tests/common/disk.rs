//! A file system that writes down what it is asked, and can stop at any call.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kv_store::{Backend, FileSystem};

/// One call. Files are known by their inode.
#[derive(Clone, Debug)]
pub enum Op {
    CreateDir(PathBuf),
    Create { path: PathBuf, ino: u64, bytes: u64 },
    Write { ino: u64, offset: u64, bytes: Vec<u8> },
    SetLen { ino: u64, bytes: u64 },
    Sync { ino: u64 },
    SyncDir(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
}

#[derive(Debug, Default)]
struct Log {
    ops: Vec<Op>,
    /// Every file ever made, kept open so that no inode is given twice.
    files: HashMap<u64, File>,
    stopped: bool,
}

/// The real file system without syncs, which a test cannot tell from one with them.
#[derive(Debug)]
pub struct Disk {
    log: Mutex<Log>,
    /// The call that does not happen any more, nor do any after it. Of a write, a part does.
    stop_at: Option<usize>,
    fail_with: io::ErrorKind,
    /// Whether calls after the one that failed work again.
    recovers: bool,
}

impl Disk {
    pub fn new(stop_at: Option<usize>) -> Disk {
        Disk { log: Mutex::default(), stop_at, fail_with: io::ErrorKind::Other, recovers: false }
    }

    /// One call fails, and those after it work.
    pub fn failing_once(at: usize, fail_with: io::ErrorKind) -> Disk {
        Disk { stop_at: Some(at), fail_with, recovers: true, ..Disk::new(None) }
    }

    /// Calls so far.
    pub fn count(&self) -> usize {
        self.log.lock().unwrap().ops.len()
    }

    /// Whether the call at which it was to stop came.
    pub fn stopped(&self) -> bool {
        self.log.lock().unwrap().stopped
    }

    pub fn ops(&self) -> Vec<Op> {
        self.log.lock().unwrap().ops.clone()
    }

    fn call<T>(&self, op: Op, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut log = self.log.lock().unwrap();
        if log.stopped && !self.recovers {
            return Err(self.fail_with.into());
        }
        if !log.stopped && self.stop_at == Some(log.ops.len()) {
            log.stopped = true;
            if let Op::Write { ino, offset, bytes } = &op {
                let part = &bytes[..bytes.len() * (log.ops.len() % 4) / 4];
                FileSystem.write_at(&log.files[ino], *offset, part)?;
            }
            return Err(self.fail_with.into());
        }
        let done = act()?;
        log.ops.push(op);
        Ok(done)
    }
}

fn ino(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

impl Backend for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::CreateDir(path.to_owned()), || FileSystem.create_dir(path))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<File> {
        // The inode is known afterwards only.
        let op = Op::Create { path: path.to_owned(), ino: 0, bytes };
        let file = self.call(op, || FileSystem.create(path, bytes))?;
        let mut log = self.log.lock().unwrap();
        log.files.insert(ino(&file), file.try_clone()?);
        if let Some(Op::Create { ino: unknown, .. }) = log.ops.last_mut() {
            *unknown = ino(&file);
        }
        Ok(file)
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Files that were there before are made known by being written.
        self.log.lock().unwrap().files.entry(ino(file)).or_insert(file.try_clone()?);
        let op = Op::Write { ino: ino(file), offset, bytes: bytes.to_vec() };
        self.call(op, || FileSystem.write_at(file, offset, bytes))
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(Op::SetLen { ino: ino(file), bytes }, || FileSystem.set_len(file, bytes))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.call(Op::Sync { ino: ino(file) }, || Ok(()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir(path.to_owned()), || Ok(()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let op = Op::Rename { from: from.to_owned(), to: to.to_owned() };
        self.call(op, || FileSystem.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let op = Op::Link { from: from.to_owned(), to: to.to_owned() };
        self.call(op, || FileSystem.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Op::RemoveFile(path.to_owned()), || FileSystem.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::RemoveDir(path.to_owned()), || FileSystem.remove_dir(path))
    }
}
