//! The command line of `aspen-node`.
//!
//! Flags are kept as text: the same table and the same checks as for the other layers apply, so that
//! an error reads the same wherever a value was set. The names are stable.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  A cluster of one, at once:
    aspen-node
  A second node, which waits until the first adds it:
    aspen-node --node-id 2 --data-dir ./node-2 --http-addr 127.0.0.1:4610 --iroh-addr 0.0.0.0:4611 \\
      --peer \"$(cat ./aspen-data/endpoint)\"
  One of three that found a cluster together, each with the tickets of the others:
    aspen-node --node-id 2 --bootstrap static --peer \"$TICKET_1\" --peer \"$TICKET_3\"
  What would be in force, and which layer set it:
    aspen-node --config aspen.toml --print-config
  Whether the disk still holds what was written, while the node is stopped:
    aspen-node verify --data-dir ./aspen-data

Every setting can also be given in a TOML file under the flag's name with underscores (http_addr), and
in the environment with ASPEN_ in front (ASPEN_HTTP_ADDR). A later layer wins: defaults < environment <
file < flags. Settings in tables of the file have two underscores in the environment
(ASPEN_RAFT__HEARTBEAT_INTERVAL_MS).

SIGHUP has a running node read its settings again: the log filter and further peers take effect at once,
and the log says what waits for the next start. SIGTERM stops it in order.

Exit codes: 0 stopped on request, 1 failed, 2 refused its flags or configuration.";

const VERIFY_CODES: &str = "\
Exit codes: 0 all is well, 1 something is damaged, 2 refused: the node runs, or there is no data.";

const REPAIR_CODES: &str = "\
Where the log or the metadata is damaged, the node must not vote again with what is left: the steps to
replace it are printed. Damaged files are kept under another name.

Exit codes: 0 repaired, or nothing to repair; 1 cannot be repaired; 2 refused: the node runs, or there is
no data.";

const RECOVER_CODES: &str = "\
The node keeps its data and its id, and becomes the only member of a cluster with another id. What other
members acknowledged and this one never got is lost. While a majority may come back, wait for it instead.

Exit codes: 0 done, or said what would be; 1 failed on the way: run it again; 2 refused, nothing changed.";

/// One node of Aspen, a replicated key-value store.
///
/// Without flags it makes a cluster of one: data in ./aspen-data, HTTP on 127.0.0.1:4600, nodes on UDP
/// port 4601.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "aspen-node", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Flags {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Settings in TOML; ASPEN_CONFIG names one as well [default: none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Number of this node in its cluster, 1 or more; it never changes under a data directory
    /// [default: the data directory's, 1 in a new one]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub node_id: Option<String>,

    /// Directory that keeps everything; made if it is missing [default: ./aspen-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Where the HTTP API listens; beyond loopback a token is needed [default: 127.0.0.1:4600]
    #[arg(long, value_name = "IP:PORT")]
    pub http_addr: Option<String>,

    /// File of mode 0600 with the bearer token for HTTP [default: the systemd credential http-token, else
    /// none, and no token is asked for]
    #[arg(long, value_name = "FILE")]
    pub http_token_file: Option<String>,

    /// UDP address for the other nodes [default: 0.0.0.0:4601]
    #[arg(long, value_name = "IP:PORT")]
    pub iroh_addr: Option<String>,

    /// Relays for nodes without a direct path [default: disabled, nothing calls out]
    #[arg(long, value_name = "disabled|n0|URL")]
    pub iroh_relay: Option<String>,

    /// Ways to other nodes: relay uses relays alone, and opens no UDP port [default: all]
    #[arg(long, value_name = "all|relay")]
    pub iroh_paths: Option<String>,

    /// Serve a relay over plain HTTP to members, declared peers and clients, who name it as --iroh-relay
    /// http://IP:PORT; this node uses it too, unless it names others [default: none]
    #[arg(long, value_name = "IP:PORT")]
    pub serve_relay: Option<String>,

    /// Announce the node's public key and addresses on the local network by multicast DNS, and find known
    /// nodes there: they find each other even if all of them have moved [default: nothing is announced]
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub iroh_mdns: Option<String>,

    /// File of mode 0600 with the node's secret key [default: the systemd credential iroh-secret-key,
    /// else iroh-secret-key in the data directory, generated on the first start]
    #[arg(long, value_name = "FILE")]
    pub secret_key_file: Option<String>,

    /// Ticket of another node, from `endpoint` in its data directory; repeatable
    #[arg(long, value_name = "TICKET")]
    pub peer: Vec<String>,

    /// Tickets of other nodes, with commas; can be mixed with --peer
    #[arg(long, value_name = "TICKET,...", value_delimiter = ',')]
    pub peers: Vec<String>,

    /// Public key of a client that may read and write over iroh; repeatable
    #[arg(long, value_name = "KEY")]
    pub client_key: Vec<String>,

    /// Public keys of clients, with commas; can be mixed with --client-key
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    pub client_keys: Vec<String>,

    /// How a new node comes to its cluster: auto makes one of its own, unless it has peers; manual waits
    /// for `init`; static founds one with its peers, each of which names all others [default: auto]
    #[arg(long, value_name = "auto|manual|static")]
    pub bootstrap: Option<String>,

    /// Join a cluster with a ticket of `aspen ticket new`, which allots the node its id. It is a secret: in
    /// a unit, use the file or the credential
    #[arg(long, value_name = "TICKET")]
    pub join: Option<String>,

    /// File of mode 0600 with such a ticket [default: the systemd credential join-ticket, else none]
    #[arg(long, value_name = "FILE")]
    pub join_ticket_file: Option<String>,

    /// A node that joins with a ticket gets no vote by itself; `aspen member promote` gives it one
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub learner: Option<String>,

    /// Where data is kept; memory loses everything at a stop [default: redb]
    #[arg(long, value_name = "redb|memory")]
    pub storage: Option<String>,

    /// What replicates the data [default: raft]
    #[arg(long, value_name = "raft|hiqlite")]
    pub control_backend: Option<String>,

    /// Timings of consensus: lan for one network, wan for several sites or relays [default: lan]
    #[arg(long, value_name = "lan|wan")]
    pub network_profile: Option<String>,

    /// Logs: auto is journald under systemd, text elsewhere [default: auto]
    #[arg(long, value_name = "auto|text|json")]
    pub log_format: Option<String>,

    /// Which logs, as in info,aspen::transport=debug [default: info, libraries at warn]
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,

    /// Check the configuration, print one line and exit: 0 if it is fine, 2 if not
    #[arg(long)]
    pub check_config: bool,

    /// Print every setting with the layer that set it, as TOML, and exit
    #[arg(long, conflicts_with = "check_config")]
    pub print_config: bool,
}

/// What `aspen-node` does instead of running a node.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make a node's secret key: writes it to a file of mode 0600, prints the public id
    Keygen {
        /// The file; it must not exist
        #[arg(long, value_name = "FILE", default_value = "./iroh-secret-key")]
        out: PathBuf,
    },
    /// Check everything in the data directory of a stopped node, and change nothing
    #[command(after_help = VERIFY_CODES)]
    Verify {
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./aspen-data")]
        data_dir: PathBuf,
        /// Print the report as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Make a damaged or lost state anew from snapshot and log, while the node is stopped
    #[command(after_help = REPAIR_CODES)]
    Repair {
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./aspen-data")]
        data_dir: PathBuf,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a new cluster of this stopped node alone, where a majority of the old one is lost for good
    #[command(after_help = RECOVER_CODES)]
    Recover {
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./aspen-data")]
        data_dir: PathBuf,
        /// Do it; without it only says what the node holds and what may be lost
        #[arg(long)]
        yes: bool,
    },
}

impl Flags {
    /// The keys that flags set, lists left out.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("node_id", &self.node_id),
            ("data_dir", &self.data_dir),
            ("http_addr", &self.http_addr),
            ("http_token_file", &self.http_token_file),
            ("iroh_addr", &self.iroh_addr),
            ("iroh_relay", &self.iroh_relay),
            ("iroh_paths", &self.iroh_paths),
            ("serve_relay", &self.serve_relay),
            ("iroh_mdns", &self.iroh_mdns),
            ("secret_key_file", &self.secret_key_file),
            ("bootstrap", &self.bootstrap),
            ("join_ticket_file", &self.join_ticket_file),
            ("learner", &self.learner),
            ("storage", &self.storage),
            ("control_backend", &self.control_backend),
            ("network_profile", &self.network_profile),
            ("log_format", &self.log_format),
            ("log_filter", &self.log_filter),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// The keys that hold lists, each with the pieces of both of its flags. Empty pieces, as of a comma
    /// at the end, are left out.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&'static str, Vec<&str>)> {
        let lists =
            [("peers", &self.peer, &self.peers), ("client_keys", &self.client_key, &self.client_keys)];
        lists.into_iter().map(|(name, each, many)| {
            let pieces = each.iter().chain(many).map(|piece| piece.trim());
            (name, pieces.filter(|piece| !piece.is_empty()).collect())
        })
    }

    /// The flag that sets a key.
    pub(super) fn name_of(key: &str) -> String {
        match key {
            "peers" => "--peer or --peers".to_owned(),
            "client_keys" => "--client-key or --client-keys".to_owned(),
            _ => format!("--{}", key.replace('_', "-")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::keys::{self, KEYS};
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_key_outside_of_tables_has_its_flag() {
        let command = Flags::command();
        let flags: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
        for key in KEYS.iter().filter(|key| !key.name.contains('.')) {
            assert!(flags.contains(&key.name.replace('_', "-").as_str()), "{} has no flag", key.name);
        }
        let not_settings = ["config", "join", "peer", "client-key", "check-config", "print-config"];
        for flag in flags.iter().filter(|flag| !not_settings.contains(flag)) {
            assert!(keys::find(&flag.replace('-', "_")).is_some(), "--{flag} sets no key");
        }
    }

    #[test]
    fn help_names_the_default_of_every_flag_that_has_one() {
        let help = Flags::command().render_long_help().to_string();
        for key in KEYS.iter().filter(|key| !key.name.contains('.') && key.name != "log_filter") {
            if let keys::Default::Text(default) = key.default {
                assert!(help.contains(&format!("[default: {default}")), "{}: {default}", key.name);
            }
        }
    }

    #[test]
    fn both_flags_of_a_list_mix_and_keep_their_order() {
        let flags = Flags::try_parse_from(["aspen-node", "--peers", "b,c,", "--peer", "a"]).unwrap();
        let lists: Vec<_> = flags.lists().collect();
        assert_eq!(lists, [("peers", vec!["a", "b", "c"]), ("client_keys", vec![])]);
    }

    #[test]
    fn keygen_takes_no_flags_of_a_node() {
        let flags = Flags::try_parse_from(["aspen-node", "keygen"]).unwrap();
        assert!(matches!(flags.command, Some(Command::Keygen { out }) if out.ends_with("iroh-secret-key")));
        assert!(Flags::try_parse_from(["aspen-node", "--node-id", "1", "keygen"]).is_err());
    }
}
