//! Streams: many messages in order, answered in order.
//!
//! # Tiger Style
//! A message never overtakes another one of its stream. A stream ends at the first of: both ends are
//! done, one of them dies, no answer comes for [`super::STALL_TIMEOUT`], the receiver cuts its sender off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aspen::kv::types::NodeId;
use aspen::limits;
use aspen::raft::types::TypeConfig;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;

use super::{Handlers, IDLE_TIMEOUT, Lane, Network, STALL_TIMEOUT, decode, encode};
use crate::chance;
use crate::world::lock;

type AppendRequest = AppendEntriesRequest<TypeConfig>;
type AppendResult = StreamAppendResult<TypeConfig>;

/// How often a message that is held back looks for its way.
const HELD_POLL: Duration = Duration::from_millis(10);

/// One stream, as the node that lets it in sees it.
pub(super) struct Session {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    closed: AtomicBool,
}

impl Session {
    /// Ends the stream at once: nothing that is on its way arrives.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// The sending end of one direction. Dropping it lets what is on its way arrive, or not.
pub(super) struct WireSender {
    network: Network,
    way: (NodeId, NodeId),
    queue: mpsc::UnboundedSender<(Instant, Bytes)>,
    last_arrival: Instant,
    /// Whether the end of the stream takes along what is on its way.
    resets: bool,
    is_reset: Arc<AtomicBool>,
}

impl WireSender {
    pub(super) fn send(&mut self, message: Bytes) {
        let delay = self.network.weather().draw_delay(self.way.0, self.way.1);
        self.last_arrival = self.last_arrival.max(Instant::now() + delay);
        // A receiver that is gone is silent.
        self.queue.send((self.last_arrival, message)).ok();
    }
}

impl Drop for WireSender {
    fn drop(&mut self) {
        if self.resets {
            self.is_reset.store(true, Ordering::Relaxed);
        }
    }
}

impl Network {
    pub(super) fn open_session(&self, from: NodeId, to: NodeId) -> Arc<Session> {
        let session = Arc::new(Session { from, to, closed: AtomicBool::new(false) });
        lock(&self.0.streams).push(Arc::downgrade(&session));
        session
    }

    /// One direction of a stream.
    pub(super) fn wire(
        &self,
        session: &Arc<Session>,
        from: NodeId,
        to: NodeId,
    ) -> (WireSender, mpsc::UnboundedReceiver<Bytes>) {
        let (queue, queued) = mpsc::unbounded_channel();
        let (out, received) = mpsc::unbounded_channel();
        let is_reset = Arc::new(AtomicBool::new(false));
        let wire =
            Wire { network: self.clone(), session: session.clone(), is_reset: is_reset.clone(), from, to };
        self.0.way.spawn(wire.carry(queued, out));
        let sender = WireSender {
            network: self.clone(),
            way: (from, to),
            queue,
            last_arrival: Instant::now(),
            resets: chance::happens(0.5),
            is_reset,
        };
        (sender, received)
    }

    /// Opens a stream of appends to a node.
    pub(super) async fn open_appends<S>(
        &self,
        from: NodeId,
        to: NodeId,
        input: S,
    ) -> Result<AppendPipe, String>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        self.connect(from, to, Lane::Append).await?;
        let session = self.open_session(from, to);
        let (requests, arriving) = self.wire(&session, from, to);
        let (answers, results) = self.wire(&session, to, from);
        let (node, handlers) = self.arrive(from, to, "stream").ok_or("it is gone")?;
        let network = self.clone();
        node.spawn(async move { serve_appends(&network, (from, to), handlers, arriving, answers).await });
        let sent = Arc::new(AtomicU64::new(0));
        let pump = tokio::spawn(pump(input, requests, sent.clone()));
        Ok(AppendPipe { network: self.clone(), way: (from, to), results, sent, received: 0, pump })
    }
}

struct Wire {
    network: Network,
    session: Arc<Session>,
    is_reset: Arc<AtomicBool>,
    from: NodeId,
    to: NodeId,
}

impl Wire {
    async fn carry(
        self,
        mut queued: mpsc::UnboundedReceiver<(Instant, Bytes)>,
        out: mpsc::UnboundedSender<Bytes>,
    ) {
        while let Some((arrives_at, message)) = queued.recv().await {
            if Instant::now() < arrives_at {
                madsim::time::sleep_until(arrives_at).await;
            }
            // What is cut is sent again until it gets through, in order.
            let held_since = Instant::now();
            while self.network.weather().is_cut(self.from, self.to) {
                if held_since.elapsed() > IDLE_TIMEOUT || self.is_over() {
                    return;
                }
                madsim::time::sleep(HELD_POLL).await;
            }
            if self.is_over() || out.send(message).is_err() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.session.is_closed() || self.is_reset.load(Ordering::Relaxed)
    }
}

/// Feeds a stream of appends to Raft, and its results back, in order.
async fn serve_appends(
    network: &Network,
    (from, to): (NodeId, NodeId),
    handlers: Handlers,
    arriving: mpsc::UnboundedReceiver<Bytes>,
    mut answers: WireSender,
) {
    let network = network.clone();
    let requests = futures::stream::unfold((arriving, network), move |(mut arriving, network)| async move {
        let message = arriving.recv().await?;
        network.arrive(from, to, "append")?;
        Some((decode::<AppendRequest>(&message), (arriving, network)))
    });
    let requests = handlers.freshness.listen(&handlers.raft, handlers.reader, requests);
    let mut results = std::pin::pin!(handlers.raft.stream_append(requests));
    while let Some(Ok(result)) = results.next().await {
        answers.send(encode(&result));
    }
}

/// Sends requests as they come. A request is counted before it is sent, so that an answer never comes
/// before its request is counted.
async fn pump<S>(mut input: S, mut requests: WireSender, sent: Arc<AtomicU64>)
where
    S: Stream<Item = AppendRequest> + Unpin,
{
    while let Some(request) = input.next().await {
        sent.fetch_add(1, Ordering::Relaxed);
        requests.send(encode(&request));
    }
}

/// An open stream of appends.
pub(super) struct AppendPipe {
    network: Network,
    way: (NodeId, NodeId),
    results: mpsc::UnboundedReceiver<Bytes>,
    sent: Arc<AtomicU64>,
    received: u64,
    pump: tokio::task::JoinHandle<()>,
}

impl AppendPipe {
    /// The next answer; none once all requests are answered and no more will come.
    pub(super) async fn next(&mut self) -> Option<Result<AppendResult, String>> {
        let idle_since = Instant::now();
        let mut waiting_since = idle_since;
        loop {
            let outstanding = self.sent.load(Ordering::Relaxed) > self.received;
            let is_idle = !outstanding && !self.pump.is_finished();
            // As in the real transport: Raft looks whether it still has the right things to send.
            if is_idle && idle_since.elapsed() >= Duration::from_millis(limits::STREAM_IDLE_MS) {
                return None;
            }
            if is_idle {
                waiting_since = Instant::now();
            }
            let reason = match tokio::time::timeout(STALL_TIMEOUT / 8, self.results.recv()).await {
                Ok(Some(result)) => {
                    self.received += 1;
                    return Some(Ok(decode(&result)));
                }
                Ok(None) if !outstanding => return None,
                Ok(None) => "the peer ended the stream",
                Err(_) if waiting_since.elapsed() >= STALL_TIMEOUT => "answers stopped coming",
                Err(_) => continue,
            };
            self.network.drop_link(self.way.0, self.way.1, Lane::Append);
            return Some(Err(reason.to_owned()));
        }
    }
}

impl Drop for AppendPipe {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
