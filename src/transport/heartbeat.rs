//! The stream of heartbeats to one node, kept open from one beat to the next.
//!
//! An idle cluster does little but beat, and to open a stream for each costs more than the beat itself.
//! A stream is used again only after its last request was answered: an answer that comes late must
//! never be taken for that of another beat.
//!
//! # Tiger Style
//! One beat is on its way at a time.

use std::time::Duration;

use iroh::endpoint::{Connection, VarInt};
use irpc::channel::mpsc;

use super::network::{
    AppendRequest, AppendResult, RpcError, STALLED, broken, open_append_stream, unreachable,
};

/// See the module.
#[derive(Default)]
pub(super) struct HeartbeatLine(Option<OpenLine>);

struct OpenLine {
    connection: Connection,
    requests: mpsc::Sender<AppendRequest>,
    results: mpsc::Receiver<AppendResult>,
}

impl HeartbeatLine {
    /// Sends one beat and returns its answer. Opens a stream on the connection if there is none on it.
    pub(super) async fn beat(
        &mut self,
        connection: Connection,
        patience: Duration,
        beat: AppendRequest,
    ) -> Result<AppendResult, RpcError> {
        // Taken out: who gives this beat up half way gives the stream up.
        let mut line = match self.0.take() {
            Some(line) if line.connection.stable_id() == connection.stable_id() => line,
            _ => {
                let (requests, results) = open_append_stream(&connection, patience).await?;
                OpenLine { connection, requests, results }
            }
        };
        let answer = match tokio::time::timeout(patience, line.exchange(beat)).await {
            Ok(answer) => answer?,
            Err(_) => {
                line.connection.close(VarInt::from_u32(STALLED), b"answers stopped coming");
                return Err(broken("answers stopped coming"));
            }
        };
        // A refusal is the last answer of a stream.
        self.0 = answer.is_ok().then_some(line);
        Ok(answer)
    }
}

impl OpenLine {
    async fn exchange(&mut self, beat: AppendRequest) -> Result<AppendResult, RpcError> {
        self.requests.send(beat).await.map_err(|error| unreachable(&error))?;
        let answer = self.results.recv().await.map_err(|error| unreachable(&error))?;
        answer.ok_or_else(|| broken("the peer ended the stream"))
    }
}
