//! The actor that owns a Raft node: its lifecycle, and operations on the membership.
//!
//! Reads and writes never pass through its mailbox. It fails when Raft stops for good, so that its
//! supervisor ends the process rather than leaving a zombie.
//!
//! # Tiger Style
//! One operation on the membership is under way at a time; a second one is refused at once. Noting
//! addresses, which nobody asked for, stands in no operation's way: that waits the moment which it takes.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::Mutex;

use super::{RaftHandle, membership};
use crate::kv::types::{ClusterError, MembershipChange, MembershipChanged, Peer};
use crate::limits;

/// What the actor is asked for.
pub enum RaftMessage {
    /// Make a cluster of this node and of others.
    Init(Peer, Vec<Peer>, RpcReplyPort<Result<(), ClusterError>>),
    /// Add a node without a vote. This node must lead.
    AddLearner(Peer, RpcReplyPort<Result<MembershipChanged, ClusterError>>),
    /// Change voters and members. This node must lead.
    ChangeMembership(MembershipChange, RpcReplyPort<Result<MembershipChanged, ClusterError>>),
    /// Note where members are. This node must lead.
    NoteAddresses(Vec<Peer>, RpcReplyPort<Result<MembershipChanged, ClusterError>>),
    /// Raft has stopped for good, for this reason.
    Failed(String),
}

/// Between actors of this process alone: nothing of it can be sent by another node.
impl ractor::Message for RaftMessage {}

/// Owns a Raft node.
pub struct RaftActor;

/// The actor's state.
pub struct RaftActorState {
    raft: RaftHandle,
    /// Held by the operation on the membership that is under way.
    operation: Arc<Mutex<()>>,
    /// Held by whatever changes the membership.
    change: Arc<Mutex<()>>,
    watcher: tokio::task::JoinHandle<()>,
}

impl Actor for RaftActor {
    type Msg = RaftMessage;
    type State = RaftActorState;
    type Arguments = RaftHandle;

    async fn pre_start(
        &self,
        myself: ActorRef<RaftMessage>,
        raft: RaftHandle,
    ) -> Result<RaftActorState, ActorProcessingErr> {
        let watcher = tokio::spawn(report_failure(raft.clone(), myself));
        Ok(RaftActorState { raft, operation: Arc::default(), change: Arc::default(), watcher })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RaftMessage>,
        message: RaftMessage,
        state: &mut RaftActorState,
    ) -> Result<(), ActorProcessingErr> {
        let raft = state.raft.clone();
        match message {
            RaftMessage::Init(own, others, reply) => {
                run(state, reply, async move { membership::init(&raft, own, others).await });
            }
            RaftMessage::AddLearner(peer, reply) => {
                run(state, reply, async move { membership::add_learner(&raft, peer).await });
            }
            RaftMessage::ChangeMembership(change, reply) => {
                run(state, reply, async move { membership::change(&raft, change).await });
            }
            RaftMessage::NoteAddresses(peers, reply) => {
                let Ok(permit) = state.change.clone().try_lock_owned() else {
                    answer(reply, Err(ClusterError::ChangeInProgress));
                    return Ok(());
                };
                tokio::spawn(async move {
                    let result = membership::note_addresses(&raft, peers).await;
                    drop(permit);
                    answer(reply, result);
                });
            }
            RaftMessage::Failed(reason) => return Err(format!("Raft stopped: {reason}").into()),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<RaftMessage>,
        state: &mut RaftActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.watcher.abort();
        let bound = Duration::from_millis(limits::STOP_TIMEOUT_MS);
        if tokio::time::timeout(bound, state.raft.shutdown()).await.is_err() {
            tracing::warn!("Raft did not stop within {} ms", limits::STOP_TIMEOUT_MS);
        }
        Ok(())
    }
}

/// Runs one operation beside the mailbox, so that the actor can still be stopped.
fn run<T: Send + 'static>(
    state: &RaftActorState,
    reply: RpcReplyPort<Result<T, ClusterError>>,
    operation: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
) {
    let Ok(permit) = state.operation.clone().try_lock_owned() else {
        answer(reply, Err(ClusterError::ChangeInProgress));
        return;
    };
    let change = state.change.clone();
    tokio::spawn(async move {
        let turn = change.lock_owned().await;
        let result = operation.await;
        drop((turn, permit));
        answer(reply, result);
    });
}

fn answer<T>(reply: RpcReplyPort<Result<T, ClusterError>>, result: Result<T, ClusterError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for the outcome of a membership operation any more");
    }
}

async fn report_failure(raft: RaftHandle, actor: ActorRef<RaftMessage>) {
    // They change with terms, leaders and members, and end with the core, which first says why. All metrics
    // change with every entry, and whoever waits for those is woken several times a write.
    let mut alive = raft.server_metrics();
    while alive.changed().await.is_ok() {}
    let reason = match &raft.metrics().borrow_watched().running_state {
        Err(fatal) => fatal.to_string(),
        Ok(()) => "its core task ended".to_owned(),
    };
    actor.cast(RaftMessage::Failed(reason)).ok();
}
