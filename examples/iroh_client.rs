//! A client without HTTP: encrypted, known by a key of its own, and able to reach a node behind NAT.
//!
//! ```text
//! aspen-node keygen --out client.key            # prints the public half
//! aspen-node --client-key PUBLIC_KEY &
//! cargo run --example iroh_client -- client.key "$(cat aspen-data/endpoint)"
//! ```

#![allow(clippy::print_stdout, reason = "it says what it did")]

use std::path::Path;

use anyhow::{Context, ensure};
use aspen::config::secret_file;
use aspen::kv::types::{Command, Key, KvError, ReadRequest, SessionId, SessionTag, Value};
use aspen::transport::client::{ClientEndpoint, IrohClient, RequestError};
use aspen::transport::ticket::NodeTicket;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key_file, ticket] = &arguments[..] else { anyhow::bail!("usage: iroh_client KEY_FILE TICKET") };
    println!("{}", run(Path::new(key_file), &ticket.parse()?).await?);
    Ok(())
}

/// Writes a key at a node, reads it back, and says what came of it.
///
/// # Errors
/// A key file that is none, a node that does not let the key in, and those of its cluster.
pub async fn run(key_file: &Path, ticket: &NodeTicket) -> anyhow::Result<String> {
    let secret = secret_file::read(key_file, None)?;
    let secret_key = secret.to_key().context("the file holds no key as `aspen-node keygen` makes them")?;
    let endpoint = ClientEndpoint::open(secret_key, [ticket]).await?;
    let client = endpoint.connect(ticket, None).await?;

    let key = Key::new("greeting")?;
    let revision = write_once(&client, Command::put(key.clone(), Value::new("hello")?)).await?;
    let reply = client.read(ReadRequest::get(key)).await?;
    let found = reply.range.kvs.first().context("it has just been written")?;
    ensure!(found.mod_revision == revision, "somebody else writes it, too");
    let said = format!(
        "node {} has {:?} since revision {revision}",
        client.node_id(),
        String::from_utf8_lossy(found.value.as_bytes())
    );
    endpoint.close().await;
    Ok(said)
}

/// Writes once, also where an answer is lost: with a session the command may be sent again.
async fn write_once(client: &IrohClient, command: Command) -> anyhow::Result<aspen::kv::types::Revision> {
    const ATTEMPTS: usize = 3;
    // A session has one write at a time, each with the next number. `since` is what was seen before the first.
    let seen = client.read(ReadRequest::get(Key::new("greeting")?)).await?.revision;
    let session = SessionTag { id: SessionId::random(), sequence: 1, since: seen };
    let command = Command { session: Some(session), ..command };
    let mut attempts = 0;
    loop {
        attempts += 1;
        match client.write(command.clone()).await {
            Ok(reply) => return Ok(reply.revision),
            Err(error) if attempts < ATTEMPTS && may_pass(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether another attempt may do better. With a session it does no harm either.
fn may_pass(error: &RequestError) -> bool {
    error.is_outcome_unknown()
        || matches!(error, RequestError::Kv(KvError::NotLeader { .. } | KvError::NoQuorum { .. }))
}
