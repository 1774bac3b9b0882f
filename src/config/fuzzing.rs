//! What must hold of a configuration file, whatever is in it: a target of `fuzz/`.

use std::path::Path;

use super::{Config, ConfigError, Flags, Loaded, Sources, layers};

/// The text of a configuration file.
///
/// It is taken or refused with a sentence. What is taken prints as a file with the same meaning.
pub(crate) fn config_file(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let loaded = match load(text) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal says why");
            return false;
        }
    };
    let printed = loaded.render();
    let again =
        load(&printed).unwrap_or_else(|error| panic!("it was printed, and is refused: {error}\n{printed}"));
    assert_eq!(loaded.config, again.config, "settings change when they are printed");
    assert_eq!(loaded.differing(&again), Vec::<&str>::new(), "settings change when they are printed");
    assert!(loaded.summary().starts_with("configuration OK"));
    // What the node makes of them.
    loaded.config.relay();
    true
}

fn load(text: &str) -> Result<Loaded, ConfigError> {
    let flags = Flags::default();
    let validate_peer = |ticket: &str| if ticket.is_empty() { Err("it is empty".to_owned()) } else { Ok(()) };
    let sources = Sources { flags: &flags, environment: Vec::new(), validate_peer };
    let environment = layers::environment(&sources.environment)?;
    let file = layers::parse(Path::new("aspen.toml"), text)?;
    Config::from_layers(environment, Some(file), &sources)
}

pub(crate) fn config_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let some = r#"node_id = 3
data_dir = "/var/lib/aspen"
http_addr = "[::1]:4600"
iroh_relay = "http://192.0.2.1:4602"
iroh_paths = "relay"
peers = ["aspennodeabc", { node_id = 2, public_key = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394", addresses = ["198.51.100.7:4601"], relay_url = "https://relay.example/" }]
bootstrap = "static"
network_profile = "wan"

[raft]
heartbeat_interval_ms = 100
election_timeout_min_ms = 500

[kv]
history_revisions = 10
"#;
    let relay = "serve_relay = \"192.0.2.1:4602\"\nlog_filter = \"aspen=debug,warn\"\nlearner = true\n";
    vec![("some", some.into()), ("relay", relay.into()), ("empty", Vec::new())]
}
