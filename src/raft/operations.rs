//! The way to the operations on a node's membership: through its actor, which runs one at a time.
//!
//! The simulation has no actors, which run on threads: there the operations are run by the caller's
//! side, one at a time as well.

#[cfg(not(madsim))]
pub use acted::Operations;
#[cfg(madsim)]
pub use simulated::Operations;

/// An operation whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It was not begun: this node stops.
    #[error("{0}")]
    Stopping(String),
    /// No answer came within the time, or ever.
    #[error("the Raft actor gave no answer")]
    Lost,
}

#[cfg(not(madsim))]
mod acted {
    use std::time::Duration;

    use ractor::rpc::CallResult;
    use ractor::{ActorRef, RpcReplyPort};

    use super::Unanswered;
    use crate::kv::types::{ClusterError, MembershipChange, MembershipChanged, Peer};
    use crate::raft::actor::RaftMessage;

    type Reply<T> = RpcReplyPort<Result<T, ClusterError>>;

    /// See the module. Clones share the actor.
    #[derive(Clone)]
    pub struct Operations(ActorRef<RaftMessage>);

    impl Operations {
        /// Those of an actor.
        pub fn of(actor: ActorRef<RaftMessage>) -> Self {
            Self(actor)
        }

        /// Makes a cluster of this node and of others.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn init(
            &self,
            own: Peer,
            others: Vec<Peer>,
            bound: Duration,
        ) -> Result<Result<(), ClusterError>, Unanswered> {
            self.call(bound, |reply| RaftMessage::Init(own, others, reply)).await
        }

        /// Adds a node without a vote. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn add_learner(
            &self,
            peer: Peer,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            self.call(bound, |reply| RaftMessage::AddLearner(peer, reply)).await
        }

        /// Changes voters and members. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn change(
            &self,
            change: MembershipChange,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            self.call(bound, |reply| RaftMessage::ChangeMembership(change, reply)).await
        }

        /// Notes where members are. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn note_addresses(
            &self,
            peers: Vec<Peer>,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            self.call(bound, |reply| RaftMessage::NoteAddresses(peers, reply)).await
        }

        async fn call<T: Send + 'static>(
            &self,
            bound: Duration,
            message: impl FnOnce(Reply<T>) -> RaftMessage,
        ) -> Result<Result<T, ClusterError>, Unanswered> {
            match self.0.call(message, Some(bound)).await {
                Ok(CallResult::Success(outcome)) => Ok(outcome),
                Ok(_) => Err(Unanswered::Lost),
                Err(error) => Err(Unanswered::Stopping(error.to_string())),
            }
        }
    }
}

#[cfg(madsim)]
mod simulated {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Mutex;

    use super::Unanswered;
    use crate::kv::types::{ClusterError, MembershipChange, MembershipChanged, Peer};
    use crate::raft::{RaftHandle, membership};

    /// See the module. Clones share the lock.
    #[derive(Clone)]
    pub struct Operations {
        raft: RaftHandle,
        /// Held by the operation that is under way.
        under_way: Arc<Mutex<()>>,
    }

    impl Operations {
        /// Those of a node.
        pub fn on(raft: RaftHandle) -> Self {
            Self { raft, under_way: Arc::default() }
        }

        /// Makes a cluster of this node and of others.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn init(
            &self,
            own: Peer,
            others: Vec<Peer>,
            bound: Duration,
        ) -> Result<Result<(), ClusterError>, Unanswered> {
            let raft = self.raft.clone();
            self.run(bound, async move { membership::init(&raft, own, others).await }).await
        }

        /// Adds a node without a vote. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn add_learner(
            &self,
            peer: Peer,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            let raft = self.raft.clone();
            self.run(bound, async move { membership::add_learner(&raft, peer).await }).await
        }

        /// Changes voters and members. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn change(
            &self,
            change: MembershipChange,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            let raft = self.raft.clone();
            self.run(bound, async move { membership::change(&raft, change).await }).await
        }

        /// Notes where members are. This node must lead.
        ///
        /// # Errors
        /// The outer error if no outcome came within `bound`, the inner one if it was refused.
        pub async fn note_addresses(
            &self,
            peers: Vec<Peer>,
            bound: Duration,
        ) -> Result<Result<MembershipChanged, ClusterError>, Unanswered> {
            let raft = self.raft.clone();
            self.run(bound, async move { membership::note_addresses(&raft, peers).await }).await
        }

        async fn run<T: Send + 'static>(
            &self,
            bound: Duration,
            operation: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
        ) -> Result<Result<T, ClusterError>, Unanswered> {
            let Ok(permit) = self.under_way.clone().try_lock_owned() else {
                return Ok(Err(ClusterError::ChangeInProgress));
            };
            // It goes on when its caller gives up.
            let outcome = tokio::spawn(async move {
                let outcome = operation.await;
                drop(permit);
                outcome
            });
            match tokio::time::timeout(bound, outcome).await {
                Ok(outcome) => outcome.map_err(|_| Unanswered::Lost),
                Err(_) => Err(Unanswered::Lost),
            }
        }
    }
}
