//! `aspen backup`: takes a backup into a file, or checks one.
//!
//! # Tiger Style
//! - A file stands under its name only if all of it was checked and is on the disk.
//! - What is not whole yet is written by one backup alone, which holds a lock on it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::BackupArgs;
use super::error::{CliError, Exit};
use super::output::Terminal;
use crate::kv::backup::{BackupDecoder, BackupError, BackupHeader, Decoded};
use crate::kv::client::{BackupBody, KvClient};
use crate::kv::types::BackupTotals;
use crate::limits;

/// Behind the name of a file that is not whole yet.
const PARTIAL: &str = ".partial";

/// What was found in a backup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) header: BackupHeader,
    pub(super) totals: BackupTotals,
    pub(super) bytes: u64,
}

/// The same as JSON.
#[derive(Serialize)]
struct WholeForm<'a> {
    file: &'a Path,
    cluster_id: Option<String>,
    node_id: u64,
    created_ms: u64,
    revision: u64,
    keys: u64,
    bytes: u64,
}

impl Whole {
    fn form<'a>(&self, file: &'a Path) -> WholeForm<'a> {
        let BackupHeader { origin, revision, keys } = self.header;
        WholeForm {
            file,
            cluster_id: origin.cluster_id.map(|id| id.to_string()),
            node_id: origin.node_id.0,
            created_ms: origin.created_ms,
            revision: revision.0,
            keys,
            bytes: self.bytes,
        }
    }

    /// What it is a backup of.
    pub(super) fn describe(&self) -> String {
        let BackupHeader { origin, revision, keys } = self.header;
        let cluster = origin.cluster_id.map_or("no cluster".to_owned(), |id| format!("cluster {id}"));
        format!("{keys} keys at revision {revision} of {cluster}, {} bytes", self.bytes)
    }
}

/// Takes a backup.
pub(super) async fn run(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: BackupArgs,
) -> Result<Exit, CliError> {
    let BackupArgs { file: path, force, .. } = args;
    refuse_existing(&path, force)?;
    let mut partial = Partial::create(&path)?;
    let body = client.backup().await?;
    let bar = KeyBar::new("backup");
    let whole = receive(body, &mut partial, &bar).await?;
    drop(bar);
    // Another one may have been made meanwhile.
    refuse_existing(&path, force)?;
    partial.keep(&path)?;
    if json {
        terminal.json(&whole.form(&path))?;
    } else {
        terminal.line(&format!("{}: {}", path.display(), whole.describe()))?;
    }
    Ok(Exit::Done)
}

fn refuse_existing(path: &Path, force: bool) -> Result<(), CliError> {
    match path.exists() && !force {
        true => Err(CliError::FileExists { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// Writes what comes, and checks it.
async fn receive(mut body: BackupBody, partial: &mut Partial, bar: &KeyBar) -> Result<Whole, CliError> {
    let address = body.address().clone();
    let bad = |source| CliError::BadTransfer { address: address.clone(), source };
    let mut check = Check::default();
    while let Some(piece) = body.next_piece().await? {
        partial.write(&piece)?;
        check.take(&piece, bar).map_err(bad)?;
    }
    check.finish().map_err(bad)
}

/// Checks a backup and says what it is one of.
pub(super) fn check(terminal: &mut Terminal<'_>, json: bool, path: &Path) -> Result<Exit, CliError> {
    let whole = check_file(path)?;
    if json {
        terminal.json(&whole.form(path))?;
        return Ok(Exit::Done);
    }
    terminal.line(&format!("{} is whole: {}", path.display(), whole.describe()))?;
    let created = UNIX_EPOCH + Duration::from_millis(whole.header.origin.created_ms);
    let age = match SystemTime::now().duration_since(created) {
        Ok(age) => format!("{} ago", HumanDuration(age)),
        Err(_) => "in the future, by this clock".to_owned(),
    };
    terminal.line(&format!("made by node {}, {age}", whole.header.origin.node_id))?;
    Ok(Exit::Done)
}

/// Reads a backup to its end.
pub(super) fn check_file(path: &Path) -> Result<Whole, CliError> {
    let mut reader = BackupReader::open(path)?;
    let bar = KeyBar::new("check");
    while let Some(part) = reader.next_part()? {
        reader.check.note(&part, &bar);
    }
    let bad = |source| CliError::BadBackup { path: path.to_owned(), source };
    reader.check.finish().map_err(bad)
}

/// A backup that is decoded, and what was found in it so far.
#[derive(Default)]
struct Check {
    decoder: BackupDecoder,
    header: Option<BackupHeader>,
    totals: BackupTotals,
    bytes: u64,
}

impl Check {
    fn take(&mut self, piece: &[u8], bar: &KeyBar) -> Result<(), BackupError> {
        self.feed(piece);
        while let Some(part) = self.decoder.next_part()? {
            self.note(&part, bar);
        }
        Ok(())
    }

    fn feed(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.decoder.feed(piece);
    }

    fn note(&mut self, part: &Decoded, bar: &KeyBar) {
        match part {
            Decoded::Header(header) => {
                bar.begin(header.keys);
                self.header = Some(*header);
            }
            Decoded::Chunk { keys, .. } => bar.advance(*keys),
            Decoded::End(totals) => self.totals = *totals,
        }
    }

    fn finish(self) -> Result<Whole, BackupError> {
        self.decoder.finish()?;
        let header = self.header.expect("a whole backup has a header");
        Ok(Whole { header, totals: self.totals, bytes: self.bytes })
    }
}

/// A backup that is read from its file.
pub(super) struct BackupReader {
    path: PathBuf,
    file: File,
    piece: Vec<u8>,
    check: Check,
}

impl BackupReader {
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(|source| CliError::Input { path: path.to_owned(), source })?;
        let piece = vec![0; limits::CLI_BACKUP_READ_BYTES];
        Ok(Self { path: path.to_owned(), file, piece, check: Check::default() })
    }

    /// The next part; none at the end of the file, which is then whole.
    pub(super) fn next_part(&mut self) -> Result<Option<Decoded>, CliError> {
        let bad = |source| CliError::BadBackup { path: self.path.clone(), source };
        loop {
            if let Some(part) = self.check.decoder.next_part().map_err(bad)? {
                return Ok(Some(part));
            }
            let read = self.file.read(&mut self.piece);
            match read.map_err(|source| CliError::Input { path: self.path.clone(), source })? {
                0 => return self.check.decoder.finish().map(|()| None).map_err(bad),
                count => self.check.feed(&self.piece[..count]),
            }
        }
    }
}

/// A file that is not whole yet. It is removed unless it is kept. Whoever holds the lock on the file that has
/// the name is the only one who writes to it, renames it or removes it.
struct Partial {
    path: PathBuf,
    file: Option<File>,
}

impl Partial {
    fn create(of: &Path) -> Result<Self, CliError> {
        let mut name = OsString::from(of);
        name.push(PARTIAL);
        let path = PathBuf::from(name);
        for _ in 0..limits::CLI_PARTIAL_OPENS_MAX_COUNT {
            match lock(&path) {
                Ok(Some(file)) => return Ok(Self { path, file: Some(file) }),
                // Another backup has ended in between, and took the name from the file that was opened.
                Ok(None) => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(source)) => return Err(CliError::OutputFile { path, source }),
            }
        }
        Err(CliError::BackupUnderWay { path: of.to_owned() })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CliError> {
        let written = self.file.as_mut().expect("it is open until it is kept").write_all(piece);
        written.map_err(|source| CliError::OutputFile { path: self.path.clone(), source })
    }

    /// Gives it its name, once it is on the disk.
    fn keep(mut self, path: &Path) -> Result<(), CliError> {
        let file = self.file.take().expect("it is open until it is kept");
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let keep = || -> io::Result<()> {
            file.sync_all()?;
            fs::rename(&self.path, path)?;
            File::open(dir)?.sync_all()
        };
        keep().map_err(|source| {
            fs::remove_file(&self.path).ok();
            CliError::OutputFile { path: path.to_owned(), source }
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.file.is_some() {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Opens a file, empties it once it is locked, and gives it if it has the name still.
fn lock(path: &Path) -> Result<Option<File>, TryLockError> {
    // For its owner alone: all that the cluster holds is in it.
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(TryLockError::Error)?;
    file.try_lock()?;
    let has_name = || -> io::Result<bool> {
        let locked = file.metadata()?;
        match fs::metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (locked.dev(), locked.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    };
    if !has_name().map_err(TryLockError::Error)? {
        return Ok(None);
    }
    file.set_len(0).map_err(TryLockError::Error)?;
    Ok(Some(file))
}

/// A bar of keys on the standard error, if a person looks at it. It goes when this is dropped.
pub(super) struct KeyBar(ProgressBar);

impl KeyBar {
    pub(super) fn new(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix:8} {bar:40} {pos} of {len} keys, {eta} left");
        let bar = ProgressBar::new(0).with_style(style.expect("the template is valid")).with_prefix(what);
        Self(bar)
    }

    pub(super) fn begin(&self, keys: u64) {
        self.0.set_length(keys);
    }

    pub(super) fn advance(&self, keys: u64) {
        self.0.inc(keys);
    }
}

impl Drop for KeyBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_to_a_file_that_another_one_writes_is_refused_and_leaves_the_other_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monday");
        let partial = dir.path().join("monday.partial");
        fs::write(&partial, "of a backup that was killed").unwrap();
        let mut first = Partial::create(&path).unwrap();
        first.write(b"one").unwrap();
        let refused = Partial::create(&path).err().expect("it is refused");
        assert_eq!(refused.to_string(), format!("another backup to {} is under way", path.display()));
        first.write(b" and two").unwrap();
        assert_eq!(fs::read(&partial).unwrap(), b"one and two");
        first.keep(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one and two");

        drop(Partial::create(&path).unwrap());
        assert!(!partial.exists() && path.exists(), "only what is not whole is removed");
    }

    #[test]
    fn many_backups_to_one_file_never_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monday");
        let write = |mark: u8| {
            for _ in 0..100 {
                let Ok(mut partial) = Partial::create(&path) else { continue };
                partial.write(&[mark; 100]).unwrap();
                partial.write(&[mark; 100]).unwrap();
                partial.keep(&path).unwrap();
                let kept = fs::read(&path).unwrap();
                assert!(kept.len() == 200 && kept.iter().all(|byte| *byte == kept[0]), "{kept:?}");
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|mark| drop(scope.spawn(move || write(mark))));
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
