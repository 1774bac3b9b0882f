//! Tickets: that of a node, and those with which new nodes join.

use std::time::{SystemTime, UNIX_EPOCH};

use super::args::TicketCommand;
use super::error::{CliError, Exit};
use super::output::Terminal;
use crate::kv::client::KvClient;
use crate::kv::types::{OutstandingTicket, TicketId};

pub(super) async fn ticket(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    command: Option<TicketCommand>,
) -> Result<Exit, CliError> {
    match command {
        None => own(client, terminal, json).await?,
        Some(TicketCommand::New { ttl, uses }) => new(client, terminal, json, ttl, uses).await?,
        Some(TicketCommand::List) => list(client, terminal, json).await?,
        Some(TicketCommand::Revoke { id }) => revoke(client, terminal, json, id).await?,
    }
    Ok(Exit::Done)
}

async fn own(client: &KvClient, terminal: &mut Terminal<'_>, json: bool) -> Result<(), CliError> {
    let peers = client.peers().await?;
    if json {
        terminal.json(&serde_json::json!({ "ticket": peers.ticket }))
    } else {
        terminal.line(&peers.ticket)
    }
}

async fn new(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    ttl_s: u64,
    uses: u32,
) -> Result<(), CliError> {
    let made = client.new_ticket(ttl_s, uses).await?;
    if json { terminal.json(&made) } else { terminal.line(&made.ticket) }
}

async fn list(client: &KvClient, terminal: &mut Terminal<'_>, json: bool) -> Result<(), CliError> {
    let tickets = client.tickets().await?;
    if json {
        return terminal.json(&tickets);
    }
    if tickets.is_empty() {
        terminal.note("no ticket is outstanding");
        return Ok(());
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let row = |ticket: &OutstandingTicket| {
        let left_ms = u128::from(ticket.expires_at_ms).saturating_sub(now_ms);
        vec![ticket.id.to_string(), ticket.uses_left.to_string(), format!("in {}", span(left_ms / 1_000))]
    };
    terminal.table(&["ID", "USES LEFT", "EXPIRES"], tickets.iter().map(row))
}

async fn revoke(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    id: TicketId,
) -> Result<(), CliError> {
    client.revoke_ticket(id).await?;
    if json {
        terminal.json(&serde_json::json!({ "revoked": id }))
    } else {
        terminal.line(&format!("ticket {id} is taken no more"))
    }
}

/// A time in its largest whole unit.
fn span(seconds: u128) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
