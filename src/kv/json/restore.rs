//! `POST /restore`: the steps of a restore. Rows are base64, whatever they hold.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Encoding, FormError};
use crate::kv::types::{BackupTotals, RestoreId, RestoreStep, Revision};

/// Exactly one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreForm {
    /// Begin to stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<BeginRestoreForm>,
    /// Stage a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<RestoreChunkForm>,
    /// Replace the keys by what is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitRestoreForm>,
    /// Throw away what is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortRestoreForm>,
    /// Keep the keys, and move the revision on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_on: Option<MoveOnForm>,
}

/// The begin of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginRestoreForm {
    /// The restore, a UUID that the client drew.
    pub id: RestoreId,
    /// The revision that the backup holds.
    pub revision: u64,
    /// Whether keys that are there may be replaced.
    #[serde(default)]
    pub replace: bool,
}

/// A chunk of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreChunkForm {
    /// The restore.
    pub id: RestoreId,
    /// The chunk's number, from 0 on.
    pub number: u64,
    /// CRC32C of the rows.
    pub checksum: u32,
    /// The rows, as they stand in the backup, in base64.
    pub rows: String,
}

/// The commit of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRestoreForm {
    /// The restore.
    pub id: RestoreId,
    /// Keys in the backup.
    pub keys: u64,
    /// Chunks in the backup.
    pub chunks: u64,
    /// CRC32C of the chunks' checksums.
    pub checksum: u32,
}

/// The end of a restore that is not to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortRestoreForm {
    /// The restore; absent: whichever is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RestoreId>,
}

/// A revision that moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveOnForm {
    /// Names the move, a UUID that the client drew.
    pub id: RestoreId,
}

impl RestoreForm {
    /// The step that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_step(self) -> Result<RestoreStep, FormError> {
        FormError::exactly_one(
            "the request",
            "begin, chunk, commit, abort, move_on",
            &[
                ("begin", self.begin.is_some()),
                ("chunk", self.chunk.is_some()),
                ("commit", self.commit.is_some()),
                ("abort", self.abort.is_some()),
                ("move_on", self.move_on.is_some()),
            ],
        )?;
        Ok(if let Some(BeginRestoreForm { id, revision, replace }) = self.begin {
            RestoreStep::Begin { id, revision: Revision(revision), replace }
        } else if let Some(RestoreChunkForm { id, number, checksum, rows }) = self.chunk {
            let rows = Encoding::Base64.decode(rows, &"chunk.rows")?;
            RestoreStep::Chunk { id, number, checksum, rows }
        } else if let Some(CommitRestoreForm { id, keys, chunks, checksum }) = self.commit {
            RestoreStep::Commit { id, totals: BackupTotals { keys, chunks, checksum } }
        } else if let Some(AbortRestoreForm { id }) = self.abort {
            RestoreStep::Abort { id }
        } else {
            RestoreStep::MoveOn { id: self.move_on.expect("exactly one step was sent").id }
        })
    }
}

impl From<&RestoreStep> for RestoreForm {
    fn from(step: &RestoreStep) -> Self {
        let mut form = Self::default();
        match step {
            RestoreStep::Begin { id, revision, replace } => {
                form.begin = Some(BeginRestoreForm { id: *id, revision: revision.0, replace: *replace });
            }
            RestoreStep::Chunk { id, number, checksum, rows } => {
                let rows = BASE64.encode(rows);
                form.chunk = Some(RestoreChunkForm { id: *id, number: *number, checksum: *checksum, rows });
            }
            RestoreStep::Commit { id, totals: BackupTotals { keys, chunks, checksum } } => {
                form.commit =
                    Some(CommitRestoreForm { id: *id, keys: *keys, chunks: *chunks, checksum: *checksum });
            }
            RestoreStep::Abort { id } => form.abort = Some(AbortRestoreForm { id: *id }),
            RestoreStep::MoveOn { id } => form.move_on = Some(MoveOnForm { id: *id }),
        }
        form
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_comes_back_as_it_was_sent() {
        let id = RestoreId::random();
        for step in [
            RestoreStep::Begin { id, revision: Revision(7), replace: true },
            RestoreStep::Chunk { id, number: 3, checksum: u32::MAX, rows: (&b"\xff\0rows"[..]).into() },
            RestoreStep::Commit { id, totals: BackupTotals { keys: 1, chunks: 2, checksum: 3 } },
            RestoreStep::Abort { id: Some(id) },
            RestoreStep::Abort { id: None },
            RestoreStep::MoveOn { id },
        ] {
            let text = serde_json::to_string(&RestoreForm::from(&step)).unwrap();
            let form: RestoreForm = serde_json::from_str(&text).unwrap();
            assert_eq!(form.into_step().unwrap(), step, "{text}");
        }
    }

    #[test]
    fn anything_but_one_step_is_refused_by_name() {
        let refused =
            |text: &str| serde_json::from_str::<RestoreForm>(text).unwrap().into_step().unwrap_err();
        assert!(refused("{}").to_string().contains("none of them"));
        let id = RestoreId::random();
        let two = format!(r#"{{"abort":{{}},"begin":{{"id":"{id}","revision":1}}}}"#);
        assert!(refused(&two).to_string().contains("begin and abort"));
        let rows = format!(r#"{{"chunk":{{"id":"{id}","number":0,"checksum":0,"rows":"!"}}}}"#);
        assert!(refused(&rows).to_string().contains("chunk.rows is no base64"));
    }
}
