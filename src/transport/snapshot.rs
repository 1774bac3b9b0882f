//! Snapshots on the wire: from a file, in pieces, on a connection of their own.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use irpc::channel::mpsc;
use openraft::alias::SnapshotOf;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;

use super::Transport;
use super::link::Lane;
use super::protocol::{InstallSnapshot, SnapshotRpcProtocol};
use super::server::Handlers;
use crate::kv::types::NodeId;
use crate::limits;
use crate::raft::installation;
use crate::raft::types::{TypeConfig, Vote};
use crate::storage::snapshot::{IncomingSnapshot, SnapshotData};

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// Sends a snapshot and waits until it is installed. Damage on this disk is found before it is on the way.
pub(super) async fn send(
    transport: &Transport,
    target: NodeId,
    vote: Vote,
    snapshot: Snapshot,
    cancel: impl Future<Output = ReplicationClosed>,
    install_timeout: Duration,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let stall = transport.0.timeouts.stall;
    let transfer = async {
        let connection =
            transport.connection(target, Lane::Snapshot).await.map_err(|error| error.to_string())?;
        // Not before there is a way: for a node that is away it would be read in vain, again and again, and
        // could rot while that is waited for.
        if let Some(reader) = transport.reader() {
            let checked = reader.check_snapshot(&snapshot).await;
            checked.map_err(|damage| format!("it is not fit to be sent: {damage}"))?;
        }
        let remote = irpc_iroh::IrohRemoteConnection::new(connection.clone());
        let client = irpc::Client::<SnapshotRpcProtocol>::boxed(remote);
        let header = InstallSnapshot { vote, meta: snapshot.meta, len: snapshot.snapshot.len() };
        let (pieces, installed) =
            client.client_streaming::<_, Bytes, _>(header, 8).await.map_err(|error| error.to_string())?;
        let mut file = std::pin::pin!(snapshot.snapshot.pieces());
        while let Some(piece) = file.next().await {
            let piece = piece.map_err(|error| format!("the snapshot cannot be read: {error}"))?;
            let sent = tokio::time::timeout(stall, pieces.send(piece)).await;
            sent.map_err(|_| format!("no progress for {} ms", stall.as_millis()))?
                .map_err(|error| error.to_string())?;
        }
        drop(pieces);
        let answer = tokio::time::timeout(install_timeout, installed).await;
        answer
            .map_err(|_| format!("not installed within {} ms", install_timeout.as_millis()))?
            .map_err(|error| error.to_string())?
    };
    tokio::select! {
        closed = cancel => Err(StreamingError::Closed(closed)),
        sent = transfer => sent.map_err(|reason: String| {
            tracing::warn!(peer = %target, "sending a snapshot to node {target} failed: {reason}");
            StreamingError::Unreachable(Unreachable::from_string(reason))
        }),
    }
}

/// Receives a snapshot and has Raft install it.
pub(super) async fn receive(
    handlers: &Handlers,
    header: InstallSnapshot,
    pieces: &mut mpsc::Receiver<Bytes>,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    let stall = Duration::from_millis(limits::WIRE_SNAPSHOT_PIECE_TIMEOUT_MS);
    let needed = header.len.saturating_mul(limits::DISK_BYTES_PER_SNAPSHOT_BYTE);
    handlers.disk.space().fits_now(needed).map_err(|no_room| {
        format!(
            "no room on its disk: it would take up to {needed} bytes, and of the {} that are free {} must stay free",
            no_room.free_bytes, no_room.kept_bytes
        )
    })?;
    let incoming = handlers.inbox.begin().map_err(|error| error.to_string())?;
    let pieces = futures::stream::unfold(pieces, |pieces| async move {
        let piece = tokio::time::timeout(stall, pieces.recv()).await;
        let piece = match piece {
            Ok(piece) => piece.map_err(|error| error.to_string()).transpose()?,
            Err(_) => Err("the leader stopped sending".to_owned()),
        };
        Some((piece, pieces))
    });
    let snapshot = take_in(header.len, pieces, incoming).await?;
    let bytes = header.len;
    // Raft takes a snapshot that cannot be installed for a failed disk of this node, and ends.
    snapshot.verify(&header.meta).await.map_err(|damage| format!("it did not arrive whole: {damage}"))?;
    tracing::info!(bytes, "a snapshot of {bytes} bytes arrived from the leader");
    let snapshot = Snapshot { meta: header.meta, snapshot };
    installation::install(&handlers.raft, &handlers.reader, header.vote, snapshot).await
}

/// Takes in the pieces of a snapshot of so many bytes.
pub(super) async fn take_in(
    len: u64,
    pieces: impl Stream<Item = Result<Bytes, String>>,
    mut incoming: IncomingSnapshot,
) -> Result<SnapshotData, String> {
    let mut pieces = std::pin::pin!(pieces);
    let mut received = 0_u64;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        received += piece.len() as u64;
        if received > len {
            return Err(format!("more bytes than the {len} that were announced"));
        }
        incoming.write(piece).await.map_err(|error| error.to_string())?;
    }
    if received != len {
        return Err(format!("{received} bytes of the {len} that were announced"));
    }
    incoming.finish().await.map_err(|error| error.to_string())
}
