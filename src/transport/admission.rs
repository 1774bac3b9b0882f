//! The door: connections of keys that nobody declared end in the handshake, and those of clients that
//! would speak as nodes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iroh::endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks, Side, VarInt};

use super::peers::PeerBook;
use super::protocol::{ALPN_ACTOR, ALPN_CLIENT, ALPN_JOIN};
use super::ticket::public_key;
use crate::kv::types::PublicKey;
use crate::limits;
use crate::storage::metadata::Metadata;

/// The code that a refused connection is closed with.
pub const REFUSED: u32 = 403;

/// What it is told.
pub(super) const STRANGER: &str = "the key is neither a member's nor a declared peer's";

/// What a declared peer is told that would read and write too early.
const TOO_EARLY: &str =
    "this node is not in a cluster yet, and does not know whom that has removed: try again later";

/// Who is let in, and for what.
#[derive(Clone, Debug)]
pub(super) struct GuestList {
    book: PeerBook,
    client_keys: Arc<BTreeSet<PublicKey>>,
}

impl GuestList {
    pub(super) fn new(book: PeerBook, client_keys: BTreeSet<PublicKey>) -> Self {
        Self { book, client_keys: Arc::new(client_keys) }
    }

    /// Whether a key may use a protocol: a node may use each of them, but only a member that of the
    /// actors, and that of clients not before this node knows who was removed; a client its own alone.
    pub(super) fn admits(&self, key: &PublicKey, alpn: &[u8]) -> bool {
        if alpn == ALPN_ACTOR {
            return self.book.is_members(key);
        }
        if alpn == ALPN_CLIENT {
            return self.client_keys.contains(key) || self.book.may_use_the_store(key);
        }
        self.book.admitted(key).is_some()
    }

    /// Whether a key may use anything at all.
    pub(super) fn knows(&self, key: &PublicKey) -> bool {
        self.book.admitted(key).is_some() || self.client_keys.contains(key)
    }
}

/// Which strangers' attempts are worth a line. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct DoorLog(Arc<Mutex<HashMap<PublicKey, Instant>>>);

impl DoorLog {
    /// Whether this stranger's attempt is worth a line: each one is, but only once in a while.
    pub(super) fn is_worth_a_line(&self, key: PublicKey) -> bool {
        let interval = Duration::from_millis(limits::STRANGER_LOG_INTERVAL_MS);
        let mut logged = self.0.lock().expect("no code panics while it holds this lock");
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

    /// This one is a stranger for a moment only: what it attempts is not worth a line for a while.
    pub(super) fn expect_call_of(&self, key: PublicKey) {
        self.is_worth_a_line(key);
    }
}

/// Lets known keys in and turns all others away.
#[derive(Debug)]
pub(super) struct Admission {
    guests: GuestList,
    log: DoorLog,
    metadata: Metadata,
}

impl Admission {
    /// A door that lets in who is on the list.
    pub(super) fn new(guests: GuestList, log: DoorLog, metadata: Metadata) -> Self {
        Self { guests, log, metadata }
    }

    /// What it may mean that a stranger calls a node which is alone in its cluster.
    fn lost_its_directory(&self) -> String {
        let cluster = self.metadata.cluster_id().map(|id| id.to_string()).unwrap_or_default();
        format!(
            "whoever it is was told of this node, which is alone in cluster {cluster}. A new node joins with a ticket (`aspen ticket new`). If this one was a member of its cluster before, it lost its data directory and founded anew: stop it and bring the directory back, or remove it there (`aspen member remove`) and let it join on an empty one (`aspen-node --join`)"
        )
    }
}

impl EndpointHooks for Admission {
    async fn after_handshake(&self, connection: &Connection) -> AfterHandshakeOutcome {
        // Whom this node calls itself is checked by key already.
        if connection.side() == Side::Client {
            return AfterHandshakeOutcome::Accept;
        }
        // Strangers may come to this door alone, where they are asked for a ticket.
        if connection.alpn() == ALPN_JOIN {
            return AfterHandshakeOutcome::Accept;
        }
        let key = public_key(&connection.remote_id());
        if self.guests.admits(&key, connection.alpn()) {
            return AfterHandshakeOutcome::Accept;
        }
        if self.guests.book.admitted(&key).is_some() {
            // A declared peer before this node's log tells that it is a member, or its state that it is not a
            // former one: it calls again.
            let is_client = connection.alpn() == ALPN_CLIENT;
            return refuse(if is_client { TOO_EARLY } else { reason(connection.alpn()) });
        }
        self.guests.book.have_members_asked();
        metrics::counter!("aspen_transport_rejected_total").increment(1);
        let reason = reason(connection.alpn());
        if self.log.is_worth_a_line(key) {
            if connection.alpn() != ALPN_CLIENT && self.guests.book.is_alone_and_never_knew(&key) {
                tracing::warn!(%key, "a connection was turned away: {reason}; {}", self.lost_its_directory());
            } else {
                tracing::warn!(%key, "a connection was turned away: {reason}");
            }
        }
        refuse(reason)
    }
}

fn refuse(reason: &'static str) -> AfterHandshakeOutcome {
    AfterHandshakeOutcome::Reject {
        error_code: VarInt::from_u32(REFUSED),
        reason: reason.as_bytes().to_vec(),
    }
}

fn reason(alpn: &[u8]) -> &'static str {
    if alpn == ALPN_CLIENT {
        "the key is neither a member's nor a declared peer's, and not among client_keys"
    } else if alpn == ALPN_ACTOR {
        "the key is not a member's"
    } else {
        STRANGER
    }
}
