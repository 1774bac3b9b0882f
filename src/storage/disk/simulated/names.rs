//! The names of files: as they are seen, and as they are on disk.
//!
//! Changes of names are journaled: after a power cut, each directory holds the first few of those since
//! its last sync, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::rngs::Xoshiro256PlusPlus;

use super::image::Survival;
use crate::storage::disk::parent;

/// A file, whatever its name.
pub(super) type FileId = u64;

/// Names as they are seen, with those that the disk holds behind them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    now: Tree,
    on_disk: Tree,
    /// From the one to the other, in order.
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, FileId>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum Change {
    MakeDir(PathBuf),
    Link(PathBuf, FileId),
    Rename { from: PathBuf, to: PathBuf },
    Unlink(PathBuf),
}

impl Change {
    fn dir(&self) -> &Path {
        match self {
            Self::MakeDir(path) | Self::Link(path, _) | Self::Unlink(path) => parent(path),
            Self::Rename { to, .. } => parent(to),
        }
    }
}

impl Tree {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            Change::Link(path, id) => {
                self.files.insert(path.clone(), *id);
            }
            Change::Rename { from, to } => {
                let id = self.files.remove(from).expect("changes of a directory are applied in order");
                self.files.insert(to.clone(), id);
            }
            Change::Unlink(path) => {
                self.files.remove(path);
            }
        }
    }
}

impl Names {
    /// A directory that is on disk, and empty.
    pub(super) fn new(root: PathBuf) -> Self {
        let tree = Tree { dirs: BTreeSet::from([root]), ..Tree::default() };
        Self { now: tree.clone(), on_disk: tree, pending: Vec::new() }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<FileId> {
        self.now.files.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.now.files.contains_key(path) || self.now.dirs.contains(path)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.require_dir(dir)?;
        let inside = |path: &&PathBuf| parent(path) == dir;
        let mut paths: Vec<_> = self.now.files.keys().chain(&self.now.dirs).filter(inside).cloned().collect();
        paths.sort_unstable();
        Ok(paths)
    }

    /// The name of a file, if it has one.
    pub(super) fn name_of(&self, id: FileId) -> Option<&Path> {
        self.now.files.iter().find(|(_, file)| **file == id).map(|(path, _)| &**path)
    }

    /// Whether a file has a name, or may have one after a power cut.
    pub(super) fn mentions(&self, id: FileId) -> bool {
        let linked = |change: &Change| matches!(change, Change::Link(_, file) if *file == id);
        self.now.files.values().chain(self.on_disk.files.values()).any(|file| *file == id)
            || self.pending.iter().any(linked)
    }

    pub(super) fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> =
            path.ancestors().take_while(|dir| !self.now.dirs.contains(*dir)).map(Path::to_owned).collect();
        for dir in missing.into_iter().rev() {
            self.require_dir(parent(&dir))?;
            if self.now.files.contains_key(&dir) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.change(Change::MakeDir(dir));
        }
        Ok(())
    }

    pub(super) fn link(&mut self, path: &Path, id: FileId) -> io::Result<()> {
        self.require_dir(parent(path))?;
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Link(path.to_owned(), id));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.file(from)?;
        if parent(from) != parent(to) {
            let message = "the simulated disk renames inside a directory only";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync(&mut self, dir: &Path) -> io::Result<()> {
        self.require_dir(dir)?;
        let on_disk = &mut self.on_disk;
        self.pending.retain(|change| {
            let synced = change.dir() == dir;
            if synced {
                on_disk.apply(change);
            }
            !synced
        });
        Ok(())
    }

    /// Goes back to what is on disk when the power fails. Returns how many changes were lost.
    pub(super) fn cut(&mut self, survival: Survival, rng: &mut Xoshiro256PlusPlus) -> u64 {
        let mut ended: BTreeSet<PathBuf> = BTreeSet::new();
        let mut lost = 0;
        for change in std::mem::take(&mut self.pending) {
            if !ended.contains(change.dir()) && survival.keeps(rng) {
                self.on_disk.apply(&change);
            } else {
                ended.insert(change.dir().to_owned());
                lost += 1;
            }
        }
        let mut tree = std::mem::take(&mut self.on_disk);
        // What a lost directory held is lost with it. The root comes first, each other one after that
        // which it stands in.
        for dir in std::mem::take(&mut tree.dirs) {
            if tree.dirs.is_empty() || tree.dirs.contains(parent(&dir)) {
                tree.dirs.insert(dir);
            }
        }
        let Tree { files, dirs } = &mut tree;
        files.retain(|path, _| dirs.contains(parent(path)));
        self.now = tree.clone();
        self.on_disk = tree;
        lost
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }

    fn require_dir(&self, dir: &Path) -> io::Result<()> {
        if self.now.dirs.contains(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}
