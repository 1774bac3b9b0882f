//! Whether a write may be proposed, as far as disks are concerned.
//!
//! The leader decides, before the write is in any log: what is in the log must be applied, whatever room
//! there is. It must never refuse a read, and never let a write wait for a disk that will not take it.

use std::time::Instant;

use super::KvService;
use super::attempt::Attempt;
use crate::kv::types::{
    Command, DiskState, DiskStatus, KeyRange, KeyValue, KvError, NodeId, ReadRequest, RestoreStep, Txn,
    TxnOp, WriteOp, WriteReply,
};
use crate::limits;
use crate::raft::handover::{self, Unwell};
use crate::raft::observe;
use crate::raft::runtime;
use crate::raft::types::Proposal;
use crate::storage::record::decode_command;
use crate::storage::space::{Admitted, Growth, NoRoom};
use crate::storage::state::StateReader;

impl KvService {
    /// Lets a proposal in, or says what becomes of it.
    pub(super) async fn let_in(&self, proposal: &Proposal) -> Result<Admitted, Attempt<WriteReply>> {
        let now = Instant::now();
        self.refuse_if_hanging(now)?;
        let parts = &self.0.parts;
        let unwell = self.0.disk_reports.unwell(now);
        let encoded = proposal.0.len() as u64 * limits::DISK_BYTES_PER_COMMAND_BYTE;
        if unwell.is_empty()
            && parts.disk.space().fits_any_command()
            && let Ok(admitted) = parts.disk.space().admit(Growth::Adds, encoded)
        {
            return Ok(admitted);
        }
        let command = decode_command(proposal)
            .map_err(|error| Attempt::Done(Err(KvError::Storage { reason: error.to_string() }.into())))?;
        let (growth, removed) =
            self.growth(command).await.map_err(|error| Attempt::Done(Err(error.into())))?;
        let needed_bytes = encoded + removed * limits::DISK_BYTES_PER_REMOVED_BYTE;
        self.refuse_without_quorum(&unwell, growth, needed_bytes)?;
        let admitted = parts.disk.admit(growth, needed_bytes).await;
        admitted.map_err(|no_room| self.refusal(no_room, growth, &unwell))
    }

    /// A change of the membership goes on for as long as deletes do.
    pub(super) async fn let_membership_in<T>(&self) -> Result<Admitted, Attempt<T>> {
        self.refuse_if_hanging(Instant::now())?;
        let admitted = self.0.parts.disk.admit(Growth::Frees, 0).await;
        admitted.map_err(|no_room| Attempt::Done(Err(self.disk_full(no_room).into())))
    }

    /// A disk that hangs keeps nothing: what is proposed now might be committed by the others, but
    /// nobody could be told.
    fn refuse_if_hanging<T>(&self, now: Instant) -> Result<(), Attempt<T>> {
        match self.0.parts.disk.hanging(now) {
            None => Ok(()),
            Some(time) => Err(Attempt::NotDelivered(format!(
                "node {} leads, but its disk has not finished a write for {} ms",
                self.node_id(),
                time.as_millis()
            ))),
        }
    }

    /// Refuses what a majority has no room for: it would wait in the log, neither kept nor refused.
    fn refuse_without_quorum<T>(
        &self,
        unwell: &Unwell,
        growth: Growth,
        needed_bytes: u64,
    ) -> Result<(), Attempt<T>> {
        let lacks_room = |status: &DiskStatus| match growth {
            Growth::Adds => matches!(status.state, DiskState::Full | DiskState::Exhausted),
            Growth::Frees => status.state == DiskState::Exhausted,
        };
        let takes = |node_id: NodeId| !unwell.get(&node_id).is_some_and(&lacks_room);
        if observe::look(&self.0.parts.raft, |metrics| handover::is_majority(metrics, takes)) {
            return Ok(());
        }
        let (node_id, status) = unwell
            .iter()
            .filter(|(_, status)| lacks_room(status))
            .min_by_key(|(_, status)| status.free_bytes)
            .expect("voters without room are missing in the majority");
        let reserve = status.reserve_bytes.unwrap_or(0);
        let kept_bytes = match growth {
            Growth::Adds => reserve,
            Growth::Frees => reserve / limits::DISK_LAST_RESERVE_DIVISOR,
        };
        let free_bytes = status.free_bytes.unwrap_or(0);
        let error = KvError::DiskFull { node_id: *node_id, free_bytes, kept_bytes, needed_bytes };
        Err(Attempt::Done(Err(error.into())))
    }

    /// While another node can take the leadership over, the write waits for it; otherwise it fails.
    fn refusal<T>(&self, no_room: NoRoom, growth: Growth, unwell: &Unwell) -> Attempt<T> {
        let error = self.disk_full(no_room);
        if growth == Growth::Adds && !self.is_well() && self.successor(unwell).is_some() {
            return Attempt::NotDelivered(format!("{error}; it hands the leadership over"));
        }
        Attempt::Done(Err(error.into()))
    }

    pub(super) fn disk_full(&self, no_room: NoRoom) -> KvError {
        let NoRoom { free_bytes, kept_bytes, needed_bytes } = no_room;
        KvError::DiskFull { node_id: self.node_id(), free_bytes, kept_bytes, needed_bytes }
    }

    /// What a command does to the disk, and how many bytes of old values it moves into the history.
    async fn growth(&self, command: Command) -> Result<(Growth, u64), KvError> {
        let txn = match command.op {
            WriteOp::Compact { .. } | WriteOp::Member(_) => return Ok((Growth::Frees, 0)),
            WriteOp::Restore(
                RestoreStep::Commit { .. } | RestoreStep::Abort { .. } | RestoreStep::MoveOn { .. },
            ) => {
                return Ok((Growth::Frees, 0));
            }
            WriteOp::Restore(_) => return Ok((Growth::Adds, 0)),
            WriteOp::Txn(txn) => txn,
        };
        let puts = |op: &TxnOp| matches!(op, TxnOp::Put { .. });
        let adds = txn.success.iter().chain(&txn.failure).any(puts);
        let reader = self.0.parts.reader.clone();
        // Ranges take long enough to be in the way of other tasks.
        let removed = runtime::blocking(move || removed_bytes(&reader, &txn)).await;
        let removed = removed.map_err(|error| KvError::Storage { reason: error.to_string() })??;
        Ok((if adds { Growth::Adds } else { Growth::Frees }, removed))
    }
}

/// Bytes of the keys and values that a transaction removes at the most, by either of its lists.
fn removed_bytes(reader: &StateReader, txn: &Txn) -> Result<u64, KvError> {
    let of = |ops: &[TxnOp]| ops.iter().map(|op| removed_by(reader, op)).sum::<Result<u64, KvError>>();
    Ok(of(&txn.success)?.max(of(&txn.failure)?))
}

fn removed_by(reader: &StateReader, op: &TxnOp) -> Result<u64, KvError> {
    let range = match op {
        TxnOp::Put { key, .. } => KeyRange::Key(key.clone()),
        TxnOp::Delete { range } => range.clone(),
        TxnOp::Range { .. } => return Ok(0),
    };
    let (_, found) = reader.read(&ReadRequest::range(range))?;
    if found.more {
        // Longer than one look: as much as the state machine lets one transaction remove.
        return Ok(limits::DELETE_PREFIX_MAX_BYTES as u64);
    }
    let size =
        |kv: &KeyValue| kv.key.as_bytes().len() + kv.value.as_bytes().len() + limits::KV_OVERHEAD_BYTES;
    Ok(found.kvs.iter().map(size).sum::<usize>() as u64)
}
