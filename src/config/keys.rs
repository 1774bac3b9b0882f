//! The table of all keys: name, type, default, and what is allowed in words.
//!
//! Everything that lists keys goes through this table: environment names, refusals of unknown keys,
//! defaults, error messages and the printed configuration.

use crate::limits::{
    CACHE_DEFAULT_BYTES, CHECKPOINT_INTERVAL_MS, HISTORY_DEFAULT_REVISIONS, SCRUB_INTERVAL_S,
    SNAPSHOT_EVERY_BYTES, SNAPSHOT_EVERY_ENTRIES,
};
use crate::telemetry;

/// A setting.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name; keys of a table are written `table.key`.
    pub name: &'static str,
    /// Its type, for the layers that hold text only.
    pub kind: Kind,
    /// Its value where no layer sets it.
    pub default: Default,
    /// What is allowed, to be read after "allowed:".
    pub allowed: &'static str,
}

/// The type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    List,
    Flag,
}

/// What a key is where no layer sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Default {
    /// Nothing.
    Unset,
    Text(&'static str),
    Number(u64),
    EmptyList,
    No,
    /// What `network_profile` says.
    Profile,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, default: Default, allowed: &'static str) -> Self {
        Self { name, kind, default, allowed }
    }

    /// The name of the environment variable that sets the key.
    pub fn variable(&self) -> String {
        format!("ASPEN_{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// Every setting, tables last, in the order in which they are printed.
pub(super) const KEYS: &[Key] = &[
    Key::new("node_id", Kind::Number, Default::Unset, "a whole number of 1 or more"),
    Key::new("data_dir", Kind::Text, Default::Text("./aspen-data"), "the path of a directory"),
    Key::new(
        "http_addr",
        Kind::Text,
        Default::Text("127.0.0.1:4600"),
        "an IP address and a port, such as 127.0.0.1:4600 or [::1]:4600",
    ),
    Key::new(
        "http_token_file",
        Kind::Text,
        Default::Unset,
        "the path of a file of mode 0600 that holds one line of visible ASCII characters",
    ),
    Key::new(
        "iroh_addr",
        Kind::Text,
        Default::Text("0.0.0.0:4601"),
        "an IP address and a UDP port, such as 0.0.0.0:4601 or [::]:4601",
    ),
    Key::new(
        "iroh_relay",
        Kind::Text,
        Default::Text("disabled"),
        "disabled, n0, or the URL of a relay such as https://relay.example.com",
    ),
    Key::new("iroh_paths", Kind::Text, Default::Text("all"), "all or relay"),
    Key::new(
        "serve_relay",
        Kind::Text,
        Default::Unset,
        "an IP address and a TCP port, such as 192.0.2.1:4602; 0.0.0.0:4602 together with iroh_relay",
    ),
    Key::new("iroh_mdns", Kind::Flag, Default::No, "true or false"),
    Key::new(
        "secret_key_file",
        Kind::Text,
        Default::Unset,
        "the path of a file of mode 0600 as `aspen-node keygen` writes it",
    ),
    Key::new(
        "peers",
        Kind::List,
        Default::EmptyList,
        "tickets of other nodes, as each writes its own to `endpoint` in its data directory; in a file, also \
         tables of node_id, public_key (64 hex digits), addresses (such as [\"10.0.0.1:4601\"]) and relay_url",
    ),
    Key::new(
        "client_keys",
        Kind::List,
        Default::EmptyList,
        "public keys of clients, each 64 hex digits as `aspen-node keygen` prints them",
    ),
    Key::new("bootstrap", Kind::Text, Default::Text("auto"), "auto, manual or static"),
    Key::new(
        "join_ticket_file",
        Kind::Text,
        Default::Unset,
        "the path of a file of mode 0600 that holds a ticket of `aspen ticket new`",
    ),
    Key::new("learner", Kind::Flag, Default::No, "true or false"),
    Key::new("storage", Kind::Text, Default::Text("redb"), "redb or memory"),
    Key::new("control_backend", Kind::Text, Default::Text("raft"), "raft or hiqlite"),
    Key::new("log_format", Kind::Text, Default::Text("auto"), "auto, text or json"),
    Key::new(
        "log_filter",
        Kind::Text,
        Default::Text(telemetry::DEFAULT_FILTER),
        "a level (error, warn, info, debug, trace), and target=level pairs after commas, such as \
         info,aspen::transport=debug",
    ),
    Key::new("network_profile", Kind::Text, Default::Text("lan"), "lan or wan"),
    Key::new("raft.heartbeat_interval_ms", Kind::Number, Default::Profile, "10 or more milliseconds"),
    Key::new(
        "raft.election_timeout_min_ms",
        Kind::Number,
        Default::Profile,
        "milliseconds, twice the heartbeat interval or more",
    ),
    Key::new(
        "raft.election_timeout_max_ms",
        Kind::Number,
        Default::Profile,
        "milliseconds, more than election_timeout_min_ms and at most 60000",
    ),
    Key::new(
        "raft.snapshot_every_entries",
        Kind::Number,
        Default::Number(SNAPSHOT_EVERY_ENTRIES),
        "1 to 39999 entries",
    ),
    Key::new(
        "raft.snapshot_every_bytes",
        Kind::Number,
        Default::Number(SNAPSHOT_EVERY_BYTES),
        "1048576 (1 MiB) to 17179869184 (16 GiB) bytes",
    ),
    Key::new(
        "storage_options.cache_bytes",
        Kind::Number,
        Default::Number(CACHE_DEFAULT_BYTES),
        "1048576 (1 MiB) to 1099511627776 (1 TiB) bytes",
    ),
    Key::new(
        "storage_options.checkpoint_interval_ms",
        Kind::Number,
        Default::Number(CHECKPOINT_INTERVAL_MS),
        "100 to 600000 milliseconds",
    ),
    Key::new(
        "storage_options.disk_reserve_bytes",
        Kind::Number,
        Default::Unset,
        "8388608 (8 MiB) to 1099511627776 (1 TiB) bytes; where it is not set, an eighth of the disk, at \
         most 1 GiB",
    ),
    Key::new(
        "storage_options.scrub_interval_s",
        Kind::Number,
        Default::Number(SCRUB_INTERVAL_S),
        "1 to 2678400 (31 days) seconds",
    ),
    Key::new(
        "kv.history_revisions",
        Kind::Number,
        Default::Number(HISTORY_DEFAULT_REVISIONS),
        "1 to 1000000000 revisions",
    ),
    Key::new("hiqlite.mode", Kind::Text, Default::Text("embedded"), "embedded or remote"),
    Key::new(
        "hiqlite.raft_addr",
        Kind::Text,
        Default::Text("127.0.0.1:4602"),
        "an IP address and a TCP port that the other nodes reach, such as 10.0.0.1:4602",
    ),
    Key::new(
        "hiqlite.api_addr",
        Kind::Text,
        Default::Text("127.0.0.1:4603"),
        "an IP address and a TCP port that the other nodes reach, such as 10.0.0.1:4603",
    ),
    Key::new(
        "hiqlite.nodes",
        Kind::List,
        Default::EmptyList,
        "API addresses of the nodes of a Hiqlite cluster, each a host and a port",
    ),
    Key::new(
        "hiqlite.secret_raft_file",
        Kind::Text,
        Default::Unset,
        "the path of a file of mode 0600 with 16 or more visible ASCII characters",
    ),
    Key::new(
        "hiqlite.secret_api_file",
        Kind::Text,
        Default::Unset,
        "the path of a file of mode 0600 with 16 or more visible ASCII characters",
    ),
    Key::new("hiqlite.tls", Kind::Text, Default::Text("off"), "off, self-signed or verified"),
];

/// Names of the environment that begin with `ASPEN_` and are no settings: the file of settings, and
/// what the command line client reads.
pub(super) const OTHER_VARIABLES: &[&str] = &["ASPEN_CONFIG", "ASPEN_ADDR", "ASPEN_TOKEN_FILE"];

/// The key of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that a path leads into, such as `peers` for `peers.0`.
pub(super) fn find_parent(path: &str) -> Option<&'static Key> {
    path.rsplit_once('.').and_then(|(parent, _)| find(parent).or_else(|| find_parent(parent)))
}

/// Whether keys stand in a table of that name.
pub(super) fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(table, _)| table == name))
}

/// The candidate that an unknown name was likely meant to be.
pub(super) fn nearest(name: &str, candidates: &[String]) -> Option<String> {
    /// Above it names share most of their letters in order; below it suggestions mislead.
    const ALIKE: f64 = 0.8;
    let alike = |candidate: &&String| strsim::jaro_winkler(name, candidate);
    candidates
        .iter()
        .filter(|candidate| alike(candidate) > ALIKE)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_one() {
        let names: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        assert_eq!(nearest("http_adr", &names).as_deref(), Some("http_addr"));
        assert_eq!(nearest("data-dir", &names).as_deref(), Some("data_dir"));
        assert_eq!(nearest("zzz", &names), None);
    }

    #[test]
    fn what_is_said_to_be_allowed_follows_the_bounds() {
        use crate::limits::*;
        for (name, bounds) in [
            ("raft.heartbeat_interval_ms", [HEARTBEAT_MIN_INTERVAL_MS, HEARTBEAT_MIN_INTERVAL_MS]),
            ("raft.election_timeout_max_ms", [ELECTION_MAX_TIMEOUT_MS, ELECTION_MAX_TIMEOUT_MS]),
            ("raft.snapshot_every_entries", [1, REPLICATION_LAG_MAX_ENTRIES - 1]),
            ("raft.snapshot_every_bytes", [SNAPSHOT_EVERY_MIN_BYTES, SNAPSHOT_EVERY_MAX_BYTES]),
            ("storage_options.cache_bytes", [CACHE_MIN_BYTES, CACHE_MAX_BYTES]),
            (
                "storage_options.checkpoint_interval_ms",
                [CHECKPOINT_MIN_INTERVAL_MS, CHECKPOINT_MAX_INTERVAL_MS],
            ),
            ("storage_options.disk_reserve_bytes", [DISK_RESERVE_MIN_BYTES, DISK_RESERVE_MAX_BYTES]),
            ("storage_options.scrub_interval_s", [SCRUB_MIN_INTERVAL_S, SCRUB_MAX_INTERVAL_S]),
            ("kv.history_revisions", [1, HISTORY_MAX_REVISIONS]),
        ] {
            let allowed = find(name).unwrap().allowed;
            assert!(bounds.iter().all(|bound| allowed.contains(&bound.to_string())), "{name}: {allowed}");
        }
    }

    #[test]
    fn names_are_unique_and_tables_are_one_deep() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        assert!(names.iter().all(|name| name.split('.').count() <= 2));
        assert!(KEYS.iter().all(|key| !OTHER_VARIABLES.contains(&key.variable().as_str())));
    }
}
