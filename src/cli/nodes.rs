//! Single nodes: how each is, and operations on one.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::args::NodeCommand;
use super::cluster::{disk_line, listed_role};
use super::error::{CliError, Exit};
use super::output::Terminal;
use crate::kv::client::KvClient;
use crate::kv::types::{ClusterOverview, Election, NodeId, NodeReport, NodeView, PathType, PeerPath};

const NONE: &str = "-";

/// A line for each member, by its own word, or since when there is none.
pub(super) fn print_table(terminal: &mut Terminal<'_>, overview: &ClusterOverview) -> Result<(), CliError> {
    let own = overview.nodes.iter().find(|view| view.node_id == overview.status.node_id);
    let paths = own.and_then(|own| own.report.as_ref()).map(|report| report.peers.as_slice());
    let paths = paths.unwrap_or_default();
    let header = ["ID", "ROLE", "STATE", "TERM", "APPLIED", "LAG", "DISK", "VERSION", "PATH"];
    let role_of = |node_id: NodeId| {
        let member = overview.status.members.iter().find(|member| member.node_id == node_id);
        member.map_or(NONE.to_owned(), |member| listed_role(member.role).to_string())
    };
    let rows = overview.nodes.iter().map(|view| {
        let path = paths.iter().find(|path| path.node_id == view.node_id).map_or(NONE.to_owned(), path_cell);
        match &view.report {
            Some(report) => reachable_row(view.node_id, report, path),
            None => unreachable_row(view, role_of(view.node_id), path),
        }
    });
    terminal.table(&header, rows)?;
    for view in &overview.nodes {
        if let (None, Some(reason)) = (&view.report, &view.reason) {
            terminal.line(&format!("node {}: {reason}", view.node_id))?;
        }
    }
    Ok(())
}

fn reachable_row(node_id: NodeId, report: &NodeReport, path: String) -> Vec<String> {
    vec![
        node_id.to_string(),
        report.role.to_string(),
        report.state.as_str().to_owned(),
        report.term.to_string(),
        report.applied_index.map_or(NONE.to_owned(), |index| index.to_string()),
        report.lag_entries.to_string(),
        report.disk.map_or(NONE.to_owned(), |disk| disk.state.as_str().to_owned()),
        report.version.clone(),
        path,
    ]
}

fn unreachable_row(view: &NodeView, role: String, path: String) -> Vec<String> {
    let state = match view.unreachable_since_ms {
        Some(since_ms) => format!("unreachable since {}", time_of(since_ms)),
        None => "silent".to_owned(),
    };
    let unknown = || NONE.to_owned();
    vec![view.node_id.to_string(), role, state, unknown(), unknown(), unknown(), unknown(), unknown(), path]
}

/// What leads from the answering node to another one.
fn path_cell(path: &PeerPath) -> String {
    let kind = match path.path_type {
        Some(PathType::Direct) => "direct",
        Some(PathType::Relay) => "relay",
        None => return NONE.to_owned(),
    };
    match path.rtt_us {
        Some(us) => format!("{kind}, {}.{} ms", us / 1_000, us % 1_000 / 100),
        None => kind.to_owned(),
    }
}

/// A time of day in UTC, to the second.
fn time_of(since_epoch_ms: u64) -> String {
    let time = i64::try_from(since_epoch_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    time.map_or(NONE.to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

pub(super) async fn node(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    command: NodeCommand,
) -> Result<Exit, CliError> {
    match command {
        NodeCommand::Show { id } => {
            let report = client.node_report(id).await?;
            if json {
                terminal.json(&report)?;
            } else {
                print_report(terminal, id, &report)?;
            }
        }
        NodeCommand::Snapshot { id } => {
            let made = client.snapshot_node(id).await?;
            let index =
                made.snapshot_index.map_or("nothing yet".to_owned(), |index| format!("entry {index}"));
            say(terminal, json, &made, &format!("node {id} has a snapshot up to {index}"))?;
        }
        NodeCommand::CompactFiles { id } => {
            let done = client.compact_files_of(id).await?;
            let (before, after) = (done.before_bytes, done.after_bytes);
            let sentence =
                format!("the state of node {id} takes up {after} bytes, and took up {before} before");
            say(terminal, json, &done, &sentence)?;
        }
        NodeCommand::Elect { id } => {
            let election = client.elect_node(id).await?;
            say(terminal, json, &election, &elected(&election))?;
        }
        NodeCommand::LogFilter { id, filter } => {
            let set = client.set_log_filter_of(id, filter).await?;
            let sentence = format!("node {id} logs {}, and logged {} before", set.filter, set.before);
            say(terminal, json, &set, &sentence)?;
        }
        NodeCommand::SupportBundle { id } => {
            let bundle = client.support_bundle_of(id).await?;
            terminal.line(&serde_json::to_string_pretty(&bundle).expect("what was JSON is JSON"))?;
        }
    }
    Ok(Exit::Done)
}

fn elected(election: &Election) -> String {
    let Election { node_id, leader, term } = election;
    match leader {
        Some(leader) if leader == node_id => format!("node {node_id} leads in term {term}"),
        Some(leader) => format!("node {leader} leads in term {term}, as before: a majority hears it"),
        None => format!("nobody leads in term {term}: no majority would vote for node {node_id}"),
    }
}

fn say(
    terminal: &mut Terminal<'_>,
    json: bool,
    reply: &impl Serialize,
    sentence: &str,
) -> Result<(), CliError> {
    if json { terminal.json(reply) } else { terminal.line(sentence) }
}

fn print_report(terminal: &mut Terminal<'_>, id: NodeId, report: &NodeReport) -> Result<(), CliError> {
    let NodeReport { version, uptime_s, role, term, lag_entries, log_filter, .. } = report;
    let number = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
    terminal.line(&format!("node {id}: {} ({})", report.state.as_str(), report.detail))?;
    terminal.line(&format!("{role} in term {term}, version {version}, up for {uptime_s} s"))?;
    terminal.line(&format!(
        "log to entry {}, committed to {}, applied to {} ({lag_entries} behind), snapshot to {}",
        number(report.last_log_index),
        number(report.committed_index),
        number(report.applied_index),
        number(report.snapshot_index)
    ))?;
    if let Some(disk) = &report.disk {
        terminal.line(&disk_line(disk))?;
    }
    if let Some(bytes) = report.state_bytes {
        terminal.line(&format!("the state takes up {bytes} bytes"))?;
    }
    terminal.line(&format!("logs {log_filter}"))?;
    for path in &report.peers {
        let error = path.last_error.as_ref().map_or(String::new(), |error| format!(" ({error})"));
        terminal.line(&format!("to node {}: {}{error}", path.node_id, path_cell(path)))?;
    }
    Ok(())
}
