//! Relays: which of them an endpoint uses, and whether it uses anything else.
//!
//! A relay carries datagrams between nodes that have no direct path. What they say to each other is
//! encrypted from end to end, so a relay learns who speaks with whom, and no more.

mod arrivals;
mod pass;
mod server;

use std::net::SocketAddr;

use iroh::endpoint::{Builder, PortmapperConfig, presets};
use iroh::{Endpoint, RelayConfig, RelayMode, RelayUrl, SecretKey};

pub use self::pass::RelayPass;

/// Which relays the endpoint uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// None: the node calls nobody but its peers.
    Disabled,
    /// The public ones of n0, with their address lookup.
    N0,
    /// One's own.
    Url(RelayUrl),
}

/// Which ways to others an endpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Direct ones, and relays where there is none.
    All,
    /// Relays alone: it opens no UDP port.
    RelayOnly,
}

/// How an endpoint reaches others.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Where to listen for UDP.
    pub bind_addr: SocketAddr,
    /// Which relays to use.
    pub relay: Relay,
    /// Which ways to use.
    pub paths: Paths,
    /// What the cluster's relays are shown by a node that they do not know yet.
    pub pass: Option<RelayPass>,
}

impl Reach {
    /// Without a relay.
    #[cfg(test)]
    pub fn direct(bind_addr: SocketAddr) -> Self {
        Self { bind_addr, relay: Relay::Disabled, paths: Paths::All, pass: None }
    }

    /// An endpoint with this key, not bound yet.
    ///
    /// # Errors
    /// If no address of this kind can be listened to.
    pub(super) fn builder(&self, secret_key: SecretKey) -> Result<Builder, String> {
        let builder = match self.relay {
            Relay::N0 => Endpoint::builder(presets::N0),
            Relay::Disabled | Relay::Url(_) => Endpoint::builder(presets::Minimal),
        };
        let builder = builder
            .secret_key(secret_key)
            .relay_mode(self.relay_mode())
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports();
        match self.paths {
            Paths::All => builder.bind_addr(self.bind_addr).map_err(|error| error.to_string()),
            Paths::RelayOnly => Ok(builder),
        }
    }

    fn relay_mode(&self) -> RelayMode {
        match &self.relay {
            Relay::Disabled => RelayMode::Disabled,
            Relay::N0 => RelayMode::Default,
            Relay::Url(url) => {
                // The discovery of addresses needs TLS on the relay's side.
                let discovery = (url.scheme() == "https").then(Default::default);
                let config = RelayConfig::new(url.clone(), discovery);
                let config = match &self.pass {
                    Some(pass) => config.with_auth_token(pass.as_str()),
                    None => config,
                };
                RelayMode::Custom(config.into())
            }
        }
    }
}
