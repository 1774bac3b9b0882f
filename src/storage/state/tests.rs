//! Both stores through openraft's trait, and what is on disk after crashes and damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorageExt, RaftSnapshotBuilder};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::kv::types::{Command, KeyRange, NodeId, NodeInfo, PublicKey, WriteOp};
use crate::raft::types::{Entry, LogId};
use crate::storage::apply::tests::{commands, key, put, restore_steps};
use crate::storage::backup::{BackupDecoder, Decoded};
use crate::storage::log_redb::{LOG_FILE, RedbLog};
use crate::storage::progress::Progress;
use crate::storage::record::encode_command;
use crate::storage::tables::Table;
use crate::storage::{StorageError, StorageOptions, state_mem, state_redb};

mod room;

type Dump = Vec<(Table, Vec<u8>, Vec<u8>)>;

impl StateMachine {
    pub(crate) fn dump(&self) -> Dump {
        match &self.store {
            Store::Memory(state) => state.dump(),
            Store::Redb(state) => state.dump(),
        }
    }

    fn cut_power(&self) {
        match &self.store {
            Store::Memory(_) => panic!("a state in memory has no power to cut"),
            Store::Redb(state) => state.cut_power(),
        }
    }
}

/// A state on disk whose checkpoints are made by the test alone.
struct Disk {
    dir: TempDir,
    progress: Arc<Progress>,
}

impl Disk {
    fn new() -> Self {
        let progress = Arc::new(Progress::default());
        progress.set_flushed(Some(u64::MAX - 1));
        Self { dir: tempfile::tempdir().unwrap(), progress }
    }

    fn open(&self) -> StateMachine {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<StateMachine, StorageError> {
        let checkpoint_interval = Duration::from_secs(3_600);
        let options = StorageOptions { checkpoint_interval, ..StorageOptions::default() };
        state_redb::open(self.dir.path(), options, self.progress.clone())
    }

    fn state_file(&self) -> std::path::PathBuf {
        self.dir.path().join("state.redb")
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new(1, NodeId(1)), index)
}

fn entry(index: u64, command: &Command) -> Entry {
    Entry::new(log_id(index), EntryPayload::Normal(encode_command(command).unwrap()))
}

async fn apply(state: &mut StateMachine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    state.apply(stream::iter(entries)).await.unwrap();
}

/// Puts `k` at log indexes `from..to`, to the index.
async fn puts(state: &mut StateMachine, from: u64, to: u64) {
    let entries = (from..to).map(|index| entry(index, &put("k", &index.to_string()))).collect();
    apply(state, entries).await;
}

fn value_of(state: &StateMachine, k: &str) -> Option<String> {
    let (_, reply) = state.reader().read(&ReadRequest::get(key(k))).unwrap();
    let kv = reply.kvs.into_iter().next()?;
    Some(String::from_utf8(kv.value.as_bytes().to_vec()).unwrap())
}

async fn snapshot(state: &mut StateMachine) -> Snapshot {
    state.get_snapshot_builder().await.build_snapshot().await.unwrap()
}

/// Sends a snapshot to another state as the network does.
async fn received(from: &Snapshot, by: &StateMachine) -> SnapshotData {
    let mut incoming = by.inbox().begin().unwrap();
    let mut pieces = std::pin::pin!(from.snapshot.clone().pieces());
    while let Some(piece) = pieces.try_next().await.unwrap() {
        incoming.write(piece).await.unwrap();
    }
    incoming.finish().await.unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn marks_follow_what_is_applied() {
    let disk = Disk::new();
    for mut state in [state_mem::open(), disk.open()] {
        let reader = state.reader();
        assert_eq!((reader.applied_index(), reader.revision().0), (None, 0));
        puts(&mut state, 1, 4).await;
        let compaction = Command::new(WriteOp::Compact { revision: Revision(2) });
        apply(&mut state, vec![entry(4, &compaction), Entry::new_blank(log_id(5))]).await;
        assert_eq!(reader.applied_index(), Some(5));
        assert_eq!((reader.revision().0, reader.compacted_revision().0), (3, 2));
        assert_eq!(reader.read(&ReadRequest::get(key("k"))).unwrap().0, Revision(3));
    }
}

#[tokio::test]
async fn command_that_cannot_be_decoded_stops_the_node_before_anything_is_applied() {
    let disk = Disk::new();
    for mut state in [state_mem::open(), disk.open()] {
        let newer = crate::raft::types::Proposal(bytes::Bytes::from_static(&[2, 1]));
        let entries = [entry(1, &put("k", "1")), Entry::new(log_id(2), EntryPayload::Normal(newer))];
        let error = state.apply(stream::iter(entries.map(|entry| Ok((entry, None))))).await.unwrap_err();
        assert!(error.to_string().contains("older"), "{error}");
        assert_eq!(state.reader().applied_index(), None);
    }
}

#[tokio::test]
async fn membership_and_applied_id_survive_a_restart() {
    let disk = Disk::new();
    let mut state = disk.open();
    let membership = Membership::new_with_defaults(vec![[NodeId(1)].into()], []);
    apply(&mut state, vec![Entry::new(log_id(1), EntryPayload::Membership(membership.clone()))]).await;
    puts(&mut state, 2, 4).await;
    drop(state);
    let (applied, stored) = disk.open().applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(3)));
    assert_eq!(stored, StoredMembership::new(Some(log_id(1)), membership));
}

#[tokio::test]
async fn crash_goes_back_to_the_last_checkpoint_and_not_further() {
    let disk = Disk::new();
    let mut state = disk.open();
    puts(&mut state, 1, 4).await;
    assert!(state.reader().checkpoint().unwrap());
    assert_eq!(disk.progress.durable(), Some(3));
    puts(&mut state, 4, 7).await;
    state.cut_power();
    drop(state);
    let state = disk.open();
    assert_eq!(state.reader().applied_index(), Some(3));
    assert_eq!(value_of(&state, "k").as_deref(), Some("3"));
    assert_eq!(disk.progress.durable(), Some(3));
}

#[tokio::test]
async fn state_ahead_of_the_flushed_log_is_made_durable_neither_by_a_checkpoint_nor_on_close() {
    let disk = Disk::new();
    disk.progress.set_flushed(Some(3));
    let mut state = disk.open();
    puts(&mut state, 1, 4).await;
    assert!(state.reader().checkpoint().unwrap());
    puts(&mut state, 4, 6).await;
    assert!(!state.reader().checkpoint().unwrap());
    assert_eq!(disk.progress.durable(), Some(3));
    drop(state);
    let mut state = disk.open();
    assert_eq!(state.reader().applied_index(), Some(3));
    puts(&mut state, 4, 6).await;
    disk.progress.set_flushed(Some(5));
    drop(state);
    assert_eq!(disk.open().reader().applied_index(), Some(5), "closed with the log on disk");
}

#[tokio::test]
async fn checkpoint_comes_by_itself_and_the_thread_ends_with_the_store() {
    let disk = Disk::new();
    let checkpoint_interval = Duration::from_millis(5);
    let options = StorageOptions { checkpoint_interval, ..StorageOptions::default() };
    let mut state = state_redb::open(disk.dir.path(), options, disk.progress.clone()).unwrap();
    puts(&mut state, 1, 4).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while disk.progress.durable() != Some(3) {
        assert!(std::time::Instant::now() < deadline, "no checkpoint within 10 s");
        tokio::task::yield_now().await;
    }
    drop(state);
    // It is closed when the drop returns, or the file would be locked.
    assert_eq!(disk.open().reader().applied_index(), Some(3));
}

#[tokio::test]
async fn snapshot_survives_a_restart_and_replaces_older_ones() {
    let disk = Disk::new();
    let mut state = disk.open();
    assert!(state.get_current_snapshot().await.unwrap().is_none());
    puts(&mut state, 1, 4).await;
    snapshot(&mut state).await;
    puts(&mut state, 4, 6).await;
    let built = snapshot(&mut state).await;
    assert_eq!(disk.progress.durable(), Some(5), "the log may be purged up to the snapshot");
    assert_eq!(files(&disk.dir.path().join("snapshots")), ["00000000000000000006.snapshot"]);
    state.cut_power();
    drop(state);
    let mut state = disk.open();
    let current = state.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, built.meta);
    assert_eq!(current.snapshot.len(), built.snapshot.len());
    state.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    assert_eq!(state.reader().applied_index(), Some(5));
}

#[tokio::test]
async fn received_snapshot_replaces_the_state_and_survives_a_crash() {
    let leader_disk = Disk::new();
    let mut leader = leader_disk.open();
    puts(&mut leader, 1, 8).await;
    let sent = snapshot(&mut leader).await;

    let disk = Disk::new();
    let mut follower = disk.open();
    apply(&mut follower, vec![entry(1, &put("stale", "x"))]).await;
    let reader = follower.reader();
    let data = received(&sent, &follower).await;
    follower.install_snapshot(&sent.meta, data).await.unwrap();
    assert_eq!(follower.dump(), leader.dump());
    assert_eq!(reader.applied_index(), Some(7));
    assert_eq!(disk.progress.durable(), Some(7));
    assert_eq!(follower.get_current_snapshot().await.unwrap().unwrap().meta, sent.meta);

    puts(&mut follower, 8, 9).await;
    follower.cut_power();
    drop((follower, reader));
    let follower = disk.open();
    assert_eq!(value_of(&follower, "k").as_deref(), Some("7"));
    assert_eq!(files(disk.dir.path()), ["snapshots", "state.redb"]);
}

#[tokio::test]
async fn damaged_or_announced_wrongly_a_snapshot_leaves_the_state_alone() {
    let mut leader = state_mem::open();
    puts(&mut leader, 1, 8).await;
    let sent = snapshot(&mut leader).await;
    let SnapshotData::Memory(whole) = &sent.snapshot else { panic!("it is in memory") };
    let mut flipped = whole.to_vec();
    flipped[whole.len() / 2] ^= 4;
    let truncated = whole.slice(..whole.len() - 1);
    let other = SnapshotMeta { last_log_id: Some(log_id(9)), ..sent.meta.clone() };

    let disk = Disk::new();
    for mut state in [state_mem::open(), disk.open()] {
        apply(&mut state, vec![entry(1, &put("mine", "1"))]).await;
        let stands = state.dump();
        for (meta, bytes) in
            [(&sent.meta, flipped.clone().into()), (&sent.meta, truncated.clone()), (&other, whole.clone())]
        {
            let error = state.install_snapshot(meta, SnapshotData::Memory(bytes)).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
            assert_eq!(state.dump(), stands);
        }
        assert!(state.get_current_snapshot().await.unwrap().is_none());
    }
    assert_eq!(files(disk.dir.path()), ["snapshots", "state.redb"]);
}

#[tokio::test]
async fn read_that_began_before_an_install_ends_on_the_old_state() {
    let mut leader = state_mem::open();
    puts(&mut leader, 1, 8).await;
    let sent = snapshot(&mut leader).await;
    let disk = Disk::new();
    let mut state = disk.open();
    apply(&mut state, vec![entry(1, &put("k", "old"))]).await;
    let Store::Redb(redb) = &state.store else { panic!("it is on disk") };
    let began = redb.begin_read_for_test();
    state.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    assert_eq!(began().0, Revision(1));
    assert_eq!(value_of(&state, "k").as_deref(), Some("7"));
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed() {
    let disk = Disk::new();
    let mut state = disk.open();
    puts(&mut state, 1, 3).await;
    drop(state);
    fs::write(disk.dir.path().join("state.redb.new"), b"half a database").unwrap();
    fs::write(disk.dir.path().join("snapshots/17.tmp"), b"half a snapshot").unwrap();
    let state = disk.open();
    assert_eq!(state.reader().applied_index(), Some(2));
    assert_eq!(files(disk.dir.path()), ["snapshots", "state.redb"]);
    assert!(files(&disk.dir.path().join("snapshots")).is_empty());
}

/// Restores three keys, each of a chunk of its own.
fn restore() -> Vec<Command> {
    let id = crate::kv::types::RestoreId(uuid::Uuid::from_u128(1));
    let steps = restore_steps(id, &[vec!["a"], vec!["a"], vec!["a"]]);
    steps.into_iter().map(|step| Command::new(WriteOp::Restore(step))).collect()
}

#[tokio::test]
async fn what_a_restore_replaces_is_removed_in_the_background_also_after_a_crash() {
    let disk = Disk::new();
    let (mut memory, mut state) = (state_mem::open(), disk.open());
    let keys = |from: u64| (from..from + 1_500).map(|index| entry(index, &put(&index.to_string(), "old")));
    for state in [&mut memory, &mut state] {
        apply(state, keys(1).collect()).await;
        let steps = (2_000..).zip(restore()).map(|(index, step)| entry(index, &step));
        apply(state, steps.collect()).await;
    }
    assert!(state.reader().checkpoint().unwrap());
    state.cut_power();
    drop(state);
    let state = disk.open();
    assert_eq!(state.dump(), memory.dump());
    let Store::Redb(redb) = &state.store else { panic!("it is on disk") };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while redb.has_discarded() {
        assert!(std::time::Instant::now() < deadline, "not all was removed within 10 s");
        tokio::task::yield_now().await;
    }
    assert_eq!(state.dump(), memory.dump());
    assert_eq!(value_of(&state, "1a").as_deref(), Some("restored"));
}

#[tokio::test]
async fn backup_holds_the_state_as_it_was_when_it_began_on_either_store() {
    let origin = BackupOrigin { cluster_id: None, node_id: NodeId(1), created_ms: 0 };
    let disk = Disk::new();
    let mut backups = Vec::new();
    for mut state in [state_mem::open(), disk.open()] {
        puts(&mut state, 1, 4).await;
        let pieces = state.reader().backup(origin).await.unwrap();
        puts(&mut state, 4, 6).await;
        let pieces: Vec<bytes::Bytes> = pieces.stream().try_collect().await.unwrap();
        backups.push(pieces.concat());
        let measured = state.reader().measure_backup(origin).unwrap();
        assert!([0, backups[0].len() as u64].contains(&measured), "{measured}");
    }
    assert_eq!(backups[0], backups[1]);
    let mut decoder = BackupDecoder::default();
    decoder.feed(&backups[0]);
    let Some(Decoded::Header(header)) = decoder.next_part().unwrap() else { panic!("no header") };
    assert_eq!((header.revision, header.keys), (Revision(3), 1));
    assert!(files(&disk.dir.path().join("snapshots")).is_empty(), "the temporary file is gone");
}

#[tokio::test]
async fn foreign_empty_and_truncated_files_are_refused_with_a_sentence() {
    let disk = Disk::new();
    let mut state = disk.open();
    puts(&mut state, 1, 200).await;
    drop(state);
    let whole = fs::read(disk.state_file()).unwrap();
    let cases = [Vec::new(), b"SQLite format 3\0".repeat(400), whole[..whole.len() / 2].to_vec()];
    for bytes in cases {
        fs::write(disk.state_file(), &bytes).unwrap();
        let error = disk.try_open().err().unwrap().to_string();
        assert!(error.contains("state.redb") && error.contains("aspen-node repair"), "{error}");
    }
    // A database of something else.
    fs::remove_file(disk.state_file()).unwrap();
    let other = redb::Database::create(disk.state_file()).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(other);
    let error = disk.try_open().err().unwrap().to_string();
    assert!(error.contains("does not hold Aspen's state"), "{error}");
}

#[tokio::test]
async fn open_database_is_not_opened_twice() {
    let disk = Disk::new();
    let state = disk.open();
    let error = disk.try_open().err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(state);
    disk.open();
}

#[tokio::test]
async fn flipped_bits_are_errors_or_harmless_and_never_other_answers() {
    let disk = Disk::new();
    let mut state = disk.open();
    puts(&mut state, 1, 50).await;
    let stands = state.dump();
    drop(state);
    let whole = fs::read(disk.state_file()).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 60 + 1) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(disk.state_file(), &flipped).unwrap();
        match disk.try_open() {
            Ok(state) => assert_eq!(state.dump(), stands, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "some of the bytes hold something");
}

/// Entries of commands from an index on, with a membership behind every fifth; members come and go.
fn entries(commands: &[Command], first: u64) -> Vec<Entry> {
    let mut payloads = Vec::new();
    for (number, command) in (0_u64..).zip(commands) {
        payloads.push(EntryPayload::Normal(encode_command(command).unwrap()));
        if number % 5 == 4 {
            payloads.push(EntryPayload::Membership(members(number)));
        }
    }
    payloads.into_iter().zip(first..).map(|(payload, index)| Entry::new(log_id(index), payload)).collect()
}

/// Two of the nodes that come in with tickets, and one that came in otherwise.
fn members(number: u64) -> Membership<NodeId, NodeInfo> {
    let ids = [1 + number % 3, 1 + number / 2 % 3, 9];
    let node = |id: u64| NodeInfo {
        public_key: PublicKey([u8::try_from(id).unwrap(); 32]),
        addresses: Vec::new(),
        relay_url: None,
        http_addr: None,
    };
    let nodes: BTreeMap<NodeId, NodeInfo> = ids.map(|id| (NodeId(id), node(id))).into();
    Membership::new(vec![[NodeId(ids[0])].into()], nodes).unwrap()
}

/// Commands, and where a batch of their entries ends.
fn batches() -> impl Strategy<Value = (Vec<Command>, Vec<usize>)> {
    commands().prop_flat_map(|commands| {
        let cuts = prop::collection::vec(0..=commands.len(), 0..5);
        (Just(commands), cuts)
    })
}

async fn apply_cut(state: &mut StateMachine, entries: &[Entry], mut cuts: Vec<usize>) {
    cuts.extend([0, entries.len()]);
    cuts.sort_unstable();
    for cut in cuts.windows(2) {
        apply(state, entries[cut[0]..cut[1]].to_vec()).await;
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn state_rebuilt_from_a_snapshot_and_the_log_is_the_original(
        commands in commands(), at in any::<prop::sample::Index>(),
    ) {
        run(async {
            let entries = entries(&commands, 0);
            let at = at.index(entries.len() + 1);
            let dir = tempfile::tempdir().unwrap();
            let open_log = || RedbLog::open(&dir.path().join(LOG_FILE), 1 << 20, Arc::default()).unwrap();
            let mut log = open_log();
            log.blocking_append(entries.clone()).await.unwrap();
            drop(log);

            let mut original = state_mem::open();
            apply(&mut original, entries[..at].to_vec()).await;
            let taken = snapshot(&mut original).await;
            apply(&mut original, entries[at..].to_vec()).await;

            let disk = Disk::new();
            let mut rebuilt = disk.open();
            let data = received(&taken, &rebuilt).await;
            rebuilt.install_snapshot(&taken.meta, data).await.unwrap();
            let rest = open_log().reader().try_get_log_entries(at as u64..).await.unwrap();
            apply(&mut rebuilt, rest).await;
            prop_assert_eq!(rebuilt.dump(), original.dump());
            Ok(())
        })?;
    }

    #[test]
    fn replicas_and_snapshots_are_the_same_bytes_on_any_store_with_any_batches(
        (commands, cuts) in batches(), restart: bool,
    ) {
        run(async {
            let entries = entries(&commands, 1);
            let mut memory = state_mem::open();
            apply_cut(&mut memory, &entries, Vec::new()).await;
            let disk = Disk::new();
            let mut redb = disk.open();
            apply_cut(&mut redb, &entries, cuts).await;
            if restart {
                drop(redb);
                redb = disk.open();
            }
            prop_assert_eq!(redb.dump(), memory.dump());

            let from_memory = snapshot(&mut memory).await;
            let from_redb = snapshot(&mut redb).await;
            prop_assert_eq!(&from_memory.meta, &from_redb.meta);
            let other_disk = Disk::new();
            let mut rebuilt = [state_mem::open(), other_disk.open()];
            for (state, from) in rebuilt.iter_mut().zip([&from_redb, &from_memory]) {
                let data = received(from, state).await;
                state.install_snapshot(&from.meta, data).await.unwrap();
                prop_assert_eq!(state.dump(), memory.dump());
            }
            let everything = ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new()));
            prop_assert_eq!(
                rebuilt[1].reader().read(&everything),
                memory.reader().read(&everything)
            );
            Ok(())
        })?;
    }
}
