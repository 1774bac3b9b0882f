//! What must hold of the bytes on each kind of stream, and of tickets, whatever they are: targets of `fuzz/`.
//!
//! Requests go through the functions that read them from a connection; what irpc reads itself is decoded as
//! it does. An input begins with a byte that says which side it is for.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use futures::FutureExt;
use iroh_tickets::Ticket;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::protocol::{
    ClientAnswer, ClientHello, ClientHelloProtocol, ClientReply, ClientRequest, ClientRpcProtocol,
    ClientStream, ClientWelcome,
};
use super::founding::{FoundingRefusal, FoundingView};
use super::frame::{StreamError, next_len, read_first, read_first_within, read_rest};
use super::join::{JoinProtocol, JoinRequest, Welcomed};
use super::join_ticket::{JoinSecret, JoinTicket};
use super::numbered::Numbered;
use super::protocol::{
    AppendStream, CastVote, ForwardAnswer, ForwardStream, Forwarded, Hello, HelloProtocol, InstallSnapshot,
    RaftRpcProtocol, Refusal, SnapshotRpcProtocol, Welcome,
};
use super::snapshot::take_in;
use super::ticket::{NodeTicket, endpoint_addr};
use super::vouching::Members;
use crate::kv::client::Address;
use crate::kv::forward::{ForwardReply, ForwardRequest};
use crate::kv::fuzzing as requests;
use crate::kv::types::{
    ClusterError, KeyRange, KvError, LeaderHint, NodeId, NodeInfo, Peer, PublicKey, ReadRequest, Revision,
    TicketId, WriteReply,
};
use crate::limits;
use crate::raft::types::{Entry, Proposal, TypeConfig, Vote};
use crate::storage::fuzzing::{self, Seeds, a_cluster, comes_back, decoded, log_id, put};
use crate::storage::record::encode_command;
use crate::storage::snapshot::{SnapshotData, SnapshotInbox};

/// Ends work that never has to wait: all its bytes are there.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime needs little");
    }
    RUNTIME.with(|runtime| {
        let _clock = runtime.enter();
        work.now_or_never().expect("bytes that are there are not waited for")
    })
}

/// The first message of a stream.
fn first<T: Serialize + DeserializeOwned>(recv: &mut &[u8]) -> Option<T> {
    let value: T = at_once(read_first(recv)).ok()?;
    comes_back(&value);
    Some(value)
}

/// The further messages of a stream, until it ends; false if it ends inside one.
fn further<T: Serialize + DeserializeOwned>(
    recv: &mut &[u8],
    max_bytes: u64,
    mut take: impl FnMut(T),
) -> bool {
    let mut next = || -> Result<Option<T>, StreamError> {
        at_once(async {
            match next_len(recv, max_bytes).await? {
                Some(len) => Ok(Some(read_rest(recv, len).await?)),
                None => Ok(None),
            }
        })
    };
    loop {
        match next() {
            Ok(Some(message)) => {
                comes_back(&message);
                take(message);
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// The first exchange of a connection, of nodes and of clients.
pub(crate) fn wire_hello(input: &[u8]) -> bool {
    let Some((&kind, mut recv)) = input.split_first() else { return false };
    match kind {
        0 => first::<HelloProtocol>(&mut recv).is_some(),
        1 => decoded::<Result<Welcome, Refusal>>(recv).is_some(),
        2 => first::<ClientHelloProtocol>(&mut recv).is_some(),
        3 => decoded::<Result<ClientWelcome, Refusal>>(recv).is_some(),
        _ => false,
    }
}

/// A stream of `aspen/raft/1`, or an answer on one.
pub(crate) fn wire_raft(input: &[u8]) -> bool {
    let Some((&kind, mut recv)) = input.split_first() else { return false };
    match kind {
        0 => raft_stream(&mut recv),
        1 => decoded::<StreamAppendResult<TypeConfig>>(recv).is_some(),
        2 => decoded::<Result<VoteResponse<TypeConfig>, String>>(recv).is_some(),
        3 => decoded::<Result<TransferLeaderResponse<TypeConfig>, String>>(recv).is_some(),
        4 => decoded::<ForwardAnswer>(recv).is_some(),
        5 => decoded::<Members>(recv).is_some(),
        6 => decoded::<Numbered<ForwardAnswer>>(recv).is_some(),
        7 => decoded::<FoundingView>(recv).is_some(),
        8 => decoded::<Result<(), FoundingRefusal>>(recv).is_some(),
        _ => false,
    }
}

fn raft_stream(recv: &mut &[u8]) -> bool {
    match first::<RaftRpcProtocol>(recv) {
        None => false,
        Some(RaftRpcProtocol::Append(_)) => {
            let take = |request: AppendEntriesRequest<TypeConfig>| {
                for entry in request.entries {
                    if let EntryPayload::Normal(proposal) = &entry.payload {
                        fuzzing::command(proposal);
                    }
                }
            };
            further(recv, limits::WIRE_MESSAGE_MAX_BYTES, take)
        }
        Some(RaftRpcProtocol::ForwardMany(_)) => {
            let take = |Numbered(requests): Numbered<ForwardRequest>| {
                requests.iter().for_each(|(_, request)| forwarded(request));
            };
            further(recv, limits::WIRE_MESSAGE_MAX_BYTES, take)
        }
        Some(RaftRpcProtocol::Forward(Forwarded(request))) => {
            forwarded(&request);
            true
        }
        Some(_) => true,
    }
}

fn forwarded(request: &ForwardRequest) {
    match request {
        ForwardRequest::Propose(proposal) => {
            fuzzing::command(proposal);
        }
        // Where it says that it is, is where it will be looked for.
        ForwardRequest::AddLearner(peer) => {
            endpoint_addr(&peer.info);
        }
        _ => {}
    }
}

/// A stream of `aspen/client/1`, whose requests are answered, or answers on one.
pub(crate) fn wire_client(input: &[u8]) -> bool {
    let Some((&kind, mut recv)) = input.split_first() else { return false };
    match kind {
        0 => {
            let Some(ClientRpcProtocol::Serve(_)) = first(&mut recv) else { return false };
            let take = |Numbered(asked): Numbered<ClientRequest>| {
                for (_, request) in asked {
                    match request {
                        ClientRequest::Write(command) => drop(requests::write(command)),
                        ClientRequest::Read(request) => drop(requests::read(&request)),
                    }
                }
            };
            further(&mut recv, limits::WIRE_CLIENT_MESSAGE_MAX_BYTES, take)
        }
        1 => decoded::<Numbered<ClientAnswer>>(recv).is_some(),
        _ => false,
    }
}

/// The stream of `aspen/join/1`, which is open to anybody, or the answer on it.
pub(crate) fn wire_join(input: &[u8]) -> bool {
    let Some((&kind, mut recv)) = input.split_first() else { return false };
    match kind {
        0 => {
            let taken = at_once(read_first_within(&mut recv, limits::JOIN_REQUEST_MAX_BYTES));
            let Ok::<JoinProtocol, _>(JoinProtocol::Join(request)) = taken else { return false };
            comes_back(&request);
            // Where it says that it is, is where it will be looked for.
            if let Some(info) = &request.info {
                endpoint_addr(info);
            }
            request.secret.hash();
            true
        }
        1 => decoded::<Result<Welcomed, ClusterError>>(recv).is_some(),
        _ => false,
    }
}

/// The stream of `aspen/snapshot/1` with the snapshot that arrives on it, or the answer.
///
/// What arrives is as long as was announced, and is a snapshot or is refused.
pub(crate) fn wire_snapshot(input: &[u8]) -> bool {
    let Some((&kind, mut recv)) = input.split_first() else { return false };
    match kind {
        0 => {
            let Some(SnapshotRpcProtocol::Install(header)) = first(&mut recv) else { return false };
            let mut pieces: Vec<Result<Bytes, String>> = Vec::new();
            if !further(&mut recv, limits::WIRE_MESSAGE_MAX_BYTES, |piece| pieces.push(Ok(piece))) {
                pieces.push(Err("it broke off".to_owned()));
            }
            let incoming = SnapshotInbox::memory().begin().expect("memory is at hand");
            let arrived = at_once(take_in(header.len, futures::stream::iter(pieces), incoming));
            let Ok(data) = arrived else { return false };
            assert_eq!(data.len(), header.len, "a snapshot is as long as it was announced");
            let SnapshotData::Memory(bytes) = data else { panic!("it was to be kept in memory") };
            fuzzing::snapshot_file(&bytes)
        }
        1 => decoded::<Result<SnapshotResponse<TypeConfig>, String>>(recv).is_some(),
        _ => false,
    }
}

/// What people copy: tickets of both kinds, ids, keys and addresses. The first byte says which.
///
/// It is taken or refused with a sentence. What is taken prints as text with the same meaning.
pub(crate) fn ticket(input: &[u8]) -> bool {
    let Some((&kind, rest)) = input.split_first() else { return false };
    let text = String::from_utf8_lossy(rest);
    match kind {
        b'n' => is_text_of::<NodeTicket>(&text).is_some_and(usable),
        b'j' => is_text_of::<JoinTicket>(&text).is_some(),
        // The same without the letters around the bytes, which keep a fuzzer from them.
        b'N' => is_text_of::<NodeTicket>(&as_text::<NodeTicket>(rest)).is_some_and(usable),
        b'J' => is_text_of::<JoinTicket>(&as_text::<JoinTicket>(rest)).is_some(),
        b'i' => is_text_of::<TicketId>(&text).is_some(),
        b'd' => is_text_of::<NodeId>(&text).is_some(),
        b'k' => is_text_of::<PublicKey>(&text).is_some(),
        b'a' => is_text_of::<Address>(&text).is_some(),
        _ => false,
    }
}

/// A ticket that is taken leads somewhere.
fn usable(ticket: NodeTicket) -> bool {
    endpoint_addr(&ticket.0.info).expect("its key was checked");
    true
}

fn as_text<T: Ticket>(bytes: &[u8]) -> String {
    let mut text = T::KIND.to_owned();
    data_encoding::BASE32_NOPAD.encode_append(bytes, &mut text);
    text.to_ascii_lowercase()
}

fn is_text_of<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq + std::fmt::Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>();
            assert_eq!(again.as_ref().ok(), Some(&value), "it changes when it is printed");
            Some(value)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal says why");
            None
        }
    }
}

fn message(value: &impl Serialize) -> Vec<u8> {
    let content = postcard::to_stdvec(value).expect("messages can be encoded");
    // A number in postcard is one on the wire.
    let mut message = postcard::to_stdvec(&(content.len() as u64)).expect("a number can be encoded");
    message.extend(content);
    message
}

fn seed(kind: u8, messages: &[Vec<u8>]) -> Vec<u8> {
    [vec![kind], messages.concat()].concat()
}

fn answer(kind: u8, value: &impl Serialize) -> Vec<u8> {
    [vec![kind], postcard::to_stdvec(value).expect("answers can be encoded")].concat()
}

fn some_info() -> NodeInfo {
    NodeInfo {
        // The public key of a secret of sevens.
        public_key: super::ticket::public_key(&iroh::SecretKey::from_bytes(&[7; 32]).public()),
        addresses: vec!["192.0.2.1:4601".parse().expect("an address")],
        relay_url: Some("https://relay.example/".to_owned()),
        http_addr: Some("127.0.0.1:4600".parse().expect("an address")),
    }
}

fn some_proposal() -> Proposal {
    encode_command(&put("a", "1")).expect("a short command")
}

pub(crate) fn hello_seeds() -> Seeds {
    let hello = Hello {
        node_id: NodeId(1),
        target: NodeId(2),
        cluster_id: Some(a_cluster()),
        info: some_info(),
        boot: 7,
        incarnation: 9,
    };
    let welcome = Welcome { node_id: NodeId(2), cluster_id: None, info: some_info(), incarnation: u64::MAX };
    let refusal = Refusal::OtherIncarnation { node_id: NodeId(3) };
    let client = ClientHello { cluster_id: None, boot: 7 };
    let let_in = ClientWelcome { node_id: NodeId(2), cluster_id: Some(a_cluster()) };
    vec![
        ("node", seed(0, &[message(&HelloProtocol::Hello(hello))])),
        ("welcome", answer(1, &Ok::<_, Refusal>(welcome))),
        ("refusal", answer(1, &Err::<Welcome, _>(refusal))),
        ("client", seed(2, &[message(&ClientHelloProtocol::Hello(client))])),
        ("client-welcome", answer(3, &Ok::<_, Refusal>(let_in))),
    ]
}

pub(crate) fn raft_seeds() -> Seeds {
    let vote = Vote::new_committed(3, NodeId(1));
    let entries = vec![
        Entry::new(log_id(4), EntryPayload::Blank),
        Entry::new(log_id(5), EntryPayload::Normal(some_proposal())),
    ];
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(log_id(3)),
        entries,
        leader_commit: Some(log_id(2)),
    };
    let ask = VoteRequest::<TypeConfig>::new(Vote::new(4, NodeId(2)), Some(log_id(5)));
    let peer = Peer { node_id: NodeId(4), info: some_info() };
    let many = Numbered(vec![
        (1, ForwardRequest::Propose(some_proposal())),
        (2, ForwardRequest::ReadIndex),
        (3, ForwardRequest::AddLearner(peer)),
    ]);
    let reply = WriteReply { revision: Revision(7), succeeded: true, results: vec![], replayed: false };
    let leader = LeaderHint { node_id: NodeId(2), http_addr: None };
    let refused = KvError::NotLeader { leader, reason: "it was cut off".to_owned() };
    let members = Members { log_id: Some(log_id(1)), nodes: [(NodeId(1), some_info())].into() };
    let view = FoundingView {
        founders: None,
        cluster_id: Some(a_cluster()),
        agreed: None,
        has_log: true,
        incarnation: 9,
    };
    vec![
        ("append", seed(0, &[message(&RaftRpcProtocol::Append(AppendStream)), message(&append)])),
        ("vote", seed(0, &[message(&RaftRpcProtocol::Vote(CastVote(ask)))])),
        ("forward", seed(0, &[message(&RaftRpcProtocol::Forward(Forwarded(ForwardRequest::ReadIndex)))])),
        ("forward-many", seed(0, &[message(&RaftRpcProtocol::ForwardMany(ForwardStream)), message(&many)])),
        ("appended", answer(1, &StreamAppendResult::<TypeConfig>::Ok(Some(log_id(5))))),
        ("voted", answer(2, &Ok::<_, String>(VoteResponse::<TypeConfig>::new(vote, Some(log_id(5)), true)))),
        ("proposed", answer(4, &Ok::<_, ClusterError>(ForwardReply::Proposed(reply)))),
        ("refused", answer(4, &Err::<ForwardReply, _>(ClusterError::from(refused)))),
        ("members", answer(5, &members)),
        ("founding", answer(7, &view)),
        ("founding-refused", answer(8, &Err::<(), _>(FoundingRefusal::NotFirst(NodeId(1))))),
    ]
}

pub(crate) fn client_seeds() -> Seeds {
    let asked = Numbered(vec![
        (1, ClientRequest::Write(put("a", "1"))),
        (2, ClientRequest::Read(ReadRequest::range(KeyRange::Prefix("app/".into())))),
        (
            3,
            ClientRequest::Write(crate::kv::types::Command::delete(KeyRange::Span {
                start: "b".into(),
                end: Some("a".into()),
            })),
        ),
    ]);
    let reply = WriteReply { revision: Revision(7), succeeded: true, results: vec![], replayed: false };
    let answers: Numbered<ClientAnswer> =
        Numbered(vec![(1, Ok(ClientReply::Written(reply))), (2, Err(KvError::NotInitialized))]);
    vec![
        ("requests", seed(0, &[message(&ClientRpcProtocol::Serve(ClientStream)), message(&asked)])),
        ("answers", answer(1, &answers)),
    ]
}

fn some_secret() -> JoinSecret {
    postcard::from_bytes(&[5; 32]).expect("a secret is 32 bytes")
}

pub(crate) fn join_seeds() -> Seeds {
    let request = JoinRequest {
        cluster_id: a_cluster(),
        secret: some_secret(),
        incarnation: 9,
        wants_vote: true,
        info: Some(some_info()),
    };
    let members = vec![Peer { node_id: NodeId(1), info: some_info() }];
    let welcomed = Welcomed { node_id: NodeId(4), members };
    vec![
        ("request", seed(0, &[message(&JoinProtocol::Join(request))])),
        ("welcomed", answer(1, &Ok::<_, ClusterError>(welcomed))),
    ]
}

pub(crate) fn snapshot_seeds() -> Seeds {
    let (_, snapshot) = fuzzing::snapshot_seeds().swap_remove(0);
    let header = InstallSnapshot {
        vote: Vote::new_committed(3, NodeId(1)),
        meta: Default::default(),
        len: snapshot.len() as u64,
    };
    let (begin, end) = snapshot.split_at(20);
    let pieces = [begin, end].map(|piece| message(&Bytes::copy_from_slice(piece)));
    let first = message(&SnapshotRpcProtocol::Install(header));
    let installed = SnapshotResponse::<TypeConfig>::new(Vote::new(3, NodeId(1)));
    vec![
        ("install", seed(0, &[&[first][..], &pieces].concat())),
        ("installed", answer(1, &Ok::<_, String>(installed))),
    ]
}

pub(crate) fn ticket_seeds() -> Seeds {
    let peer = Peer { node_id: NodeId(2), info: some_info() };
    let node = NodeTicket(peer.clone());
    let join = JoinTicket { cluster_id: a_cluster(), members: vec![peer], secret: some_secret() };
    let text = |kind: u8, text: &str| [&[kind][..], text.as_bytes()].concat();
    let raw = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    vec![
        ("node", text(b'n', &node.to_string())),
        ("node-bytes", raw(b'N', node.encode_bytes())),
        ("join", text(b'j', &join.to_string())),
        ("join-bytes", raw(b'J', join.encode_bytes())),
        ("ticket-id", text(b'i', "abababababababab")),
        ("node-id", text(b'd', "17")),
        ("public-key", text(b'k', &some_info().public_key.to_string())),
        ("address", text(b'a', "http://[::1]:4600")),
        ("address-name", text(b'a', "node-1.example:4600/")),
    ]
}
