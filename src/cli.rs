//! The command line `aspen`: the client library for people and for scripts.
//!
//! Results go to the standard output, as a table or, with `--json`, as JSON; errors go to the standard
//! error, and the exit code tells their kinds apart. It keeps no state, and reads and writes no files but
//! those that it is told to.

mod args;
mod backup;
mod bench;
mod cluster;
mod error;
mod kv;
mod nodes;
mod output;
mod restore;
#[cfg(test)]
mod tests;
mod tickets;

pub use args::{Cli, Command};
pub use error::Exit;
pub use output::Terminal;

use self::error::CliError;
use crate::bench::http::HttpNodes;
use crate::kv::client::KvClient;
use crate::kv::token::HttpToken;

/// Runs one command and says how it went.
pub async fn run(cli: Cli, mut terminal: Terminal<'_>) -> Exit {
    let json = cli.json;
    let result = match connect(&cli) {
        Ok(client) => dispatch(cli, &client, &mut terminal).await,
        Err(error) => Err(error),
    };
    let result = result.and_then(|exit| terminal.flush().map(|()| exit));
    result.unwrap_or_else(|error| {
        // A reader that has seen enough is no failure.
        if error.is_closed_pipe() {
            return Exit::Done;
        }
        terminal.complain(&error, json);
        error.exit()
    })
}

fn connect(cli: &Cli) -> Result<KvClient, CliError> {
    let mut builder = KvClient::builder().addresses(cli.addresses());
    if let Some(cluster_id) = cli.cluster_id {
        builder = builder.cluster_id(cluster_id);
    }
    if let Some(path) = &cli.token_file {
        builder = builder.token(HttpToken::read(path)?);
    }
    if let Some(timeout) = cli.timeout {
        builder = builder.timeout(timeout);
    }
    Ok(builder.build()?)
}

async fn dispatch(cli: Cli, client: &KvClient, terminal: &mut Terminal<'_>) -> Result<Exit, CliError> {
    let json = cli.json;
    let addresses = cli.addresses();
    match cli.command {
        Command::Status => cluster::status(client, terminal, json).await,
        Command::Get(args) => kv::get(client, terminal, json, args).await,
        Command::Put(args) => kv::put(client, terminal, json, args).await,
        Command::Del(args) => kv::del(client, terminal, json, args).await,
        Command::Range(args) => kv::range(client, terminal, json, args).await,
        Command::Txn(args) => kv::txn(client, terminal, json, args).await,
        Command::Compact { revision } => kv::compact(client, terminal, json, revision).await,
        Command::Member(command) => cluster::member(client, terminal, json, command).await,
        Command::Node(command) => nodes::node(client, terminal, json, command).await,
        Command::Init => match addresses.len() {
            _ if cli.cluster_id.is_some() => Err(CliError::NewIdToInit),
            1 => cluster::init(client, terminal, json).await,
            count => Err(CliError::OneToInit { count }),
        },
        Command::Ticket { command } => tickets::ticket(client, terminal, json, command).await,
        Command::Backup(args) if args.check => backup::check(terminal, json, &args.file),
        Command::Backup(args) => backup::run(client, terminal, json, args).await,
        Command::Restore(args) => restore::run(client, terminal, json, args).await,
        Command::Bench(args) => {
            let token = cli.token_file.as_deref().map(HttpToken::read).transpose()?;
            let nodes = HttpNodes { addresses, token, cluster_id: cli.cluster_id };
            if args.iroh.is_empty() {
                return bench::over_http(nodes, terminal, json, args).await;
            }
            // Other nodes than those of the tickets, perhaps, unless they were named.
            let measured = (!cli.addr.is_empty()).then_some(nodes);
            bench::over_iroh(measured, terminal, json, args).await
        }
    }
}
