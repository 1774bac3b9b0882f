//! The cluster and its members.

use std::collections::BTreeSet;

use super::args::MemberCommand;
use super::error::{CliError, Exit};
use super::nodes;
use super::output::Terminal;
use crate::kv::client::{ClientError, KvClient};
use crate::kv::types::{
    ClusterStatus, DiskStatus, KeyRange, Member, MembershipChange, MembershipChanged, NodeId, NodeState,
    ReadRequest, Role,
};

pub(super) async fn status(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
) -> Result<Exit, CliError> {
    let overview = client.overview().await?;
    let status = &overview.status;
    if json {
        terminal.json(&overview)?;
    } else {
        print_summary(terminal, status)?;
        if overview.nodes.is_empty() {
            // An older node tells of the members what it knows itself.
            print_members_below(terminal, status)?;
        } else {
            terminal.line("")?;
            nodes::print_table(terminal, &overview)?;
        }
    }
    Ok(served(status))
}

fn served(status: &ClusterStatus) -> Exit {
    if status.state == NodeState::Serving { Exit::Done } else { Exit::Unavailable }
}

fn print_status(terminal: &mut Terminal<'_>, status: &ClusterStatus) -> Result<(), CliError> {
    print_summary(terminal, status)?;
    print_members_below(terminal, status)
}

fn print_members_below(terminal: &mut Terminal<'_>, status: &ClusterStatus) -> Result<(), CliError> {
    if status.members.is_empty() {
        return Ok(());
    }
    terminal.line("")?;
    print_members(terminal, status)
}

fn print_summary(terminal: &mut Terminal<'_>, status: &ClusterStatus) -> Result<(), CliError> {
    let ClusterStatus { node_id, term, revision, compacted_revision, .. } = status;
    let cluster = status.cluster_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let leader = status.leader.map_or_else(|| "none".to_owned(), |id| id.to_string());
    terminal.line(&format!("node {node_id}: {} ({})", status.state.as_str(), status.detail))?;
    terminal.line(&format!("cluster {cluster}, leader {leader}, term {term}"))?;
    terminal.line(&format!("revision {revision}, readable from {compacted_revision} on"))?;
    if let Some(disk) = &status.disk {
        terminal.line(&disk_line(disk))?;
    }
    Ok(())
}

pub(super) fn disk_line(disk: &DiskStatus) -> String {
    let mut line = format!("disk {}", disk.state.as_str());
    if let (Some(free), Some(reserve)) = (disk.free_bytes, disk.reserve_bytes) {
        line.push_str(&format!(", {free} bytes free, {reserve} kept in reserve"));
    }
    if disk.sync_ms > 0 {
        line.push_str(&format!(", a sync has taken {} ms so far", disk.sync_ms));
    }
    line
}

pub(super) async fn member(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    command: MemberCommand,
) -> Result<Exit, CliError> {
    let changed = match command {
        MemberCommand::List => return list(client, terminal, json).await,
        MemberCommand::AddLearner { ticket } => client.add_learner(ticket.trim()).await?,
        MemberCommand::Promote { ids } => promote(client, ids).await?,
        MemberCommand::Remove { ids, force } => {
            let change =
                MembershipChange { remove: ids.into_iter().collect(), ..MembershipChange::default() };
            match client.change_membership(change.clone()).await {
                Err(ClientError::Refused { error, .. }) if force && error.code == "quorum_at_stake" => {
                    terminal.note(&format!("at stake: {}", error.message));
                    client.change_membership(MembershipChange { force, ..change }).await?
                }
                changed => changed?,
            }
        }
        MemberCommand::Replace { old, ticket } => client.replace_member(old, ticket.trim()).await?,
        MemberCommand::TransferLeader { id } => return transfer_leader(client, terminal, json, id).await,
    };
    print_membership(terminal, json, &changed)?;
    Ok(Exit::Done)
}

async fn transfer_leader(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
    to: Option<NodeId>,
) -> Result<Exit, CliError> {
    let leader = client.transfer_leader(to).await?;
    if json {
        terminal.json(&serde_json::json!({ "leader": leader }))?;
    } else {
        terminal.line(&format!("node {leader} leads"))?;
    }
    Ok(Exit::Done)
}

async fn promote(client: &KvClient, ids: Vec<NodeId>) -> Result<MembershipChanged, CliError> {
    // The change names all voters, so a node that lags would take a vote away from those that it has
    // not heard of. A linearizable read there makes it catch up first.
    let catch_up = ReadRequest {
        limit: Some(1),
        keys_only: true,
        ..ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new()))
    };
    client.read(catch_up).await?;
    let status = client.status().await?;
    let voters = status.members.iter().filter(|member| member.role != Role::Learner);
    let voters: BTreeSet<NodeId> = voters.map(|member| member.node_id).chain(ids).collect();
    Ok(client.set_voters(voters).await?)
}

/// One of three roles, which scripts may rely on: a voter that stands for election leads nobody.
pub(super) fn listed_role(role: Role) -> Role {
    match role {
        Role::Candidate => Role::Follower,
        role => role,
    }
}

async fn list(client: &KvClient, terminal: &mut Terminal<'_>, json: bool) -> Result<Exit, CliError> {
    let status = client.status().await?;
    if json {
        let listed = |member: &Member| Member { role: listed_role(member.role), ..member.clone() };
        terminal.json(&status.members.iter().map(listed).collect::<Vec<_>>())?;
    } else {
        if let Some(cluster_id) = status.cluster_id {
            terminal.line(&format!("cluster {cluster_id}"))?;
        }
        print_members(terminal, &status)?;
    }
    Ok(Exit::Done)
}

fn print_members(terminal: &mut Terminal<'_>, status: &ClusterStatus) -> Result<(), CliError> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let row = |member: &Member| {
        let mut addresses: Vec<_> = member.addresses.iter().map(ToString::to_string).collect();
        addresses.extend(member.relay_url.clone());
        vec![
            member.node_id.to_string(),
            listed_role(member.role).to_string(),
            addresses.join(", "),
            text(member.http_addr.map(|address| address.to_string())),
            text(member.matched_index.map(|index| index.to_string())),
            text(member.last_heard_ms.map(|ms| format!("{ms} ms ago"))),
        ]
    };
    let header = ["ID", "ROLE", "ADDRESSES", "HTTP", "LOG", "HEARD FROM"];
    terminal.table(&header, status.members.iter().map(row))
}

fn print_membership(
    terminal: &mut Terminal<'_>,
    json: bool,
    changed: &MembershipChanged,
) -> Result<(), CliError> {
    if json {
        return terminal.json(changed);
    }
    let ids = |ids: &BTreeSet<NodeId>| {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
    };
    terminal.line(&format!("voters: {}", ids(&changed.voters)))?;
    terminal.line(&format!("learners: {}", ids(&changed.learners)))
}

pub(super) async fn init(
    client: &KvClient,
    terminal: &mut Terminal<'_>,
    json: bool,
) -> Result<Exit, CliError> {
    let status = client.init().await?;
    if json {
        terminal.json(&status)?;
    } else {
        print_status(terminal, &status)?;
    }
    Ok(served(&status))
}
