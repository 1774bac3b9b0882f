//! The log of a stopped node, looked at as a whole: every entry, and what stands beside them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use openraft::vote::RaftLeaderId;
use redb::{Database, ReadOnlyTable, ReadableDatabase};
use serde::de::DeserializeOwned;

use super::open::{check_indexes, record};
use super::reader::decode;
use super::{COMMITTED, LOG, META, PURGED, VOTE};
use crate::limits;
use crate::raft::types::{Entry, LogId, Vote};
use crate::storage::damage::{Damage, Place};
use crate::storage::overlay;

/// A log that was checked, and can be read.
pub(in crate::storage) struct LogSurvey {
    database: Database,
    path: PathBuf,
    pub(in crate::storage) facts: LogFacts,
}

/// What is in the log.
#[derive(Clone, Debug, Default)]
pub(in crate::storage) struct LogFacts {
    pub(in crate::storage) vote: Option<Vote>,
    pub(in crate::storage) committed: Option<LogId>,
    pub(in crate::storage) purged: Option<LogId>,
    /// The last entry, or the last purged one where there is none.
    pub(in crate::storage) last: Option<LogId>,
    pub(in crate::storage) records: u64,
}

impl LogSurvey {
    /// Opens a log without changing its file, and checks all of it.
    pub(in crate::storage) fn of(path: &Path) -> Result<Self, Vec<Damage>> {
        let database = overlay::open(path).map_err(|damage| vec![damage])?;
        let mut survey = Self { database, path: path.to_owned(), facts: LogFacts::default() };
        match survey.look() {
            Ok(damage) if damage.is_empty() => Ok(survey),
            Ok(damage) => Err(damage),
            Err(error) => Err(vec![Damage::of_database(path, Place::File, &error)]),
        }
    }

    /// Entries of a range, as many as go into one batch, one at least.
    pub(in crate::storage) fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, Damage> {
        let read = || -> Result<Vec<Entry>, redb::Error> {
            let mut entries = Vec::new();
            let mut bytes = 0;
            for item in self.table()?.range(range.clone())? {
                let (index, record) = item?;
                bytes += record.value().len();
                if entries.len() >= limits::APPLY_BATCH_MAX_ENTRIES
                    || (bytes > limits::APPLY_BATCH_MAX_BYTES && !entries.is_empty())
                {
                    break;
                }
                entries.push(decode(index.value(), record.value()).expect("every entry was checked"));
            }
            Ok(entries)
        };
        read().map_err(|error| Damage::of_database(&self.path, Place::Entry(range.start), &error))
    }

    /// The id of an entry in the log.
    pub(in crate::storage) fn id_at(&self, index: u64) -> Result<Option<LogId>, Damage> {
        if let Some(purged) = self.facts.purged.filter(|purged| purged.index == index) {
            return Ok(Some(purged));
        }
        Ok(self.entries(index..index + 1)?.first().map(|entry| entry.log_id))
    }

    fn table(&self) -> Result<ReadOnlyTable<u64, &'static [u8]>, redb::Error> {
        Ok(self.database.begin_read()?.open_table(LOG)?)
    }

    fn damage(&self, place: Place, problem: impl std::fmt::Display) -> Damage {
        Damage::new(&self.path, place, problem)
    }

    fn look(&mut self) -> Result<Vec<Damage>, redb::Error> {
        let mut damage = Vec::new();
        self.facts.vote = self.fact(VOTE, &mut damage)?;
        self.facts.committed = self.fact(COMMITTED, &mut damage)?;
        self.facts.purged = self.fact(PURGED, &mut damage)?;
        let ids = self.look_at_entries(&mut damage)?;
        if damage.is_empty() {
            self.look_at_bounds(ids, &mut damage);
        }
        Ok(damage)
    }

    fn fact<T: DeserializeOwned>(
        &self,
        key: &'static str,
        damage: &mut Vec<Damage>,
    ) -> Result<Option<T>, redb::Error> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(record(&meta, key)?.unwrap_or_else(|error| {
            let place = Place::row("meta", key.as_bytes());
            damage.push(Damage::of_record(&self.path, place, &error.problem));
            None
        }))
    }

    /// Looks at every entry that is not purged. Returns the ids of the first and the last.
    fn look_at_entries(&mut self, damage: &mut Vec<Damage>) -> Result<Option<(LogId, LogId)>, redb::Error> {
        let log = self.table()?;
        let first_kept = self.facts.purged.map_or(0, |purged| purged.index + 1);
        let mut ids: Option<(LogId, LogId)> = None;
        // Purged entries may still wait to be deleted.
        for item in log.range(first_kept..)? {
            let (index, stored) = item?;
            let index = index.value();
            self.facts.records += 1;
            let entry = match decode(index, stored.value()) {
                Ok(entry) => entry,
                Err(error) => {
                    damage.push(Damage::of_record(&self.path, Place::Entry(index), &error.problem));
                    if damage.len() >= limits::VERIFY_FINDINGS_MAX_COUNT {
                        return Ok(ids);
                    }
                    continue;
                }
            };
            let last = ids.map_or(self.facts.purged, |(_, last)| Some(last));
            if let Some(last) = last.filter(|last| entry.log_id <= *last) {
                let problem = format!("its id {} does not come after {last}", entry.log_id);
                damage.push(self.damage(Place::Entry(index), problem));
            }
            ids = Some((ids.map_or(entry.log_id, |(first, _)| first), entry.log_id));
        }
        Ok(ids)
    }

    fn look_at_bounds(&mut self, ids: Option<(LogId, LogId)>, damage: &mut Vec<Damage>) {
        let LogFacts { vote, committed, purged, records, .. } = self.facts.clone();
        if let Some((first, last)) = ids
            && let Err(problem) = check_indexes(purged, first.index, last.index, records)
        {
            damage.push(self.damage(Place::Entry(first.index), problem));
            return;
        }
        let last = ids.map_or(purged, |(_, last)| Some(last));
        self.facts.last = last;
        let problem = committed.and_then(|committed| {
            if Some(committed) > last {
                return Some(format!("entry {committed} is committed, and the log ends before it"));
            }
            let is_kept = Some(committed) > purged;
            let is_there = || self.id_at(committed.index).ok().flatten() == Some(committed);
            (is_kept && !is_there()).then(|| format!("{committed} is committed, and another entry is there"))
        });
        damage.extend(problem.map(|text| self.damage(Place::row("meta", COMMITTED.as_bytes()), text)));

        let term = vote.map_or(0, |vote| vote.leader_id.term());
        if let Some(last) = last.filter(|last| last.leader_id.term > term) {
            let problem = format!("the vote is of term {term}, and the last entry is {last}");
            damage.push(self.damage(Place::row("meta", VOTE.as_bytes()), problem));
        }
    }
}
