//! The network itself: what is sent to a node reaches that node, and faults do what they say.

use aspen::kv::types::NodeId;
use aspen::raft::types::Vote;

use crate::router::faults::{Failure, Fate};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, index};

on_each_storage!(each_rpc_reaches_the_node_that_it_is_sent_to);
in_memory!(
    crossed_wires_are_noticed,
    a_one_way_cut_stops_one_way,
    injected_failures_strike_as_often_as_asked,
    hooks_see_requests_and_answers,
    chance_repeats_itself_under_the_same_seed,
);

/// Every node got what was addressed to it and nothing else, and it is the addressed node that acted.
async fn each_rpc_reaches_the_node_that_it_is_sent_to(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let last = router.new_cluster(&[1, 2, 3], &[4]).await;
    let last = last.max(router.write(1, 5).await);
    router.await_applied(&[1, 2, 3, 4], last).await;

    assert_eq!(router.misrouted(), 0);
    for id in 1..=4 {
        let delivered = router.delivered_to(id);
        assert!(delivered.iter().all(|delivery| delivery.rpc.to == NodeId(id)), "node {id}");
        assert!(delivered.iter().all(|delivery| delivery.rpc.from != NodeId(id)), "node {id}");
        let voter = id == 2 || id == 3;
        assert_eq!(router.counts(1, id, RpcKind::Vote).delivered > 0, voter, "node {id}");
        assert_eq!(router.counts(1, id, RpcKind::Append).delivered > 0, id != 1, "node {id}");
    }
    // What a node says it was asked, it did: the vote that node 2 was asked for is the one it follows.
    let asked = router.delivered_to(2).into_iter().find(|delivery| delivery.rpc.kind() == RpcKind::Vote);
    let asked = asked.expect("node 2 was asked").rpc.vote().expect("a vote");
    assert_eq!(asked, Vote::new(1, NodeId(1)));
    assert_eq!(router.metrics(2).vote.leader_id, asked.leader_id);
    let in_the_name_of =
        |delivery: &crate::router::rpc::Delivery| delivery.rpc.vote().map(|vote| vote.leader_id);
    assert!(router.delivered_to(4).iter().all(|delivery| in_the_name_of(delivery) == Some(asked.leader_id)));
}

/// A request that comes out at the wrong node is refused there and counted, and does nothing.
async fn crossed_wires_are_noticed(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let before = (router.log_ids(2).await, router.log_ids(3).await);
    router.cross(2, 3);
    router.propose(1, 1).await;
    router
        .never(1, 3, "committed by those it was not sent to", |metrics| index(metrics.last_applied) > Some(1))
        .await;
    assert!(router.misrouted() > 0);
    assert_eq!((router.log_ids(2).await, router.log_ids(3).await), before);

    router.uncross();
    router.assert_same_state(&[1, 2, 3], 2).await;
}

/// A cut lets nothing through one way, and everything the other way.
async fn a_one_way_cut_stops_one_way(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.cut(1, 2);
    router.forget_deliveries();
    let last = router.write(1, 1).await;
    router.await_applied(&[1, 3], last).await;
    assert_eq!(router.counts(1, 2, RpcKind::Append).delivered, 0);

    // Node 2 still gets through to node 1, whose answer is lost.
    router.raft(2).trigger().elect(false).await.unwrap();
    router.eventually("it asks node 1", |router| router.counts(2, 1, RpcKind::Vote).delivered > 0).await;
    assert_eq!(router.counts(2, 1, RpcKind::Vote).answered, 0);
    assert_eq!(router.counts(1, 2, RpcKind::Append).delivered, 0);
}

/// A failure that is asked for twice strikes twice.
async fn injected_failures_strike_as_often_as_asked(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    router.forget_deliveries();
    router.fail(2, RpcKind::Append, Failure::Lost, Some(2));
    let last = router.write(1, 1).await;
    router.await_applied(&[1, 2], last).await;
    let counts = router.counts(1, 2, RpcKind::Append);
    assert_eq!(counts.sent - counts.delivered, 2, "{counts:?}");
}

/// A hook sees each request before it is delivered, and each answer after it was served.
async fn hooks_see_requests_and_answers(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    let (seen, lost) = (std::sync::Arc::new(std::sync::Mutex::new(Vec::new())), std::sync::Arc::default());
    let lost: std::sync::Arc<std::sync::atomic::AtomicBool> = lost;
    router.before({
        let seen = seen.clone();
        move |rpc| {
            seen.lock().unwrap().extend(rpc.entries().iter().map(|log_id| log_id.index));
            Fate::Pass
        }
    });
    router.after(move |rpc| {
        let first = rpc.kind() == RpcKind::Append && !lost.swap(true, std::sync::atomic::Ordering::SeqCst);
        if first { Fate::Fail(Failure::Lost) } else { Fate::Pass }
    });
    let last = router.write(1, 1).await;
    router.await_applied(&[2], last).await;
    // The first answer was lost, so the entry that node 2 has already was sent again.
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().filter(|index| **index == last).count() >= 2, "{seen:?}");
    router.unhook();
}

/// What is lost on a lossy link is the same each time that the seed is.
async fn chance_repeats_itself_under_the_same_seed(_storage: Storage) {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let settings =
            crate::router::RouterSettings { seed, ..crate::router::RouterSettings::new(Storage::Memory) };
        let router = AspenRouter::with(settings);
        router.lose(1, 2, 0.5);
        router.delay(1, 2, 1..=1_000_000);
        runs.push(router.draws(1, 2, 64));
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
