//! What can be said on the command line.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::bench::Mix;
use crate::bench::plan::KEY_NUMBER_BYTES;
use crate::kv::client::Address;
use crate::kv::types::{ClusterId, NodeId, TicketId};
use crate::limits;
use crate::transport::ticket::NodeTicket;

/// Talk to an Aspen cluster.
#[derive(Debug, Parser)]
#[command(name = "aspen", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Where members listen; the others are asked when one fails [default: http://127.0.0.1:4600]
    #[arg(long, global = true, env = "ASPEN_ADDR", value_name = "http://HOST:PORT", value_delimiter = ',')]
    pub addr: Vec<Address>,

    /// Be served by this cluster alone, and not by one that a node founded which lost its data directory
    #[arg(long, global = true, env = "ASPEN_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<ClusterId>,

    /// File that holds the bearer token
    #[arg(long, global = true, env = "ASPEN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Print JSON, for programs; errors too
    #[arg(long, global = true)]
    pub json: bool,

    /// Give up after so many seconds, retries included [default: 20; for changes of members 45]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<Duration>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  no such key, or the transaction's comparison failed
  2  the command line or its input is wrong
  3  the cluster cannot be reached, has no quorum, or is not formed yet
  4  the cluster refused the request
  5  the outcome is unknown: the change may or may not have taken effect

Examples:
  aspen put greeting hello
  aspen get greeting
  aspen range --prefix config/ --json
  aspen --addr http://10.0.0.1:4600,http://10.0.0.2:4600 member list";

impl Cli {
    /// Where members listen, as was said or by default.
    pub(super) fn addresses(&self) -> Vec<Address> {
        if self.addr.is_empty() {
            return vec![Address::from(DEFAULT_ADDR)];
        }
        self.addr.clone()
    }
}

/// Where a node listens unless it is told otherwise.
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4600);

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the cluster and all its nodes; exits with 3 if the node that answers cannot serve
    Status,
    /// Print the value of a key, and nothing else
    Get(GetArgs),
    /// Set a key
    #[command(after_help = "Examples:\n  aspen put greeting hello\n  aspen put cert - < cert.pem")]
    Put(PutArgs),
    /// Delete a key, or all keys with a prefix
    Del(DelArgs),
    /// List keys in order, as of one revision
    #[command(
        after_help = "Examples:\n  aspen range --prefix config/\n  aspen range --from a --to c --limit 10 --keys-only"
    )]
    Range(RangeArgs),
    /// Compare keys, then run one of two lists of operations, all or nothing
    #[command(after_help = TXN_HELP)]
    Txn(TxnArgs),
    /// List, add, promote and remove members
    #[command(subcommand)]
    Member(MemberCommand),
    /// Look at single nodes and operate them, through any member
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make a new cluster of the one node at --addr; exits with 3 if it does not serve yet
    Init,
    /// Print the ticket of the node at --addr, which others need to reach it; or make, list and revoke those to
    /// join with
    Ticket {
        /// What else to do about tickets.
        #[command(subcommand)]
        command: Option<TicketCommand>,
    },
    /// Forget history: revisions before this one can no longer be read
    Compact {
        /// The oldest revision to keep
        #[arg(value_name = "REVISION")]
        revision: u64,
    },
    /// Write all keys, as of one revision, to a file; or check one that was written
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Replace all keys by those of a backup, at one revision
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Put the nodes at --addr, or those of tickets, under load, and measure them
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
}

const BACKUP_HELP: &str = "\
A backup holds keys, values, revisions and leases, but no history and no members. It is checked while it
comes in, and stands under its name only once all of it is on the disk.

Examples:
  aspen backup monday.aspen
  aspen backup --check monday.aspen";

const RESTORE_HELP: &str = "\
The whole file is checked before anything is sent. The cluster takes reads and writes until the keys of the
backup are all there; then they replace what it holds, in one step. Its revision moves forward, beyond any
that it or the cluster of the backup can have had: who reads or watches from an older one is told so.

Examples:
  aspen restore monday.aspen
  aspen restore monday.aspen --replace";

const BENCH_HELP: &str = "\
It writes keys that begin with --key-prefix and leaves them there. Each client has one request under way.
Clients are dealt out to the connections, and those to the addresses of --addr, or to the tickets of
--iroh. A connection over HTTP carries one request at a time, one over iroh those of all its clients.

Over iroh, nodes let in the keys that they were told to: `aspen-node keygen --out FILE` makes one and
prints its public half, which the nodes are given with --client-key. A key is for one process at a time.
The processor time of the nodes is reported where --addr names all of them as well.

Examples:
  aspen bench --clients 64
  aspen bench --mix put=10,get=90 --value-size 4096 --duration 30
  aspen bench --rate 1000 --histogram latency.hlog --json
  aspen bench --iroh \"$(cat n1/endpoint)\",\"$(cat n2/endpoint)\" --key-file bench.key --clients 64";

const TXN_HELP: &str = r#"The transaction is the "txn" of POST /write, as docs/http-api.md describes it.

Example, which takes a lock unless somebody holds it:
  echo '{
    "compare": [{"key": "lock", "target": "version", "op": "equal", "number": 0}],
    "success": [{"put": {"key": "lock", "value": "me"}}],
    "failure": [{"get": {"key": "lock"}}]
  }' | aspen txn"#;

/// What to get.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key
    pub key: OsString,
    /// Read as of this revision
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<u64>,
    /// Take what the asked node has, without waiting for a quorum: it may be out of date
    #[arg(long)]
    pub stale: bool,
}

/// What to put.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key
    pub key: OsString,
    /// The value, or - to read it from the standard input
    #[arg(allow_hyphen_values = true)]
    pub value: OsString,
}

/// What to delete.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// The key, or the prefix
    pub key: OsString,
    /// Delete all keys that start so
    #[arg(long)]
    pub prefix: bool,
}

/// What to list.
#[derive(Debug, Args)]
pub struct RangeArgs {
    /// Only keys that start so
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["from", "to"])]
    pub prefix: Option<OsString>,
    /// From this key on
    #[arg(long, value_name = "KEY")]
    pub from: Option<OsString>,
    /// Up to this key, which is left out
    #[arg(long, value_name = "KEY")]
    pub to: Option<OsString>,
    /// At most so many keys
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Read as of this revision
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<u64>,
    /// Take what the asked node has, without waiting for a quorum: it may be out of date
    #[arg(long)]
    pub stale: bool,
}

/// Where the transaction is.
#[derive(Debug, Args)]
pub struct TxnArgs {
    /// File that holds it as JSON, or - for the standard input
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Its keys and values are base64
    #[arg(long)]
    pub base64: bool,
}

/// Where to back up to.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file
    #[arg(value_parser = backup_file())]
    pub file: PathBuf,
    /// Replace the file if it is there
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
    /// Read the file and say whether it is whole; no node is asked
    #[arg(long)]
    pub check: bool,
}

/// What to restore.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(required_unless_present = "abort", value_parser = backup_file())]
    pub file: Option<PathBuf>,
    /// Replace the keys that the cluster holds; without it only an empty cluster is restored to
    #[arg(long)]
    pub replace: bool,
    /// Throw away what a restore that was cut short has sent to the cluster
    #[arg(long, conflicts_with_all = ["file", "replace"])]
    pub abort: bool,
}

/// What load to make.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Clients, each with one request under way
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clients)]
    pub clients: usize,
    /// Connections that the clients share [default: one each; over iroh at most 16]
    #[arg(long, value_name = "COUNT", value_parser = clients)]
    pub connections: Option<usize>,
    /// Tickets of the nodes to put under load over iroh rather than HTTP
    #[arg(long, value_name = "TICKET,...", value_delimiter = ',', requires = "key_file")]
    pub iroh: Vec<NodeTicket>,
    /// File of mode 0600 with the secret key that the nodes know the load by
    #[arg(long, value_name = "FILE", requires = "iroh")]
    pub key_file: Option<PathBuf>,
    /// Shares of put, get, stale-get, range and txn
    #[arg(long, value_name = "KIND=SHARE,...", default_value = "put=100")]
    pub mix: Mix,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = value_bytes)]
    pub value_size: usize,
    /// Number of different keys
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: u64,
    /// What the keys begin with
    #[arg(long, value_name = "PREFIX", default_value = "bench/", value_parser = key_prefix)]
    pub key_prefix: String,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub duration: Duration,
    /// Seconds of load before measuring begins; 0 for none
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds_or_none)]
    pub warmup: Duration,
    /// Operations a second of all clients together; latency then counts from when each was due
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub rate: Option<f64>,
    /// Set every key once before the load; so it is by default if the mix reads
    #[arg(long)]
    pub preload: bool,
    /// Read what is there already
    #[arg(long, conflicts_with = "preload")]
    pub no_preload: bool,
    /// File for all latencies, as an HDR histogram log
    #[arg(long, value_name = "FILE")]
    pub histogram: Option<PathBuf>,
    /// Where chance begins [default: the time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// What to do about tickets.
#[derive(Debug, Subcommand)]
pub enum TicketCommand {
    /// Make a ticket with which a new node joins: `aspen-node --join TICKET`. It is a secret
    New {
        /// How long it can be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl_s)]
        ttl: u64,
        /// How many nodes may join with it
        #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::JOIN_TICKET_USES_MAX_COUNT)))]
        uses: u32,
    },
    /// List the tickets that nodes can still join with, without their secrets
    List,
    /// Have a ticket taken no more; who has joined with it stays
    Revoke {
        /// Its id, as listed
        #[arg(value_name = "ID")]
        id: TicketId,
    },
}

/// What to do about members.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members with their roles and addresses
    List,
    /// Add a node without a vote, and wait until it has caught up
    AddLearner {
        /// The new node's ticket: `aspen ticket` there, or the file 'endpoint' in its data directory
        ticket: String,
    },
    /// Give learners a vote
    Promote {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<NodeId>,
    },
    /// Remove members from the cluster for good; a leader hands over first
    Remove {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<NodeId>,
        /// Do it although too few of the voters that are left would answer; says what is at stake
        #[arg(long)]
        force: bool,
    },
    /// Put a new node in a member's place: add it, wait until it has caught up, give it the vote, remove
    /// the other
    Replace {
        /// The member that goes
        #[arg(value_name = "OLD")]
        old: NodeId,
        /// The new node's ticket: `aspen ticket` there, or the file 'endpoint' in its data directory
        #[arg(long = "with", value_name = "TICKET")]
        ticket: String,
    },
    /// Hand the leadership over to a voter, or to the one whose log is longest
    TransferLeader {
        /// Who shall lead
        #[arg(value_name = "ID")]
        id: Option<NodeId>,
    },
}

/// What to do about a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show how a node is
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
    },
    /// Make a snapshot of a node's state, which lets it shorten its log
    Snapshot {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
    },
    /// Copy a node's state into a file without free pages
    CompactFiles {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
    },
    /// Have a node stand for election; a leader that a majority hears stays
    Elect {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
    },
    /// Have a node log by another filter until it is started again
    LogFilter {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
        /// The filter, such as info,aspen::transport=debug [default: what it was started with]
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Print all that is needed to find out what is wrong with a node, as JSON and without secrets
    SupportBundle {
        /// Its id
        #[arg(value_name = "ID")]
        id: NodeId,
    },
}

/// A file by its name. A backup is renamed once it is whole, and read twice for a restore: no pipe can be either.
fn backup_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path.as_os_str() == "-" { Err("it must be a file: a backup is in no pipe") } else { Ok(path) }
    })
}

fn clients(text: &str) -> Result<usize, String> {
    let max = limits::BENCH_CLIENTS_MAX_COUNT;
    text.parse().ok().filter(|count| (1..=max).contains(count)).ok_or(format!("it must be from 1 to {max}"))
}

fn value_bytes(text: &str) -> Result<usize, String> {
    let max = limits::VALUE_MAX_BYTES;
    text.parse().ok().filter(|bytes| *bytes <= max).ok_or(format!("it must be from 0 to {max}"))
}

fn key_prefix(text: &str) -> Result<String, String> {
    let max = limits::KEY_MAX_BYTES - KEY_NUMBER_BYTES;
    if text.len() > max { Err(format!("it must have at most {max} bytes")) } else { Ok(text.to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "it must be a number of operations a second, such as 1000".to_owned())
}

fn ttl_s(text: &str) -> Result<u64, String> {
    let max = limits::JOIN_TICKET_TTL_MAX_S;
    let (number, unit_s) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 60 * 60),
        Some((number, "d")) => (number, 24 * 60 * 60),
        _ => (text, 1),
    };
    let ttl_s = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s));
    let ttl_s = ttl_s.filter(|ttl_s| (1..=max).contains(ttl_s));
    ttl_s.ok_or_else(|| {
        format!("it must be a time such as 90s, 30m, 1h or 7d, of at most {} days", max / 86_400)
    })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text.parse() == Ok(0.0) { Ok(Duration::ZERO) } else { parse_seconds(text) }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "it must be a number of seconds, such as 5 or 0.5".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if timeout >= Duration::from_millis(1) && timeout <= Duration::from_secs(86_400) => {
            Ok(timeout)
        }
        _ => Err("it must be more than 0 seconds and at most a day".to_owned()),
    }
}
