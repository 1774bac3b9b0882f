//! Sessions over streams within the process. Process groups and actors' ids are the process's, so what takes
//! several nodes with agents is tested with processes.

use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, pg};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServerMessage, RactorClusterMessage};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::duplex::{DuplexEnd, duplex};
use super::messages::Packed;
use super::node_server::{AttachError, NodeServerHandle, ProcessName, Side};
use super::sessions::{PeerSession, Sessions};
use crate::kv::types::{ClusterId, NodeId};

const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));

struct Node {
    id: NodeId,
    sessions: Sessions,
    server: NodeServerHandle,
}

async fn start(id: u64, boot: u64, cluster: ClusterId) -> Node {
    let (id, sessions) = (NodeId(id), Sessions::default());
    let name = ProcessName { node_id: id, incarnation: 1, boot };
    let (server, _) = NodeServerHandle::start(name, cluster, sessions.clone()).await.unwrap();
    Node { id, sessions, server }
}

type Attached = Result<PeerSession, AttachError>;

/// Makes a session between two nodes, the first of which opens the stream.
async fn connect(opener: &Node, acceptor: &Node) -> (Attached, Attached) {
    let (near, far) = duplex();
    tokio::join!(
        opener.server.attach(acceptor.id, near, Side::Opener),
        acceptor.server.attach(opener.id, far, Side::Acceptor),
    )
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Doubles numbers.
struct Doubler;

#[derive(RactorClusterMessage)]
enum DoublerMessage {
    #[rpc]
    Double(Packed<u64>, RpcReplyPort<Packed<u64>>),
}

impl Actor for Doubler {
    type Msg = DoublerMessage;
    type State = ();
    type Arguments = String;

    async fn pre_start(
        &self,
        myself: ActorRef<DoublerMessage>,
        group: String,
    ) -> Result<(), ActorProcessingErr> {
        pg::join(group, vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<DoublerMessage>,
        DoublerMessage::Double(Packed(number), reply): DoublerMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let Ok(number) = number {
            reply.send(Packed::new(number * 2)).ok();
        }
        Ok(())
    }
}

#[tokio::test]
async fn actors_are_called_through_a_session_as_long_as_it_lasts() {
    let group = "doublers of one test".to_owned();
    let (actor, _) = Actor::spawn(None, Doubler, group.clone()).await.unwrap();
    let (one, two) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (near, far) = connect(&one, &two).await;
    let (mut near, far) = (near.unwrap(), far.unwrap());
    assert!(one.sessions.with(two.id).is_some() && two.sessions.with(one.id).is_some());

    let is_remote = |actor: &ractor::ActorCell| matches!(actor.get_id(), ActorId::Remote { .. });
    let remote = pg::get_members(&group).into_iter().find(is_remote).expect("the group is known over there");
    let remote: ActorRef<DoublerMessage> = remote.into();
    let double = |reply| DoublerMessage::Double(Packed::new(21), reply);
    match remote.call(double, Some(PATIENCE)).await.unwrap() {
        CallResult::Success(Packed(answer)) => assert_eq!(answer, Ok(42)),
        other => panic!("no answer: {other:?}"),
    }

    drop(far);
    in_time("the session ends on both sides", near.ended()).await;
    assert_eq!(one.sessions.with(two.id), None);
    assert!(one.sessions.lost(two.id).reason.contains("ended"));
    actor.stop(None);
}

#[tokio::test]
async fn the_newest_session_with_a_process_wins_each_time() {
    let (one, two) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (first, first_far) = connect(&one, &two).await;
    let mut older = vec![first.unwrap(), first_far.unwrap()];
    let mut number = one.sessions.with(two.id);
    // Between equals ractor_cluster draws lots: one time would prove nothing.
    for _ in 0..20 {
        let (near, far) = connect(&one, &two).await;
        let newer = vec![near.unwrap(), far.unwrap()];
        for session in &mut older {
            in_time("the older session ends", session.ended()).await;
        }
        let newest = one.sessions.with(two.id);
        assert!(newest > number, "{newest:?} after {number:?}");
        (older, number) = (newer, newest);
    }
}

#[tokio::test]
async fn the_session_with_a_process_that_is_gone_does_not_win_over_that_with_its_successor() {
    let (one, former) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (stale, _held) = connect(&one, &former).await;
    let mut stale = stale.unwrap();
    let before = one.sessions.with(former.id);
    let successor = start(2, 2, CLUSTER).await;
    let (near, far) = connect(&one, &successor).await;
    let (_near, _far) = (near.unwrap(), far.unwrap());
    in_time("the stale session ends", stale.ended()).await;
    assert!(one.sessions.with(successor.id) > before);
}

#[tokio::test]
async fn another_clusters_node_has_no_session() {
    let (one, other) = (start(1, 1, CLUSTER).await, start(2, 1, ClusterId(Uuid::from_u128(8))).await);
    let (near, far) = connect(&one, &other).await;
    assert_eq!(near.err(), Some(AttachError::Ended(other.id)));
    assert_eq!(far.err(), Some(AttachError::Ended(one.id)));
}

/// A stream as the TCP listener takes it: with an address for a label.
struct FromListener(DuplexEnd);

impl ClusterBidiStream for FromListener {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        Box::new(self.0).split()
    }

    fn peer_label(&self) -> Option<String> {
        Some("127.0.0.1:4242".to_owned())
    }
}

#[tokio::test]
async fn a_session_that_nobody_attached_is_ended_although_it_knows_the_cookie() {
    let (one, local) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (near, far) = duplex();
    let stream = Box::new(FromListener(far));
    one.server
        .server()
        .cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server: true })
        .unwrap();
    let attached = local.server.attach(one.id, near, Side::Opener).await;
    assert_eq!(attached.err(), Some(AttachError::Ended(one.id)));
    assert_eq!(one.sessions.with(local.id), None);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_somebody_who_says_nothing_is_given_up_and_its_stream_closed() {
    let one = start(1, 1, CLUSTER).await;
    let (near, silent) = duplex();
    let (mut said, _write) = Box::new(silent).split();
    let attached = one.server.attach(NodeId(2), near, Side::Opener).await;
    assert!(matches!(attached.err(), Some(AttachError::NotInTime { peer: NodeId(2), .. })));
    let mut bytes = Vec::new();
    in_time("the stream is closed", said.read_to_end(&mut bytes)).await.unwrap();
    assert!(!bytes.is_empty(), "the opener spoke first");
}

#[tokio::test(start_paused = true)]
async fn nonsense_on_a_stream_ends_its_session_alone() {
    let (one, two) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (near, _far) = connect(&one, &two).await;
    let _near = near.unwrap();
    let (noisy, far) = duplex();
    let (_, mut write) = Box::new(noisy).split();
    tokio::io::AsyncWriteExt::write_all(&mut write, &[0xff; 64]).await.unwrap();
    let attached = one.server.attach(NodeId(3), far, Side::Acceptor).await;
    assert_eq!(attached.err(), Some(AttachError::Ended(NodeId(3))));
    assert!(one.sessions.with(two.id).is_some());
}

#[tokio::test]
async fn all_sessions_end_with_the_node_server() {
    let (one, two) = (start(1, 1, CLUSTER).await, start(2, 1, CLUSTER).await);
    let (near, far) = connect(&one, &two).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    drop(one.server.stop_on_drop());
    in_time("the session ends", near.ended()).await;
    in_time("the session ends over there", far.ended()).await;
}
