//! What clients are promised, through the key-value service of any node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aspen::kv::interface::{ClusterController, KeyValueStore};
use aspen::kv::service::cluster::RaftCluster;
use aspen::kv::service::{KvService, removal};
use aspen::kv::types::{
    ClusterError, Command, Compare, CompareOp, CompareTarget, Consistency, Key, KvError, MembershipChange,
    NodeId, Peer, ReadRequest, Revision, SessionId, SessionTag, Txn, TxnOp, Value, WriteOp,
};
use aspen::limits;
use aspen::raft::types::TypeConfig;
use aspen::storage::metadata::Metadata;
use futures::StreamExt;
use openraft::ServerState;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::router::faults::{Failure, Fate, Gate};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, RouterSettings, ids, index, info};

on_each_storage!(
    a_write_on_the_leader_is_read_on_every_node,
    a_write_on_a_follower_or_a_learner_is_forwarded,
    a_linearizable_read_on_a_follower_sees_the_newest_write,
    a_write_whose_answer_is_lost_is_not_sent_again_without_a_session,
    a_write_of_a_session_whose_answer_is_lost_is_applied_once,
    only_one_of_two_that_compare_and_set_succeeds,
    many_writers_on_all_nodes_get_revisions_of_their_own,
    a_batch_is_answered_in_its_order,
);
in_memory!(
    a_linearizable_read_without_a_majority_is_refused,
    a_deposed_leader_answers_no_linearizable_read,
    a_stale_read_is_served_alone_and_says_how_old_it_is,
    a_write_finds_the_new_leader_while_the_old_one_is_gone,
    a_write_that_begins_during_a_transfer_succeeds,
    a_member_that_does_not_lead_forwards_no_request_twice,
    raft_itself_names_the_leader_to_whoever_writes_to_a_follower,
    a_node_of_no_cluster_serves_nobody,
    a_removed_node_says_so_at_once,
    a_removal_whose_answer_is_lost_is_known_to_be_made,
    a_node_that_removes_itself_knows_that_it_did,
);
on_disk!(a_write_is_there_after_a_restart, a_restarted_follower_serves_reads_once_it_has_caught_up);

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn put(name: &str, value: &str) -> Command {
    Command::put(key(name), Value::new(value.to_owned()).unwrap())
}

/// The value that a linearizable read on a node finds.
async fn get(service: &KvService, name: &str) -> Result<Option<String>, KvError> {
    let reply = service.read(ReadRequest::get(key(name))).await?;
    Ok(reply.range.kvs.first().map(|kv| String::from_utf8(kv.value.as_bytes().to_vec()).unwrap()))
}

fn found(value: &str) -> Result<Option<String>, KvError> {
    Ok(Some(value.to_owned()))
}

async fn three(storage: Storage) -> (AspenRouter, [KvService; 3]) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let services = [router.serve(1).await, router.serve(2).await, router.serve(3).await];
    (router, services)
}

/// A write that was acknowledged is seen by whoever reads after it, on whichever node.
async fn a_write_on_the_leader_is_read_on_every_node(storage: Storage) {
    let (_router, services) = three(storage).await;
    for round in 0..5 {
        let value = format!("{round}");
        let written = services[0].write(put("k", &value)).await.unwrap();
        assert_eq!(written.revision, Revision(round + 1));
        for service in &services {
            assert_eq!(get(service, "k").await, found(&value));
        }
    }
}

/// Every member takes writes; those that do not lead pass them on, once.
async fn a_write_on_a_follower_or_a_learner_is_forwarded(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3]).await;
    let leader = router.serve(1).await;
    for (id, name) in [(2, "by a follower"), (3, "by a learner")] {
        let service = router.serve(id).await;
        service.write(put(name, "v")).await.unwrap();
        assert_eq!(router.counts(id, 1, RpcKind::Forward).delivered, 1);
        assert_eq!(get(&leader, name).await, found("v"));
    }
    assert_eq!(router.counts(1, 2, RpcKind::Forward).sent + router.counts(1, 3, RpcKind::Forward).sent, 0);
}

/// A follower that lags asks the leader how far it must be, and waits until it is.
async fn a_linearizable_read_on_a_follower_sees_the_newest_write(storage: Storage) {
    let (router, services) = three(storage).await;
    let gate = router.hold(3, RpcKind::Append);
    services[0].write(put("k", "new")).await.unwrap();
    let stale = ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key("k")) };
    assert!(services[2].read(stale).await.unwrap().range.kvs.is_empty(), "node 3 does not have it");

    let reading = tokio::spawn({
        let service = services[2].clone();
        async move { get(&service, "k").await }
    });
    router
        .eventually("it asks the leader", |router| router.counts(3, 1, RpcKind::Forward).answered > 0)
        .await;
    assert!(!reading.is_finished());
    gate.open();
    assert_eq!(reading.await.unwrap(), found("new"));
}

/// Without a majority nobody can know that nothing newer was written.
async fn a_linearizable_read_without_a_majority_is_refused(storage: Storage) {
    let (router, services) = three(storage).await;
    services[0].write(put("k", "v")).await.unwrap();
    router.isolate(2);
    router.isolate(3);
    for service in &services {
        let refused = get(service, "k").await.unwrap_err();
        assert_eq!(refused.code(), "no_quorum", "{refused}");
    }
    router.rejoin(2);
    assert_eq!(get(&services[1], "k").await, found("v"));
}

/// A leader that was replaced while it could not hear it must not answer from its old state.
async fn a_deposed_leader_answers_no_linearizable_read(storage: Storage) {
    let (router, services) = three(storage).await;
    services[0].write(put("k", "old")).await.unwrap();
    router.isolate(1);
    router.elect(2).await;
    router.wait_applied_own(2).await;
    services[1].write(put("k", "new")).await.unwrap();
    assert_eq!(router.metrics(1).state, ServerState::Leader, "it does not know");
    let refused = get(&services[0], "k").await.unwrap_err();
    assert_eq!(refused.code(), "no_quorum", "{refused}");
    router.rejoin(1);
    assert_eq!(get(&services[0], "k").await, found("new"));
}

/// Whoever takes an old answer gets one from any node, and learns that it may be old.
async fn a_stale_read_is_served_alone_and_says_how_old_it_is(storage: Storage) {
    let (router, services) = three(storage).await;
    services[0].write(put("k", "v")).await.unwrap();
    assert_eq!(get(&services[2], "k").await, found("v"));
    router.isolate(3);
    services[0].write(put("k", "newer")).await.unwrap();
    let stale = || ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key("k")) };
    let reply = services[2].read(stale()).await.unwrap();
    assert_eq!(reply.range.kvs[0].value.as_bytes(), b"v");
    assert!(reply.staleness.unwrap().age_ms.is_some());
    let reply = services[0].read(stale()).await.unwrap();
    assert_eq!(reply.range.kvs[0].value.as_bytes(), b"newer");
}

/// Without a session a write is delivered once at the most: its outcome is left open, and it is one write.
async fn a_write_whose_answer_is_lost_is_not_sent_again_without_a_session(storage: Storage) {
    let (router, services) = three(storage).await;
    lose_one_answer(&router);
    let lost = services[1].write(put("k", "v")).await.unwrap_err();
    assert_eq!(lost.code(), "outcome_unknown", "{lost}");
    assert_eq!(router.counts(2, 1, RpcKind::Forward).delivered, 1);
    assert_eq!(get(&services[1], "k").await, found("v"), "it did take effect");
    assert_eq!(router.contents(1).kvs[0].version, 1);
}

/// With a session the node may send it again: it takes effect once, and the answer is the first one.
async fn a_write_of_a_session_whose_answer_is_lost_is_applied_once(storage: Storage) {
    let (router, services) = three(storage).await;
    lose_one_answer(&router);
    let tag = SessionTag { id: SessionId::random(), sequence: 1, since: Revision(0) };
    let written = services[1].write(Command { session: Some(tag), ..put("k", "v") }).await.unwrap();
    assert_eq!((written.revision, written.replayed), (Revision(1), true));
    assert_eq!(router.counts(2, 1, RpcKind::Forward).delivered, 2);
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.reader(1).revision(), Revision(2));
}

fn lose_one_answer(router: &AspenRouter) {
    let mut lost = false;
    router.after(move |rpc| {
        let lose = rpc.kind() == RpcKind::Forward && !lost;
        lost |= lose;
        if lose { Fate::Fail(Failure::Lost) } else { Fate::Pass }
    });
}

/// Two nodes take a compare-and-set on the same version: one of them is second.
async fn only_one_of_two_that_compare_and_set_succeeds(storage: Storage) {
    let (_router, services) = three(storage).await;
    services[0].write(put("k", "first")).await.unwrap();
    let swap = |value: &str| {
        let compare =
            Compare { key: key("k"), op: CompareOp::Equal, target: CompareTarget::ModRevision(Revision(1)) };
        let value = Value::new(value.to_owned()).unwrap();
        let success = vec![TxnOp::Put { key: key("k"), value, lease: 0 }];
        Command::new(WriteOp::Txn(Txn { compare: vec![compare], success, failure: vec![] }))
    };
    let (one, other) = tokio::join!(services[1].write(swap("b")), services[2].write(swap("c")));
    let (one, other) = (one.unwrap().succeeded, other.unwrap().succeeded);
    assert!(one != other, "{one} and {other}");
    let winner = if one { "b" } else { "c" };
    assert_eq!(get(&services[0], "k").await, found(winner));
}

/// Writes through all nodes at once are one sequence without a gap.
async fn many_writers_on_all_nodes_get_revisions_of_their_own(storage: Storage) {
    let (router, services) = three(storage).await;
    let services = &services;
    let writes = (0..60_usize).map(|number| async move {
        let written = services[number % 3].write(put(&format!("k{number}"), "v")).await;
        written.unwrap().revision.0
    });
    let mut revisions = futures::future::join_all(writes).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=60).collect::<Vec<_>>());
    let last = router.wait_applied_own(1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A client's request waits for the election that it happens to fall into.
async fn a_write_finds_the_new_leader_while_the_old_one_is_gone(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1, 2, 3], &[]).await;
    let first = router.await_any_leader(&[1, 2, 3]).await;
    let follower = first % 3 + 1;
    let service = router.serve(follower).await;
    for id in [1, 2, 3] {
        router.serve(id).await;
    }
    router.stop(first).await;
    let tag = SessionTag { id: SessionId::random(), sequence: 1, since: Revision(0) };
    service.write(Command { session: Some(tag), ..put("k", "v") }).await.unwrap();
    assert_eq!(get(&service, "k").await, found("v"));
    assert_ne!(router.metrics(follower).current_leader.unwrap().0, first);
    assert_eq!(router.contents(follower).kvs[0].version, 1);
}

/// Writes go on while the leadership moves from node to node; each acknowledged one is there at the end.
async fn a_write_that_begins_during_a_transfer_succeeds(storage: Storage) {
    let (router, services) = three(storage).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = services
        .iter()
        .map(|service| {
            let (service, acknowledged) = (service.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let id = SessionId::random();
                for sequence in 1..=200 {
                    let tag = SessionTag { id, sequence, since: Revision(0) };
                    let name = format!("{}-{sequence}", id.0);
                    service.write(Command { session: Some(tag), ..put(&name, "v") }).await.unwrap();
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    for (from, to) in [(1, 2), (2, 3), (3, 1), (1, 3)] {
        let before = acknowledged.load(Ordering::Relaxed);
        router.transfer(from, to).await;
        router.eventually("writes go on", |_| acknowledged.load(Ordering::Relaxed) > before + 3).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = router.wait_applied_own(3).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    let contents = router.contents(1);
    assert_eq!(contents.kvs.len() as u64, acknowledged.load(Ordering::Relaxed));
    assert!(contents.kvs.iter().all(|kv| kv.version == 1), "each took effect once");
}

/// What is forwarded to a node that does not lead comes back: it does not wander about.
async fn a_member_that_does_not_lead_forwards_no_request_twice(storage: Storage) {
    let (router, services) = three(storage).await;
    router.transfer(1, 2).await;
    router.await_leader(&[3], 2).await;
    router.cut(3, 2);
    router.cut(2, 3);
    // Node 3 keeps asking node 2, which it cannot reach, and never goes by way of node 1.
    let refused = services[2].write(put("k", "v")).await.unwrap_err();
    assert_eq!(refused.code(), "no_quorum", "{refused}");
    assert_eq!(router.counts(3, 2, RpcKind::Forward).delivered, 0);
    assert_eq!(router.counts(3, 1, RpcKind::Forward).sent, 0);
    assert_eq!(router.counts(1, 2, RpcKind::Forward).sent, 0);
}

/// Raft on a follower refuses a write without effect, and says who leads.
async fn raft_itself_names_the_leader_to_whoever_writes_to_a_follower(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let last = router.new_cluster(&[1, 2], &[]).await;
    let refused: RaftError<TypeConfig, ClientWriteError<TypeConfig>> =
        router.raft(2).client_write(router.next_command()).await.unwrap_err();
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = refused else { panic!("{refused}") };
    assert_eq!((to.leader_id.unwrap().0, to.leader_node), (1, Some(info(1))));
    assert_eq!(router.metrics(2).last_log_index, Some(last));
}

/// Proposals that are handed over together are committed and answered in their order.
async fn a_batch_is_answered_in_its_order(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    let batch: Vec<_> = (0..50).map(|_| router.next_command()).collect();
    let answers = router.raft(1).client_write_many(batch).await.unwrap();
    let indexes: Vec<_> = answers.map(|answer| answer.unwrap().unwrap().log_id.index).collect().await;
    assert_eq!(indexes, (before + 1..=before + 50).collect::<Vec<_>>());
    router.assert_same_state(&[1, 2, 3], before + 50).await;
}

/// A node that was told of no cluster says so at once, to readers of any kind and to writers.
async fn a_node_of_no_cluster_serves_nobody(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    let service = router.serve(1).await;
    assert_eq!(service.write(put("k", "v")).await, Err(KvError::NotInitialized));
    assert_eq!(get(&service, "k").await, Err(KvError::NotInitialized));
    let stale = ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key("k")) };
    assert_eq!(service.read(stale).await, Err(KvError::NotInitialized));
}

/// Whoever still asks a removed node is told, and goes elsewhere; there is nothing to wait for.
async fn a_removed_node_says_so_at_once(storage: Storage) {
    let (router, services) = three(storage).await;
    services[2].write(put("k", "v")).await.unwrap();
    router.shut_out(3);
    let _watch = AbortOnDropHandle::new(tokio::spawn(removal::watch(services[2].clone())));
    let removed = KvError::Removed { node_id: NodeId(3) };
    let stale = || ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key("k")) };
    let reader = services[2].clone();
    router.eventually_async("it knows", async |_| reader.read(stale()).await == Err(removed.clone())).await;
    let began = Instant::now();
    assert_eq!(get(&services[2], "k").await, Err(removed.clone()));
    assert_eq!(services[2].write(put("k", "w")).await, Err(removed));
    assert!(began.elapsed() < Duration::from_millis(limits::REQUEST_TIMEOUT_MS) / 2, "{:?}", began.elapsed());
}

fn cluster_of(service: &KvService, id: u64) -> RaftCluster {
    let metadata = Metadata::in_memory(NodeId(id), info(id).public_key);
    RaftCluster::new(
        service.clone(),
        metadata,
        Arc::new(move || Peer { node_id: NodeId(id), info: info(id) }),
    )
}

fn removal_of(id: u64) -> MembershipChange {
    MembershipChange { remove: ids(&[id]), ..MembershipChange::default() }
}

/// The second attempt finds that the node is no member, which is what was asked for.
async fn a_removal_whose_answer_is_lost_is_known_to_be_made(storage: Storage) {
    let (router, services) = three(storage).await;
    lose_one_answer(&router);
    let changed = cluster_of(&services[1], 2).change_membership(removal_of(3)).await.unwrap();
    assert_eq!((changed.voters, changed.learners), (ids(&[1, 2]), ids(&[])));
    assert_eq!(router.counts(2, 1, RpcKind::Forward).delivered, 3, "twice to remove it, once to read");
    let again = cluster_of(&services[1], 2).change_membership(removal_of(3)).await.unwrap_err();
    assert_eq!(again, ClusterError::UnknownNode { node_id: NodeId(3) }, "that it is gone is no news then");
}

/// It is cut off before the leader can answer, and learns from being turned away what came of it.
async fn a_node_that_removes_itself_knows_that_it_did(storage: Storage) {
    let (router, services) = three(storage).await;
    let answers = Gate::default();
    let held = answers.clone();
    router.after(
        move |rpc| {
            if rpc.kind() == RpcKind::Forward { Fate::Hold(held.clone()) } else { Fate::Pass }
        },
    );
    let _watch = AbortOnDropHandle::new(tokio::spawn(removal::watch(services[2].clone())));
    let removing = tokio::spawn({
        let cluster = cluster_of(&services[2], 3);
        async move { cluster.change_membership(removal_of(3)).await }
    });
    router.until(1, "node 3 is no member", |metrics| metrics.membership_config.nodes().count() == 2).await;
    router.shut_out(3);
    answers.open();
    let began = Instant::now();
    let changed = removing.await.unwrap().unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS) / 2,
        "{:?}",
        began.elapsed()
    );
    assert_eq!((changed.voters, changed.learners), (ids(&[1, 2]), ids(&[])));
}

/// What a client was told is written is read from the same node after a restart.
async fn a_write_is_there_after_a_restart(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1], &[]).await;
    let service = router.serve(1).await;
    service.write(put("k", "v")).await.unwrap();
    drop(service);
    router.restart(1).await;
    let service = router.serve(1).await;
    assert_eq!(get(&service, "k").await, found("v"));
    assert_eq!(service.write(put("k", "w")).await.unwrap().revision, Revision(2));
}

/// A node that starts serves even stale reads only once it has what it had before.
async fn a_restarted_follower_serves_reads_once_it_has_caught_up(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.write(1, 20).await;
    router.await_applied(&[3], last).await;
    router.isolate(3);
    router.restart(3).await;
    let service = router.serve(3).await;
    let stale = || ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key("key-000019")) };
    match service.read(stale()).await {
        Err(KvError::Recovering) => {}
        Ok(reply) => assert_eq!(reply.range.kvs.len(), 1, "served, so it is all there"),
        Err(other) => panic!("{other}"),
    }
    router.serve(1).await;
    router.rejoin(3);
    assert_eq!(get(&service, "key-000019").await, found("value-19"));
    router.until(3, "all applied", |metrics| index(metrics.last_applied) >= Some(last)).await;
    assert_eq!(service.read(stale()).await.unwrap().range.kvs.len(), 1);
}
