//! The door: connections of keys that nobody declared end in the handshake.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use iroh::endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks, Side, VarInt};

use super::peers::PeerBook;
use super::ticket::public_key;
use crate::kv::types::PublicKey;
use crate::limits;

/// The code that a refused connection is closed with.
pub const REFUSED: u32 = 403;

/// Lets known keys in and turns all others away.
#[derive(Debug)]
pub struct Admission {
    book: PeerBook,
    logged: Mutex<HashMap<PublicKey, Instant>>,
}

impl Admission {
    /// A door that lets in whom the book admits.
    pub fn new(book: PeerBook) -> Self {
        Self { book, logged: Mutex::default() }
    }

    /// Whether this stranger's attempt is worth a line: each one is, but only once in a while.
    fn is_worth_a_line(&self, key: PublicKey) -> bool {
        let interval = Duration::from_millis(limits::STRANGER_LOG_INTERVAL_MS);
        let mut logged = self.logged.lock().expect("no code panics while it holds this lock");
        if logged.len() >= limits::STRANGERS_REMEMBERED_MAX_COUNT {
            logged.retain(|_, at| at.elapsed() < interval);
        }
        let is_full = logged.len() >= limits::STRANGERS_REMEMBERED_MAX_COUNT;
        if is_full || logged.get(&key).is_some_and(|at| at.elapsed() < interval) {
            return false;
        }
        logged.insert(key, Instant::now());
        true
    }
}

impl EndpointHooks for Admission {
    async fn after_handshake(&self, connection: &Connection) -> AfterHandshakeOutcome {
        // Whom this node calls itself is checked by key already.
        if connection.side() == Side::Client {
            return AfterHandshakeOutcome::Accept;
        }
        let key = public_key(&connection.remote_id());
        if self.book.admitted(&key).is_some() {
            return AfterHandshakeOutcome::Accept;
        }
        self.book.note_stranger();
        metrics::counter!("aspen_transport_rejected_total").increment(1);
        if self.is_worth_a_line(key) {
            tracing::warn!(%key, "a connection was turned away: the key is neither a member's nor a declared peer's");
        }
        AfterHandshakeOutcome::Reject {
            error_code: VarInt::from_u32(REFUSED),
            reason: b"the key is neither a member's nor a declared peer's".to_vec(),
        }
    }
}
