//! `POST /write`: the operations.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{Encoding, FormError, GetForm, RangeForm};
use crate::kv::types::{
    Command, Compare, CompareOp, CompareTarget, KeyRange, Revision, SessionId, SessionTag, Txn, TxnOp,
    WriteOp,
};

/// A write: exactly one operation, with what makes it safe to send again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteForm {
    /// Set a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<PutForm>,
    /// Delete a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<GetForm>,
    /// Delete all keys with a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_prefix: Option<PrefixForm>,
    /// Set several keys at one revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_multi: Option<SetMultiForm>,
    /// Compare, then run one of two lists of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<TxnForm>,
    /// Forget history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact: Option<CompactForm>,
    /// Makes the write safe to send again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionForm>,
    /// How bytes stand in this request and its reply.
    #[serde(default, skip_serializing_if = "Encoding::is_default")]
    pub encoding: Encoding,
}

/// A key and its new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutForm {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// All keys with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixForm {
    /// The prefix.
    pub prefix: String,
}

/// The keys of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteRangeForm {
    /// The first key; may be empty.
    pub start: String,
    /// The first key behind the span; to the last key if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// Several keys, set at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMultiForm {
    /// What to set, in order.
    pub pairs: Vec<PutForm>,
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxnForm {
    /// All must hold for `success` to run.
    #[serde(default)]
    pub compare: Vec<CompareForm>,
    /// Runs if they do.
    #[serde(default)]
    pub success: Vec<OpForm>,
    /// Runs otherwise.
    #[serde(default)]
    pub failure: Vec<OpForm>,
}

/// One comparison: of the value with `value`, of anything else with `number`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareForm {
    /// The key looked at.
    pub key: String,
    /// What of it.
    pub target: CompareWith,
    /// How the two are compared.
    pub op: CompareOp,
    /// The operand for `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The operand for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

/// What a comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareWith {
    /// The value.
    Value,
    /// The number of writes since creation.
    Version,
    /// The revision of creation.
    CreateRevision,
    /// The revision of the last change.
    ModRevision,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpForm {
    /// Set a key.
    Put(PutForm),
    /// Delete a key.
    Delete(GetForm),
    /// Delete all keys with a prefix.
    DeletePrefix(PrefixForm),
    /// Delete the keys of a span.
    DeleteRange(DeleteRangeForm),
    /// Read a key.
    Get(GetForm),
    /// Read a range.
    Range(RangeForm),
}

/// A compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactForm {
    /// The oldest revision that can still be read afterwards.
    pub revision: u64,
}

/// A session and the write's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionForm {
    /// The session, a UUID that the client drew.
    pub id: SessionId,
    /// The write's number in its session, from 1 on. A retry repeats it.
    pub sequence: u64,
    /// A revision that the client had seen before it first sent this write.
    #[serde(default)]
    pub since: u64,
}

/// A place in a list of operations, for errors.
struct At(&'static str, usize);

impl Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

impl WriteForm {
    /// The command that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_command(self) -> Result<Command, FormError> {
        self.check_one_operation()?;
        let encoding = self.encoding;
        if self.compact.is_some() && self.session.is_some() {
            let problem = "cannot go with compact, which is safe to send again as it is";
            return Err(FormError::field("session", problem));
        }
        let session = self.session.map(SessionTag::from);
        let single = |op: OpForm| {
            let at = match &op {
                OpForm::Put(_) => "put",
                OpForm::Delete(_) => "delete",
                _ => "delete_prefix",
            };
            Ok(txn_of(vec![op.into_op(encoding, &at)?]))
        };
        let op = if let Some(put) = self.put {
            single(OpForm::Put(put))?
        } else if let Some(key) = self.delete {
            single(OpForm::Delete(key))?
        } else if let Some(prefix) = self.delete_prefix {
            single(OpForm::DeletePrefix(prefix))?
        } else if let Some(set_multi) = self.set_multi {
            txn_of(set_multi.into_ops(encoding)?)
        } else if let Some(txn) = self.txn {
            WriteOp::Txn(txn.into_txn(encoding)?)
        } else {
            let compact = self.compact.expect("exactly one operation was sent");
            WriteOp::Compact { revision: Revision(compact.revision) }
        };
        Ok(Command { session, op })
    }

    fn check_one_operation(&self) -> Result<(), FormError> {
        FormError::exactly_one(
            "the request",
            "put, delete, delete_prefix, set_multi, txn, compact",
            &[
                ("put", self.put.is_some()),
                ("delete", self.delete.is_some()),
                ("delete_prefix", self.delete_prefix.is_some()),
                ("set_multi", self.set_multi.is_some()),
                ("txn", self.txn.is_some()),
                ("compact", self.compact.is_some()),
            ],
        )
    }

    /// The form that means `command`.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`], which base64 never gives, and [`FormError::Field`] for a lease, which
    /// JSON cannot say.
    pub fn from_command(command: &Command, encoding: Encoding) -> Result<Self, FormError> {
        let mut form = Self { session: command.session.map(SessionForm::from), encoding, ..Self::default() };
        match &command.op {
            WriteOp::Txn(txn) => form.txn = Some(TxnForm::new(txn, encoding)?),
            WriteOp::Compact { revision } => form.compact = Some(CompactForm { revision: revision.0 }),
            WriteOp::Restore(_) => return Err(FormError::field("restore", "has a path of its own")),
            WriteOp::Member(_) => {
                return Err(FormError::field(
                    "the command",
                    "decides who may come in: no client can send it",
                ));
            }
        }
        Ok(form)
    }
}

fn txn_of(success: Vec<TxnOp>) -> WriteOp {
    WriteOp::Txn(Txn { success, ..Txn::default() })
}

impl SetMultiForm {
    fn into_ops(self, encoding: Encoding) -> Result<Vec<TxnOp>, FormError> {
        if self.pairs.is_empty() {
            return Err(FormError::field("set_multi.pairs", "is empty: send at least one pair"));
        }
        self.pairs
            .into_iter()
            .enumerate()
            .map(|(index, pair)| OpForm::Put(pair).into_op(encoding, &At("set_multi.pairs", index)))
            .collect()
    }
}

impl From<SessionForm> for SessionTag {
    fn from(form: SessionForm) -> Self {
        Self { id: form.id, sequence: form.sequence, since: Revision(form.since) }
    }
}

impl From<SessionTag> for SessionForm {
    fn from(tag: SessionTag) -> Self {
        Self { id: tag.id, sequence: tag.sequence, since: tag.since.0 }
    }
}

impl TxnForm {
    /// The transaction that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_txn(self, encoding: Encoding) -> Result<Txn, FormError> {
        let ops = |forms: Vec<OpForm>, name| {
            forms
                .into_iter()
                .enumerate()
                .map(|(index, op)| {
                    let at = At(name, index);
                    let op_at = op.name();
                    op.into_op(encoding, &format_args!("{at}.{op_at}"))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let compare = self.compare.into_iter().enumerate();
        let compare = compare.map(|(index, form)| form.into_compare(encoding, &At("txn.compare", index)));
        Ok(Txn {
            compare: compare.collect::<Result<_, _>>()?,
            success: ops(self.success, "txn.success")?,
            failure: ops(self.failure, "txn.failure")?,
        })
    }

    fn new(txn: &Txn, encoding: Encoding) -> Result<Self, FormError> {
        let ops =
            |ops: &[TxnOp]| ops.iter().map(|op| OpForm::new(op, encoding)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            compare: txn
                .compare
                .iter()
                .map(|compare| CompareForm::new(compare, encoding))
                .collect::<Result<_, _>>()?,
            success: ops(&txn.success)?,
            failure: ops(&txn.failure)?,
        })
    }
}

impl CompareForm {
    fn into_compare(self, encoding: Encoding, at: &dyn Display) -> Result<Compare, FormError> {
        let key = encoding.key(self.key, &format_args!("{at}.key"))?;
        let target = match (self.target, self.value, self.number) {
            (CompareWith::Value, Some(value), None) => {
                CompareTarget::Value(encoding.value(value, &format_args!("{at}.value"))?)
            }
            (CompareWith::Version, None, Some(number)) => CompareTarget::Version(number),
            (CompareWith::CreateRevision, None, Some(number)) => {
                CompareTarget::CreateRevision(Revision(number))
            }
            (CompareWith::ModRevision, None, Some(number)) => CompareTarget::ModRevision(Revision(number)),
            (CompareWith::Value, ..) => {
                return Err(FormError::field(
                    at,
                    "looks at the value: it takes \"value\", and no \"number\"",
                ));
            }
            _ => {
                let problem = "looks at a version or a revision: it takes \"number\", and no \"value\"";
                return Err(FormError::field(at, problem));
            }
        };
        Ok(Compare { key, op: self.op, target })
    }

    fn new(compare: &Compare, encoding: Encoding) -> Result<Self, FormError> {
        let (target, value, number) = match &compare.target {
            CompareTarget::Value(value) => {
                let value = encoding.encode(value.as_bytes(), &"txn.compare.value")?;
                (CompareWith::Value, Some(value), None)
            }
            CompareTarget::Version(number) => (CompareWith::Version, None, Some(*number)),
            CompareTarget::CreateRevision(revision) => (CompareWith::CreateRevision, None, Some(revision.0)),
            CompareTarget::ModRevision(revision) => (CompareWith::ModRevision, None, Some(revision.0)),
        };
        let key = encoding.encode(compare.key.as_bytes(), &"txn.compare.key")?;
        Ok(Self { key, target, op: compare.op, value, number })
    }
}

impl OpForm {
    fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::DeletePrefix(_) => "delete_prefix",
            Self::DeleteRange(_) => "delete_range",
            Self::Get(_) => "get",
            Self::Range(_) => "range",
        }
    }

    fn into_op(self, encoding: Encoding, at: &dyn Display) -> Result<TxnOp, FormError> {
        Ok(match self {
            Self::Put(PutForm { key, value }) => TxnOp::Put {
                key: encoding.key(key, &format_args!("{at}.key"))?,
                value: encoding.value(value, &format_args!("{at}.value"))?,
                lease: 0,
            },
            Self::Delete(form) => {
                TxnOp::Delete { range: KeyRange::Key(encoding.key(form.key, &format_args!("{at}.key"))?) }
            }
            Self::DeletePrefix(form) => TxnOp::Delete {
                range: KeyRange::Prefix(encoding.decode(form.prefix, &format_args!("{at}.prefix"))?),
            },
            Self::DeleteRange(DeleteRangeForm { start, end }) => {
                let form = RangeForm { start: Some(start), end, ..RangeForm::default() };
                TxnOp::Delete { range: form.into_range(encoding, at)?.0 }
            }
            Self::Get(form) => TxnOp::Range {
                range: KeyRange::Key(encoding.key(form.key, &format_args!("{at}.key"))?),
                limit: None,
                keys_only: false,
            },
            Self::Range(form) => {
                let (range, limit, keys_only) = form.into_range(encoding, at)?;
                TxnOp::Range { range, limit, keys_only }
            }
        })
    }

    fn new(op: &TxnOp, encoding: Encoding) -> Result<Self, FormError> {
        Ok(match op {
            TxnOp::Put { lease, .. } if *lease != 0 => {
                return Err(FormError::field("put.lease", "cannot be sent over HTTP"));
            }
            TxnOp::Put { key, value, .. } => Self::Put(PutForm {
                key: encoding.encode(key.as_bytes(), &"put.key")?,
                value: encoding.encode(value.as_bytes(), &"put.value")?,
            }),
            TxnOp::Delete { range: KeyRange::Key(key) } => {
                Self::Delete(GetForm { key: encoding.encode(key.as_bytes(), &"delete.key")? })
            }
            TxnOp::Delete { range: KeyRange::Prefix(prefix) } => {
                Self::DeletePrefix(PrefixForm { prefix: encoding.encode(prefix, &"delete_prefix.prefix")? })
            }
            TxnOp::Delete { range: KeyRange::Span { start, end } } => Self::DeleteRange(DeleteRangeForm {
                start: encoding.encode(start, &"delete_range.start")?,
                end: end.as_ref().map(|end| encoding.encode(end, &"delete_range.end")).transpose()?,
            }),
            TxnOp::Range { range: KeyRange::Key(key), keys_only: false, .. } => {
                Self::Get(GetForm { key: encoding.encode(key.as_bytes(), &"get.key")? })
            }
            TxnOp::Range { range, limit, keys_only } => {
                Self::Range(RangeForm::new(range, *limit, *keys_only, encoding)?)
            }
        })
    }
}
