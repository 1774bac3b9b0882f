//! `aspen restore`: replaces all keys of a cluster by those of a backup.
//!
//! The file is read twice: once to know that it is whole before a byte is sent, and once to send it. What
//! is sent is staged, and counts only when all of it is there and the cluster has compared the sums.

use std::path::Path;
use std::time::Duration;

use super::args::RestoreArgs;
use super::backup::{BackupReader, KeyBar, Whole, check_file};
use super::error::{CliError, Exit};
use super::output::Terminal;
use crate::kv::backup::{BackupHeader, Decoded};
use crate::kv::client::{ClientError, KvClient};
use crate::kv::types::{RestoreId, RestoreStep, WriteReply};
use crate::limits;

pub(super) async fn run(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: RestoreArgs,
) -> Result<Exit, CliError> {
    let Some(path) = args.file else {
        return abort(client, terminal, json).await;
    };
    let whole = check_file(&path)?;
    let id = begin(client, terminal, &whole, args.replace).await?;
    let staged = tokio::select! {
        staged = stage(client, &path, &whole.header, id) => staged,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    if let Err(error) = staged {
        give_up(client, id).await;
        return Err(error);
    }
    let reply = match client.restore_step(&RestoreStep::Commit { id, totals: whole.totals }).await {
        Ok(reply) => reply,
        Err(error) => {
            if !error.is_outcome_unknown() {
                give_up(client, id).await;
            }
            return Err(error.into());
        }
    };
    print(terminal, json, &path, &whole, &reply)?;
    Ok(Exit::Done)
}

/// Begins the restore, and says what it will replace.
async fn begin(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    whole: &Whole,
    replace: bool,
) -> Result<RestoreId, CliError> {
    let (id, revision) = (RestoreId::random(), whole.header.revision);
    // First as if nothing may be replaced: the refusal says how much there is.
    match client.restore_step(&RestoreStep::Begin { id, revision, replace: false }).await {
        Ok(_) if !replace => return Ok(id),
        // Keys may come until the commit.
        Ok(_) => {}
        Err(ClientError::Refused { error, .. }) if error.code == "not_empty" => {
            let number = |name| error.number(name).unwrap_or_default();
            let (keys, at) = (number("keys"), number("revision"));
            if !replace {
                return Err(CliError::WouldReplace { keys, revision: at, backup_keys: whole.header.keys });
            }
            writeln!(
                terminal.stderr,
                "the {keys} keys that the cluster holds at revision {at} will be replaced by {}",
                whole.describe()
            )?;
        }
        Err(error) => return Err(error.into()),
    }
    // Another one: a begin that comes again changes nothing.
    let id = RestoreId::random();
    client.restore_step(&RestoreStep::Begin { id, revision, replace }).await?;
    Ok(id)
}

/// Sends all chunks.
async fn stage(
    client: &KvClient,
    path: &Path,
    checked: &BackupHeader,
    id: RestoreId,
) -> Result<(), CliError> {
    let mut reader = BackupReader::open(path)?;
    let bar = KeyBar::new("restore");
    while let Some(part) = reader.next_part()? {
        match part {
            Decoded::Header(header) if header != *checked => {
                return Err(CliError::FileChanged { path: path.to_owned() });
            }
            Decoded::Header(header) => bar.begin(header.keys),
            Decoded::Chunk { number, checksum, keys, rows } => {
                client.restore_step(&RestoreStep::Chunk { id, number, checksum, rows }).await?;
                bar.advance(keys);
            }
            // The cluster compares the sums with those of the file that was checked.
            Decoded::End(_) => {}
        }
    }
    Ok(())
}

/// Has the cluster throw away what was sent. If it cannot be told, the next restore does so.
async fn give_up(client: &KvClient, id: RestoreId) {
    let bound = Duration::from_millis(limits::CLI_ABORT_TIMEOUT_MS);
    let abort = RestoreStep::Abort { id: Some(id) };
    tokio::time::timeout(bound, client.restore_step(&abort)).await.ok();
}

async fn abort(client: &KvClient, terminal: &mut Terminal<'_>, json: bool) -> Result<Exit, CliError> {
    let reply = client.restore_step(&RestoreStep::Abort { id: None }).await?;
    let was_under_way = !reply.replayed;
    if json {
        terminal.json(&serde_json::json!({ "aborted": was_under_way, "revision": reply.revision }))?;
    } else if was_under_way {
        terminal.line("what the restore had sent is thrown away; the keys were not touched")?;
    } else {
        terminal.line("no restore is under way")?;
    }
    Ok(Exit::Done)
}

fn print(
    terminal: &mut Terminal<'_>,
    json: bool,
    path: &Path,
    whole: &Whole,
    reply: &WriteReply,
) -> Result<(), CliError> {
    let BackupHeader { keys, revision, .. } = whole.header;
    if json {
        let done = serde_json::json!({
            "file": path, "keys": keys, "backup_revision": revision, "revision": reply.revision,
        });
        return terminal.json(&done);
    }
    let now = reply.revision;
    terminal
        .line(&format!("restored {keys} keys of revision {revision}; the cluster is at revision {now} now"))
}
