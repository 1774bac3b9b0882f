//! Clients: they read and write through any node, and send a write again until its outcome is known or
//! their patience ends, as the client library does.
//!
//! # Tiger Style
//! One operation of a client is in work at a time, and ends within [`CALL_TIMEOUT`] and one attempt. A
//! session whose write has an unknown outcome is dropped: the write may still be on its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aspen::kv::types::{
    Command, Compare, CompareOp, CompareTarget, Consistency, Key, KeyRange, KvError, NodeId, OpResult,
    ReadReply, ReadRequest, Revision, SessionId, SessionTag, Txn, TxnOp, Value, WriteOp, WriteReply,
};
use bytes::Bytes;

use crate::chance;
use crate::cluster::Cluster;
use crate::history::RegisterOp;
use crate::network::{CLIENTS, CallError, ClientReply, ClientRequest};
use crate::oracle::{Began, Oracle, value_of};
use crate::world::{Violation, lock};

/// Time for one attempt, a little more than the nodes take for a request.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Time for an operation with all its attempts.
const CALL_TIMEOUT: Duration = Duration::from_millis(7_000);

/// Registers, pairs: few, so that clients meet.
const REGISTERS: u64 = 5;
const PAIRS: u64 = 2;

/// One client.
pub struct Client {
    number: u64,
    cluster: Cluster,
    oracle: Arc<Mutex<Oracle>>,
    session: Option<(SessionId, u64)>,
    seen: Revision,
    /// The node that answered last.
    preferred: Option<NodeId>,
    /// Writes to the key that this client counts on: acknowledged, and of unknown outcome.
    counted: (u64, u64),
}

/// How a write ended.
enum Written {
    Acknowledged(WriteReply),
    /// It certainly has no effect.
    Refused,
    Unknown,
}

/// What one attempt came to.
enum Attempt<T> {
    Answered(T),
    /// Nothing was changed by it.
    Again,
    /// It may have taken effect.
    Unsure,
    /// Nothing was changed, and no attempt ever will.
    Final,
}

impl Client {
    /// A client of a cluster.
    pub fn new(number: u64, cluster: Cluster, oracle: Arc<Mutex<Oracle>>) -> Self {
        Self { number, cluster, oracle, session: None, seen: Revision(0), preferred: None, counted: (0, 0) }
    }

    /// Works until it is over, and looks a last time at what it has counted on.
    pub async fn run(mut self, is_over: Arc<AtomicBool>) {
        let think_ms = self.cluster.settings().think_ms;
        while !is_over.load(Ordering::Relaxed) {
            madsim::time::sleep(chance::millis(think_ms.0, think_ms.1)).await;
            if let Err(violation) = self.operate().await {
                self.cluster.world().broken(violation);
            }
        }
        let mut checked = self.read_count().await;
        for register in 0..REGISTERS {
            checked = checked.and(self.get(&register_name(register)).await);
        }
        if let Err(violation) = checked {
            self.cluster.world().broken(violation);
        }
    }

    async fn operate(&mut self) -> Result<(), Violation> {
        let register = register_name(chance::between(0, REGISTERS));
        match chance::between(0, 100) {
            0..22 => self.put(&register).await,
            22..44 => self.get(&register).await,
            44..58 => self.swap(&register).await,
            58..64 => self.delete(&register).await,
            64..74 => self.put_pair().await,
            74..82 => self.read_pair().await,
            82..90 => self.count_up().await,
            90..94 => self.read_count().await,
            _ => self.read_stale(&register).await,
        }
    }

    async fn put(&mut self, register: &str) -> Result<(), Violation> {
        let value = lock(&self.oracle).new_value();
        let op = RegisterOp::Put(value);
        self.write_register(register, op, value, Command::put(key(register), bytes_of(value))).await
    }

    async fn delete(&mut self, register: &str) -> Result<(), Violation> {
        let value = lock(&self.oracle).new_value();
        let delete = Command::delete(key(register).into());
        self.write_register(register, RegisterOp::Delete, value, delete).await
    }

    async fn swap(&mut self, register: &str) -> Result<(), Violation> {
        let Some(current) = self.read_register(register).await? else { return Ok(()) };
        let value = lock(&self.oracle).new_value();
        let compare = Compare {
            key: key(register),
            op: CompareOp::Equal,
            target: CompareTarget::Value(bytes_of(current)),
        };
        let put = TxnOp::Put { key: key(register), value: bytes_of(value), lease: 0 };
        let txn = Txn { compare: vec![compare], success: vec![put], failure: Vec::new() };
        let op = RegisterOp::Swap { expected: current, new: value, succeeded: None };
        self.write_register(register, op, value, Command::new(WriteOp::Txn(txn))).await
    }

    /// Writes a register. The value stands for the write, also where it sets none.
    async fn write_register(
        &mut self,
        register: &str,
        op: RegisterOp,
        value: u64,
        command: Command,
    ) -> Result<(), Violation> {
        let (began, at) = self.begin();
        let written = self.write(command, format!("{register} {op:?}")).await?;
        let mut oracle = lock(&self.oracle);
        match written {
            Written::Acknowledged(reply) => {
                let op = crate::oracle::outcome_of(op, reply.succeeded);
                oracle.history.answered(register, at, op);
                oracle.written(began, value, has_changed(&reply), &reply)
            }
            Written::Unknown => {
                oracle.history.unanswered(register, at, op);
                Ok(())
            }
            Written::Refused => Ok(()),
        }
    }

    async fn get(&mut self, register: &str) -> Result<(), Violation> {
        self.read_register(register).await.map(drop)
    }

    async fn read_register(&mut self, register: &str) -> Result<Option<u64>, Violation> {
        let (began, at) = self.begin();
        let Some(reply) = self.read(ReadRequest::get(key(register))).await else { return Ok(None) };
        let value = reply.range.kvs.first().map(value_of);
        let mut oracle = lock(&self.oracle);
        oracle.history.answered(register, at, RegisterOp::Get(value));
        oracle.read(began, &reply)?;
        Ok(value)
    }

    async fn put_pair(&mut self) -> Result<(), Violation> {
        let value = lock(&self.oracle).new_value();
        let pair = chance::between(0, PAIRS);
        let put = |half| TxnOp::Put { key: key(&pair_key(pair, half)), value: bytes_of(value), lease: 0 };
        let (began, _) = self.begin();
        let command = Command::ops(vec![put("a"), put("b")]);
        match self.write(command, format!("pair {pair} v{value}")).await? {
            Written::Acknowledged(reply) => lock(&self.oracle).written(began, value, true, &reply),
            Written::Refused | Written::Unknown => Ok(()),
        }
    }

    async fn read_pair(&mut self) -> Result<(), Violation> {
        let pair = chance::between(0, PAIRS);
        let (began, _) = self.begin();
        let prefix = pair_key(pair, "");
        let request = ReadRequest::range(KeyRange::Prefix(Bytes::from(prefix.clone())));
        let Some(reply) = self.read(request).await else { return Ok(()) };
        let mut oracle = lock(&self.oracle);
        oracle.read(began, &reply)?;
        oracle.paired(&prefix, &reply.range.kvs)
    }

    /// Writes the key that nobody else writes.
    async fn count_up(&mut self) -> Result<(), Violation> {
        let value = lock(&self.oracle).new_value();
        let (began, _) = self.begin();
        let command = Command::put(key(&self.counter()), bytes_of(value));
        let what = self.counter();
        match self.write(command, format!("{what} v{value}")).await? {
            Written::Acknowledged(reply) => {
                self.counted.0 += 1;
                lock(&self.oracle).written(began, value, true, &reply)
            }
            Written::Unknown => {
                self.counted.1 += 1;
                Ok(())
            }
            Written::Refused => Ok(()),
        }
    }

    async fn read_count(&mut self) -> Result<(), Violation> {
        let (began, _) = self.begin();
        let Some(reply) = self.read(ReadRequest::get(key(&self.counter()))).await else { return Ok(()) };
        let version = reply.range.kvs.first().map_or(0, |kv| kv.version);
        let (acked, unknown) = self.counted;
        let mut oracle = lock(&self.oracle);
        oracle.read(began, &reply)?;
        oracle.counted(&self.counter(), version, acked, unknown)
    }

    async fn read_stale(&mut self, register: &str) -> Result<(), Violation> {
        let (began, _) = self.begin();
        let node = self.choose();
        let request = ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key(register)) };
        let asked = self.cluster.network().ask(node, &ClientRequest::Read(request), ATTEMPT_TIMEOUT).await;
        match asked {
            Ok(ClientReply::Read(Ok(reply))) => lock(&self.oracle).read_stale(node, began, &reply),
            _ => Ok(()),
        }
    }

    fn begin(&self) -> (Began, u64) {
        let mut oracle = lock(&self.oracle);
        (oracle.begin(), oracle.history.now())
    }

    fn counter(&self) -> String {
        format!("c{}", self.number)
    }

    /// Sends a write until its outcome is known or the time is up.
    async fn write(&mut self, command: Command, what: String) -> Result<Written, Violation> {
        let (id, last) = self.session.take().unwrap_or_else(|| (SessionId(draw_uuid()), 0));
        let sequence = last + 1;
        let command = Command { session: Some(SessionTag { id, sequence, since: self.seen }), ..command };
        let request = ClientRequest::Write(command);
        let (deadline, mut unsure) = (Instant::now() + CALL_TIMEOUT, false);
        self.cluster.world().note(CLIENTS, format_args!("c{} writes {what}", self.number));
        while Instant::now() < deadline {
            let node = self.choose();
            match self.attempt(node, &request).await {
                Attempt::Answered(ClientReply::Written(Ok(reply))) => {
                    self.cluster.world().note(
                        CLIENTS,
                        format_args!("c{} wrote {what}: {} {}", self.number, reply.revision, reply.replayed),
                    );
                    self.cluster.world().count("writes acknowledged");
                    (self.session, self.preferred) = (Some((id, sequence)), Some(node));
                    self.seen = self.seen.max(reply.revision);
                    return Ok(Written::Acknowledged(reply));
                }
                Attempt::Answered(ClientReply::Written(Err(error @ KvError::SequenceTooOld { .. }))) => {
                    let what = format!("a session's newest write, sequence {sequence}, is called old");
                    let expected = "it is applied once, and repeated";
                    return Err(Violation::new("client oracle", what, expected, error.to_string()));
                }
                Attempt::Answered(_) | Attempt::Final => {
                    // Without an earlier attempt that may have worked, nothing was changed.
                    self.session = (!unsure).then_some((id, last));
                    break;
                }
                Attempt::Again => {}
                Attempt::Unsure => unsure = true,
            }
            self.preferred = None;
            madsim::time::sleep(chance::millis(10, 120)).await;
        }
        if unsure {
            self.session = None;
            self.cluster.world().count("writes of unknown outcome");
            return Ok(Written::Unknown);
        }
        self.cluster.world().count("writes refused");
        Ok(Written::Refused)
    }

    /// Sends a linearizable read until it is answered or the time is up.
    async fn read(&mut self, request: ReadRequest) -> Option<ReadReply> {
        let request = ClientRequest::Read(request);
        let deadline = Instant::now() + CALL_TIMEOUT;
        while Instant::now() < deadline {
            let node = self.choose();
            if let Attempt::Answered(ClientReply::Read(Ok(reply))) = self.attempt(node, &request).await {
                self.cluster
                    .world()
                    .note(CLIENTS, format_args!("c{} read at {}", self.number, reply.revision));
                self.cluster.world().count("reads answered");
                self.preferred = Some(node);
                self.seen = self.seen.max(reply.revision);
                return Some(reply);
            }
            self.preferred = None;
            madsim::time::sleep(chance::millis(10, 120)).await;
        }
        self.cluster.world().count("reads given up");
        None
    }

    async fn attempt(&self, node: NodeId, request: &ClientRequest) -> Attempt<ClientReply> {
        match self.cluster.network().ask(node, request, ATTEMPT_TIMEOUT).await {
            Ok(ClientReply::Written(Err(error)) | ClientReply::Read(Err(error))) => judge(error),
            Ok(reply) => Attempt::Answered(reply),
            Err(CallError::NotSent(_)) => Attempt::Again,
            Err(CallError::NoAnswer(_)) => Attempt::Unsure,
        }
    }

    /// The node that answered last, or any other now and then: also one that is down.
    fn choose(&self) -> NodeId {
        let nodes: Vec<NodeId> = self.cluster.machines().iter().map(|machine| machine.id()).collect();
        match self.preferred {
            Some(node) if chance::happens(0.7) => node,
            _ => chance::one_of(&nodes),
        }
    }
}

/// What a refusal says about the request's fate.
fn judge(error: KvError) -> Attempt<ClientReply> {
    match error.code() {
        "not_leader" | "no_quorum" | "not_initialized" | "recovering" | "overloaded" | "removed" => {
            Attempt::Again
        }
        "outcome_unknown" | "stopping" | "storage" => Attempt::Unsure,
        "sequence_too_old" => Attempt::Answered(ClientReply::Written(Err(error))),
        _ => Attempt::Final,
    }
}

fn has_changed(reply: &WriteReply) -> bool {
    reply.results.iter().any(|result| match result {
        OpResult::Put => true,
        OpResult::Delete { deleted, .. } => *deleted > 0,
        OpResult::Range(_) | OpResult::Member(_) => false,
    })
}

fn key(name: &str) -> Key {
    Key::new(Bytes::copy_from_slice(name.as_bytes())).expect("names of keys are short")
}

fn register_name(register: u64) -> String {
    format!("r{register}")
}

fn pair_key(pair: u64, half: &str) -> String {
    format!("p{pair}/{half}")
}

/// A value: its number, and a few bytes so that records differ in length.
fn bytes_of(value: u64) -> Value {
    let mut bytes = value.to_be_bytes().to_vec();
    let padding = usize::try_from(value % 97).expect("a small number fits");
    bytes.resize(8 + padding, b'.');
    Value::new(bytes).expect("values are short")
}

fn draw_uuid() -> uuid::Uuid {
    uuid::Uuid::from_u128(madsim::rand::random())
}
