//! Settings of the control backend `hiqlite`, and what types cannot say about them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret_file::{self, Secret};
use super::{Config, Loaded};
use crate::limits;

/// The names of the secrets among systemd's credentials. They must stay stable.
const SECRET_RAFT_CREDENTIAL: &str = "hiqlite-secret-raft";
const SECRET_API_CREDENTIAL: &str = "hiqlite-secret-api";

/// Settings of the control backend `hiqlite`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiqliteConfig {
    /// Whether this process is a node of the cluster.
    pub mode: HiqliteMode,
    /// Where an embedded node listens for the others.
    pub raft_addr: SocketAddr,
    /// Where it listens for clients and management.
    pub api_addr: SocketAddr,
    /// API addresses of a cluster that this process is a client of.
    pub nodes: Vec<String>,
    /// The file with the secret that nodes prove to each other.
    pub secret_raft_file: Option<PathBuf>,
    /// The file with the secret that clients prove.
    pub secret_api_file: Option<PathBuf>,
    /// How connections are protected.
    pub tls: HiqliteTls,
}

/// Whether a process is a node of the Hiqlite cluster or a client of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiqliteMode {
    /// It is a node.
    Embedded,
    /// It is a client of a cluster that runs elsewhere.
    Remote,
}

/// How connections of Hiqlite are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HiqliteTls {
    /// Not at all.
    Off,
    /// With certificates that nobody checks: against those who listen, not against those who interfere.
    SelfSigned,
    /// With certificates of an authority that the system trusts; for clients alone.
    Verified,
}

impl Config {
    /// The secret of the API: from its file, or among systemd's credentials.
    ///
    /// # Errors
    /// The error of the file, or that there is none.
    pub fn read_hiqlite_secret_api(&self) -> Result<Secret, ConfigError> {
        self.read_hiqlite_secret(
            "hiqlite.secret_api_file",
            &self.hiqlite.secret_api_file,
            SECRET_API_CREDENTIAL,
        )
    }

    /// The secret of the nodes.
    ///
    /// # Errors
    /// The error of the file, or that there is none.
    pub fn read_hiqlite_secret_raft(&self) -> Result<Secret, ConfigError> {
        let file = &self.hiqlite.secret_raft_file;
        self.read_hiqlite_secret("hiqlite.secret_raft_file", file, SECRET_RAFT_CREDENTIAL)
    }

    fn read_hiqlite_secret(
        &self,
        key: &'static str,
        file: &Option<PathBuf>,
        credential: &'static str,
    ) -> Result<Secret, ConfigError> {
        let found = file.clone().or_else(|| self.credential(credential));
        let path = found.ok_or(ConfigError::HiqliteSecretMissing { key, credential })?;
        let secret = secret_file::read(&path, self.credentials_dir.as_deref())
            .map_err(|source| ConfigError::HiqliteSecret { key, source })?;
        let text = secret.expose();
        let is_sound = text.len() >= limits::HIQLITE_SECRET_MIN_BYTES;
        if !is_sound || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::HiqliteSecretUnfit { key, path });
        }
        Ok(secret)
    }
}

/// Refuses settings of Hiqlite that no node could run with. Where another backend runs they do not matter.
pub(super) fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    if !cfg!(feature = "hiqlite") {
        return Err(ConfigError::BackendNotBuiltIn { origin: loaded.origin("control_backend") });
    }
    let config = &loaded.config;
    let HiqliteConfig { mode, raft_addr, api_addr, nodes, tls, .. } = &config.hiqlite;
    if !config.peers.is_empty() {
        let reason = "the control backend hiqlite knows no peers: its nodes are added as learners";
        return Err(loaded.refused("peers", reason.to_owned()));
    }
    config.read_hiqlite_secret_api()?;
    if *tls != HiqliteTls::Off {
        let is_ipv6 = |node: &&String| node.rsplit_once(':').is_some_and(|(host, _)| host.contains(':'));
        let known = match mode {
            HiqliteMode::Remote => nodes.iter().find(is_ipv6).cloned(),
            HiqliteMode::Embedded => {
                [raft_addr, api_addr].into_iter().find(|addr| addr.is_ipv6()).map(ToString::to_string)
            }
        };
        if let Some(addr) = known {
            let reason = format!(
                "Hiqlite speaks TLS to names and IPv4 addresses alone, and {addr} is an IPv6 address"
            );
            return Err(loaded.refused("hiqlite.tls", reason));
        }
    }
    match mode {
        HiqliteMode::Remote if nodes.is_empty() => {
            return Err(
                loaded.refused("hiqlite.nodes", "hiqlite.mode is remote, and no node is named".to_owned())
            );
        }
        HiqliteMode::Remote => {
            let is_address = |node: &&String| {
                let Some((host, port)) = node.rsplit_once(':') else { return false };
                let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
                !host.is_empty()
                    && host.bytes().all(is_host)
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            };
            if let Some(node) = nodes.iter().find(|node| !is_address(node)) {
                return Err(loaded.refused("hiqlite.nodes", format!("'{node}' is no host with a port")));
            }
        }
        HiqliteMode::Embedded => {
            config.read_hiqlite_secret_raft()?;
            if *tls == HiqliteTls::Verified {
                let reason = "an embedded node makes its own certificate, which no authority has signed";
                return Err(loaded.refused("hiqlite.tls", reason.to_owned()));
            }
            for (key, addr) in [("hiqlite.raft_addr", raft_addr), ("hiqlite.api_addr", api_addr)] {
                if addr.ip().is_unspecified() || addr.port() == 0 {
                    let reason = "the other nodes could not reach it there";
                    return Err(loaded.refused(key, reason.to_owned()));
                }
            }
            if raft_addr == api_addr {
                return Err(loaded.refused("hiqlite.api_addr", "it is that of hiqlite.raft_addr".to_owned()));
            }
        }
    }
    Ok(())
}
