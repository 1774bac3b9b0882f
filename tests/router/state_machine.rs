//! What replicas make of the same entries.

use aspen::kv::types::{
    Command, Key, KeyRange, OpResult, ReadRequest, Revision, SessionId, SessionTag, TxnOp, Value,
};
use aspen::raft::types::Applied;
use aspen::storage::record::encode_command;
use openraft::storage::RaftStateMachine;

use crate::router::storage::Storage;
use crate::router::{AspenRouter, index};

on_each_storage!(
    all_replicas_apply_all_entries_in_one_order,
    entries_without_a_command_move_the_position_alone,
    a_command_that_is_sent_twice_is_applied_once_everywhere,
    every_replica_gives_the_same_answer_of_the_past,
);

/// Writers race for one key: on every replica its history is the same, revision by revision.
async fn all_replicas_apply_all_entries_in_one_order(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let raft = router.raft(1);
    let writes = (0..60).map(|number| crate::router::commit(raft, router.put("raced", format!("{number}"))));
    let written = futures::future::join_all(writes).await;
    let last = written.iter().map(|log_id| log_id.index).max().unwrap();
    router.assert_same_state(&[1, 2, 3, 4], last).await;

    let past = |id: u64, revision: u64| {
        let key = Key::new("raced").unwrap();
        let request = ReadRequest { revision: Some(Revision(revision)), ..ReadRequest::get(key) };
        let (_, found) = router.reader(id).read(&request).unwrap();
        found.kvs
    };
    for revision in 1..=60 {
        let kvs = past(1, revision);
        assert_eq!(kvs[0].mod_revision, Revision(revision), "each write has a revision of its own");
        for id in [2, 3, 4] {
            assert_eq!(past(id, revision), kvs, "node {id}, revision {revision}");
        }
    }
}

/// A membership and a new leader's empty entry are applied as positions, and change no key.
async fn entries_without_a_command_move_the_position_alone(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let before = router.reader(1).revision();
    let last = router.change_voters(1, &[1, 2, 4]).await;
    router.await_applied(&[1, 2, 3, 4], last).await;
    for id in [1, 2, 3, 4] {
        let state = router.raft(id).with_state_machine(|state| Box::pin(state.applied_state())).await;
        let (applied, membership) = state.unwrap().unwrap();
        assert_eq!(index(applied), Some(last));
        assert_eq!(index(*membership.log_id()), Some(last));
        assert_eq!(membership, *router.metrics(id).membership_config);
        assert_eq!(router.reader(id).revision(), before);
    }
}

/// The same write of a session, in two entries, takes effect with the first and answers twice.
async fn a_command_that_is_sent_twice_is_applied_once_everywhere(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let put = Command::put(Key::new("once").unwrap(), Value::new("value").unwrap());
    let tag = SessionTag { id: SessionId::random(), sequence: 1, since: Revision(0) };
    let entry = encode_command(&Command { session: Some(tag), ..put }).unwrap();
    let mut replies = Vec::new();
    for leader in [1, 2] {
        let written = router.raft(leader).client_write(entry.clone()).await.unwrap();
        let Applied::Command(Ok(reply)) = written.data else { panic!("{:?}", written.data) };
        replies.push((reply.revision, reply.replayed));
        if leader == 1 {
            router.transfer(1, 2).await;
        }
    }
    assert_eq!(replies, [(Revision(1), false), (Revision(1), true)]);
    let last = router.write(2, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    let once = router.contents(3).kvs.into_iter().find(|kv| kv.key.as_bytes() == b"once").unwrap();
    assert_eq!(once.version, 1);
}

/// A transaction that deletes and reads answers the same, and leaves the same, on every replica.
async fn every_replica_gives_the_same_answer_of_the_past(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.write(1, 20).await;
    let all = KeyRange::Prefix(bytes::Bytes::from_static(b"key-"));
    let range = || TxnOp::Range { range: all.clone(), limit: Some(5), keys_only: true };
    let command = Command::ops(vec![range(), TxnOp::Delete { range: all.clone() }, range()]);
    let written = router.raft(1).client_write(encode_command(&command).unwrap()).await.unwrap();
    let Applied::Command(Ok(reply)) = written.data else { panic!("{:?}", written.data) };
    let [OpResult::Range(first), deleted, OpResult::Range(second)] = &reply.results[..] else {
        panic!("{:?}", reply.results)
    };
    assert_eq!((first.kvs.len(), first.more, second.kvs.len()), (5, true, 0));
    assert_eq!(*deleted, OpResult::Delete { deleted: 20, more: false });
    router.assert_same_state(&[1, 2, 3], written.log_id.index).await;
    let before = ReadRequest { revision: Some(Revision(20)), ..ReadRequest::range(all.clone()) };
    let pasts: Vec<_> = [1, 2, 3].map(|id| router.reader(id).read(&before).unwrap()).into();
    assert_eq!(pasts[0].1.kvs.len(), 20);
    assert!(pasts.iter().all(|past| *past == pasts[0]));
}
