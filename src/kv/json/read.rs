//! `POST /read`: what is asked for, and what comes back.

use std::fmt::Display;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Encoding, FormError, is_false};
use crate::kv::types::{
    Consistency, Key, KeyRange, KeyValue, RangeReply, ReadReply, ReadRequest, Revision, Staleness,
};

/// A read: exactly one of `get` and `range`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadForm {
    /// One key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<GetForm>,
    /// Several keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<RangeForm>,
    /// As of this revision; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// How fresh it must be.
    #[serde(default)]
    pub consistency: Consistency,
    /// How bytes stand in this request and its reply.
    #[serde(default, skip_serializing_if = "Encoding::is_default")]
    pub encoding: Encoding,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetForm {
    /// The key.
    pub key: String,
}

/// A range of keys: `prefix`, or `start` and `end`, or nothing for all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeForm {
    /// Every key that starts so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The first key; from the very first on if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The first key behind the range; to the last key if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// At most so many keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Leave the values out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keys_only: bool,
}

/// A key with its value and where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValueForm {
    /// The key.
    pub key: String,
    /// The value; empty where only keys were asked for.
    pub value: String,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// How often it was written since it was created.
    pub version: u64,
    /// The lease that it hangs on; 0 for none.
    pub lease: u64,
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReplyForm {
    /// The newest revision in the state that was read.
    pub revision: u64,
    /// What was found, in order.
    pub kvs: Vec<KeyValueForm>,
    /// Whether the range holds more keys behind the last one.
    pub more: bool,
    /// Only for stale reads: how old the answer may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<Staleness>,
}

impl ReadForm {
    /// The request that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_request(self) -> Result<ReadRequest, FormError> {
        let encoding = self.encoding;
        FormError::exactly_one(
            "the request",
            "get, range",
            &[("get", self.get.is_some()), ("range", self.range.is_some())],
        )?;
        let (range, limit, keys_only) = match (self.get, self.range) {
            (Some(get), _) => (KeyRange::Key(encoding.key(get.key, &"get.key")?), None, false),
            (_, Some(range)) => range.into_range(encoding, &"range")?,
            (None, None) => unreachable!("exactly one of the two was sent"),
        };
        Ok(ReadRequest {
            range,
            limit,
            keys_only,
            revision: self.revision.map(Revision),
            consistency: self.consistency,
        })
    }

    /// The form that means `request`.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`], which base64 never gives.
    pub fn from_request(request: &ReadRequest, encoding: Encoding) -> Result<Self, FormError> {
        let mut form = Self {
            revision: request.revision.map(|revision| revision.0),
            consistency: request.consistency,
            encoding,
            ..Self::default()
        };
        match &request.range {
            // A limit of one key says nothing, so the short form serves unless values are left out.
            KeyRange::Key(key) if !request.keys_only => {
                form.get = Some(GetForm { key: encoding.encode(key.as_bytes(), &"get.key")? });
            }
            range => {
                form.range = Some(RangeForm::new(range, request.limit, request.keys_only, encoding)?);
            }
        }
        Ok(form)
    }
}

impl RangeForm {
    pub(super) fn into_range(
        self,
        encoding: Encoding,
        at: &dyn Display,
    ) -> Result<(KeyRange, Option<u64>, bool), FormError> {
        if self.limit == Some(0) {
            return Err(FormError::field(
                format_args!("{at}.limit"),
                "is 0: name 1 or more, or leave it out",
            ));
        }
        let bytes = |text: Option<String>, name: &str| {
            text.map(|text| encoding.decode(text, &format_args!("{at}.{name}"))).transpose()
        };
        let range = match self.prefix {
            Some(_) if self.start.is_some() || self.end.is_some() => {
                let problem = "has a prefix and a start or an end: send either the one or the others";
                return Err(FormError::field(at, problem));
            }
            Some(prefix) => KeyRange::Prefix(encoding.decode(prefix, &format_args!("{at}.prefix"))?),
            None => KeyRange::Span {
                start: bytes(self.start, "start")?.unwrap_or_default(),
                end: bytes(self.end, "end")?,
            },
        };
        Ok((range, self.limit, self.keys_only))
    }

    pub(super) fn new(
        range: &KeyRange,
        limit: Option<u64>,
        keys_only: bool,
        encoding: Encoding,
    ) -> Result<Self, FormError> {
        let mut form = Self { limit, keys_only, ..Self::default() };
        match range {
            KeyRange::Prefix(prefix) => form.prefix = Some(encoding.encode(prefix, &"range.prefix")?),
            KeyRange::Span { start, end } => {
                form.start = Some(encoding.encode(start, &"range.start")?);
                form.end = end.as_ref().map(|end| encoding.encode(end, &"range.end")).transpose()?;
            }
            KeyRange::Key(key) => {
                form.start = Some(encoding.encode(key.as_bytes(), &"range.start")?);
                form.end = Some(encoding.encode(&key_after(key), &"range.end")?);
            }
        }
        Ok(form)
    }
}

/// The least key that is greater.
fn key_after(key: &Key) -> Bytes {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next.into()
}

impl KeyValueForm {
    /// The form of `kv`; `at` says which one in an error.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`].
    pub fn new(kv: &KeyValue, encoding: Encoding, at: &dyn Display) -> Result<Self, FormError> {
        Ok(Self {
            key: encoding.encode(kv.key.as_bytes(), &format_args!("{at}.key"))?,
            value: encoding.encode(kv.value.as_bytes(), &format_args!("{at}.value"))?,
            create_revision: kv.create_revision.0,
            mod_revision: kv.mod_revision.0,
            version: kv.version,
            lease: kv.lease,
        })
    }

    fn into_key_value(self, encoding: Encoding, at: &dyn Display) -> Result<KeyValue, FormError> {
        Ok(KeyValue {
            key: encoding.key(self.key, &format_args!("{at}.key"))?,
            value: encoding.value(self.value, &format_args!("{at}.value"))?,
            create_revision: Revision(self.create_revision),
            mod_revision: Revision(self.mod_revision),
            version: self.version,
            lease: self.lease,
        })
    }

    pub(super) fn list(kvs: &[KeyValue], encoding: Encoding) -> Result<Vec<Self>, FormError> {
        kvs.iter()
            .enumerate()
            .map(|(index, kv)| Self::new(kv, encoding, &format_args!("kvs[{index}]")))
            .collect()
    }

    pub(super) fn into_list(kvs: Vec<Self>, encoding: Encoding) -> Result<Vec<KeyValue>, FormError> {
        kvs.into_iter()
            .enumerate()
            .map(|(index, kv)| kv.into_key_value(encoding, &format_args!("kvs[{index}]")))
            .collect()
    }
}

impl ReadReplyForm {
    /// The form of `reply`.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`].
    pub fn new(reply: &ReadReply, encoding: Encoding) -> Result<Self, FormError> {
        Ok(Self {
            revision: reply.revision.0,
            kvs: KeyValueForm::list(&reply.range.kvs, encoding)?,
            more: reply.range.more,
            staleness: reply.staleness,
        })
    }

    /// The reply that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_reply(self, encoding: Encoding) -> Result<ReadReply, FormError> {
        let kvs = KeyValueForm::into_list(self.kvs, encoding)?;
        Ok(ReadReply {
            revision: Revision(self.revision),
            range: RangeReply { kvs, more: self.more },
            staleness: self.staleness,
        })
    }
}
