//! Founding a cluster with the nodes that the configuration names, in whatever order they start.
//!
//! Each node asks all others how they stand. The one with the lowest id founds, and only once every other
//! one has answered that it names the same founders and has no log; they agree to it first, durably, each
//! by the data directory that it has. After a crash at any point the same is done again.
//!
//! # Tiger Style
//! One cluster at most: one node may found it, and only while nobody has a log. A node that lost its disk
//! meets those that have one, and founds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::kv::service::cluster::RaftCluster;
use crate::kv::service::founding::FoundingProgress;
use crate::kv::types::{ClusterId, Founders, Founding, NodeId, Peer};
use crate::limits;
use crate::raft::{RaftHandle, observe};
use crate::storage::metadata::Metadata;
use crate::transport::Transport;
use crate::transport::founding::FoundingView;

/// Founds a cluster, or waits until another node has.
#[derive(Clone)]
pub(super) struct StaticStart {
    pub transport: Transport,
    pub raft: RaftHandle,
    pub metadata: Metadata,
    pub cluster: Arc<RaftCluster>,
    pub founders: Founders,
    pub progress: FoundingProgress,
}

type Answers = BTreeMap<NodeId, Result<FoundingView, String>>;

/// What the answers of the other founders come to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Not yet, or never, for this reason.
    Wait(String),
    /// All is as it must be. The cluster keeps the id that somebody has taken for it already.
    Ready(Option<ClusterId>),
}

impl StaticStart {
    /// Runs until this node belongs to a cluster.
    pub async fn run(self) {
        while !observe::look(&self.raft, observe::is_initialized) {
            let (verdict, incarnations) = self.look().await;
            let waits_for = match verdict {
                Verdict::Wait(reason) => reason,
                Verdict::Ready(_) if self.founders.first() != self.transport.node_id() => {
                    format!("node {} founds the cluster of nodes {}", self.founders.first(), self.founders)
                }
                Verdict::Ready(taken) => match self.found(taken, incarnations).await {
                    Ok(()) => return,
                    Err(reason) => reason,
                },
            };
            if self.progress.say(&waits_for) {
                tracing::info!("no cluster yet: {waits_for}");
            }
            tokio::time::sleep(Duration::from_millis(limits::FOUNDING_INTERVAL_MS)).await;
        }
    }

    /// What the others say, and the data directories that they have.
    async fn look(&self) -> (Verdict, BTreeMap<NodeId, u64>) {
        let own_id = self.transport.node_id();
        let others = self.founders.ids().filter(|node_id| *node_id != own_id);
        let asked =
            others.map(|node_id| async move { (node_id, self.transport.ask_founding(node_id).await) });
        let answers: Answers = futures::future::join_all(asked).await.into_iter().collect();
        let own = self.transport.founding_view(&self.raft).await;
        let views = answers.iter().filter_map(|(node_id, answer)| Some((*node_id, answer.as_ref().ok()?)));
        let incarnations = views.chain([(own_id, &own)]).map(|(node_id, view)| (node_id, view.incarnation));
        (verdict(&own, &self.founders, &answers), incarnations.collect())
    }

    /// Has all others agree, and founds.
    async fn found(
        &self,
        taken: Option<ClusterId>,
        incarnations: BTreeMap<NodeId, u64>,
    ) -> Result<(), String> {
        let founding = self.agree(taken, incarnations).await?;
        let own_id = self.transport.node_id();
        let mut others: Vec<Peer> = Vec::new();
        for node_id in self.founders.ids().filter(|node_id| *node_id != own_id) {
            let agreed = self.transport.propose_founding(node_id, &founding).await;
            agreed.map_err(|reason| format!("node {node_id} did not agree to found a cluster: {reason}"))?;
            let peer = self.transport.book().lookup(node_id);
            others.push(peer.ok_or_else(|| format!("node {node_id} is not known any more"))?);
        }
        let (metadata, cluster_id) = (self.metadata.clone(), founding.cluster_id);
        let adopted = tokio::task::spawn_blocking(move || metadata.adopt_cluster_id(cluster_id)).await;
        adopted.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        others.iter().for_each(|peer| self.transport.meet_anew(peer));
        let founded = self.cluster.found(founding.cluster_id, others).await;
        founded.map_err(|error| format!("the cluster could not be founded: {error}"))?;
        tracing::info!(cluster_id = %founding.cluster_id, "founded cluster {} of nodes {}", founding.cluster_id, self.founders);
        Ok(())
    }

    /// Agrees itself, first: what the others are told is used again after a crash.
    async fn agree(
        &self,
        taken: Option<ClusterId>,
        incarnations: BTreeMap<NodeId, u64>,
    ) -> Result<Founding, String> {
        let before = self.metadata.founding().filter(|before| before.founders == self.founders);
        let cluster_id = taken.or(before.map(|before| before.cluster_id)).unwrap_or_else(ClusterId::random);
        let founding = Founding { cluster_id, founders: self.founders.clone(), incarnations };
        let (metadata, agreed) = (self.metadata.clone(), founding.clone());
        let noted = tokio::task::spawn_blocking(move || metadata.agree_to(&agreed)).await;
        noted.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(founding)
    }
}

fn verdict(own: &FoundingView, founders: &Founders, answers: &Answers) -> Verdict {
    // What will not change by waiting comes first.
    for (node_id, answer) in answers {
        let Ok(theirs) = answer else { continue };
        match &theirs.founders {
            _ if theirs.has_log && own.agreed.is_some() && theirs.cluster_id == own.agreed => {
                return Verdict::Wait(format!(
                    "node {node_id} is in the cluster that was founded; waits for its leader"
                ));
            }
            _ if theirs.has_log => {
                let cluster =
                    theirs.cluster_id.map_or_else(|| "a cluster".to_owned(), |id| format!("cluster {id}"));
                return Verdict::Wait(format!(
                    "node {node_id} belongs to {cluster} already, so no other one is founded. Let this node, which is new or has lost its data directory, join on an empty one with a ticket (`aspen ticket new`, `aspen-node --join`)"
                ));
            }
            Some(others) if others != founders => {
                return Verdict::Wait(format!(
                    "node {node_id} is to found a cluster of nodes {others}, and this node one of {founders}: give all of them the same peers"
                ));
            }
            None => {
                return Verdict::Wait(format!(
                    "node {node_id} is not started with `--bootstrap static`, so it founds no cluster with others"
                ));
            }
            Some(_) => {}
        }
    }
    for (node_id, answer) in answers {
        if let Err(reason) = answer {
            return Verdict::Wait(format!(
                "waits for node {node_id}, with which it founds a cluster: {reason}"
            ));
        }
    }
    let views = || answers.values().flatten().chain([own]);
    let mut taken = None;
    for view in views() {
        let Some(cluster_id) = view.cluster_id else { continue };
        // A node that was called by another cluster belongs there, though it has no log of it yet.
        if view.agreed != Some(cluster_id) || taken.is_some_and(|taken| taken != cluster_id) {
            return Verdict::Wait(format!(
                "one of the nodes {founders} belongs to cluster {cluster_id} already: give it an empty data directory"
            ));
        }
        taken = Some(cluster_id);
    }
    Verdict::Ready(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::types::PublicKey;

    fn founders(ids: &[u64]) -> Founders {
        let named = |id: &u64| (NodeId(*id), PublicKey([u8::try_from(*id).unwrap(); 32]));
        Founders::new(named(&ids[0]), ids[1..].iter().map(named))
    }

    fn view(ids: &[u64]) -> FoundingView {
        let founders = Some(founders(ids));
        FoundingView { founders, cluster_id: None, agreed: None, has_log: false, incarnation: 1 }
    }

    fn of(own: &FoundingView, answers: &[(u64, Result<FoundingView, String>)]) -> Verdict {
        let answers = answers.iter().map(|(id, answer)| (NodeId(*id), answer.clone())).collect();
        verdict(own, &founders(&[1, 2, 3]), &answers)
    }

    fn reason(verdict: Verdict) -> String {
        match verdict {
            Verdict::Wait(reason) => reason,
            Verdict::Ready(taken) => panic!("it would be founded, with {taken:?}"),
        }
    }

    #[test]
    fn all_must_have_answered_and_name_the_same_founders() {
        let all = view(&[1, 2, 3]);
        assert_eq!(of(&all, &[(2, Ok(all.clone())), (3, Ok(all.clone()))]), Verdict::Ready(None));
        let gone = Err("gone".to_owned());
        let waits = reason(of(&all, &[(2, Ok(all.clone())), (3, gone.clone())]));
        assert!(waits.contains("node 3") && waits.contains("gone"), "{waits}");
        let waits = reason(of(&all, &[(2, gone), (3, Ok(view(&[1, 3])))]));
        assert!(waits.contains("node 3 is to found") && waits.contains("same peers"), "{waits}");
        let manual = FoundingView { founders: None, ..all.clone() };
        assert!(reason(of(&all, &[(2, Ok(all.clone())), (3, Ok(manual))])).contains("node 3 is not started"));
    }

    #[test]
    fn nothing_is_founded_where_somebody_has_a_log() {
        let (all, cluster_id) = (view(&[1, 2, 3]), Some(ClusterId::random()));
        let old = FoundingView { has_log: true, cluster_id, agreed: cluster_id, ..all.clone() };
        let waits = reason(of(&all, &[(2, Err("gone".to_owned())), (3, Ok(old))]));
        assert!(waits.contains("node 3 belongs to cluster") && waits.contains("--join"), "{waits}");
    }

    #[test]
    fn the_id_that_was_agreed_to_is_kept_and_that_of_a_foreign_cluster_is_not() {
        let (all, id, other) = (view(&[1, 2, 3]), ClusterId::random(), ClusterId::random());
        let began = FoundingView { cluster_id: Some(id), agreed: Some(id), ..all.clone() };
        assert_eq!(of(&all, &[(2, Ok(all.clone())), (3, Ok(began.clone()))]), Verdict::Ready(Some(id)));
        let foreign = FoundingView { cluster_id: Some(other), ..all.clone() };
        assert!(reason(of(&all, &[(2, Ok(foreign)), (3, Ok(all.clone()))])).contains(&other.to_string()));
        let others = FoundingView { cluster_id: Some(other), agreed: Some(other), ..all.clone() };
        assert!(
            reason(of(&began, &[(2, Ok(others)), (3, Ok(all.clone()))])).contains("empty data directory")
        );
    }
}
