//! What is written to a cluster, what its nodes hold, and their snapshots.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aspen::kv::types::{Command, Key, KeyRange, RangeReply, ReadRequest, Value};
use aspen::raft::RaftHandle;
use aspen::raft::observe::Metrics;
use aspen::raft::types::{Applied, LogId, Proposal, TypeConfig};
use aspen::storage::record::encode_command;
use futures::StreamExt;
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use openraft::type_config::TypeConfigExt;

use super::{AspenRouter, PATIENCE, Snapshot};

impl AspenRouter {
    /// A put of a key that was never written.
    pub fn next_command(&self) -> Proposal {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        self.put(format!("key-{number:06}"), format!("value-{number}"))
    }

    /// A put.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Proposal {
        let (key, value) = (Key::new(key.into()).expect("a key"), Value::new(value.into()).expect("a value"));
        encode_command(&Command::put(key, value)).expect("a command")
    }

    /// Writes as many new keys as asked, all at once, and waits until each is applied on the leader.
    /// Returns the last log index.
    pub async fn write(&self, leader: u64, count: u64) -> u64 {
        assert!(count > 0, "a write of nothing has no index");
        let writes = (0..count).map(|_| commit(self.raft(leader), self.next_command()));
        let written = futures::future::join_all(writes).await;
        written.into_iter().map(|log_id| log_id.index).max().expect("something was written")
    }

    /// Proposes without waiting for the outcome; the entries may never be committed. Returns once the
    /// log has them.
    pub async fn propose(&self, leader: u64, count: u64) -> u64 {
        let before = self.metrics(leader).last_log_index.expect("a leader's log is not empty");
        for _ in 0..count {
            let proposed = self.raft(leader).client_write_ff(self.next_command(), None).await;
            proposed.expect("Raft runs");
        }
        let last = before + count;
        let appended = self.wait(leader).log_index_at_least(Some(last), "appended").await;
        appended.expect("the leader appends what it is given");
        last
    }

    /// All keys of a node's state as it is now.
    pub fn contents(&self, id: u64) -> RangeReply {
        let everything = ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new()));
        let (_, range) = self.reader(id).read(&everything).expect("the state can be read");
        assert!(!range.more, "the scenario wrote more than one page");
        range
    }

    /// Waits until nodes have applied `index`, and checks that their states are the same.
    pub async fn assert_same_state(&self, ids: &[u64], index: u64) {
        self.await_applied(ids, index).await;
        let (first, others) = ids.split_first().expect("there is a node to compare");
        for other in others {
            assert_eq!(self.contents(*first), self.contents(*other), "nodes {first} and {other} differ");
            assert_eq!(self.reader(*first).revision(), self.reader(*other).revision());
        }
    }

    /// Has a node make a snapshot of what it has applied. Returns the snapshot's last log id.
    pub async fn snapshot(&self, id: u64) -> LogId {
        let applied = self.metrics(id).last_applied.expect("it has applied something");
        let until = tokio::time::Instant::now() + PATIENCE;
        let patience = Duration::from_millis(self.settings.timings.election_timeout_max_ms);
        while tokio::time::Instant::now() < until {
            // It is not heard while another one is being made.
            self.raft(id).trigger().snapshot().await.expect("Raft runs");
            let made = |metrics: &Metrics| metrics.snapshot >= Some(applied);
            if let Ok(made) = self.raft(id).wait(Some(patience)).metrics(made, "a snapshot").await {
                return made.snapshot.expect("it was just seen");
            }
        }
        panic!("node {id} made no snapshot within {PATIENCE:?}; it is {}", self.metrics(id));
    }

    /// Has a node make a snapshot and purge its whole log behind it.
    pub async fn snapshot_and_purge(&self, id: u64) -> LogId {
        let snapshot = self.snapshot(id).await;
        self.raft(id).trigger().purge_log(snapshot.index).await.expect("Raft runs");
        let purged = self.wait(id).purged(Some(snapshot), "purged").await;
        purged.expect("the log is purged").purged.expect("it was just seen")
    }

    /// A node's snapshot, as another one would have received it.
    pub async fn copy_snapshot(&self, from: u64, to: u64) -> Snapshot {
        let current = self.raft(from).get_snapshot().await.expect("Raft runs");
        let Snapshot { meta, snapshot } = current.expect("the node has a snapshot");
        let mut incoming = self.node(to).inbox.begin().expect("there is room for a snapshot");
        let mut pieces = std::pin::pin!(snapshot.pieces());
        while let Some(piece) = pieces.next().await {
            incoming.write(piece.expect("it can be read")).await.expect("it can be written");
        }
        Snapshot { meta, snapshot: incoming.finish().await.expect("it can be made durable") }
    }
}

/// Writes, and waits out a lease that has lapsed because the machine is busy: such a write was refused
/// before it was in the log.
pub async fn commit(raft: &RaftHandle, proposal: Proposal) -> LogId {
    loop {
        let written = tokio::time::timeout(PATIENCE, raft.client_write(proposal.clone())).await;
        match written.expect("a write ends") {
            Ok(written) => {
                assert!(matches!(written.data, Applied::Command(Ok(_))), "{:?}", written.data);
                return written.log_id;
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))
                if to.reason == ForwardReason::LeaseExpired =>
            {
                let now = TypeConfig::now();
                let acked = raft.wait(Some(PATIENCE)).leader_with_quorum_acked(Some(now), "a lease").await;
                acked.expect("the leader gets its lease back");
            }
            Err(error) => panic!("node {} refused a write: {error}", raft.node_id()),
        }
    }
}
