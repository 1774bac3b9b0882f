//! A data directory of format 1, as the build that fixed the format wrote it, opens and says the same.
//!
//! `tests/fixtures/data-dir-v1` must never be written again: it stands for stores that are out there. A
//! new format gets a directory of its own, written by
//!
//! ```text
//! ASPEN_WRITE_FIXTURE=tests/fixtures/data-dir-v2 cargo test --lib fixture
//! ```
//!
//! and a test beside the one here.

use std::fs;
use std::path::Path;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};

use super::store::{Closed, KEY, Open, Store, id, run};
use crate::kv::types::{
    Command, Key, KeyRange, NodeId, ReadRequest, Revision, SessionId, SessionTag, TxnOp, Value, WriteOp,
};
use crate::raft::types::{Applied, Entry, Vote};
use crate::storage::batch::Batch;
use crate::storage::record::{decode_command, encode_command};
use crate::storage::snapshot::format;
use crate::storage::verify::verify;

fn fixture() -> Store {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-dir-v1");
    Store::copy_of(&dir)
}

fn read(open: &Open, request: ReadRequest) -> Vec<(String, u64, u64, u64, String)> {
    let (_, reply) = open.state.reader().read(&request).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (reply.kvs.iter())
        .map(|kv| {
            let value = text(kv.value.as_bytes());
            let start = value.trim_end_matches('x').trim_end().to_owned();
            (text(kv.key.as_bytes()), kv.create_revision.0, kv.mod_revision.0, kv.version, start)
        })
        .collect()
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

#[test]
fn a_store_of_format_1_is_whole() {
    let report = verify(fixture().dir()).unwrap();
    assert_eq!(report.damage, []);
    assert_eq!((report.revision, report.keys), (Some(Revision(56)), Some(8)));
}

#[test]
fn a_store_of_format_1_has_its_metadata_log_and_vote() {
    let store = fixture();
    let mut open = Open::at(store.dir()).unwrap();
    assert_eq!((open.metadata.node_id(), open.metadata.public_key()), (NodeId(1), KEY));
    assert_eq!(open.metadata.cluster_id().unwrap().0.as_u128(), 77);
    assert_eq!(open.metadata.peers()[0].info.addresses, ["192.0.2.7:4601".parse().unwrap()]);
    let mut reader = run(open.log.get_log_reader());
    assert_eq!(run(reader.read_vote()).unwrap(), Some(Vote::new_committed(2, NodeId(1))));
    assert_eq!(run(open.log.read_committed()).unwrap(), Some(id(59)));
    assert_eq!(run(open.log.get_log_state()).unwrap().last_purged_log_id, Some(id(20)));
    let entries = run(reader.try_get_log_entries(..)).unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.log_id).collect::<Vec<_>>(),
        (21..60).map(id).collect::<Vec<_>>()
    );
    let EntryPayload::Normal(proposal) = &entries[0].payload else { panic!("{:?}", entries[0]) };
    let command = decode_command(proposal).unwrap();
    assert_eq!(command.session.unwrap().sequence, 21);
    let WriteOp::Txn(txn) = command.op else { panic!("it is a put") };
    let [TxnOp::Put { key, value, .. }] = &txn.success[..] else { panic!("{txn:?}") };
    assert_eq!((key.as_bytes(), value.as_bytes().starts_with(b"value 21 xx")), (&b"key-1"[..], true));
}

#[test]
fn a_store_of_format_1_has_its_keys_and_history() {
    let store = fixture();
    let open = Open::at(store.dir()).unwrap();
    let reader = open.state.reader();
    assert_eq!((reader.revision(), reader.compacted_revision()), (Revision(56), Revision(10)));
    let all = read(&open, ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new())));
    assert_eq!(all.len(), 8, "key-5 is deleted: {all:?}");
    let newest = ("key-3".to_owned(), 40, 50, 2, "value 53".to_owned());
    assert_eq!(read(&open, ReadRequest::get(key("key-3"))), [newest]);
    let before = ReadRequest { revision: Some(Revision(20)), ..ReadRequest::get(key("key-3")) };
    assert_eq!(read(&open, before), [("key-3".to_owned(), 2, 11, 2, "value 13".to_owned())]);
}

#[test]
fn a_store_of_format_1_answers_a_retry_as_it_did_first() {
    let store = fixture();
    let open = Open::at(store.dir()).unwrap();
    let tag = SessionTag { id: SessionId(uuid::Uuid::from_u128(2)), sequence: 56, since: Revision(0) };
    let retry = Command { session: Some(tag), ..Command::put(key("key-6"), Value::new("other").unwrap()) };
    let entry = Entry::new(id(60), EntryPayload::Normal(encode_command(&retry).unwrap()));
    let batch = Batch::of(vec![entry]).unwrap();
    let applied = open.state.on_disk().unwrap().apply(batch.entries, batch.bytes).unwrap();
    let [Applied::Command(Ok(reply))] = &applied[..] else { panic!("{applied:?}") };
    assert!(reply.replayed && reply.revision == Revision(53), "{reply:?}");
    assert_eq!(open.state.reader().revision(), Revision(56), "it was applied once");
}

#[test]
fn a_store_of_format_1_has_its_snapshot() {
    let store = fixture();
    let mut open = Open::at(store.dir()).unwrap();
    let current = run(open.state.get_current_snapshot()).unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, Some(id(29)));
    assert_eq!(current.meta.last_membership.voter_ids().collect::<Vec<_>>(), [NodeId(1)]);
    let mut rows = 0;
    let meta = format::read(current.snapshot.reader(), |_, _, _| {
        rows += 1;
        Ok(())
    });
    assert_eq!((meta.unwrap(), rows), (current.meta, 35));
}

#[test]
fn a_fixture_is_written_where_it_is_asked_for() {
    let Some(dir) = std::env::var_os("ASPEN_WRITE_FIXTURE") else { return };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    assert!(!dir.exists(), "{} stands already, and a fixture is never changed", dir.display());
    let store = Store::written(Closed::Cleanly);
    for (path, bytes) in super::files(store.dir()) {
        let to = dir.join(path.strip_prefix(store.dir()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}
