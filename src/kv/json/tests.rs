use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::kv::types::{
    Command, Compare, CompareOp, CompareTarget, Consistency, KeyRange, KeyValue, NodeId, OpResult,
    RangeReply, ReadReply, ReadRequest, Revision, SessionId, SessionTag, Staleness, Txn, TxnOp, WriteOp,
    WriteReply,
};

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

fn any_key() -> impl Strategy<Value = Key> {
    vec(any::<u8>(), 1..24).prop_map(|bytes| Key::new(bytes).unwrap())
}

fn any_value() -> impl Strategy<Value = Value> {
    any_bytes().prop_map(|bytes| Value::new(bytes).unwrap())
}

fn any_revision() -> impl Strategy<Value = Revision> {
    any::<u64>().prop_map(Revision)
}

fn any_span() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        any_bytes().prop_map(KeyRange::Prefix),
        (any_bytes(), option::of(any_bytes())).prop_map(|(start, end)| KeyRange::Span { start, end }),
    ]
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![any_key().prop_map(KeyRange::Key), any_span()]
}

fn any_op() -> impl Strategy<Value = TxnOp> {
    let limit = option::of(1..u64::MAX);
    prop_oneof![
        (any_key(), any_value()).prop_map(|(key, value)| TxnOp::Put { key, value, lease: 0 }),
        any_range().prop_map(|range| TxnOp::Delete { range }),
        any_key().prop_map(|key| TxnOp::Range { range: key.into(), limit: None, keys_only: false }),
        (any_span(), limit, any::<bool>()).prop_map(|(range, limit, keys_only)| TxnOp::Range {
            range,
            limit,
            keys_only
        }),
    ]
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let op = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::NotEqual),
        Just(CompareOp::Greater),
        Just(CompareOp::Less)
    ];
    let target = prop_oneof![
        any_value().prop_map(CompareTarget::Value),
        any::<u64>().prop_map(CompareTarget::Version),
        any_revision().prop_map(CompareTarget::CreateRevision),
        any_revision().prop_map(CompareTarget::ModRevision),
    ];
    (any_key(), op, target).prop_map(|(key, op, target)| Compare { key, op, target })
}

fn any_command() -> impl Strategy<Value = Command> {
    let session = (any::<u128>(), 1..u64::MAX, any_revision()).prop_map(|(id, sequence, since)| SessionTag {
        id: SessionId(uuid::Uuid::from_u128(id)),
        sequence,
        since,
    });
    let txn = (vec(any_compare(), 0..4), vec(any_op(), 0..4), vec(any_op(), 0..4))
        .prop_map(|(compare, success, failure)| WriteOp::Txn(Txn { compare, success, failure }));
    prop_oneof![
        (option::of(session), txn).prop_map(|(session, op)| Command { session, op }),
        any_revision().prop_map(|revision| Command::new(WriteOp::Compact { revision })),
    ]
}

fn any_kv() -> impl Strategy<Value = KeyValue> {
    (any_key(), any_value(), any_revision(), any_revision(), any::<u64>(), any::<u64>()).prop_map(
        |(key, value, create_revision, mod_revision, version, lease)| KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        },
    )
}

fn any_range_reply() -> impl Strategy<Value = RangeReply> {
    (vec(any_kv(), 0..4), any::<bool>()).prop_map(|(kvs, more)| RangeReply { kvs, more })
}

/// Through the text and back, as over the network.
fn over_the_wire<T: Serialize + serde::de::DeserializeOwned>(form: &T) -> T {
    serde_json::from_str(&serde_json::to_string(form).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn command_survives_json(command in any_command()) {
        let form = WriteForm::from_command(&command, Encoding::Base64).unwrap();
        prop_assert_eq!(over_the_wire(&form).into_command().unwrap(), command);
    }

    #[test]
    fn read_request_survives_json(
        range in any_span(),
        limit in option::of(1..u64::MAX),
        keys_only: bool,
        revision in option::of(any_revision()),
        stale: bool,
    ) {
        let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
        let request = ReadRequest { range, limit, keys_only, revision, consistency };
        let form = ReadForm::from_request(&request, Encoding::Base64).unwrap();
        prop_assert_eq!(over_the_wire(&form).into_request().unwrap(), request);
    }

    #[test]
    fn write_reply_survives_json(
        revision in any_revision(),
        succeeded: bool,
        replayed: bool,
        range in any_range_reply(),
        deleted: u64,
    ) {
        let results =
            vec![OpResult::Put, OpResult::Delete { deleted, more: replayed }, OpResult::Range(range)];
        let reply = WriteReply { revision, succeeded, results, replayed };
        let form = WriteReplyForm::new(&reply, Encoding::Base64).unwrap();
        prop_assert_eq!(over_the_wire(&form).into_reply(Encoding::Base64).unwrap(), reply);
    }

    #[test]
    fn read_reply_survives_json(
        revision in any_revision(),
        range in any_range_reply(),
        age_ms in option::of(any::<u64>()),
    ) {
        let reply = ReadReply { revision, range, staleness: Some(Staleness { age_ms }) };
        let form = ReadReplyForm::new(&reply, Encoding::Base64).unwrap();
        prop_assert_eq!(over_the_wire(&form).into_reply(Encoding::Base64).unwrap(), reply);
    }

    #[test]
    fn text_stands_as_it_is(text in "\\PC{1,20}") {
        let command = Command::put(Key::new(text.clone()).unwrap(), Value::new(text.clone()).unwrap());
        let form = WriteForm::from_command(&command, Encoding::Utf8).unwrap();
        let OpForm::Put(put) = &form.txn.as_ref().unwrap().success[0] else { panic!("not a put") };
        prop_assert_eq!(&put.value, &text);
        prop_assert_eq!(over_the_wire(&form).into_command().unwrap(), command);
    }
}

fn write(json: &str) -> Result<Command, FormError> {
    serde_json::from_str::<WriteForm>(json).unwrap().into_command()
}

fn read(json: &str) -> Result<ReadRequest, FormError> {
    serde_json::from_str::<ReadForm>(json).unwrap().into_request()
}

#[test]
fn short_forms_mean_transactions() {
    let key = Key::new("a").unwrap();
    let put = write(r#"{"put":{"key":"a","value":"1"}}"#).unwrap();
    assert_eq!(put, Command::put(key.clone(), Value::new("1").unwrap()));
    assert_eq!(write(r#"{"delete":{"key":"a"}}"#).unwrap(), Command::delete(key.into()));
    let prefix = KeyRange::Prefix(Bytes::from_static(b"a"));
    assert_eq!(write(r#"{"delete_prefix":{"prefix":"a"}}"#).unwrap(), Command::delete(prefix));
}

#[test]
fn one_operation_and_no_more_is_taken() {
    let none = write("{}").unwrap_err().to_string();
    assert_eq!(
        none,
        "the request must have exactly one of put, delete, delete_prefix, set_multi, txn, compact; it has none of them"
    );
    let two = write(r#"{"put":{"key":"a","value":""},"compact":{"revision":1}}"#).unwrap_err().to_string();
    assert!(two.ends_with("it has put and compact"), "{two}");
    assert!(read("{}").is_err());
}

#[test]
fn error_names_the_field_at_fault() {
    let base64 = r#"{"encoding":"base64","txn":{"success":[{"delete":{"key":"YQ=="}},{"put":{"key":"YQ==","value":"!"}}]}}"#;
    let error = write(base64).unwrap_err().to_string();
    assert!(error.starts_with("txn.success[1].put.value is no base64"), "{error}");
    let error = write(r#"{"put":{"key":"","value":""}}"#).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("empty_key", "put.key: the key is empty"));
    let long = "k".repeat(crate::limits::KEY_MAX_BYTES + 1);
    let error =
        write(&format!(r#"{{"set_multi":{{"pairs":[{{"key":"{long}","value":""}}]}}}}"#)).unwrap_err();
    assert_eq!(error.code(), "key_too_large");
    assert!(error.to_string().starts_with("set_multi.pairs[0].key"), "{error}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for json in [
        r#"{"range":{"prefix":"a","start":"b"}}"#,
        r#"{"range":{"limit":0}}"#,
        r#"{"get":{"key":"a"},"range":{}}"#,
    ] {
        assert_eq!(read(json).unwrap_err().code(), "bad_request", "{json}");
    }
    for json in [
        r#"{"txn":{"compare":[{"key":"a","target":"value","op":"equal","number":1}]}}"#,
        r#"{"txn":{"compare":[{"key":"a","target":"version","op":"equal","value":"1"}]}}"#,
        r#"{"set_multi":{"pairs":[]}}"#,
        r#"{"compact":{"revision":1},"session":{"id":"00000000-0000-0000-0000-000000000001","sequence":1}}"#,
    ] {
        assert_eq!(write(json).unwrap_err().code(), "bad_request", "{json}");
    }
}

#[test]
fn misspelt_options_are_refused_by_name() {
    let error = serde_json::from_str::<ReadForm>(r#"{"range":{"prefx":"a"}}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `prefx`, expected one of `prefix`"), "{error}");
    let error = serde_json::from_str::<WriteForm>(r#"{"putt":{}}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `putt`"), "{error}");
    assert!(serde_json::from_str::<ReadForm>(r#"{"get":{"key":"a"},"consistency":"maybe"}"#).is_err());
}

#[test]
fn bytes_that_are_no_text_are_an_error_and_never_mangled() {
    let kv = KeyValue {
        key: Key::new("a").unwrap(),
        value: Value::new(&b"\xff"[..]).unwrap(),
        create_revision: Revision(1),
        mod_revision: Revision(1),
        version: 1,
        lease: 0,
    };
    let range = RangeReply { kvs: vec![kv], more: false };
    let reply = ReadReply { revision: Revision(1), range, staleness: None };
    let error = ReadReplyForm::new(&reply, Encoding::Utf8).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("not_utf8", "kvs[0].value is no UTF-8"));
    assert_eq!(ReadReplyForm::new(&reply, Encoding::Base64).unwrap().kvs[0].value, "/w==");
}

#[test]
fn membership_form_tells_no_voters_from_voters_unchanged() {
    let form: ChangeMembershipForm = serde_json::from_str(r#"{"remove":[3]}"#).unwrap();
    assert_eq!(
        form,
        ChangeMembershipForm { voters: None, remove: BTreeSet::from([NodeId(3)]), force: false }
    );
    let form: ChangeMembershipForm = serde_json::from_str(r#"{"voters":[]}"#).unwrap();
    assert_eq!(form.voters, Some(BTreeSet::new()));
}
