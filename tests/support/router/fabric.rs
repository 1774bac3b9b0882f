//! The network's inside: the nodes that are attached to it, its faults and its record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use aspen::kv::forward::ForwardHandler;
use aspen::kv::types::NodeId;
use aspen::raft::RaftHandle;
use aspen::raft::freshness::Freshness;
use aspen::storage::snapshot::SnapshotInbox;
use aspen::storage::state::StateReader;

use super::faults::{Failure, Fate, Faults};
use super::rpc::{Recorder, Rpc};
use super::storage::Opened;

/// All that the nodes have in common.
pub struct Fabric {
    doors: Mutex<BTreeMap<NodeId, Door>>,
    faults: Mutex<Faults>,
    recorder: Mutex<Recorder>,
}

static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// Where a node takes what others send.
#[derive(Clone)]
pub struct Door {
    /// The node behind it.
    pub node_id: NodeId,
    /// Another one each time that the node starts.
    pub(super) session: u64,
    pub(super) raft: RaftHandle,
    pub(super) inbox: SnapshotInbox,
    pub(super) reader: StateReader,
    pub(super) freshness: Arc<Freshness>,
    pub(super) forward: Option<Arc<dyn ForwardHandler>>,
}

impl Door {
    pub(super) fn new(node_id: NodeId, opened: &Opened) -> Self {
        Self {
            node_id,
            session: SESSIONS.fetch_add(1, Ordering::Relaxed),
            raft: opened.raft.clone(),
            inbox: opened.inbox.clone(),
            reader: opened.reader.clone(),
            freshness: Arc::default(),
            forward: None,
        }
    }
}

impl Fabric {
    pub(super) fn new(seed: u64) -> Self {
        Self { doors: Mutex::default(), faults: Mutex::new(Faults::new(seed)), recorder: Mutex::default() }
    }

    pub(super) fn attach(&self, door: Door) {
        self.doors().insert(door.node_id, door);
    }

    pub(super) fn detach(&self, id: NodeId) {
        self.doors().remove(&id);
    }

    /// The door that a node has now.
    pub(super) fn door_of(&self, id: NodeId) -> Option<Door> {
        self.doors().get(&id).cloned()
    }

    /// All nodes that have a door.
    pub(super) fn ids(&self) -> BTreeSet<NodeId> {
        self.doors().keys().copied().collect()
    }

    /// Lets a node serve what others forward to it.
    pub(super) fn serve_forwarded(&self, id: NodeId, handler: Arc<dyn ForwardHandler>) {
        self.doors().get_mut(&id).expect("the node is attached").forward = Some(handler);
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().expect("no code panics while it holds this lock")
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<NodeId, Door>> {
        self.doors.lock().expect("no code panics while it holds this lock")
    }

    /// The door at which the wire to a node ends.
    pub(super) fn connect(&self, to: NodeId) -> Result<Door, Failure> {
        let end = self.faults().end_of_wire(to);
        self.door_of(end).ok_or(Failure::Unreachable)
    }

    /// The way there.
    pub(super) async fn depart(&self, rpc: &Rpc) -> Result<(), Failure> {
        self.recorder().sent(rpc);
        let fates = self.faults().fate_before(rpc);
        meet(fates).await?;
        self.travel(rpc.from, rpc.to).await
    }

    /// The door's check: a node takes only what is addressed to it.
    pub(super) fn admit(&self, door: &Door, rpc: &Rpc) -> Result<(), Failure> {
        if door.node_id != rpc.to {
            self.recorder().came_out_wrong();
            return Err(Failure::Unreachable);
        }
        self.recorder().delivered(door.node_id, rpc);
        Ok(())
    }

    /// The way back.
    pub(super) async fn come_back(&self, rpc: &Rpc) -> Result<(), Failure> {
        let fates = self.faults().fate_after(rpc);
        meet(fates).await?;
        self.travel(rpc.to, rpc.from).await?;
        self.recorder().answered(rpc);
        Ok(())
    }

    async fn travel(&self, from: NodeId, to: NodeId) -> Result<(), Failure> {
        let delay = self.faults().draw(from, to)?;
        if delay.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        // It may have been cut while the message was on its way.
        if self.faults().is_cut(from, to) { Err(Failure::Lost) } else { Ok(()) }
    }
}

async fn meet(fates: Vec<Fate>) -> Result<(), Failure> {
    for fate in fates {
        match fate {
            Fate::Pass => {}
            Fate::Fail(failure) => return Err(failure),
            Fate::Hold(gate) => gate.pass().await,
        }
    }
    Ok(())
}
