//! How old this node's applied state may be, for reads that do not ask the leader.
//!
//! A follower learns the leader's commit index with every append; once it has applied that index, it
//! is as fresh as the moment it heard of it. Transit time is not counted: clocks are not compared.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::Notify;

use super::RaftHandle;
use super::types::{TypeConfig, Vote};
use crate::kv::types::NodeId;
use crate::storage::state::StateReader;

/// Tracks the last moment at which this node had applied all it knew to be committed.
#[derive(Debug, Default)]
pub struct Freshness {
    heard: Mutex<Heard>,
    /// Told of a leader that has not spoken before.
    new_leader: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    /// At this time the node was up to date.
    fresh_at: Option<Instant>,
    /// When the leader last spoke.
    heard_at: Option<Instant>,
    /// Heard of then, not known to be applied yet.
    pending: Option<(u64, Instant)>,
    /// The last leader that spoke, with its term.
    leader: Option<(u64, NodeId)>,
}

impl Freshness {
    /// Listens to a stream of appends on its way to Raft.
    pub fn listen<S>(
        self: Arc<Self>,
        raft: &RaftHandle,
        reader: StateReader,
        requests: S,
    ) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + use<S>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send,
    {
        let metrics = raft.metrics();
        requests.inspect(move |request| {
            let vote = metrics.borrow_watched().vote;
            self.note(request, &vote, reader.applied_index());
        })
    }

    /// Notes a request of a leader to this node, which has given `vote`.
    pub fn note(&self, request: &AppendEntriesRequest<TypeConfig>, vote: &Vote, applied_index: Option<u64>) {
        // A deposed leader that does not know it yet has no news, and no right to call old news fresh.
        if request.vote < *vote {
            return;
        }
        let leader = request.vote.leader_id();
        self.heard_leader(leader.term, leader.node_id);
        // A new leader does not know what is committed until an entry of its own is.
        let own = request.leader_commit.filter(|log_id| log_id.leader_id == *leader);
        match own {
            Some(committed) => self.heard(Some(committed.index), applied_index),
            None => self.lock().heard_at = Some(Instant::now()),
        }
    }

    /// The leader said, just now, that everything up to `committed_index` is committed (absent: nothing is).
    pub fn heard(&self, committed_index: Option<u64>, applied_index: Option<u64>) {
        let now = Instant::now();
        let mut heard = self.lock();
        heard.heard_at = Some(now);
        heard.settle(applied_index);
        if applied_index >= committed_index {
            heard.fresh_at = Some(now);
        } else if heard.pending.is_none() {
            heard.pending = committed_index.map(|index| (index, now));
        }
    }

    /// A leader of this term speaks.
    pub fn heard_leader(&self, term: u64, leader: NodeId) {
        let speaks = Some((term, leader));
        let mut heard = self.lock();
        if speaks > heard.leader {
            heard.leader = speaks;
            drop(heard);
            self.new_leader.notify_waiters();
        }
    }

    /// The leader that spoke last, if it is of a later term. Raft itself learns of it only once it has
    /// noted the term on disk, which may hang.
    pub fn leader_after(&self, term: u64) -> Option<NodeId> {
        self.lock().leader.filter(|(heard, _)| *heard > term).map(|(_, leader)| leader)
    }

    /// Ends once `leader` leads no more, as far as this node knows. It wakes up for elections and changes of
    /// the membership, and not for every entry, as whoever waits for Raft's metrics does.
    pub async fn deposed(&self, raft: &RaftHandle, leader: NodeId) {
        let mut raft_says = raft.server_metrics();
        loop {
            let mut new_leader = pin!(self.new_leader.notified());
            new_leader.as_mut().enable();
            let (current, term) = {
                let metrics = raft_says.borrow_watched();
                (metrics.current_leader, metrics.vote.leader_id().term)
            };
            if current != Some(leader) && self.leader_after(term) != Some(leader) {
                return;
            }
            tokio::select! {
                biased;
                changed = raft_says.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = new_leader => {}
            }
        }
    }

    /// Time since this node was known to be up to date; absent if it never was.
    pub fn age(&self, applied_index: Option<u64>) -> Option<Duration> {
        let mut heard = self.lock();
        heard.settle(applied_index);
        heard.fresh_at.map(|at| at.elapsed())
    }

    /// Time since the leader last spoke; absent if it never did.
    pub fn last_heard(&self) -> Option<Duration> {
        self.lock().heard_at.map(|at| at.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().expect("no code panics while it holds this lock")
    }
}

impl Heard {
    fn settle(&mut self, applied_index: Option<u64>) {
        if let Some((index, at)) = self.pending
            && applied_index >= Some(index)
        {
            self.fresh_at = Some(at);
            self.pending = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_news_that_was_applied_not_from_its_arrival() {
        let freshness = Freshness::default();
        assert_eq!(freshness.age(Some(9)), None);
        freshness.heard(Some(5), Some(3));
        assert_eq!(freshness.age(Some(4)), None, "index 5 is not applied yet");
        assert!(freshness.age(Some(5)).is_some());
    }

    #[test]
    fn leader_of_a_later_term_is_known_before_raft_knows_it() {
        let freshness = Freshness::default();
        assert_eq!(freshness.leader_after(0), None);
        freshness.heard_leader(4, NodeId(2));
        assert_eq!(freshness.leader_after(3), Some(NodeId(2)));
        assert_eq!(freshness.leader_after(4), None);
    }
}
