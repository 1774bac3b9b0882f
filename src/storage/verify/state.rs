//! The state of a stopped node, looked at as a whole: every row, and the totals.

use std::ops::Bound;
use std::path::Path;

use redb::{Database, Durability, ReadableDatabase};

use crate::kv::types::Revision;
use crate::limits;
use crate::raft::types::{Entry, LogId, StoredMembership};
use crate::storage::batch::{self, Batch};
use crate::storage::damage::{Damage, Place};
use crate::storage::head::{self, Head};
use crate::storage::log_redb::survey::LogSurvey;
use crate::storage::overlay;
use crate::storage::state_check::check_row;
use crate::storage::tables::{ReadTables, RedbRead, RedbWrite, StateError, Table};

/// What is in the state.
#[derive(Clone, Debug, Default)]
pub(in crate::storage) struct StateFacts {
    pub(in crate::storage) applied: Option<LogId>,
    pub(in crate::storage) revision: Revision,
    pub(in crate::storage) compacted: Revision,
    pub(in crate::storage) keys: u64,
    pub(in crate::storage) records: u64,
    pub(in crate::storage) membership: StoredMembership,
}

/// Opens a state without changing its file, and checks all of it.
pub(in crate::storage) fn survey(path: &Path) -> Result<StateFacts, Vec<Damage>> {
    let database = overlay::open(path).map_err(|damage| vec![damage])?;
    // In memory: the file stays as it is.
    RedbRead::add_missing(&database).map_err(|error| vec![as_damage(path, &error)])?;
    let begun = database.begin_read().map_err(StateError::database);
    let mut damage = Vec::new();
    match begun.and_then(|transaction| look(path, &RedbRead::new(transaction), &mut damage)) {
        Ok(facts) if damage.is_empty() => return Ok(facts),
        Ok(_) => {}
        Err(error) => damage.push(as_damage(path, &error)),
    }
    Err(damage)
}

/// What a state comes to with the log entries behind it: revision and keys. Nothing of it is written.
pub(in crate::storage) fn after_replay(
    path: &Path,
    applied: Option<LogId>,
    log: &LogSurvey,
) -> Result<(Revision, u64), Damage> {
    let database = overlay::open(path)?;
    let failed = |error: StateError| as_damage(path, &error);
    RedbRead::add_missing(&database).map_err(failed)?;
    let mut next = applied.map_or(0, |applied| applied.index + 1);
    while log.facts.last.is_some_and(|last| next <= last.index) {
        let entries = log.entries(next..u64::MAX)?;
        next = entries.last().expect("the log has no hole up to its last entry").log_id.index + 1;
        apply(&database, entries).map_err(failed)?;
    }
    let look = || -> Result<_, StateError> {
        let tables = RedbRead::new(database.begin_read().map_err(StateError::database)?);
        Ok((Head::load(&tables)?.revisions.current, tables.count(Table::Data)?))
    };
    look().map_err(failed)
}

fn apply(database: &Database, entries: Vec<Entry>) -> Result<(), StateError> {
    let batch = Batch::of(entries)?;
    let mut transaction = database.begin_write().map_err(StateError::database)?;
    transaction.set_durability(Durability::None).map_err(StateError::database)?;
    batch::apply(&mut RedbWrite::new(&transaction), &batch.entries)?;
    transaction.commit().map_err(StateError::database)
}

fn as_damage(path: &Path, error: &StateError) -> Damage {
    error.damage_in(path).unwrap_or_else(|| Damage::new(path, Place::File, error))
}

fn look(path: &Path, tables: &RedbRead, damage: &mut Vec<Damage>) -> Result<StateFacts, StateError> {
    tables.open_all()?;
    let membership = head::load_membership(tables)?;
    let head = Head::load(tables)?;
    let mut facts = StateFacts {
        applied: head::load_applied(tables)?,
        revision: head.revisions.current,
        compacted: head.revisions.compacted,
        membership,
        ..StateFacts::default()
    };
    let restoring = head::load_restoring(tables)?;
    let (mut sessions, mut staged) = ([0_u64; 2], 0);
    for table in Table::ALL {
        for row in tables.rows(table, (Bound::Unbounded, Bound::Unbounded))? {
            let (key, value) = row?;
            facts.records += 1;
            match table {
                Table::Data => facts.keys += 1,
                Table::Sessions => sessions[0] += 1,
                Table::SessionOrder => sessions[1] += 1,
                Table::Staging => staged += 1,
                _ => {}
            }
            if let Err(error) = check_row(tables, &head, table, &key, &value) {
                damage.push(as_damage(path, &error));
                if damage.len() >= limits::VERIFY_FINDINGS_MAX_COUNT {
                    return Ok(facts);
                }
            }
        }
    }
    if sessions != [head.sessions.count; 2] {
        let problem = format!(
            "{} sessions are counted, {} are there, and {} are in the order of use",
            head.sessions.count, sessions[0], sessions[1]
        );
        damage.push(Damage::new(path, Place::row(Table::Meta, b"sessions"), problem));
    }
    let counted = restoring.map_or(0, |restoring| restoring.staged.keys);
    if staged != counted {
        let problem = format!("{counted} keys of a restore are counted, and {staged} are there");
        damage.push(Damage::new(path, Place::row(Table::Meta, b"restoring"), problem));
    }
    if facts.compacted > facts.revision {
        let problem =
            format!("revision {} is compacted, and the newest is {}", facts.compacted, facts.revision);
        damage.push(Damage::new(path, Place::row(Table::Meta, b"revisions"), problem));
    }
    Ok(facts)
}
