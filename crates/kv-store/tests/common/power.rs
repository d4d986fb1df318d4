//! What a disk may hold after the power went: everything synced, and any part of the rest.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::Random;
use super::disk::Op;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(u64),
    Dir(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Debug, Default)]
struct Dir {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<Naming>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// The disk after some calls.
#[derive(Clone, Debug)]
pub struct PowerModel {
    root: PathBuf,
    dirs: Vec<Dir>,
    files: HashMap<u64, Contents>,
}

impl PowerModel {
    /// A disk on which `root` is there and empty.
    pub fn new(root: &Path) -> PowerModel {
        PowerModel { root: root.to_owned(), dirs: vec![Dir::default()], files: HashMap::new() }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateDir(path) => {
                self.dirs.push(Dir::default());
                let node = Node::Dir(self.dirs.len() - 1);
                self.name(path, |name| Naming::Link(name, node));
            }
            Op::Create { path, ino, bytes } => {
                let file = self.files.entry(*ino).or_default();
                file.unsynced.push(Change::SetLen(0));
                file.unsynced.push(Change::SetLen(*bytes));
                self.name(path, |name| Naming::Link(name, Node::File(*ino)));
            }
            Op::Write { ino, offset, bytes } => {
                self.files.get_mut(ino).unwrap().unsynced.push(Change::Write(*offset, bytes.clone()));
            }
            Op::SetLen { ino, bytes } => {
                self.files.get_mut(ino).unwrap().unsynced.push(Change::SetLen(*bytes));
            }
            Op::Sync { ino } => {
                let file = self.files.get_mut(ino).unwrap();
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable, usize::MAX, |_| true);
                }
            }
            Op::SyncDir(path) => {
                let dir = self.dir(path);
                self.dirs[dir].unsynced.clear();
                self.dirs[dir].durable = self.dirs[dir].live.clone();
            }
            Op::Rename { from, to } => {
                let to = to.file_name().unwrap().to_str().unwrap().to_owned();
                self.name(from, |from| Naming::Rename(from, to));
            }
            Op::Link { from, to } => {
                let (dir, name) = self.split(from);
                let node = self.dirs[dir].live[&name];
                self.name(to, |name| Naming::Link(name, node));
            }
            Op::RemoveFile(path) | Op::RemoveDir(path) => self.name(path, Naming::Unlink),
        }
    }

    /// Writes one of the disks that there may be into the empty folder `into`: of what was not synced, each name and each
    /// sector is there with probability `kept`.
    pub fn image(&self, into: &Path, random: &mut Random, kept: f64, sector: usize) {
        let mut keep = || (random.next() >> 11) as f64 / ((1_u64 << 53) as f64) < kept;
        let mut todo = vec![(0, into.to_owned())];
        while let Some((number, path)) = todo.pop() {
            let dir = &self.dirs[number];
            let mut names = dir.durable.clone();
            dir.unsynced.iter().filter(|_| keep()).for_each(|naming| naming.apply(&mut names));
            for (name, node) in names {
                match node {
                    Node::Dir(number) => {
                        fs::create_dir(path.join(&name)).unwrap();
                        todo.push((number, path.join(name)));
                    }
                    Node::File(ino) => {
                        let file = &self.files[&ino];
                        let mut bytes = file.durable.clone();
                        for change in &file.unsynced {
                            change.clone().apply(&mut bytes, sector, |_| keep());
                        }
                        fs::write(path.join(name), bytes).unwrap();
                    }
                }
            }
        }
    }

    fn dir(&self, path: &Path) -> usize {
        let inside = path.strip_prefix(&self.root).unwrap();
        inside.iter().fold(0, |dir, name| match self.dirs[dir].live[name.to_str().unwrap()] {
            Node::Dir(number) => number,
            Node::File(_) => panic!("{} is no directory", path.display()),
        })
    }

    fn split(&self, path: &Path) -> (usize, String) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (self.dir(path.parent().unwrap()), name)
    }

    fn name(&mut self, path: &Path, naming: impl FnOnce(String) -> Naming) {
        let (dir, name) = self.split(path);
        let naming = naming(name);
        naming.apply(&mut self.dirs[dir].live);
        self.dirs[dir].unsynced.push(naming);
    }
}

impl Naming {
    /// What cannot be done, because something before it was lost, is lost too.
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Naming::Link(name, node) => drop(names.insert(name.clone(), *node)),
            Naming::Unlink(name) => drop(names.remove(name)),
            Naming::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Change {
    /// Applies the parts that `keep` says, which end at multiples of `sector`.
    fn apply(self, bytes: &mut Vec<u8>, sector: usize, mut keep: impl FnMut(usize) -> bool) {
        match self {
            Change::SetLen(len) => {
                if keep(0) {
                    bytes.resize(len as usize, 0);
                }
            }
            Change::Write(offset, new) => {
                let (mut at, mut rest) = (offset as usize, &new[..]);
                while !rest.is_empty() {
                    let part = rest.len().min(sector - at % sector);
                    if keep(at) {
                        bytes.resize(bytes.len().max(at + part), 0);
                        bytes[at..at + part].copy_from_slice(&rest[..part]);
                    }
                    at += part;
                    rest = &rest[part..];
                }
            }
        }
    }
}
