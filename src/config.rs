//! Settings: defaults, environment, file and flags in layers, checked once before anything opens.
//!
//! A later layer wins: defaults < `ASPEN_*` environment < TOML file < flags. Every key, its default
//! and what it allows stand in one table (`keys`), from which all layers are read and checked. An
//! error names the key, the layer that set it, and what is allowed. Loading must never open a port,
//! create a file, or show a secret: settings hold paths of secret files, not what is in them.
//!
//! # Tiger Style
//!
//! A file is at most [`CONFIG_FILE_MAX_BYTES`](crate::limits::CONFIG_FILE_MAX_BYTES) long. In a
//! loaded [`Config`] heartbeats fit twice into the shortest election timeout, HTTP beyond loopback
//! has a token, and every number is within the bounds of [`crate::limits`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use figment::Figment;
use figment::value::Value;
use serde::{Deserialize, Deserializer};

use crate::kv::types::{NodeId, PublicKey};
use crate::telemetry::LogFormat;

mod backend;
mod check;
mod error;
pub mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keys;
mod layers;
mod peer;
mod print;
pub mod secret_file;
#[cfg(test)]
mod tests;

pub use backend::{HiqliteConfig, HiqliteMode, HiqliteTls};
pub use error::{ConfigError, Origin};
pub use flags::Flags;
use keys::{KEYS, Key};
use layers::Layer;
pub use peer::PeerSetting;
use secret_file::{Secret, SecretFileError};

/// The names of a join ticket and of the token for HTTP among systemd's credentials. They must stay stable.
const JOIN_TICKET_CREDENTIAL: &str = "join-ticket";
const HTTP_TOKEN_CREDENTIAL: &str = "http-token";

/// All settings of a node, checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's id. Absent: the data directory's, and 1 in a new one.
    pub node_id: Option<NodeId>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the HTTP API listens.
    pub http_addr: SocketAddr,
    /// The file with the bearer token that HTTP requests must carry; absent: a credential, else none.
    pub http_token_file: Option<PathBuf>,
    /// The UDP address of the iroh endpoint.
    pub iroh_addr: SocketAddr,
    /// The relays in use.
    pub iroh_relay: Relay,
    /// The ways to other nodes in use.
    pub iroh_paths: Paths,
    /// Where this node serves a relay.
    pub serve_relay: Option<SocketAddr>,
    /// Whether nodes find each other on the local network by multicast DNS.
    pub iroh_mdns: bool,
    /// The file with the node's secret key; absent: a credential, or the one in the data directory.
    pub secret_key_file: Option<PathBuf>,
    /// Other nodes.
    pub peers: Vec<PeerSetting>,
    /// Public keys of clients that may read and write over iroh.
    pub client_keys: Vec<PublicKey>,
    /// How a new node comes to its cluster.
    pub bootstrap: Bootstrap,
    /// The file with a ticket to join a cluster with.
    pub join_ticket_file: Option<PathBuf>,
    /// Whether a node that joins with a ticket never gets a vote by itself.
    pub learner: bool,
    /// What keeps the data.
    pub storage: Storage,
    /// What replicates it.
    pub control_backend: ControlBackend,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written.
    pub log_filter: String,
    /// What the timings in `raft` are taken from where they are not set.
    pub network_profile: NetworkProfile,
    /// Timings of consensus.
    pub raft: RaftConfig,
    /// Settings of the databases.
    pub storage_options: StorageOptions,
    /// Settings of the key-value store.
    pub kv: KvConfig,
    /// Settings of the control backend `hiqlite`.
    pub hiqlite: HiqliteConfig,
    /// Where systemd put the unit's credentials; from `$CREDENTIALS_DIRECTORY` alone.
    #[serde(skip)]
    pub credentials_dir: Option<PathBuf>,
    /// A ticket to join a cluster with; from the flag alone, as it is a secret.
    #[serde(skip)]
    pub join: Option<Secret>,
}

/// Relays, through which nodes reach each other where no direct path is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// None: nothing calls out.
    Disabled,
    /// The public ones of n0.
    N0,
    /// An own one.
    Url(iroh::RelayUrl),
}

/// Text that names no relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither 'disabled', 'n0' nor the http(s) URL of a relay")]
pub struct ParseRelayError(String);

impl FromStr for Relay {
    type Err = ParseRelayError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "disabled" => return Ok(Self::Disabled),
            "n0" => return Ok(Self::N0),
            _ => {}
        }
        match s.parse::<iroh::RelayUrl>() {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self::Url(url)),
            _ => Err(ParseRelayError(s.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Relay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The ways to other nodes that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paths {
    /// Direct ones, and relays where there is none.
    All,
    /// Relays alone.
    Relay,
}

/// What a new node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bootstrap {
    /// It makes a cluster of its own.
    Auto,
    /// It waits for `init`, or for a leader that adds it.
    Manual,
    /// It founds a cluster with its peers, all of which name each other.
    Static,
}

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Databases in the data directory.
    Redb,
    /// Memory: all is lost when the node stops.
    Memory,
}

/// What replicates the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlBackend {
    /// openraft.
    Raft,
    /// hiqlite.
    Hiqlite,
}

/// The kind of network between the nodes, from which the timings of consensus follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkProfile {
    /// One network: a round trip takes a few milliseconds.
    Lan,
    /// Several sites, or relays.
    Wan,
}

/// Timings of consensus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaftConfig {
    /// Pause between two heartbeats of a leader.
    pub heartbeat_interval_ms: u64,
    /// Shortest silence of a leader after which a follower stands for election.
    pub election_timeout_min_ms: u64,
    /// Longest such silence.
    pub election_timeout_max_ms: u64,
    /// Applied entries after which a snapshot is made.
    pub snapshot_every_entries: u64,
    /// Bytes of applied commands after which a snapshot is made.
    pub snapshot_every_bytes: u64,
}

/// Settings of the databases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageOptions {
    /// Page cache of the state. The log has one of at most 16 MiB.
    pub cache_bytes: u64,
    /// Longest time between two durable checkpoints of the state.
    pub checkpoint_interval_ms: u64,
    /// Room on the disk that is kept free of data. Absent: in proportion to the disk.
    pub disk_reserve_bytes: Option<u64>,
    /// Pause between two searches of everything on disk for damage.
    pub scrub_interval_s: u64,
}

/// Settings of the key-value store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvConfig {
    /// Revisions of history that are kept.
    pub history_revisions: u64,
}

/// What settings are read from.
pub struct Sources<'a> {
    /// The command line.
    pub flags: &'a Flags,
    /// The environment, whole: names that begin with `ASPEN_` are settings.
    pub environment: Vec<(OsString, OsString)>,
    /// Says why a peer's ticket is none.
    pub validate_peer: fn(&str) -> Result<(), String>,
}

/// Checked settings, and where each of them came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Config {
    /// Reads all layers and checks the outcome.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key or the file, the layer that set it, and what is allowed.
    pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigError> {
        let environment = layers::environment(&sources.environment)?;
        let path = sources.flags.config.as_ref().or(environment.config_file.as_ref());
        let file = path.map(|path| layers::file(path)).transpose()?;
        Self::from_layers(environment, file, sources)
    }

    /// The same with a file that is read already.
    fn from_layers(
        environment: layers::Environment,
        file: Option<Layer>,
        sources: &Sources<'_>,
    ) -> Result<Loaded, ConfigError> {
        let figment = Figment::from(layers::defaults()).merge(environment.settings);
        let figment = match file {
            Some(file) => figment.merge(file),
            None => figment,
        };
        let figment = figment.merge(layers::flags(sources.flags));
        let profile =
            figment.extract_inner("network_profile").map_err(|error| bad_value(&figment, &error))?;
        let figment = figment.join(layers::profile(profile));

        let mut config: Config = figment.extract().map_err(|error| bad_value(&figment, &error))?;
        config.credentials_dir = environment.credentials_dir;
        config.join = sources.flags.join.as_deref().and_then(Secret::new);
        let values = KEYS.iter().filter_map(|key| Some((key.name, set_value(&figment, key)?))).collect();
        let loaded = Loaded { config, values };
        check::check(&loaded, sources.validate_peer)?;
        Ok(loaded)
    }

    /// The relays that the node uses: where none is named, and it serves one itself, that one.
    pub fn relay(&self) -> Relay {
        match (&self.iroh_relay, self.serve_relay) {
            (Relay::Disabled, Some(addr)) => {
                Relay::Url(format!("http://{addr}").parse().expect("an address and a port make a URL"))
            }
            (relay, _) => relay.clone(),
        }
    }

    /// The ticket to join a cluster with: that of the flag, or in the configured file, or among systemd's
    /// credentials.
    ///
    /// # Errors
    /// [`SecretFileError`], if there is a file and it cannot be used.
    pub fn read_join_ticket(&self) -> Result<Option<Secret>, SecretFileError> {
        if self.join.is_some() {
            return Ok(self.join.clone());
        }
        let path = self.join_ticket_file.clone().or_else(|| self.credential(JOIN_TICKET_CREDENTIAL));
        path.map(|path| secret_file::read(&path, self.credentials_dir.as_deref())).transpose()
    }

    /// The token that HTTP requests must carry, where one is configured.
    ///
    /// # Errors
    /// [`SecretFileError`], if there is a file and it cannot be used.
    pub fn read_http_token(&self) -> Result<Option<Secret>, SecretFileError> {
        let read = |path: PathBuf| secret_file::read(&path, self.credentials_dir.as_deref());
        self.http_token_path().map(read).transpose()
    }

    /// Where that token is: in the configured file, or among systemd's credentials.
    fn http_token_path(&self) -> Option<PathBuf> {
        self.http_token_file.clone().or_else(|| self.credential(HTTP_TOKEN_CREDENTIAL))
    }

    /// A credential that systemd has for this unit.
    fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials_dir.as_ref().map(|dir| dir.join(name)).filter(|path| path.exists())
    }
}

impl Loaded {
    /// The names of the settings whose values are not those of `other`.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let value = |loaded: &Self, name: &str| loaded.values.get(name).map(|(value, _)| print::toml(value));
        KEYS.iter().map(|key| key.name).filter(|name| value(self, name) != value(other, name)).collect()
    }
}

/// A key's value with the layer that set it.
fn set_value(figment: &Figment, key: &Key) -> Option<(Value, Origin)> {
    let value = figment.find_value(key.name).ok()?;
    let metadata = figment.get_metadata(value.tag()).expect("every value comes from a layer");
    Some((value, Layer::origin(metadata, key)))
}

/// Turns an error of a typed read into one that names key, layer and what is allowed.
fn bad_value(figment: &Figment, error: &figment::Error) -> ConfigError {
    let path = error.path.join(".");
    let key = keys::find(&path).or_else(|| keys::find_parent(&path));
    let Some(key) = key else {
        // A whole table was given as something else: blame its first key, whose value is the table's.
        let table = error.path.first().cloned().unwrap_or_default();
        let keys = KEYS.iter().find(|key| key.name.starts_with(&format!("{table}.")));
        let key = keys.expect("unknown keys are refused layer by layer, before values are read");
        let metadata = error.metadata.as_ref();
        let origin = metadata.map_or(Origin::Default, |metadata| Layer::origin(metadata, key));
        return ConfigError::NotATable { table, origin };
    };
    let (value, origin) = set_value(figment, key).expect("a value that is refused was set");
    ConfigError::BadValue {
        key: key.name,
        value: print::short(&value),
        origin,
        reason: reason(&error.kind),
        allowed: key.allowed,
    }
}

/// What is wrong, in words for who does not know the program's types.
fn reason(kind: &figment::error::Kind) -> String {
    use figment::error::Kind;
    match kind {
        Kind::InvalidType(found, _) => format!("its type is wrong, as it is {found}"),
        Kind::UnknownVariant(..) => "there is no such choice".to_owned(),
        other => other.to_string(),
    }
}
