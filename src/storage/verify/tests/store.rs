//! A whole data directory, written as a node writes it, and ways to damage it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use openraft::entry::RaftEntry;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log_id;
use openraft::{EntryPayload, Membership};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

use crate::kv::types::{
    ClusterId, Command, Key, KeyRange, NodeId, NodeInfo, Peer, PublicKey, Revision, SessionId, SessionTag,
    Value, WriteOp,
};
use crate::raft::types::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::storage::checked_file::BLOCK_BYTES;
use crate::storage::codec;
use crate::storage::log_redb::{LOG_FILE, RedbLog};
use crate::storage::metadata::Metadata;
use crate::storage::progress::Progress;
use crate::storage::record::encode_command;
use crate::storage::snapshot::format;
use crate::storage::state::StateMachine;
use crate::storage::tables::Table;
use crate::storage::{StorageError, StorageOptions, state_redb};

pub(crate) const KEY: PublicKey = PublicKey([7; 32]);

/// A purged log, a snapshot, and entries behind it.
const ENTRIES: u64 = 60;
const SNAPSHOT_AT: u64 = 30;
const PURGED_TO: u64 = 20;

/// Entries behind it which make tables of several pages.
const MANY_FROM: u64 = 100;
const MANY_TO: u64 = 600;

/// How the process that wrote a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Cleanly,
    ByACrash,
}

/// Everything that a store holds, for comparing it.
#[derive(Clone, PartialEq)]
pub(crate) struct Content {
    pub(crate) metadata: (NodeId, PublicKey, u64, Option<ClusterId>, Vec<Peer>),
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) log: Vec<Entry>,
    pub(crate) state: Rows,
    pub(crate) snapshot: Option<(SnapshotMeta, Rows)>,
}

type Rows = Vec<(Table, Vec<u8>, Vec<u8>)>;

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries, vote {:?}, {} rows", self.log.len(), self.vote, self.state.len())
    }
}

/// A data directory that no process has open.
pub(crate) struct Store {
    dir: TempDir,
}

/// A data directory that is open.
pub(crate) struct Open {
    pub(crate) metadata: Metadata,
    pub(crate) log: RedbLog,
    pub(crate) state: StateMachine,
}

/// A directory in memory where there is such a thing: hundreds of copies of a store need no disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn id(index: u64) -> LogId {
    log_id::<TypeConfig>(2, NodeId(1), index)
}

fn membership() -> Membership<NodeId, NodeInfo> {
    let info = NodeInfo { public_key: KEY, addresses: Vec::new(), relay_url: None, http_addr: None };
    let nodes = BTreeMap::from([(NodeId(1), info)]);
    Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes).unwrap()
}

/// What the log holds at an index: a membership, puts of nine keys, deletes, sessions, a compaction. What
/// is behind a whole store puts ever new keys.
fn entry(index: u64) -> Entry {
    let key = if index < MANY_FROM { index % 10 } else { index };
    let key = Key::new(format!("key-{key}")).unwrap();
    let command = match index {
        0 => return Entry { log_id: id(0), payload: EntryPayload::Membership(membership()) },
        1 => return Entry { log_id: id(1), payload: EntryPayload::Blank },
        25 => Command::new(WriteOp::Compact { revision: Revision(10) }),
        // Each time another key, which the next round writes again.
        _ if index % 10 == 8 => {
            Command::delete(KeyRange::Key(Key::new(format!("key-{}", index / 10)).unwrap()))
        }
        _ => Command::put(key, Value::new(format!("value {index} {}", "x".repeat(200))).unwrap()),
    };
    let session = index.is_multiple_of(7).then(|| SessionTag {
        id: SessionId(uuid::Uuid::from_u128(u128::from(index % 3))),
        sequence: index,
        since: Revision(0),
    });
    Entry::new(id(index), EntryPayload::Normal(encode_command(&Command { session, ..command }).unwrap()))
}

impl Open {
    pub(crate) fn at(dir: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with_cache(dir, 1 << 20)
    }

    pub(crate) fn with_cache(dir: &Path, cache_bytes: u64) -> Result<Self, Box<dyn std::error::Error>> {
        Self::opened_by(state_redb::open, dir, cache_bytes)
    }

    /// The state is opened as one that is too large to be checked whole.
    pub(crate) fn unchecked(dir: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        Self::opened_by(state_redb::open_unchecked, dir, 1 << 20)
    }

    fn opened_by(
        open_state: impl FnOnce(&Path, StorageOptions, Arc<Progress>) -> Result<StateMachine, StorageError>,
        dir: &Path,
        cache_bytes: u64,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let metadata = Metadata::open(dir, None, KEY)?;
        let progress = Arc::new(Progress::default());
        let options = StorageOptions { cache_bytes, checkpoint_interval: Duration::from_secs(3_600) };
        let log = RedbLog::open(&dir.join(LOG_FILE), usize::try_from(cache_bytes)?, progress.clone())?;
        let state = open_state(dir, options, progress)?;
        Ok(Self { metadata, log, state })
    }

    async fn begin(&mut self) {
        let address = "192.0.2.7:4601".parse().unwrap();
        let info = NodeInfo {
            public_key: PublicKey([9; 32]),
            addresses: vec![address],
            relay_url: None,
            http_addr: None,
        };
        self.metadata.adopt_cluster_id(ClusterId(uuid::Uuid::from_u128(77))).unwrap();
        self.metadata.save_peers(&[Peer { node_id: NodeId(2), info }], &[]).unwrap();
        self.log.save_vote(&Vote::new_committed(2, NodeId(1))).await.unwrap();
    }

    /// Appends, commits and applies entries.
    pub(crate) async fn write(&mut self, range: std::ops::Range<u64>) {
        self.log.save_committed(Some(id(range.end - 1))).await.unwrap();
        self.log.blocking_append(range.clone().map(entry)).await.unwrap();
        let entries = range.map(|index| Ok((entry(index), None)));
        self.state.apply(stream::iter(entries)).await.unwrap();
        assert!(self.state.reader().checkpoint().unwrap());
    }

    async fn fill(&mut self) {
        self.begin().await;
        self.write(0..SNAPSHOT_AT).await;
        self.state.get_snapshot_builder().await.build_snapshot().await.unwrap();
        self.write(SNAPSHOT_AT..ENTRIES).await;
        self.log.purge(id(PURGED_TO)).await.unwrap();
    }

    pub(crate) async fn content(&mut self) -> std::io::Result<Content> {
        let metadata = &self.metadata;
        let snapshot = self.state.get_current_snapshot().await?;
        let snapshot = snapshot.map(|snapshot| {
            let mut rows = Rows::new();
            let read = format::read(snapshot.snapshot.reader(), |table, key, value| {
                rows.push((table, key.to_vec(), value.to_vec()));
                Ok(())
            });
            read.map(|meta| (meta, rows)).map_err(std::io::Error::from)
        });
        let mut reader = self.log.reader();
        Ok(Content {
            metadata: (
                metadata.node_id(),
                metadata.public_key(),
                metadata.incarnation(),
                metadata.cluster_id(),
                metadata.peers(),
            ),
            vote: reader.read_vote().await?,
            committed: self.log.read_committed().await?,
            purged: self.log.get_log_state().await?.last_purged_log_id,
            log: reader.try_get_log_entries(..).await?,
            state: self.state.on_disk().unwrap().dump(),
            snapshot: snapshot.transpose()?,
        })
    }
}

impl Store {
    /// A store with everything in it. It is written once, and copied.
    pub(crate) fn written(closed: Closed) -> Self {
        static TEMPLATES: [std::sync::OnceLock<Store>; 2] = [const { std::sync::OnceLock::new() }; 2];
        let template =
            TEMPLATES[closed as usize].get_or_init(|| Self::write(closed, async |open| open.fill().await));
        template.copy()
    }

    /// A whole store with many keys.
    pub(crate) fn large(closed: Closed) -> Self {
        Self::write(closed, async |open| {
            open.fill().await;
            for from in (ENTRIES..MANY_TO).step_by(20) {
                open.write(from..from + 20).await;
            }
        })
    }

    /// A store whose log goes back to the beginning.
    pub(crate) fn begun() -> Self {
        Self::write(Closed::Cleanly, async |open| {
            open.begin().await;
            open.write(0..15).await;
        })
    }

    fn write(closed: Closed, write: impl AsyncFnOnce(&mut Open)) -> Self {
        let dir = scratch();
        let mut open = Open::at(dir.path()).unwrap();
        run(write(&mut open));
        match closed {
            Closed::Cleanly => {
                drop(open);
                Self { dir }
            }
            // What a crash leaves is what the files hold while they are open.
            Closed::ByACrash => Self { dir }.copy(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn copy(&self) -> Self {
        Self::copy_of(self.dir())
    }

    pub(crate) fn copy_of(original: &Path) -> Self {
        let dir = scratch();
        fs::create_dir(dir.path().join("snapshots")).unwrap();
        for (path, bytes) in super::files(original) {
            let relative = path.strip_prefix(original).unwrap();
            // Most of a database file is zeros: they are left out, which is a hundred times faster.
            let copy = fs::File::create(dir.path().join(relative)).unwrap();
            copy.set_len(bytes.len() as u64).unwrap();
            for (block, data) in bytes.chunks(BLOCK_BYTES).enumerate() {
                if data.iter().any(|byte| *byte != 0) {
                    copy.write_all_at(data, (block * BLOCK_BYTES) as u64).unwrap();
                }
            }
        }
        Self { dir }
    }

    /// Opens the store as a node does, and reads all of it.
    pub(crate) fn content(&self) -> Result<Content, String> {
        // Of a copy: to open a store may change it.
        let copy = self.copy();
        let mut open = Open::at(copy.dir()).map_err(|error| error.to_string())?;
        run(open.content()).map_err(|error| error.to_string())
    }

    pub(crate) fn append_uncommitted(&self) {
        let mut open = Open::at(self.dir()).unwrap();
        let last = run(open.log.get_log_state()).unwrap().last_log_id.unwrap().index;
        run(open.log.blocking_append((last + 1..last + 4).map(entry))).unwrap();
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        let mut files = fs::read_dir(self.dir().join("snapshots")).unwrap();
        files.next().unwrap().unwrap().path()
    }

    pub(crate) fn flip(&self, path: &Path, at: u64) {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    /// Flips a bit in bytes of a record that is in use. Returns where, and where its block begins.
    pub(crate) fn flip_in_a_record(&self, file: &str) -> (u64, u64) {
        let path = self.dir().join(file);
        let record: Vec<u8> = match file {
            "raft.redb" => codec::seal(&entry(45)),
            "state.redb" => {
                let database = Database::open(&path).unwrap();
                let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");
                let table = database.begin_read().unwrap().open_table(table).unwrap();
                table.get(&b"key-3"[..]).unwrap().unwrap().value().to_vec()
            }
            _ => codec::seal(&KEY),
        };
        let bytes = fs::read(&path).unwrap();
        // Older copies may lie about in free pages; the newest commit's is hit by hitting all.
        let places: Vec<usize> =
            (0..bytes.len() - record.len()).filter(|at| bytes[*at..].starts_with(&record)).collect();
        let in_use = places.iter().map(|at| (*at + record.len() / 2) as u64);
        let in_use: Vec<u64> = in_use.filter(|at| self.notices_flip(&path, *at)).collect();
        let at = *in_use.first().unwrap_or_else(|| panic!("{file}: none of {places:?} is in use"));
        self.flip(&path, at);
        (at, at - at % BLOCK_BYTES as u64)
    }

    fn notices_flip(&self, path: &Path, at: u64) -> bool {
        self.flip(path, at);
        let noticed = crate::storage::overlay::open(path).is_err();
        self.flip(path, at);
        noticed
    }

    /// Damages a record behind the database library's back, so that its own checksums fit.
    pub(crate) fn flip_record_of_state(&self, key: &[u8]) {
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");
        self.tamper("state.redb", table, key);
    }

    fn tamper(&self, file: &str, table: TableDefinition<'_, &'static [u8], &'static [u8]>, key: &[u8]) {
        let database = Database::open(self.dir().join(file)).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(table).unwrap();
            let mut record = table.get(key).unwrap().unwrap().value().to_vec();
            *record.last_mut().unwrap() ^= 1;
            table.insert(key, record.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }

    /// Writes a vote as a newer Aspen may.
    pub(crate) fn write_newer_vote(&self) {
        let database = Database::open(self.dir().join("raft.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let table: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
        let vote = codec::seal_newer(&Vote::new(3, NodeId(1)));
        transaction.open_table(table).unwrap().insert("vote", vote.as_slice()).unwrap();
        transaction.commit().unwrap();
    }

    /// Puts something in a file's place that can be opened, and gives an error when it is read.
    pub(crate) fn make_unreadable(&self, path: &Path) {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }

    /// Has the metadata say that a newer Aspen wrote it.
    pub(crate) fn claim_format(&self, format: u32) {
        let database = Database::open(self.dir().join("metadata.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let table: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("metadata");
        transaction.open_table(table).unwrap().insert("format", codec::seal(&format).as_slice()).unwrap();
        transaction.commit().unwrap();
    }
}
