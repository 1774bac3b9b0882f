//! The data directory: made, told from foreign ones, and locked.
//!
//! Two processes must never write to one data directory, and nothing may be written into a directory
//! that holds something else. The calls here block on the disk for a moment.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::identity::SECRET_KEY_FILE_NAME;
use crate::storage::disk::{self, Disk, RealDisk};

/// The node's own ticket, for scripts. The name must stay stable.
pub const ENDPOINT_FILE_NAME: &str = "endpoint";

const LOCK_FILE_NAME: &str = "lock";

/// The directory of an embedded Hiqlite node. The name must stay stable.
pub const HIQLITE_DIR: &str = "hiqlite";

/// Names by which a directory is known as Aspen's. They must stay stable.
const OWN_NAMES: &[&str] = &["metadata.redb", "raft.redb", "state.redb", SECRET_KEY_FILE_NAME, HIQLITE_DIR];

/// Names that Aspen, or a new file system, has too, but that say nothing on their own.
const NEUTRAL_NAMES: &[&str] =
    &[LOCK_FILE_NAME, ENDPOINT_FILE_NAME, "endpoint.new", "iroh-secret-key.new", "snapshots", "lost+found"];

/// A data directory that belongs to this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is none.
    #[error("data_dir {} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A file stands there.
    #[error("data_dir {} is not a directory. Set data_dir to a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It holds something else.
    #[error(
        "data_dir {} holds '{found}' and nothing of Aspen's, so it is left alone. Set data_dir to an empty \
         or a new directory",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Another process has it.
    #[error(
        "data_dir {} is in use by {}. Stop that one first, or give this node a directory of its own",
        path.display(),
        process(*pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// It cannot be written to.
    #[error("cannot write to {}: the file system is read-only. Mount it writable, or move data_dir", path.display())]
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
    },
    /// The process may not.
    #[error(
        "cannot use {}: permission denied. The user that runs the node must own data_dir",
        path.display()
    )]
    Denied {
        /// What was to be used.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("cannot write to {}: no space is left. Free some, or move data_dir", path.display())]
    Full {
        /// What was to be written.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl DataDirError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { path, source },
        }
    }
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`DataDirError`], if it cannot be made or locked, or holds what is not a node's.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create(path, |dir| RealDisk.sync_dir(dir))?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Keeps other processes away from a directory that is only to be read: nothing in it changes.
    ///
    /// # Errors
    /// [`DataDirError`], if it is not there, is no directory, or another process uses it.
    pub fn open_to_read(path: &Path) -> Result<Option<File>, DataDirError> {
        find(path)?;
        match File::open(path.join(LOCK_FILE_NAME)) {
            Ok(file) => try_lock(path, &file).map(|()| Some(file)),
            // No node has run here: it is a copy, as of a backup.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::of(path, source)),
        }
    }

    /// Keeps other processes away from a directory that is there and is to be changed.
    ///
    /// # Errors
    /// [`DataDirError`], if it is not there, is no directory, or another process uses it.
    pub fn open_to_change(path: &Path) -> Result<File, DataDirError> {
        find(path)?;
        let held = lock(path)?;
        let file = path.join(LOCK_FILE_NAME);
        disk::give_to_owner_of(path, &file).map_err(|source| DataDirError::of(&file, source))?;
        Ok(held)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the node's ticket for scripts to read: at any time they find a whole one.
    ///
    /// # Errors
    /// [`DataDirError`], if it cannot be written.
    pub fn write_endpoint_file(&self, ticket: &str) -> Result<(), DataDirError> {
        write_endpoint_file(&self.path, ticket)
    }
}

/// Writes the ticket of the node that holds this directory's lock.
pub(super) fn write_endpoint_file(dir: &Path, ticket: &str) -> Result<(), DataDirError> {
    let path = dir.join(ENDPOINT_FILE_NAME);
    let unfinished = path.with_extension("new");
    let write = || {
        let mut file = File::create(&unfinished)?;
        writeln!(file, "{ticket}")?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| DataDirError::of(&path, source))
}

/// Makes the directory, and those above it, where they are missing. As long as it holds no node's data, their names
/// are made durable with `sync_dir`: what is acknowledged in a directory must not go with it in a power cut.
fn create(path: &Path, sync_dir: impl Fn(&Path) -> io::Result<()>) -> Result<(), DataDirError> {
    let missing = missing_directories(path);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(DataDirError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
            created.map_err(|source| DataDirError::of(path, source))?;
        }
        Err(source) => return Err(DataDirError::of(path, source)),
    }
    if OWN_NAMES.iter().any(|own| path.join(own).exists()) {
        return Ok(());
    }
    // From the outside in: a name is of no use in a directory that has none.
    let named: Vec<&Path> = named_directories(path).filter(|dir| dir.file_name().is_some()).collect();
    for dir in named.into_iter().rev() {
        let parent = disk::parent(dir);
        match sync_dir(parent) {
            // One that was there may have been made a moment ago, by a start that was killed or by somebody else.
            // Where this process may not ask for that, it was somebody else.
            Err(source) if missing.contains(&dir) => return Err(DataDirError::of(parent, source)),
            _ => {}
        }
    }
    Ok(())
}

/// A path's directories, the path itself first.
fn named_directories(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().take_while(|dir| !dir.as_os_str().is_empty())
}

/// Which of a path's directories are not there, the path itself first.
fn missing_directories(path: &Path) -> Vec<&Path> {
    named_directories(path).take_while(|dir| matches!(dir.try_exists(), Ok(false))).collect()
}

fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::of(path, source);
    let mut foreign = None;
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if OWN_NAMES.iter().any(|own| name == *own) {
            return Ok(());
        }
        if !NEUTRAL_NAMES.iter().any(|neutral| name == *neutral) {
            foreign = Some(name);
        }
    }
    match foreign {
        Some(name) => {
            Err(DataDirError::Foreign { path: path.to_owned(), found: name.to_string_lossy().into_owned() })
        }
        None => Ok(()),
    }
}

/// Locks the directory by a file in it that holds the process's id. The kernel releases the lock when
/// the process ends, however it ends.
/// Finds a directory that must be there.
fn find(path: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(DataDirError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataDirError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(DataDirError::of(path, source)),
    }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK_FILE_NAME);
    let failed = |source| DataDirError::of(&path, source);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed)?;
    try_lock(dir, &file)?;
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn try_lock(dir: &Path, file: &File) -> Result<(), DataDirError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DataDirError::InUse { path: dir.to_owned(), pid: read_pid(file) },
        TryLockError::Error(source) => DataDirError::of(&dir.join(LOCK_FILE_NAME), source),
    })
}

fn read_pid(file: &File) -> Option<u32> {
    /// Digits of the largest process id, and a line feed.
    const PID_MAX_BYTES: u64 = 11;
    let mut text = String::new();
    file.take(PID_MAX_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let data = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(data.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn every_name_that_was_made_is_made_durable_where_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let synced = |path: &Path| {
            let synced = std::cell::RefCell::new(Vec::new());
            create(path, |dir| {
                synced.borrow_mut().push(dir.to_owned());
                // As for a directory of somebody else's.
                if dir.starts_with(path.parent().unwrap()) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::PermissionDenied.into())
                }
            })
            .unwrap();
            synced.into_inner()
        };
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let path = dir.path().join("a/b/c");
        let names = [dir.path().to_owned(), dir.path().join("a"), dir.path().join("a/b")];
        let first = synced(&path);
        assert!(first.ends_with(&names) && first[0] == Path::new("/"), "{first:?}");
        assert_eq!(synced(&path), first, "whoever made it may have been killed");
        fs::write(path.join(OWN_NAMES[0]), "").unwrap();
        assert_eq!(synced(&path), Vec::<PathBuf>::new(), "it was durable before there was data");
    }

    #[test]
    fn a_directory_whose_name_may_be_lost_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let error = create(&dir.path().join("a/b"), |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert!(error.to_string().contains("no space is left"), "{error}");
    }

    #[test]
    fn a_second_process_is_refused_with_the_first_ones_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn who_changes_a_directory_keeps_others_away_and_leaves_it_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            DataDir::open_to_change(&dir.path().join("absent")),
            Err(DataDirError::Missing { .. })
        ));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(4_711), Some(4_712)).unwrap();
        }
        let held = DataDir::open_to_change(dir.path()).unwrap();
        assert!(matches!(DataDir::open_to_read(dir.path()), Err(DataDirError::InUse { .. })));
        assert!(matches!(DataDir::open_to_change(dir.path()), Err(DataDirError::InUse { .. })));
        drop(held);
        let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!(owner(&dir.path().join(LOCK_FILE_NAME)), owner(dir.path()));
    }

    #[test]
    fn what_a_killed_process_left_in_the_lock_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE_NAME), "1234567890\n").unwrap();
        let _data = DataDir::open(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(LOCK_FILE_NAME)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_own_directory_may_hold_other_things_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        fs::write(dir.path().join("metadata.redb"), "").unwrap();
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn a_new_file_system_is_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn troubles_of_the_disk_are_told_apart() {
        let of = |kind: io::ErrorKind| DataDirError::of(Path::new("/data"), kind.into()).to_string();
        assert!(of(io::ErrorKind::ReadOnlyFilesystem).contains("read-only"));
        assert!(of(io::ErrorKind::PermissionDenied).contains("must own data_dir"));
        assert!(of(io::ErrorKind::StorageFull).contains("no space is left"));
        assert!(of(io::ErrorKind::TimedOut).contains("/data"));
    }

    #[test]
    fn the_endpoint_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        for ticket in ["a-long-ticket", "short"] {
            data.write_endpoint_file(ticket).unwrap();
            let text = fs::read_to_string(dir.path().join(ENDPOINT_FILE_NAME)).unwrap();
            assert_eq!(text, format!("{ticket}\n"));
        }
        assert!(!dir.path().join("endpoint.new").exists());
    }
}
