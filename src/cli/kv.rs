//! Keys and values.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use super::args::{DelArgs, GetArgs, PutArgs, RangeArgs, TxnArgs};
use super::error::{CliError, Exit};
use super::output::{Encoded, Terminal, cell, encoded_kv, read_up_to, readable};
use crate::kv::client::KvClient;
use crate::kv::json::{Encoding, TxnForm, WriteReplyForm};
use crate::kv::types::{
    Consistency, Key, KeyRange, KeyValue, OpResult, ReadRequest, Revision, Value, WriteReply,
};
use crate::limits;

pub(super) async fn get(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: GetArgs,
) -> Result<Exit, CliError> {
    let key = to_key(args.key)?;
    let request = ReadRequest {
        revision: args.rev.map(Revision),
        consistency: consistency(args.stale),
        ..ReadRequest::get(key.clone())
    };
    let reply = client.read(request).await?;
    let Some(kv) = reply.range.kvs.into_iter().next() else {
        return Err(CliError::NoSuchKey { key: readable(key.as_bytes()), revision: args.rev });
    };
    if json {
        terminal.json(&encoded_kv(&kv)?)?;
    } else {
        terminal.bare(kv.value.as_bytes())?;
    }
    Ok(Exit::Done)
}

pub(super) async fn put(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: PutArgs,
) -> Result<Exit, CliError> {
    let key = to_key(args.key)?;
    let value = if args.value == "-" {
        read_input(Path::new("-"), terminal, limits::VALUE_MAX_BYTES)?
    } else {
        args.value.into_encoded_bytes()
    };
    let reply = client.put(key, Value::new(value)?).await?;
    if json {
        terminal.json(&WriteReplyForm::new(&reply, Encoding::Utf8)?)?;
    } else {
        terminal.line(&format!("set at revision {}", reply.revision))?;
    }
    Ok(Exit::Done)
}

/// Deletes in pages, each atomic, until nothing is left.
pub(super) async fn del(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: DelArgs,
) -> Result<Exit, CliError> {
    let (deleted, revision) = if args.prefix {
        let prefix = Bytes::from(args.key.into_encoded_bytes());
        let mut page = client.delete_prefix(prefix.clone()).await?;
        let mut deleted = page.deleted;
        while page.more {
            page = client.delete_prefix(prefix.clone()).await?;
            deleted += page.deleted;
        }
        (deleted, page.revision)
    } else {
        let key = to_key(args.key)?;
        let page = client.delete(key.clone()).await?;
        if page.deleted == 0 {
            return Err(CliError::NoSuchKey { key: readable(key.as_bytes()), revision: None });
        }
        (page.deleted, page.revision)
    };
    if json {
        terminal.json(&serde_json::json!({ "deleted": deleted, "revision": revision }))?;
    } else {
        let keys = if deleted == 1 { "key" } else { "keys" };
        terminal.line(&format!("deleted {deleted} {keys} at revision {revision}"))?;
    }
    Ok(Exit::Done)
}

/// Lists page by page, all as of the revision of the first one.
pub(super) async fn range(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: RangeArgs,
) -> Result<Exit, CliError> {
    let mut listing = Listing { json, keys_only: args.keys_only, printed: 0 };
    let mut left = args.limit;
    let mut request = ReadRequest {
        consistency: consistency(args.stale),
        keys_only: args.keys_only,
        revision: args.rev.map(Revision),
        ..ReadRequest::range(key_range(args.prefix, args.from, args.to))
    };
    let end = match request.range.bounds().1 {
        std::ops::Bound::Excluded(end) => Some(end),
        _ => None,
    };
    loop {
        request.limit = Some(left.unwrap_or(limits::CLI_PAGE_KEYS).min(limits::CLI_PAGE_KEYS));
        let reply = client.read(request.clone()).await?;
        let kvs = reply.range.kvs;
        listing.page(terminal, &kvs)?;
        left = left.map(|left| left.saturating_sub(kvs.len() as u64));
        let next = kvs.last().map(|kv| next_key(&kv.key));
        match next {
            Some(start) if reply.range.more && left != Some(0) => {
                request.revision.get_or_insert(reply.revision);
                request.range = KeyRange::Span { start, end: end.clone() };
            }
            _ => break,
        }
    }
    listing.end(terminal)?;
    Ok(Exit::Done)
}

/// Prints keys as they come: a table for each page, or one JSON array.
struct Listing {
    json: bool,
    keys_only: bool,
    printed: usize,
}

impl Listing {
    fn page(&mut self, terminal: &mut Terminal<'_>, kvs: &[KeyValue]) -> Result<(), CliError> {
        if self.json {
            for kv in kvs {
                let before = if self.printed == 0 { "[\n" } else { ",\n" };
                write!(terminal.stdout, "{before}")?;
                let kv = encoded_kv(kv)?;
                serde_json::to_writer(&mut *terminal.stdout, &kv).map_err(std::io::Error::from)?;
                self.printed += 1;
            }
        } else if self.keys_only {
            for kv in kvs {
                terminal.line(&readable(kv.key.as_bytes()))?;
            }
        } else if !kvs.is_empty() {
            let row = |kv: &KeyValue| {
                let (key, value) = (readable(kv.key.as_bytes()), cell(kv.value.as_bytes()));
                vec![key, value, kv.mod_revision.to_string(), kv.version.to_string()]
            };
            terminal.table(&["KEY", "VALUE", "CHANGED AT", "VERSION"], kvs.iter().map(row))?;
        }
        Ok(())
    }

    fn end(self, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
        match (self.json, self.printed) {
            (true, 0) => terminal.line("[]"),
            (true, _) => terminal.line("\n]"),
            (false, _) => Ok(()),
        }
    }
}

pub(super) async fn txn(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: TxnArgs,
) -> Result<Exit, CliError> {
    let text = read_input(&args.file, terminal, limits::HTTP_BODY_MAX_BYTES)?;
    let form: TxnForm = serde_json::from_slice(&text).map_err(CliError::Txn)?;
    let encoding = if args.base64 { Encoding::Base64 } else { Encoding::Utf8 };
    let reply = client.txn(form.into_txn(encoding)?).await?;
    if json {
        terminal.json(&Encoded::new(|encoding| WriteReplyForm::new(&reply, encoding))?)?;
    } else {
        print_results(terminal, &reply)?;
    }
    Ok(if reply.succeeded { Exit::Done } else { Exit::NotFound })
}

fn print_results(terminal: &mut Terminal<'_>, reply: &WriteReply) -> Result<(), CliError> {
    let outcome = if reply.succeeded { "succeeded" } else { "a comparison failed" };
    terminal.line(&format!("{outcome}; revision {}", reply.revision))?;
    for (index, result) in reply.results.iter().enumerate() {
        let number = index + 1;
        match result {
            OpResult::Put => terminal.line(&format!("{number}. set"))?,
            OpResult::Member(_) => terminal.line(&format!("{number}. decided who may come in"))?,
            OpResult::Delete { deleted, more } => {
                let more = if *more { ", and there are more" } else { "" };
                terminal.line(&format!("{number}. deleted {deleted}{more}"))?;
            }
            OpResult::Range(range) => {
                let more = if range.more { ", and there are more" } else { "" };
                terminal.line(&format!("{number}. found {}{more}", range.kvs.len()))?;
                for kv in &range.kvs {
                    let (key, value) = (readable(kv.key.as_bytes()), cell(kv.value.as_bytes()));
                    terminal.line(&format!("   {key}  {value}"))?;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn compact(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    revision: u64,
) -> Result<Exit, CliError> {
    let reply = client.compact(Revision(revision)).await?;
    if !reply.succeeded {
        return Err(CliError::CompactionUnfinished { revision });
    }
    if json {
        terminal.json(&WriteReplyForm::new(&reply, Encoding::Utf8)?)?;
    } else {
        terminal.line(&format!("history before revision {revision} is forgotten"))?;
    }
    Ok(Exit::Done)
}

/// The bytes of a file, or of the standard input for `-`.
fn read_input(path: &Path, terminal: &mut Terminal<'_>, max_bytes: usize) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        read_up_to(terminal.stdin, max_bytes)
    } else {
        File::open(path).and_then(|mut file| read_up_to(&mut file, max_bytes))
    };
    let bytes = read.map_err(|source| CliError::Input { path: path.to_owned(), source })?;
    if bytes.len() > max_bytes {
        return Err(CliError::InputTooLarge { path: path.to_owned(), max_bytes });
    }
    Ok(bytes)
}

fn to_key(text: OsString) -> Result<Key, CliError> {
    Ok(Key::new(text.into_encoded_bytes())?)
}

fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

fn key_range(prefix: Option<OsString>, from: Option<OsString>, to: Option<OsString>) -> KeyRange {
    let bytes = |text: OsString| Bytes::from(text.into_encoded_bytes());
    match prefix {
        Some(prefix) => KeyRange::Prefix(bytes(prefix)),
        None => KeyRange::Span { start: from.map(bytes).unwrap_or_default(), end: to.map(bytes) },
    }
}

/// The least key that is greater.
fn next_key(key: &Key) -> Bytes {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next.into()
}
