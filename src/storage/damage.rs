//! Damage on disk: what is wrong, in which file, and where; and the alarm that ends the node for it.
//!
//! A disk that is full or fails is told apart from one that lies: it ends the node as well, but what is on it
//! may be as it was written. So is what a newer Aspen wrote, which is whole. Neither is damage, or counted as such.
//!
//! Whoever meets damage while the node runs raises the alarm of its store, and answers with an error.
//! The node waits for the alarm and stops with the first damage as its last word: what a faulty disk
//! gives next is anyone's guess, and the other members have whole copies.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use tokio::sync::Notify;
use tracing::error;

use super::codec::CodecProblem;
use super::database::{OpenDatabaseError, is_io_failure, is_io_failure_kind, panic_message};

/// What to do about a log, a state or metadata that a node cannot start with: the end of each such error.
/// A member that is put back to an older state has forgotten votes and entries that others count on, and
/// nothing notices it.
pub const WHAT_TO_DO: &str = "Run `aspen-node repair`: it mends what can be mended, or prints how to replace the \
     node. Only where this is the one node of its cluster may a backup of the directory be put back instead: a \
     member would have forgotten what it has acknowledged";

/// Something on disk is not what was written, or the disk does not give or take it, or it is of a newer Aspen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}{place} {kind}: {problem}", file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What is wrong there.
    pub problem: String,
    /// Which of the three it is.
    pub kind: Kind,
}

/// What is the matter with something on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is not what was written.
    Damaged,
    /// The operating system does not read or write it.
    Failed,
    /// A newer Aspen wrote it.
    Newer,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "is damaged",
            Self::Failed => "cannot be read or written",
            Self::Newer => "cannot be read by this program",
        })
    }
}

/// Where in a file damage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The file as a whole.
    File,
    /// The block that begins at this byte.
    Offset(u64),
    /// The log entry of this index.
    Entry(u64),
    /// A row of a table.
    Row {
        /// The table.
        table: String,
        /// The row's key, with what is not printable in ASCII escaped.
        key: String,
    },
    /// A part of a snapshot, such as `chunk 3`.
    Part(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Offset(offset) => write!(f, ", offset {offset},"),
            Self::Entry(index) => write!(f, ", log entry {index},"),
            Self::Row { table, key } => write!(f, ", table '{table}', key \"{key}\","),
            Self::Part(part) => write!(f, ", {part},"),
        }
    }
}

impl Damage {
    /// Damage of a file at a place.
    pub fn new(file: &Path, place: Place, problem: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), place, problem: problem.to_string(), kind: Kind::Damaged }
    }

    /// A file that the operating system does not read or write, as on a full disk.
    pub(super) fn failure(file: &Path, place: Place, problem: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, ..Self::new(file, place, problem) }
    }

    /// What an error of the operating system tells of. A file that ends too early was cut.
    pub(super) fn of_io(file: &Path, place: Place, error: &io::Error) -> Self {
        match is_io_failure_kind(error.kind()) {
            true => Self::failure(file, place, error),
            false => Self::new(file, place, error),
        }
    }

    /// What an error of the database in a file tells of, met at a place.
    pub(super) fn of_database(file: &Path, place: Place, error: &redb::Error) -> Self {
        match is_io_failure(error) {
            true => Self::failure(file, place, error),
            false => Self::new(file, place, format!("the database cannot be read: {error}")),
        }
    }

    /// What the refusal to open a database tells of.
    pub(super) fn of_opening(file: &Path, place: Place, error: OpenDatabaseError) -> Self {
        match error {
            OpenDatabaseError::Damaged { problem, .. } => Self::new(file, place, problem),
            OpenDatabaseError::Io { source, .. } => Self::failure(file, place, source),
            in_use @ OpenDatabaseError::InUse { .. } => Self::failure(file, Place::File, in_use),
        }
    }

    /// What is the matter with a sealed record.
    pub(super) fn of_record(file: &Path, place: Place, problem: &CodecProblem) -> Self {
        let kind = if problem.is_damage() { Kind::Damaged } else { Kind::Newer };
        Self { kind, ..Self::new(file, place, problem) }
    }

    /// Whether something is not what was written. Otherwise the disk fails, or is full, or this program is too old.
    pub fn is_damage(&self) -> bool {
        self.kind == Kind::Damaged
    }
}

impl Place {
    /// A row of a table.
    pub fn row(table: impl fmt::Display, key: &[u8]) -> Self {
        Self::Row { table: table.to_string(), key: key.escape_ascii().to_string() }
    }
}

/// Looks at a database. It asserts what no file that it wrote can violate, so a page that was damaged
/// before it was first read can make it panic: that is damage, and no reason to fall over.
pub(super) fn looking_at<T>(file: &Path, look: impl FnOnce() -> Result<T, Damage>) -> Result<T, Damage> {
    catch_unwind(AssertUnwindSafe(look))
        .unwrap_or_else(|panic| Err(Damage::new(file, Place::File, panic_message(&*panic))))
}

/// Rings once, for all who hold a clone.
#[derive(Clone, Debug, Default)]
pub struct DamageAlarm(Arc<Alarm>);

#[derive(Debug, Default)]
struct Alarm {
    first: OnceLock<Damage>,
    raised: Notify,
}

impl DamageAlarm {
    /// Tells of damage, or of a disk that fails. What is found after the first is said only in the log.
    pub fn raise(&self, damage: Damage) {
        if damage.is_damage() {
            metrics::counter!("aspen_storage_damage_total").increment(1);
        }
        error!("{damage}");
        // A second one changes nothing: the first ends the node already.
        self.0.first.set(damage).ok();
        self.0.raised.notify_waiters();
    }

    /// The first damage, if there was any.
    pub fn get(&self) -> Option<&Damage> {
        self.0.first.get()
    }

    /// Waits for damage.
    pub async fn raised(&self) -> Damage {
        loop {
            let raised = self.0.raised.notified();
            if let Some(damage) = self.get() {
                return damage.clone();
            }
            raised.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(place: Place) -> Damage {
        Damage::new(Path::new("/d/state.redb"), place, "the checksum is wrong")
    }

    #[test]
    fn the_sentence_names_file_and_place() {
        for (place, expected) in [
            (Place::File, "/d/state.redb is damaged: the checksum is wrong"),
            (Place::Offset(8192), "/d/state.redb, offset 8192, is damaged: the checksum is wrong"),
            (Place::Entry(7), "/d/state.redb, log entry 7, is damaged: the checksum is wrong"),
            (
                Place::row("data", b"a\"\x00"),
                "/d/state.redb, table 'data', key \"a\\\"\\x00\", is damaged: the checksum is wrong",
            ),
        ] {
            assert_eq!(damage(place).to_string(), expected);
        }
    }

    #[test]
    fn a_disk_that_fails_is_told_from_one_that_lies() {
        let file = Path::new("state.redb");
        let of = |error| Damage::of_database(file, Place::File, &error);
        let both = |kind: io::ErrorKind| {
            [of(redb::Error::Io(kind.into())), Damage::of_io(file, Place::File, &kind.into())]
        };
        for failed in both(io::ErrorKind::StorageFull).into_iter().chain([of(redb::Error::PreviousIo)]) {
            assert!(!failed.is_damage());
            assert!(failed.to_string().starts_with("state.redb cannot be read or written: "), "{failed}");
        }
        let lies =
            [both(io::ErrorKind::InvalidData), both(io::ErrorKind::UnexpectedEof)].into_iter().flatten();
        for damaged in lies.chain([of(redb::Error::Corrupted("page".to_owned()))]) {
            assert!(damaged.is_damage());
            assert!(damaged.to_string().starts_with("state.redb is damaged: "), "{damaged}");
        }
    }

    #[test]
    fn what_a_newer_aspen_wrote_is_no_damage() {
        let of = |problem| Damage::of_record(Path::new("raft.redb"), Place::Entry(7), &problem);
        let newer = of(CodecProblem::Newer(2));
        assert!(!newer.is_damage());
        let begins =
            "raft.redb, log entry 7, cannot be read by this program: it was written by a newer Aspen";
        assert!(newer.to_string().starts_with(begins), "{newer}");
        assert!(of(CodecProblem::Version(2)).is_damage());
    }

    #[test]
    fn a_panic_of_the_database_is_damage() {
        let seen: Result<(), _> = looking_at(Path::new("x.redb"), || panic!("no such page"));
        assert_eq!(seen.unwrap_err().to_string(), "x.redb is damaged: no such page");
    }

    #[tokio::test]
    async fn the_first_damage_is_told_to_who_waits_and_to_who_comes() {
        let alarm = DamageAlarm::default();
        let waiting = tokio::spawn({
            let alarm = alarm.clone();
            async move { alarm.raised().await }
        });
        tokio::task::yield_now().await;
        alarm.raise(damage(Place::Entry(1)));
        alarm.raise(damage(Place::Entry(2)));
        assert_eq!(waiting.await.unwrap().place, Place::Entry(1));
        assert_eq!(alarm.raised().await.place, Place::Entry(1));
    }
}
