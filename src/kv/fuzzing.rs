//! What must hold of requests and their JSON, whatever is in them: a target of `fuzz/`, and the store that
//! others run their requests on.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::json::{
    AddLearnerForm, AddPeersForm, ChangeMembershipForm, Encoding, ErrorForm, HealthForm, LeaderForm,
    LogFilterForm, NewTicket, NewTicketForm, PeersForm, ReadForm, ReadReplyForm, ReplaceMemberForm,
    RestoreForm, RevokedForm, TicketsForm, TransferLeaderForm, WriteForm, WriteReplyForm,
};
use super::types::{
    ClusterOverview, ClusterStatus, Command, KvError, MembershipChanged, NodeReport, RangeReply, ReadRequest,
    Revision, WriteOp, WriteReply,
};
pub(crate) use crate::storage::fuzzing::Seeds;
use crate::storage::fuzzing::{Store, put};

/// Does what the service does with a write, on a state of its own. It answers or refuses, and leaves the
/// state whole.
pub(crate) fn write(command: Command) -> Result<WriteReply, KvError> {
    command.validate()?;
    let mut store = Store::seeded();
    let reply = store.apply(command)?;
    store.check();
    Ok(reply)
}

/// Does what the service does with a read.
pub(crate) fn read(request: &ReadRequest) -> Result<(Revision, RangeReply), KvError> {
    request.validate()?;
    Store::seeded().read(request)
}

/// The body of a request or, to a client, of an answer; the first byte says of which.
///
/// It is taken or refused. What is taken prints as JSON with the same meaning; what a request means survives
/// the way through base64, and is answered.
pub(crate) fn http_body(input: &[u8]) -> bool {
    let Some((&kind, json)) = input.split_first() else { return false };
    match kind {
        b'w' => form::<WriteForm>(json).is_some_and(write_form),
        b'r' => form::<ReadForm>(json).is_some_and(read_form),
        b's' => form::<RestoreForm>(json).is_some_and(restore_form),
        b'l' => form::<AddLearnerForm>(json).is_some(),
        b'm' => form::<ChangeMembershipForm>(json).is_some(),
        b't' => form::<NewTicketForm>(json).is_some(),
        b'p' => form::<ReplaceMemberForm>(json).is_some(),
        b'd' => form::<TransferLeaderForm>(json).is_some(),
        b'f' => form::<LogFilterForm>(json).is_some(),
        b'a' => form::<AddPeersForm>(json).is_some(),
        b'W' => form::<WriteReplyForm>(json).is_some_and(|form| {
            form.clone().into_reply(Encoding::Utf8).ok();
            form.into_reply(Encoding::Base64).is_ok()
        }),
        b'R' => form::<ReadReplyForm>(json).is_some_and(|form| {
            form.clone().into_reply(Encoding::Utf8).ok();
            form.into_reply(Encoding::Base64).is_ok()
        }),
        b'E' => form::<ErrorForm>(json).is_some(),
        b'H' => form::<HealthForm>(json).is_some(),
        b'C' => form::<ClusterStatus>(json).is_some(),
        b'O' => form::<ClusterOverview>(json).is_some(),
        b'N' => form::<NodeReport>(json).is_some(),
        b'M' => form::<MembershipChanged>(json).is_some(),
        b'D' => form::<LeaderForm>(json).is_some(),
        b'P' => form::<PeersForm>(json).is_some(),
        b'T' => form::<NewTicket>(json).is_some(),
        b'L' => form::<TicketsForm>(json).is_some(),
        b'V' => form::<RevokedForm>(json).is_some(),
        _ => false,
    }
}

fn form<F: Debug + PartialEq + Serialize + DeserializeOwned>(json: &[u8]) -> Option<F> {
    let form: F = serde_json::from_slice(json).ok()?;
    let text = serde_json::to_string(&form).expect("what was JSON is JSON again");
    let again: F = serde_json::from_str(&text).expect("what was printed can be read");
    assert_eq!(form, again, "a form changes on its way");
    Some(form)
}

fn write_form(form: WriteForm) -> bool {
    let Ok(command) = form.into_command() else { return false };
    let again = WriteForm::from_command(&command, Encoding::Base64).expect("base64 can say all of it");
    assert_eq!(again.into_command().as_ref(), Ok(&command), "a command changes on its way");
    if let Ok(reply) = write(command) {
        let form = WriteReplyForm::new(&reply, Encoding::Base64).expect("base64 can say all of it");
        assert_eq!(form.into_reply(Encoding::Base64).as_ref(), Ok(&reply), "a reply changes on its way");
    }
    true
}

fn read_form(form: ReadForm) -> bool {
    let Ok(request) = form.into_request() else { return false };
    let again = ReadForm::from_request(&request, Encoding::Base64).expect("base64 can say all of it");
    assert_eq!(again.into_request().as_ref(), Ok(&request), "a request changes on its way");
    read(&request).ok();
    true
}

fn restore_form(form: RestoreForm) -> bool {
    let Ok(step) = form.into_step() else { return false };
    assert_eq!(RestoreForm::from(&step).into_step().as_ref(), Ok(&step), "a step changes on its way");
    write(Command::new(WriteOp::Restore(step))).ok();
    true
}

pub(crate) fn body_seeds() -> Seeds {
    let body = |kind: u8, json: &str| [&[kind][..], json.as_bytes()].concat();
    let id = "00000000-0000-0000-0000-000000000009";
    let key = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
    let command = WriteForm::from_command(&put("a", "1"), Encoding::Utf8).expect("it is text");
    let txn = r#"{"txn":{"compare":[{"key":"YQ==","target":"mod_revision","op":"less","number":9},{"key":"YQ==","target":"value","op":"not_equal","value":""}],"success":[{"put":{"key":"Yg==","value":"/w=="}},{"range":{"prefix":"","limit":2,"keys_only":true}},{"get":{"key":"Yg=="}}],"failure":[{"delete_range":{"start":"YQ=="}},{"delete":{"key":"Yg=="}},{"delete_prefix":{"prefix":"YQ=="}}]},"session":{"id":"ID","sequence":2,"since":1},"encoding":"base64"}"#;
    vec![
        ("write", body(b'w', &serde_json::to_string(&command).expect("it is JSON"))),
        ("write-txn", body(b'w', &txn.replace("ID", id))),
        (
            "write-set-multi",
            body(b'w', r#"{"set_multi":{"pairs":[{"key":"a","value":"1"},{"key":"b","value":"2"}]}}"#),
        ),
        ("write-delete-prefix", body(b'w', r#"{"delete_prefix":{"prefix":"app/"}}"#)),
        ("write-compact", body(b'w', r#"{"compact":{"revision":3}}"#)),
        ("read-get", body(b'r', r#"{"get":{"key":"a"},"revision":2,"consistency":"stale"}"#)),
        (
            "read-range",
            body(
                b'r',
                r#"{"range":{"start":"b","end":"a","limit":5,"keys_only":true},"encoding":"base64"}"#
                    .replace("\"b\"", "\"Yg==\"")
                    .replace("\"a\"", "\"YQ==\"")
                    .as_str(),
            ),
        ),
        ("restore-begin", body(b's', &format!(r#"{{"begin":{{"id":"{id}","revision":7,"replace":true}}}}"#))),
        (
            "restore-chunk",
            body(b's', &format!(r#"{{"chunk":{{"id":"{id}","number":0,"checksum":0,"rows":""}}}}"#)),
        ),
        (
            "restore-commit",
            body(b's', &format!(r#"{{"commit":{{"id":"{id}","keys":1,"chunks":1,"checksum":0}}}}"#)),
        ),
        ("restore-move-on", body(b's', &format!(r#"{{"move_on":{{"id":"{id}"}}}}"#))),
        ("add-learner", body(b'l', r#"{"ticket":"aspennodeabc"}"#)),
        ("change-membership", body(b'm', r#"{"voters":[1,2],"remove":[3],"force":true}"#)),
        ("new-ticket", body(b't', r#"{"ttl_s":60,"uses":2}"#)),
        ("replace-member", body(b'p', r#"{"node_id":2,"ticket":"aspennodeabc"}"#)),
        ("transfer-leader", body(b'd', r#"{"to":2}"#)),
        ("log-filter", body(b'f', r#"{"filter":"aspen=debug"}"#)),
        ("add-peers", body(b'a', r#"{"peers":["aspennodeabc"]}"#)),
        (
            "reply-write",
            body(
                b'W',
                r#"{"revision":3,"succeeded":true,"results":[{"put":{}},{"delete":{"deleted":1,"more":false}},{"range":{"kvs":[],"more":false}}],"replayed":false}"#,
            ),
        ),
        (
            "reply-read",
            body(
                b'R',
                r#"{"revision":3,"kvs":[{"key":"YQ==","value":"","create_revision":1,"mod_revision":2,"version":2,"lease":0}],"more":true,"staleness":null}"#,
            ),
        ),
        (
            "reply-error",
            body(
                b'E',
                r#"{"error":{"code":"compacted","message":"it is gone","action":"read anew","details":{"compacted":5}}}"#,
            ),
        ),
        ("reply-membership", body(b'M', r#"{"voters":[1],"learners":[2],"log_index":7}"#)),
        ("reply-leader", body(b'D', r#"{"leader":2}"#)),
        (
            "reply-peers",
            body(
                b'P',
                &format!(
                    r#"{{"ticket":"aspennodeabc","peers":[{{"node_id":2,"public_key":"{key}","addresses":["192.0.2.1:4601"],"relay_url":null,"http_addr":null,"connection":"connected"}}]}}"#
                ),
            ),
        ),
        (
            "reply-tickets",
            body(b'L', r#"{"tickets":[{"id":"abababababababab","expires_at_ms":7,"uses_left":2}]}"#),
        ),
    ]
}
