//! What types cannot say about settings: relations between them, files they name, bounds.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use figment::value::Value;

use super::error::{ConfigError, Origin};
use super::secret_file::{self, Secret};
use super::{
    Config, ControlBackend, HTTP_TOKEN_CREDENTIAL, Loaded, Paths, PeerSetting, Relay, backend, keys, print,
};
use crate::kv::types::Peer;
use crate::limits;
use crate::telemetry;

/// Refuses settings that a node could not run with.
pub(super) fn check(
    loaded: &Loaded,
    validate_peer: fn(&str) -> Result<(), String>,
) -> Result<(), ConfigError> {
    let config = &loaded.config;
    check_text(loaded, validate_peer)?;
    check_raft(loaded)?;
    within(
        loaded,
        "storage_options.cache_bytes",
        config.storage_options.cache_bytes,
        limits::CACHE_MIN_BYTES..=limits::CACHE_MAX_BYTES,
    )?;
    within(
        loaded,
        "storage_options.checkpoint_interval_ms",
        config.storage_options.checkpoint_interval_ms,
        limits::CHECKPOINT_MIN_INTERVAL_MS..=limits::CHECKPOINT_MAX_INTERVAL_MS,
    )?;
    if let Some(bytes) = config.storage_options.disk_reserve_bytes {
        let allowed = limits::DISK_RESERVE_MIN_BYTES..=limits::DISK_RESERVE_MAX_BYTES;
        within(loaded, "storage_options.disk_reserve_bytes", bytes, allowed)?;
    }
    within(
        loaded,
        "storage_options.scrub_interval_s",
        config.storage_options.scrub_interval_s,
        limits::SCRUB_MIN_INTERVAL_S..=limits::SCRUB_MAX_INTERVAL_S,
    )?;
    within(loaded, "kv.history_revisions", config.kv.history_revisions, 1..=limits::HISTORY_MAX_REVISIONS)?;
    if config.control_backend == ControlBackend::Hiqlite {
        backend::check(loaded)?;
    }
    check_relay(loaded)?;
    check_http(loaded)?;
    check_secret_key(loaded)
}

fn check_relay(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { iroh_relay, iroh_paths, serve_relay, .. } = &loaded.config;
    let names_none = *iroh_relay == Relay::Disabled;
    if let Some(addr) = serve_relay {
        if addr.port() == 0 {
            let reason = "nobody could tell the others which port it came to be";
            return Err(loaded.refused("serve_relay", reason.to_owned()));
        }
        if addr.ip().is_unspecified() && names_none {
            let reason = "it does not tell under which address the relay is reached, and iroh_relay is not \
                          set: set iroh_relay to its URL, such as http://192.0.2.1:4602";
            return Err(loaded.refused("serve_relay", reason.to_owned()));
        }
        // It means something on this machine alone, and nothing in a URL.
        if matches!(addr, SocketAddr::V6(addr) if addr.scope_id() != 0) && names_none {
            let reason = "an address with a scope leads nowhere from elsewhere, and iroh_relay is not set: set \
                          iroh_relay to the URL that others reach the relay by";
            return Err(loaded.refused("serve_relay", reason.to_owned()));
        }
    }
    if *iroh_paths == Paths::Relay && names_none && serve_relay.is_none() {
        let reason = "without a relay there is no way to anybody: set iroh_relay to the URL of one";
        return Err(loaded.refused("iroh_paths", reason.to_owned()));
    }
    Ok(())
}

fn check_text(loaded: &Loaded, validate_peer: fn(&str) -> Result<(), String>) -> Result<(), ConfigError> {
    let config = &loaded.config;
    if config.node_id.is_some_and(|id| id.0 == 0) {
        return Err(loaded.refused("node_id", "0 is no node id".to_owned()));
    }
    let paths = [
        ("data_dir", Some(&config.data_dir)),
        ("http_token_file", config.http_token_file.as_ref()),
        ("secret_key_file", config.secret_key_file.as_ref()),
        ("join_ticket_file", config.join_ticket_file.as_ref()),
    ];
    for (key, path) in paths {
        if path.is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(loaded.refused(key, "the path is empty".to_owned()));
        }
    }
    telemetry::parse_filter(&config.log_filter)
        .map_err(|error| loaded.refused("log_filter", error.to_string()))?;
    for peer in &config.peers {
        let checked = match peer {
            PeerSetting::Ticket(ticket) => validate_peer(ticket).map_err(|reason| {
                format!("{} is no ticket: {reason}", print::short(&Value::from(ticket.as_str())))
            }),
            PeerSetting::Node(peer) => check_peer(peer),
        };
        checked.map_err(|reason| loaded.refused("peers", reason))?;
    }
    for key in &config.client_keys {
        if iroh::EndpointId::from_bytes(&key.0).is_err() {
            return Err(loaded.refused("client_keys", format!("no secret key belongs to {key}")));
        }
    }
    Ok(())
}

fn check_peer(peer: &Peer) -> Result<(), String> {
    let Peer { node_id, info } = peer;
    if node_id.0 == 0 {
        return Err("0 is no node id".to_owned());
    }
    if iroh::EndpointId::from_bytes(&info.public_key.0).is_err() {
        return Err(format!("no secret key belongs to {}, the key of node {node_id}", info.public_key));
    }
    if info.addresses.len() > limits::PEER_ADDRESSES_MAX_COUNT {
        return Err(format!(
            "node {node_id} has {} addresses, and may have {}",
            info.addresses.len(),
            limits::PEER_ADDRESSES_MAX_COUNT
        ));
    }
    match &info.relay_url {
        Some(url) => match url.parse() {
            Ok(Relay::Url(_)) => Ok(()),
            _ => Err(format!("'{url}', the relay_url of node {node_id}, is not the http(s) URL of a relay")),
        },
        None => Ok(()),
    }
}

fn check_raft(loaded: &Loaded) -> Result<(), ConfigError> {
    let raft = &loaded.config.raft;
    let heartbeat = raft.heartbeat_interval_ms;
    let (min, max) = (raft.election_timeout_min_ms, raft.election_timeout_max_ms);
    within(
        loaded,
        "raft.heartbeat_interval_ms",
        heartbeat,
        limits::HEARTBEAT_MIN_INTERVAL_MS..=limits::ELECTION_MAX_TIMEOUT_MS,
    )?;
    within(loaded, "raft.election_timeout_max_ms", max, 1..=limits::ELECTION_MAX_TIMEOUT_MS)?;
    if heartbeat * 2 > min {
        let reason = format!(
            "it is less than two heartbeats of {heartbeat} ms, set by {}",
            loaded.origin("raft.heartbeat_interval_ms")
        );
        return Err(loaded.refused("raft.election_timeout_min_ms", reason));
    }
    if min >= max {
        let reason = format!(
            "it is not above election_timeout_min_ms = {min}, set by {}",
            loaded.origin("raft.election_timeout_min_ms")
        );
        return Err(loaded.refused("raft.election_timeout_max_ms", reason));
    }
    within(
        loaded,
        "raft.snapshot_every_entries",
        raft.snapshot_every_entries,
        1..=limits::REPLICATION_LAG_MAX_ENTRIES - 1,
    )?;
    within(
        loaded,
        "raft.snapshot_every_bytes",
        raft.snapshot_every_bytes,
        limits::SNAPSHOT_EVERY_MIN_BYTES..=limits::SNAPSHOT_EVERY_MAX_BYTES,
    )
}

fn check_http(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { http_addr, http_token_file, .. } = &loaded.config;
    let Some(path) = loaded.config.http_token_path() else {
        // An IPv4 loopback address may be written in its IPv6 form.
        if !http_addr.ip().to_canonical().is_loopback() {
            return Err(ConfigError::TokenMissing {
                http_addr: *http_addr,
                origin: loaded.origin("http_addr"),
            });
        }
        return Ok(());
    };
    let origin = match http_token_file {
        Some(_) => loaded.origin("http_token_file"),
        None => Origin::Credential(HTTP_TOKEN_CREDENTIAL),
    };
    let token = read_secret(loaded, "http_token_file", origin.clone(), &path)?;
    if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ConfigError::TokenNotVisible { path, origin });
    }
    Ok(())
}

fn check_secret_key(loaded: &Loaded) -> Result<(), ConfigError> {
    match &loaded.config.secret_key_file {
        Some(path) => {
            let origin = loaded.origin("secret_key_file");
            read_secret(loaded, "secret_key_file", origin, path).map(drop)
        }
        None => Ok(()),
    }
}

fn read_secret(
    loaded: &Loaded,
    key: &'static str,
    origin: Origin,
    path: &Path,
) -> Result<Secret, ConfigError> {
    secret_file::read(path, loaded.config.credentials_dir.as_deref())
        .map_err(|source| ConfigError::SecretFile { key, origin, source })
}

fn within(
    loaded: &Loaded,
    key: &'static str,
    number: u64,
    allowed: RangeInclusive<u64>,
) -> Result<(), ConfigError> {
    if allowed.contains(&number) {
        return Ok(());
    }
    Err(loaded.refused(key, format!("it is not within {} to {}", allowed.start(), allowed.end())))
}

impl Loaded {
    /// The layer that set a key.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    pub(super) fn refused(&self, key: &'static str, reason: String) -> ConfigError {
        let known = keys::find(key).expect("only known keys are checked");
        ConfigError::BadValue {
            key,
            value: self.values.get(key).map_or_else(String::new, |(value, _)| print::short(value)),
            origin: self.origin(key),
            reason,
            allowed: known.allowed,
        }
    }
}
