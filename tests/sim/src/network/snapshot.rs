//! Snapshots on the wire: in pieces, on a stream of their own, which may be cut in the middle.

use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::raft::installation;
use aspen::raft::types::{SnapshotMeta, TypeConfig, Vote};
use aspen::storage::snapshot::SnapshotData;
use bytes::Bytes;
use futures::StreamExt;
use openraft::alias::SnapshotOf;
use openraft::raft::SnapshotResponse;
use tokio::sync::{mpsc, oneshot};

use super::{Handlers, IDLE_TIMEOUT, Lane, Network, decode, encode};
use crate::invariants::Event;
use crate::world::World;

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// Time for a snapshot to be sent and installed.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of one message. Small, so that there is a middle to cut a transfer in.
const PIECE_BYTES: usize = 4 * 1024;

impl Network {
    /// Sends a snapshot and waits until it is installed.
    pub(super) async fn send_snapshot(
        &self,
        from: NodeId,
        to: NodeId,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, String> {
        let sent = tokio::time::timeout(TRANSFER_TIMEOUT, self.transfer(from, to, vote, snapshot)).await;
        sent.unwrap_or_else(|_| Err(format!("not installed within {} ms", TRANSFER_TIMEOUT.as_millis())))
    }

    async fn transfer(
        &self,
        from: NodeId,
        to: NodeId,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, String> {
        self.connect(from, to, Lane::Snapshot).await?;
        let session = self.open_session(from, to);
        let (mut requests, arriving) = self.wire(&session, from, to);
        let (answer, answered) = oneshot::channel();
        let (node, handlers) = self.arrive(from, to, "snapshot").ok_or("it is gone")?;
        let header: (Vote, SnapshotMeta, u64) =
            decode(&encode(&(vote, snapshot.meta, snapshot.snapshot.len())));
        let world = self.0.world.clone();
        node.spawn(async move {
            answer.send(receive(&world, to, &handlers, header, arriving).await).ok();
        });
        let mut pieces = std::pin::pin!(snapshot.snapshot.pieces());
        while let Some(piece) = pieces.next().await {
            let mut piece = piece.map_err(|error| format!("the snapshot cannot be read: {error}"))?;
            while !piece.is_empty() {
                requests.send(piece.split_to(piece.len().min(PIECE_BYTES)));
                madsim::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // An empty piece is the end; a stream that just ends was cut.
        requests.send(Bytes::new());
        let installed = answered.await.map_err(|_| "the peer died".to_owned())?;
        if !self.hop(to, from).await {
            return Err("the answer was lost".to_owned());
        }
        installed
    }
}

async fn receive(
    world: &World,
    own: NodeId,
    handlers: &Handlers,
    (vote, meta, len): (Vote, SnapshotMeta, u64),
    mut arriving: mpsc::UnboundedReceiver<Bytes>,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    let mut incoming = handlers.inbox.begin().map_err(|error| error.to_string())?;
    let mut received = 0;
    loop {
        let piece = tokio::time::timeout(IDLE_TIMEOUT, arriving.recv()).await;
        let piece = piece.map_err(|_| "the leader stopped sending")?.ok_or("the stream was cut")?;
        if piece.is_empty() {
            break;
        }
        received += piece.len() as u64;
        incoming.write(piece).await.map_err(|error| error.to_string())?;
    }
    if received != len {
        return Err(format!("{received} bytes of the {len} that were announced"));
    }
    let snapshot = incoming.finish().await.map_err(|error| error.to_string())?;
    let last = meta.last_log_id.map_or_else(|| "none".to_owned(), |last| last.to_string());
    world.milestone(own, format_args!("installs the snapshot up to {last}"));
    world.count("snapshots received");
    world.saw(&Event::SnapshotArrived { node: own, meta: &meta });
    let snapshot = Snapshot { meta, snapshot };
    installation::install(&handlers.raft, &handlers.reader, vote, snapshot).await
}
