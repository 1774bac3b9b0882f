//! Damage on disk: what is wrong, in which file, and where; and the alarm that ends the node for it.
//!
//! A disk that is full or fails is told apart from one that lies: it ends the node as well, but what is on it
//! may be as it was written. It is no damage to look for, and is not counted as one.
//!
//! Whoever meets damage while the node runs raises the alarm of its store, and answers with an error.
//! The node waits for the alarm and stops with the first damage as its last word: what a faulty disk
//! gives next is anyone's guess, and the other members have whole copies.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use tokio::sync::Notify;
use tracing::error;

use super::database::{is_io_failure, panic_message};

/// What to do about a log, a state or metadata that a node cannot start with: the end of each such error.
/// A member that is put back to an older state has forgotten votes and entries that others count on, and
/// nothing notices it.
pub const WHAT_TO_DO: &str = "Run `aspen-node repair`: it mends what can be mended, or prints how to replace the \
     node. Only where this is the one node of its cluster may a backup of the directory be put back instead: a \
     member would have forgotten what it has acknowledged";

/// Something on disk is not what was written, or the disk does not give or take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}{place} {kind}: {problem}", file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What is wrong there.
    pub problem: String,
    #[serde(skip)]
    kind: Kind,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Damaged,
    Failed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "is damaged",
            Self::Failed => "cannot be read or written",
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
    pub(super) fn failure(file: &Path, problem: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, ..Self::new(file, Place::File, problem) }
    }

    /// What an error of the database in a file tells of.
    pub(super) fn of_database(file: &Path, error: &redb::Error) -> Self {
        match is_io_failure(error) {
            true => Self::failure(file, error),
            false => Self::new(file, Place::File, format!("the database cannot be read: {error}")),
        }
    }

    /// Whether something is not what was written. Otherwise the disk fails, or is full.
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
        let of = |error| Damage::of_database(Path::new("state.redb"), &error);
        let io = |kind: std::io::ErrorKind| of(redb::Error::Io(kind.into()));
        for failed in [io(std::io::ErrorKind::StorageFull), of(redb::Error::PreviousIo)] {
            assert!(!failed.is_damage());
            assert!(failed.to_string().starts_with("state.redb cannot be read or written: "), "{failed}");
        }
        let lies = [io(std::io::ErrorKind::InvalidData), io(std::io::ErrorKind::UnexpectedEof)];
        for damaged in lies.into_iter().chain([of(redb::Error::Corrupted("page".to_owned()))]) {
            assert!(damaged.is_damage());
            assert!(damaged.to_string().starts_with("state.redb is damaged: "), "{damaged}");
        }
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
