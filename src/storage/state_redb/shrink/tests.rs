//! The copy has the same rows, gives space back, lets reads and writes go on, and survives a crash.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use openraft::vote::RaftLeaderId;
use tempfile::TempDir;

use super::*;
use crate::kv::types::{BackupOrigin, Command, Key, KeyRange, NodeId, ReadRequest, Revision, Value, WriteOp};
use crate::raft::types::{LogId, TypeConfig};
use crate::storage::StorageOptions;
use crate::storage::batch::BatchPayload;
use crate::storage::caretaker::Bell;
use crate::storage::damage::{DamageAlarm, Place};
use crate::storage::disk::{Disk, RealDisk};
use crate::storage::progress::Progress;
use crate::storage::state_redb::{NEW_STATE_FILE, RedbState, STATE_FILE, look_after};

const VALUE_BYTES: usize = 1_024;

/// A store whose log is always on disk, and the index of its next entry.
struct Store {
    state: Option<RedbState>,
    progress: Arc<Progress>,
    next: u64,
    dir: TempDir,
}

impl Store {
    fn new() -> Self {
        let progress = Arc::new(Progress::default());
        progress.set_flushed(Some(u64::MAX - 1));
        let mut store = Self { state: None, progress, next: 0, dir: tempfile::tempdir().unwrap() };
        store.open();
        store
    }

    fn open(&mut self) {
        let checkpoint_interval = Duration::from_secs(3_600);
        let options = StorageOptions { checkpoint_interval, ..StorageOptions::default() };
        let state =
            RedbState::open(Arc::new(RealDisk), self.dir.path(), options, self.progress.clone()).unwrap();
        self.next = state.marks().applied_index().map_or(0, |index| index + 1);
        self.state = Some(state);
    }

    fn state(&self) -> &RedbState {
        self.state.as_ref().unwrap()
    }

    fn apply(&mut self, commands: Vec<Command>) {
        let first = self.next;
        self.next += commands.len() as u64;
        apply(self.state(), first, commands);
    }

    fn put(&mut self, keys: std::ops::Range<u64>) {
        self.apply(keys.map(put).collect());
    }

    /// Leaves a file that is mostly empty: many keys are deleted, and forgotten.
    fn put_and_delete(&mut self, keys: u64, kept: u64) {
        for from in (0..keys).step_by(1_000) {
            self.put(from..keys.min(from + 1_000));
        }
        let span = KeyRange::Span { start: name(kept).into(), end: None };
        self.apply(vec![Command::delete(span)]);
        let revision = self.state().marks().revision();
        let compact = Command::new(WriteOp::Compact { revision });
        self.apply(vec![compact; usize::try_from(keys).unwrap() / limits::COMPACT_STEP_MAX_RECORDS * 2 + 2]);
        assert_eq!(self.state().marks().compacted(), revision);
        // Until then it is in memory, and the file has nothing to give back.
        assert!(self.state().checkpoint().unwrap());
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

fn apply(state: &RedbState, first: u64, commands: Vec<Command>) {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(1, NodeId(1));
    let bytes = commands.len() * VALUE_BYTES;
    let entry = |(index, command)| BatchEntry {
        log_id: LogId::new(leader, index),
        payload: BatchPayload::Command(command),
    };
    state.apply((first..).zip(commands).map(entry).collect(), bytes).unwrap();
}

fn name(number: u64) -> Vec<u8> {
    format!("key-{number:08}").into_bytes()
}

fn put(number: u64) -> Command {
    Command::put(Key::new(name(number)).unwrap(), Value::new(vec![7; VALUE_BYTES]).unwrap())
}

#[test]
fn a_file_is_due_when_it_is_large_and_mostly_empty() {
    let min = limits::SHRINK_MIN_BYTES;
    assert!(!is_due(min - 1, 0), "not worth the work");
    assert!(is_due(min, min / 4));
    assert!(!is_due(min, min / 2), "pages are half full at worst");
}

#[test]
fn what_is_kept_for_a_copy_is_bounded() {
    let mut behind = Behind::default();
    behind.push(Vec::new(), limits::SHRINK_BEHIND_MAX_BYTES);
    assert!(!behind.overflown);
    behind.push(Vec::new(), 1);
    behind.push(Vec::new(), 1);
    assert!(behind.overflown && behind.batches.is_empty());
}

#[test]
fn the_space_of_deleted_keys_is_given_back_and_every_row_stays() {
    let mut store = Store::new();
    store.put_and_delete(8_000, 100);
    let before = store.state().dump();
    let shrunk = store.state().shrink().unwrap();
    assert!(shrunk.after_bytes * 4 < shrunk.before_bytes, "{shrunk:?}");
    assert_eq!(RealDisk.allocated_bytes(&store.path(STATE_FILE)).unwrap(), shrunk.after_bytes);
    assert!(!store.path(SHRUNK_STATE_FILE).exists());
    assert_eq!(store.state().dump(), before);

    store.put(0..50);
    let after = store.state().dump();
    drop(store.state.take());
    store.open();
    assert_eq!(store.state().dump(), after, "what was applied to the copy is there after a start");
}

#[test]
fn reads_and_writes_go_on_while_the_state_is_copied() {
    let mut store = Store::new();
    store.put_and_delete(6_000, 3_000);
    let mut twin = Store::new();
    twin.put_and_delete(6_000, 3_000);

    let first = store.next;
    let (done, began_read) = (AtomicBool::new(false), store.state().begin_read_for_test());
    let state = store.state.as_ref().unwrap();
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while written < 20 || !done.load(Ordering::Relaxed) {
                apply(state, first + written, vec![put(written % 5_000)]);
                let (revision, _) =
                    state.read(&ReadRequest::get(Key::new(name(1)).unwrap())).unwrap().unwrap();
                assert_eq!(revision, state.marks().revision());
                written += 1;
            }
            written
        });
        let shrunk = state.shrink();
        done.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap();
        shrunk.unwrap();
        written
    });
    assert_eq!(began_read().1.kvs.len(), 3_000, "a read that had begun ends on the old file");
    twin.apply((0..written).map(|number| put(number % 5_000)).collect());
    assert_eq!(store.state().dump(), twin.state().dump());
}

#[test]
fn a_crash_before_the_exchange_leaves_the_old_file_and_after_it_the_new_one() {
    let mut store = Store::new();
    store.put_and_delete(2_000, 100);
    assert!(store.state().checkpoint().unwrap());
    let rows = store.state().dump();
    // Cut off in the middle: half a copy lies beside the state.
    store.state().cut_power();
    drop(store.state.take());
    for leftover in [SHRUNK_STATE_FILE, NEW_STATE_FILE] {
        fs::write(store.path(leftover), b"half a copy").unwrap();
    }
    store.open();
    assert!(!store.path(SHRUNK_STATE_FILE).exists());
    assert_eq!(store.state().dump(), rows);

    store.state().shrink().unwrap();
    store.put(0..10);
    store.state().cut_power();
    drop(store.state.take());
    store.open();
    assert_eq!(store.state().dump(), rows, "the copy was durable, and what came later was not");
}

#[test]
fn a_copy_is_given_up_when_the_state_is_replaced_or_the_log_is_behind() {
    let mut store = Store::new();
    store.put(0..100);
    let (meta, data) = store.state().build_snapshot().unwrap();
    let inner = &store.state().store;
    let view = inner.durable_view(|pending| pending.behind = Some(Behind::default())).unwrap();
    let path = store.path(SHRUNK_STATE_FILE);
    let copy = || Copy {
        store: inner,
        path: path.clone(),
        handle: create_database(&inner.disk, &path, StorageOptions::default(), &DamageAlarm::default())
            .unwrap(),
    };
    let replaced = copy();
    store.state().install_snapshot(&meta, &data).unwrap();
    assert!(matches!(replaced.copy_rows(view), Err(ShrinkError::Superseded)));
    assert!(matches!(replaced.replace(), Err(ShrinkError::Superseded)));

    store.progress.set_flushed(Some(10));
    store.progress.set_durable(Some(10));
    fs::remove_file(&path).unwrap();
    inner.writer().behind = Some(Behind::default());
    assert!(matches!(copy().replace(), Err(ShrinkError::LogBehind)));
    assert_eq!(store.state().marks().revision(), Revision(100));
}

/// A store with a row that is not what was written.
fn damaged() -> Store {
    let mut store = Store::new();
    store.put(0..10);
    {
        let handle = store.state().store.handle();
        let transaction = handle.database.begin_write().unwrap();
        let mut tables = RedbWrite::new(&transaction);
        crate::storage::tables::WriteTables::put(&mut tables, Table::Data, &name(3), b"anything").unwrap();
        drop(tables);
        transaction.commit().unwrap();
    }
    store
}

#[test]
fn damage_is_not_copied_and_raises_the_alarm() {
    let store = damaged();
    let error = store.state().shrink().unwrap_err();
    assert!(matches!(error, ShrinkError::State(StateError::Checksum { .. })), "{error}");
    assert!(!store.path(SHRUNK_STATE_FILE).exists());
    assert_eq!(alarmed(&store), Place::row(Table::Data, &name(3)));
}

fn alarmed(store: &Store) -> Place {
    let damage = store.state().alarm().get().expect("the alarm was raised");
    assert!(damage.is_damage(), "{damage}");
    damage.place.clone()
}

#[test]
fn damage_that_a_snapshot_or_a_backup_meets_raises_the_alarm() {
    type Work = fn(&RedbState, BackupOrigin) -> bool;
    let origin = BackupOrigin { cluster_id: None, node_id: NodeId(1), created_ms: 0 };
    let works: [(&str, Work); 4] = [
        ("a snapshot", |state, _| state.build_snapshot().is_err()),
        ("the length of a snapshot", |state, _| state.measure_snapshot().is_err()),
        ("the length of a backup", |state, origin| state.measure_backup(origin).is_err()),
        ("a backup", |state, origin| {
            let (write, _pieces) = state.begin_backup(origin).unwrap();
            write();
            true
        }),
    ];
    for (what, work) in works {
        let store = damaged();
        assert!(work(store.state(), origin), "{what}");
        assert_eq!(alarmed(&store), Place::row(Table::Data, &name(3)), "{what}");
    }
}

#[test]
fn a_table_that_has_not_the_rows_that_it_says_raises_the_alarm() {
    let store = damaged();
    let rows = StateError::Rows { table: Table::Data, expected: 10, found: 9 };
    let error = store.state().store.noticed_in_copy(rows.into());
    assert!(error.to_string().contains("says that it has 10 rows and has 9"), "{error}");
    assert_eq!(alarmed(&store), Place::File);
}

#[test]
fn work_beside_the_state_that_panics_raises_the_alarm() {
    let store = damaged();
    let bell = Arc::<Bell>::default();
    let hour = Duration::from_secs(3_600);
    let inner = &store.state().store;
    let caretaker = look_after(inner, "test", bell.clone(), hour, |_| panic!("no such page")).unwrap();
    bell.ring();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let alarm = store.state().alarm().clone();
    let raised = async { tokio::time::timeout(Duration::from_secs(10), alarm.raised()).await };
    let damage = runtime.block_on(raised).expect("the alarm was raised");
    assert!(damage.to_string().ends_with("state.redb is damaged: no such page"), "{damage}");
    drop(caretaker);
}
