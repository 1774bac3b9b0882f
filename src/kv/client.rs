//! The client library: a cluster's key-value store over HTTP.
//!
//! A [`KvClient`] knows the addresses of some members. It asks the one that answered last, goes on to
//! the others when that one fails, and follows a node that names the leader. Reads are repeated
//! freely. Every write carries a session and a sequence, so the cluster applies it once however often
//! it is sent; where the client cannot learn what became of a write, the error says so
//! ([`ClientError::is_outcome_unknown`]) and never pretends that nothing happened.
//!
//! It is a client of one cluster for its whole life: of the one that it was given
//! ([`KvClientBuilder::cluster_id`]), or else of that which answers first. A node of another one, as the node
//! founds that lost its data directory, is passed over.
//!
//! # Tiger Style
//! Every call ends within the client's timeout. At most [`limits::CLIENT_LANES_MAX_COUNT`] writes of
//! one client are in work; clones share that bound, the connections and the sessions.

mod address;
mod backup;
mod cluster;
mod error;
mod held;
mod lane;
mod nodes;
mod request;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub use address::{Address, ParseAddressError};
pub use backup::BackupBody;
pub use error::{BuildError, ClientError, Effect};

use self::address::Targets;
use self::held::HeldCluster;
use self::lane::{Lane, Lanes};
use self::request::{Call, Deadline, Http, Repeat};
use super::json::{Encoding, ReadForm, ReadReplyForm, WriteForm, WriteReplyForm};
use super::token::HttpToken;
use super::types::{
    ClusterId, Command, Key, KeyRange, KeyValue, OpResult, ReadReply, ReadRequest, Revision, Txn, TxnOp,
    Value, WriteOp, WriteReply,
};
use crate::limits;

/// Any bytes go through.
const ENCODING: Encoding = Encoding::Base64;

/// A client of one cluster. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub struct KvClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: Http,
    lanes: Lanes,
    /// The newest revision that this client has seen.
    seen: AtomicU64,
    timeout: Duration,
    slow_timeout: Duration,
}

/// What a [`KvClient`] is made of.
#[derive(Clone, Debug, Default)]
pub struct KvClientBuilder {
    addresses: Vec<Address>,
    cluster_id: Option<ClusterId>,
    token: Option<HttpToken>,
    timeout: Option<Duration>,
}

/// What deleting a range did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The store's revision afterwards.
    pub revision: Revision,
    /// How many keys were deleted.
    pub deleted: u64,
    /// Whether the range holds more, left for a further call.
    pub more: bool,
}

impl KvClientBuilder {
    /// Adds a member's address; the first is asked first.
    pub fn address(mut self, address: Address) -> Self {
        self.addresses.push(address);
        self
    }

    /// Adds several.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = Address>) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// Is served by this cluster alone. Without it, the client holds to the one that answers first.
    pub fn cluster_id(mut self, cluster_id: ClusterId) -> Self {
        self.cluster_id = Some(cluster_id);
        self
    }

    /// Bears this token.
    pub fn token(mut self, token: HttpToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Bounds every call, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`BuildError::NoAddress`].
    pub fn build(self) -> Result<KvClient, BuildError> {
        let targets = Targets::new(self.addresses).ok_or(BuildError::NoAddress)?;
        let timeout = |default_ms| self.timeout.unwrap_or(Duration::from_millis(default_ms));
        let inner = Inner {
            timeout: timeout(limits::CLIENT_TIMEOUT_MS),
            slow_timeout: timeout(limits::CLIENT_SLOW_TIMEOUT_MS),
            http: Http::new(targets, self.token, HeldCluster::new(self.cluster_id)),
            lanes: Lanes::new(),
            seen: AtomicU64::new(0),
        };
        Ok(KvClient { inner: Arc::new(inner) })
    }
}

impl KvClient {
    /// A client to be given addresses and more.
    pub fn builder() -> KvClientBuilder {
        KvClientBuilder::default()
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all calls.
    pub async fn get(&self, key: Key) -> Result<Option<KeyValue>, ClientError> {
        let reply = self.read(ReadRequest::get(key)).await?;
        Ok(reply.range.kvs.into_iter().next())
    }

    /// Reads one page of a range, linearizably: at most [`limits::RANGE_MAX_KEYS`] keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn range(&self, range: KeyRange) -> Result<ReadReply, ClientError> {
        self.read(ReadRequest::range(range)).await
    }

    /// Runs any read.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read(&self, request: ReadRequest) -> Result<ReadReply, ClientError> {
        let form = ReadForm::from_request(&request, ENCODING)?;
        let deadline = Deadline::after(self.inner.timeout);
        let call = Call::new(Method::POST, "/read", to_json(&form), Repeat::Freely, deadline);
        let Decoded(reply): Decoded<ReadReply> = self.inner.http.call(&call).await?;
        self.saw(reply.revision);
        Ok(reply)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, key: Key, value: Value) -> Result<WriteReply, ClientError> {
        self.set_multi([(key, value)]).await
    }

    /// Sets several keys at one revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_multi(
        &self,
        pairs: impl IntoIterator<Item = (Key, Value)>,
    ) -> Result<WriteReply, ClientError> {
        let puts = pairs.into_iter().map(|(key, value)| TxnOp::Put { key, value, lease: 0 });
        self.txn(Txn { success: puts.collect(), ..Txn::default() }).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, key: Key) -> Result<Deleted, ClientError> {
        self.delete_range(KeyRange::Key(key)).await
    }

    /// Deletes keys with a prefix, at most [`limits::DELETE_PREFIX_MAX_KEYS`] of them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_prefix(&self, prefix: impl Into<Bytes>) -> Result<Deleted, ClientError> {
        self.delete_range(KeyRange::Prefix(prefix.into())).await
    }

    async fn delete_range(&self, range: KeyRange) -> Result<Deleted, ClientError> {
        let txn = Txn { success: vec![TxnOp::Delete { range }], ..Txn::default() };
        let reply = self.txn(txn).await?;
        let (deleted, more) = match reply.results.first() {
            Some(OpResult::Delete { deleted, more }) => (*deleted, *more),
            _ => (0, false),
        };
        Ok(Deleted { revision: reply.revision, deleted, more })
    }

    /// Compares, then runs one of two lists of operations.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn txn(&self, txn: Txn) -> Result<WriteReply, ClientError> {
        let deadline = Deadline::after(self.inner.timeout);
        let lane = tokio::time::timeout_at(deadline.at, self.inner.lanes.take());
        let lane = lane.await.map_err(|_| ClientError::Busy {
            in_work: limits::CLIENT_LANES_MAX_COUNT,
            waited_ms: deadline.waited_ms(),
        })?;
        let result = self.write_in(&lane, WriteOp::Txn(txn), deadline).await;
        if !result.as_ref().is_err_and(ClientError::is_outcome_unknown) {
            self.inner.lanes.settle(lane);
        }
        result
    }

    /// Sends a write in its lane. A session that the cluster may have forgotten is no obstacle to a
    /// write that was never sent before: it then goes out with a newer `since`.
    async fn write_in(
        &self,
        lane: &Lane<'_>,
        op: WriteOp,
        deadline: Deadline,
    ) -> Result<WriteReply, ClientError> {
        let mut command = Command::new(op);
        let mut since = self.seen();
        for _ in 0..limits::CLIENT_SINCE_MAX_RETRIES {
            command.session = Some(lane.tag(since));
            match self.send_write(&command, deadline).await {
                Err(error) => since = newer_since(&error).ok_or(error)?,
                result => return result,
            }
        }
        command.session = Some(lane.tag(since));
        self.send_write(&command, deadline).await
    }

    async fn send_write(&self, command: &Command, deadline: Deadline) -> Result<WriteReply, ClientError> {
        let form = WriteForm::from_command(command, ENCODING)?;
        let repeat = match command.op {
            WriteOp::Txn(_) => Repeat::WithSession,
            WriteOp::Compact { .. } | WriteOp::Restore(_) => Repeat::Freely,
            WriteOp::Member(_) => Repeat::Never,
        };
        let body = to_json(&form);
        let mut call = Call::new(Method::POST, "/write", body, repeat, deadline);
        if matches!(command.op, WriteOp::Compact { .. }) {
            call.attempt_timeout = Duration::from_millis(limits::CLIENT_SLOW_ATTEMPT_TIMEOUT_MS);
        }
        let Decoded(reply): Decoded<WriteReply> = self.inner.http.call(&call).await?;
        self.saw(reply.revision);
        Ok(reply)
    }

    /// Forgets history before `revision`. `succeeded` is false if there was more to forget than time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compact(&self, revision: Revision) -> Result<WriteReply, ClientError> {
        let deadline = Deadline::after(self.inner.slow_timeout);
        let command = Command::new(WriteOp::Compact { revision });
        loop {
            let reply = self.send_write(&command, deadline).await?;
            if reply.succeeded || deadline.has_passed() {
                return Ok(reply);
            }
        }
    }

    fn seen(&self) -> Revision {
        Revision(self.inner.seen.load(Ordering::Relaxed))
    }

    fn saw(&self, revision: Revision) {
        self.inner.seen.fetch_max(revision.0, Ordering::Relaxed);
    }
}

/// The `since` to send a write again with that was refused for its session, if it certainly was not
/// applied by an earlier attempt.
fn newer_since(error: &ClientError) -> Option<Revision> {
    match error {
        ClientError::Refused { error, outcome_unknown: None, .. } if error.code == "session_expired" => {
            error.number("forgotten").map(Revision)
        }
        _ => None,
    }
}

/// A reply with its keys and values decoded. It is decoded where it is parsed, so that one which cannot
/// be understood counts as an attempt of unknown outcome.
struct Decoded<T>(T);

impl<'de> Deserialize<'de> for Decoded<WriteReply> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = WriteReplyForm::deserialize(deserializer)?;
        form.into_reply(ENCODING).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Decoded<ReadReply> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = ReadReplyForm::deserialize(deserializer)?;
        form.into_reply(ENCODING).map(Self).map_err(D::Error::custom)
    }
}

fn to_json(form: &impl Serialize) -> Bytes {
    serde_json::to_vec(form).expect("a form is JSON").into()
}
