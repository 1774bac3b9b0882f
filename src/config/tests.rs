use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::kv::types::{NodeInfo, Peer};

/// The layers of one test.
#[derive(Default)]
struct Given {
    file: Option<&'static str>,
    environment: Vec<(&'static str, String)>,
    flags: Vec<String>,
}

impl Given {
    fn file(text: &'static str) -> Self {
        Self { file: Some(text), ..Self::default() }
    }

    fn env(name: &'static str, value: &str) -> Self {
        Self::default().and_env(name, value)
    }

    fn flags(flags: &[&str]) -> Self {
        Self::default().and_flags(flags)
    }

    fn and_env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn and_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    fn load(self) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let mut args = vec!["aspen-node".to_owned()];
        args.extend(self.flags);
        if let Some(text) = self.file {
            let path = dir.path().join("aspen.toml");
            fs::write(&path, text).unwrap();
            args.extend(["--config".to_owned(), path.display().to_string()]);
        }
        let flags = Flags::try_parse_from(args).unwrap();
        let environment =
            self.environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Config::load(&Sources { flags: &flags, environment, validate_peer })
    }

    fn config(self) -> Config {
        self.load().unwrap().config
    }

    /// The error's sentence, which must hold all parts.
    #[track_caller]
    fn refused(self, parts: &[&str]) {
        let sentence = self.load().unwrap_err().to_string();
        for part in parts {
            assert!(sentence.contains(part), "no '{part}' in: {sentence}");
        }
    }
}

fn validate_peer(peer: &str) -> Result<(), String> {
    if peer.starts_with("ticket") { Ok(()) } else { Err("it does not begin with 'ticket'".to_owned()) }
}

fn private_file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

#[test]
fn without_any_settings_a_node_starts_on_loopback() {
    let config = Given::default().config();
    assert_eq!(config.node_id, None);
    assert_eq!(config.data_dir, Path::new("./aspen-data"));
    assert_eq!(config.http_addr.to_string(), "127.0.0.1:4600");
    assert_eq!(config.iroh_addr.to_string(), "0.0.0.0:4601");
    assert_eq!(config.iroh_relay, Relay::Disabled);
    assert_eq!(config.bootstrap, Bootstrap::Auto);
    assert_eq!(config.storage, Storage::Redb);
    assert_eq!(config.control_backend, ControlBackend::Raft);
    assert_eq!(config.log_format, LogFormat::Auto);
    let raft = config.raft;
    assert_eq!(
        (raft.heartbeat_interval_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms),
        (200, 500, 800)
    );
}

#[test]
fn flags_win_over_the_file_and_that_over_the_environment() {
    let all = || {
        Given::file("data_dir = '/file'\nhttp_addr = '127.0.0.1:2'\n")
            .and_env("ASPEN_DATA_DIR", "/env")
            .and_env("ASPEN_HTTP_ADDR", "127.0.0.1:1")
            .and_env("ASPEN_IROH_ADDR", "127.0.0.1:9")
    };
    let config = all().and_flags(&["--http-addr", "127.0.0.1:3"]).config();
    assert_eq!(config.data_dir, Path::new("/file"));
    assert_eq!(config.http_addr.port(), 3);
    assert_eq!(config.iroh_addr.port(), 9);
    assert_eq!(all().config().http_addr.port(), 2);
}

#[test]
fn a_table_is_filled_from_several_layers() {
    let given = Given::file("[raft]\nheartbeat_interval_ms = 50\n")
        .and_env("ASPEN_RAFT__SNAPSHOT_EVERY_ENTRIES", "7")
        .and_env("ASPEN_RAFT__HEARTBEAT_INTERVAL_MS", "60");
    let raft = given.config().raft;
    assert_eq!((raft.heartbeat_interval_ms, raft.snapshot_every_entries), (50, 7));
    assert_eq!(raft.election_timeout_min_ms, 500);
}

#[test]
fn the_wan_profile_sets_timings_that_other_layers_override() {
    let raft = Given::env("ASPEN_NETWORK_PROFILE", "wan").config().raft;
    assert_eq!(
        (raft.heartbeat_interval_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms),
        (500, 2500, 5000)
    );
    let given = Given::env("ASPEN_RAFT__ELECTION_TIMEOUT_MAX_MS", "9000");
    assert_eq!(given.and_flags(&["--network-profile", "wan"]).config().raft.election_timeout_max_ms, 9000);
}

#[test]
fn the_environment_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.toml");
    fs::write(&path, "node_id = 5").unwrap();
    let given = Given::env("ASPEN_CONFIG", &path.display().to_string());
    assert_eq!(given.config().node_id, Some(NodeId(5)));
}

#[test]
fn peers_of_one_layer_replace_those_of_the_layer_below() {
    let named = |given: Given| given.config().peers;
    let tickets = |tickets: &[&str]| -> Vec<PeerSetting> {
        tickets.iter().map(|&ticket| PeerSetting::Ticket(ticket.to_owned())).collect()
    };
    assert_eq!(named(Given::env("ASPEN_PEERS", "ticket1, ticket2,")), tickets(&["ticket1", "ticket2"]));
    let given = Given::file("peers = ['ticket3']").and_env("ASPEN_PEERS", "ticket1");
    assert_eq!(named(given), tickets(&["ticket3"]));
    let given =
        Given::file("peers = ['ticket3']").and_flags(&["--peer", "ticket4", "--peers", "ticket5,ticket6"]);
    assert_eq!(named(given), tickets(&["ticket4", "ticket5", "ticket6"]));
}

#[test]
fn a_peer_in_a_file_may_be_what_its_ticket_would_say() {
    let key = iroh::SecretKey::from_bytes(&[1; 32]).public();
    let text: &'static str = format!(
        "peers = ['ticket2']\n[[peers]]\nnode_id = 3\npublic_key = '{key}'\naddresses = ['10.0.0.3:4601', '[::1]:1']\n"
    )
    .leak();
    // TOML has arrays of tables for tables alone.
    Given::file(text).refused(&["not valid TOML"]);
    let entry = format!("node_id = 3, public_key = '{key}'");
    let peers = |peers: String| -> Given { Given::file(format!("peers = [{peers}]").leak()) };
    let loaded = peers(format!("'ticket2', {{ {entry}, addresses = ['10.0.0.3:4601'] }}")).load().unwrap();
    let info = NodeInfo {
        public_key: PublicKey(*key.as_bytes()),
        addresses: vec!["10.0.0.3:4601".parse().unwrap()],
        relay_url: None,
        http_addr: None,
    };
    let node = PeerSetting::Node(Peer { node_id: NodeId(3), info });
    assert_eq!(loaded.config.peers, [PeerSetting::Ticket("ticket2".to_owned()), node]);
    let rendered: &'static str = loaded.render().leak();
    assert_eq!(Given::file(rendered).config().peers, loaded.config.peers, "{rendered}");

    let table =
        format!("[[peers]]\nnode_id = 3\npublic_key = '{key}'\nrelay_url = 'https://relay.example'\n");
    assert_eq!(Given::file(table.leak()).config().peers.len(), 1);
    peers("{ node_id = 3 }".to_owned()).refused(&["peers", "file /", "missing field `public_key`"]);
    peers(format!("{{ {entry}, port = 1 }}")).refused(&["peers", "port", "node_id, public_key"]);
    peers(format!("{{ {entry}, addresses = ['node3:4601'] }}")).refused(&["peers", "address"]);
    peers(format!("{{ {entry}, relay_url = 'n0' }}")).refused(&["'n0'", "relay_url of node 3"]);
    peers(format!("{{ node_id = 0, public_key = '{key}' }}")).refused(&["0 is no node id"]);
    let no_point = "02".to_owned() + &"00".repeat(31);
    peers(format!("{{ node_id = 3, public_key = '{no_point}' }}"))
        .refused(&["no secret key belongs to 0200", "node 3"]);
    let many = vec!["'10.0.0.1:1'"; crate::limits::PEER_ADDRESSES_MAX_COUNT + 1].join(", ");
    peers(format!("{{ {entry}, addresses = [{many}] }}")).refused(&["node 3 has", "and may have"]);
}

#[test]
fn a_peer_that_is_no_ticket_is_named() {
    Given::flags(&["--peer", "nonsense"]).refused(&[
        "peers",
        "\"nonsense\" is no ticket: it does not begin with",
        "flag --peer",
        "Allowed: tickets of other nodes",
    ]);
}

#[test]
fn keys_of_clients_come_from_every_layer_and_a_wrong_one_is_named() {
    let keys = [1, 2].map(|number| iroh::SecretKey::from_bytes(&[number; 32]).public().to_string());
    let admitted = |config: Config| config.client_keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(admitted(Given::default().config()), Vec::<String>::new());
    assert_eq!(admitted(Given::env("ASPEN_CLIENT_KEYS", &keys.join(", ")).config()), keys);
    let file: &'static str = format!("client_keys = ['{}']", keys[0]).leak();
    assert_eq!(admitted(Given::file(file).config()), keys[..1]);
    let flags = ["--client-key", keys[0].as_str(), "--client-key", keys[1].as_str()];
    assert_eq!(admitted(Given::file(file).and_flags(&flags).config()), keys);

    Given::flags(&["--client-key", "abc"]).refused(&[
        "client_keys",
        "'abc' is no public key",
        "flag --client-key",
        "Allowed: public keys of clients",
    ]);
    let no_point = "02".to_owned() + &"00".repeat(31);
    Given::env("ASPEN_CLIENT_KEYS", &no_point)
        .refused(&["no secret key belongs to 0200", "ASPEN_CLIENT_KEYS"]);
    Given::file("client_keys = 'ab'").refused(&["client_keys = \"ab\"", "public keys of clients"]);
}

#[test]
fn a_wrong_type_names_key_layer_and_what_is_allowed() {
    Given::file("node_id = 'one'").refused(&[
        "node_id = \"one\"",
        "file /",
        "aspen.toml",
        "a whole number of 1",
    ]);
    Given::env("ASPEN_NODE_ID", "one").refused(&["node_id = \"one\"", "environment variable ASPEN_NODE_ID"]);
    Given::flags(&["--node-id", "-1"]).refused(&["node_id = \"-1\"", "flag --node-id"]);
    Given::flags(&["--node-id", "0"]).refused(&["node_id = 0", "flag --node-id"]);
    Given::file("http_addr = 4600").refused(&["http_addr = 4600", "file", "127.0.0.1:4600 or [::1]:4600"]);
    Given::file("http_addr = 'localhost:4600'").refused(&["http_addr = \"localhost:4600\"", "an IP address"]);
    Given::file("peers = 'ticket1'").refused(&["peers = \"ticket1\"", "tickets of other nodes"]);
    Given::file("peers = [1]").refused(&["peers = [1]", "tickets of other nodes"]);
    Given::env("ASPEN_STORAGE", "rocksdb").refused(&["storage = \"rocksdb\"", "redb or memory"]);
    Given::flags(&["--bootstrap", "yes"]).refused(&["bootstrap = \"yes\"", "auto, manual or static"]);
    Given::file("network_profile = 'moon'").refused(&["network_profile = \"moon\"", "file", "lan or wan"]);
    Given::env("ASPEN_RAFT__HEARTBEAT_INTERVAL_MS", "1s")
        .refused(&["raft.heartbeat_interval_ms = \"1s\"", "ASPEN_RAFT__HEARTBEAT_INTERVAL_MS"]);
    Given::file("[kv]\nhistory_revisions = -1").refused(&["kv.history_revisions = -1", "1 to 1000000000"]);
    Given::flags(&["--data-dir", ""]).refused(&["data_dir = \"\"", "the path is empty"]);
}

#[test]
fn a_value_in_the_place_of_a_table_is_refused() {
    Given::file("raft = 5").refused(&["'raft'", "file /", "write [raft]"]);
    Given::file("node_id = { a = 1 }").refused(&["node_id", "file /", "a whole number"]);
    Given::file("[[kv]]\nhistory_revisions = 5").refused(&["'kv'", "file /", "write [kv]"]);
}

#[test]
fn a_relay_is_disabled_n0_or_a_url() {
    assert_eq!(Given::flags(&["--iroh-relay", "n0"]).config().iroh_relay, Relay::N0);
    let url = "https://relay.example.com";
    let Relay::Url(relay) = Given::flags(&["--iroh-relay", url]).config().iroh_relay else {
        panic!("no URL")
    };
    assert!(relay.as_str().starts_with(url));
    for wrong in ["relay.example.com", "ftp://x", "https://", "N0"] {
        Given::flags(&["--iroh-relay", wrong]).refused(&["iroh_relay", wrong, "disabled, n0, or the URL"]);
    }
}

#[test]
fn a_node_that_serves_a_relay_uses_it_unless_it_names_others() {
    let serving = |addr: &str| Given::flags(&["--serve-relay", addr]);
    let named = |config: Config| match config.relay() {
        Relay::Url(url) => url.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(named(serving("192.0.2.1:4602").config()), "http://192.0.2.1:4602/");
    assert_eq!(named(serving("[2001:db8::1]:4602").config()), "http://[2001:db8::1]:4602/");
    let other = ["--iroh-relay", "https://relay.example.com"];
    assert_eq!(named(serving("0.0.0.0:4602").and_flags(&other).config()), "https://relay.example.com/");
    assert_eq!(Given::default().config().relay(), Relay::Disabled);

    serving("0.0.0.0:4602").refused(&["serve_relay", "0.0.0.0:4602", "set iroh_relay to its URL"]);
    serving("192.0.2.1:0").refused(&["serve_relay", "which port"]);
    serving("[fe80::1%5]:4602").refused(&["serve_relay", "scope", "iroh_relay"]);
    assert_eq!(named(serving("[fe80::1%5]:4602").and_flags(&other).config()), "https://relay.example.com/");
    serving("192.0.2.1").refused(&["serve_relay", "an IP address and a TCP port"]);
}

#[test]
fn relays_alone_are_used_only_where_there_is_one() {
    let alone = || Given::flags(&["--iroh-paths", "relay"]);
    alone().refused(&["iroh_paths", "no way to anybody", "iroh_relay"]);
    assert_eq!(alone().and_flags(&["--iroh-relay", "http://a"]).config().iroh_paths, Paths::Relay);
    assert_eq!(alone().and_flags(&["--serve-relay", "192.0.2.1:1"]).config().iroh_paths, Paths::Relay);
    Given::flags(&["--iroh-paths", "direct"]).refused(&["iroh_paths", "all or relay"]);
}

#[test]
fn nothing_is_announced_unasked() {
    assert!(!Given::flags(&[]).config().iroh_mdns);
    assert!(Given::flags(&["--iroh-mdns"]).config().iroh_mdns);
    assert!(Given::file("iroh_mdns = true").config().iroh_mdns);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    Given::file("http_adr = '127.0.0.1:1'").refused(&[
        "unknown key 'http_adr'",
        "file /",
        "Did you mean 'http_addr'?",
        "node_id, data_dir",
    ]);
    Given::file("[raft]\nheartbeat = 1").refused(&["'raft.heartbeat'", "'raft.heartbeat_interval_ms'"]);
    Given::file("[http]\naddr = 1").refused(&["unknown key 'http'"]);
    Given::env("ASPEN_HTTP_ADR", "x").refused(&[
        "ASPEN_HTTP_ADR",
        "Did you mean 'ASPEN_HTTP_ADDR'?",
        "ASPEN_PEERS",
    ]);
}

#[test]
fn the_clients_own_variables_and_foreign_ones_are_passed_over() {
    let given =
        Given::env("ASPEN_ADDR", "127.0.0.1:4600").and_env("ASPEN_TOKEN_FILE", "/x").and_env("PATH", "/bin");
    assert!(given.load().is_ok());
}

#[test]
fn an_environment_variable_that_is_no_text_is_named() {
    let flags = Flags::default();
    let environment = vec![("ASPEN_DATA_DIR".into(), OsString::from_vec(vec![0xff]))];
    let error = Config::load(&Sources { flags: &flags, environment, validate_peer }).unwrap_err();
    assert!(error.to_string().contains("ASPEN_DATA_DIR is not valid UTF-8"), "{error}");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    Given::flags(&["--config", "/nonexistent/aspen.toml"])
        .refused(&["cannot read", "/nonexistent/aspen.toml"]);
    Given::file("node_id = ").refused(&["aspen.toml", "not valid TOML", "line 1"]);
    let (_dir, path) =
        private_file(&"#".repeat(usize::try_from(crate::limits::CONFIG_FILE_MAX_BYTES).unwrap() + 1));
    Given::flags(&["--config", &path]).refused(&["longer than", &path]);
}

#[test]
fn http_beyond_loopback_needs_a_token() {
    Given::flags(&["--http-addr", "0.0.0.0:4600"]).refused(&[
        "http_addr = 0.0.0.0:4600",
        "flag --http-addr",
        "http_token_file is not set",
    ]);
    assert!(Given::flags(&["--http-addr", "[::1]:4600"]).load().is_ok());
    assert!(Given::flags(&["--http-addr", "[::ffff:127.0.0.1]:4600"]).load().is_ok());
    let (_dir, path) = private_file("a-token\n");
    let config = Given::flags(&["--http-addr", "0.0.0.0:4600", "--http-token-file", &path]).config();
    assert_eq!(config.read_http_token().unwrap().unwrap().expose(), "a-token");
}

#[test]
fn a_token_file_that_cannot_protect_anything_is_refused() {
    let (_dir, empty) = private_file("\n");
    Given::env("ASPEN_HTTP_TOKEN_FILE", &empty).refused(&[
        "http_token_file",
        "ASPEN_HTTP_TOKEN_FILE",
        "is empty",
    ]);
    let (_dir, spaced) = private_file("two words");
    Given::flags(&["--http-token-file", &spaced]).refused(&["no HTTP header can carry", &spaced]);
    let (_dir, open) = private_file("a-token");
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    Given::flags(&["--http-token-file", &open]).refused(&["flag --http-token-file", "0644", "chmod 600"]);
    Given::flags(&["--http-token-file", "/nonexistent"]).refused(&["http_token_file", "/nonexistent"]);
    Given::flags(&["--secret-key-file", "/nonexistent"]).refused(&["secret_key_file", "/nonexistent"]);
}

#[test]
fn a_credential_of_systemd_is_accepted_with_the_modes_it_has() {
    let (dir, path) = private_file("a-token");
    fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
    let given = Given::flags(&["--http-token-file", &path]);
    let config = given.and_env("CREDENTIALS_DIRECTORY", &dir.path().display().to_string()).config();
    assert_eq!(config.credentials_dir.as_deref(), Some(dir.path()));
    assert!(config.read_http_token().is_ok());
}

#[test]
fn a_credential_of_systemd_is_the_token_where_no_file_is_configured() {
    let (dir, path) = private_file("a-token");
    let credentials = dir.path().display().to_string();
    let public =
        || Given::flags(&["--http-addr", "0.0.0.0:4600"]).and_env("CREDENTIALS_DIRECTORY", &credentials);
    public().refused(&["http_token_file is not set"]);
    let credential = dir.path().join("http-token");
    fs::rename(path, &credential).unwrap();
    let config = public().config();
    assert_eq!(config.read_http_token().unwrap().unwrap().expose(), "a-token");
    let (_other_dir, other) = private_file("another");
    let config = public().and_flags(&["--http-token-file", &other]).config();
    assert_eq!(config.read_http_token().unwrap().unwrap().expose(), "another");
    fs::write(credential, "two words").unwrap();
    public().refused(&["systemd credential http-token", "no HTTP header can carry"]);
}

#[test]
fn timings_that_would_never_elect_a_leader_are_refused() {
    Given::file("[raft]\nheartbeat_interval_ms = 300").refused(&[
        "raft.election_timeout_min_ms = 500",
        "default of network_profile \"lan\"",
        "two heartbeats of 300 ms, set by file",
    ]);
    Given::file("[raft]\nelection_timeout_max_ms = 500")
        .refused(&["raft.election_timeout_max_ms = 500", "not above election_timeout_min_ms = 500"]);
    Given::file("[raft]\nheartbeat_interval_ms = 0")
        .refused(&["raft.heartbeat_interval_ms = 0", "10 or more"]);
    Given::file("[raft]\nheartbeat_interval_ms = 9223372036854775807").refused(&["not within"]);
    Given::file("[raft]\nsnapshot_every_entries = 0").refused(&["snapshot_every_entries", "1 to 39999"]);
    Given::file("[storage_options]\ncache_bytes = 32").refused(&["cache_bytes = 32", "1 MiB"]);
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    Given::flags(&["--log-filter", "aspen=loud"]).refused(&["log_filter", "aspen=loud", "trace"]);
}

#[cfg(not(feature = "hiqlite"))]
#[test]
fn a_backend_that_is_not_built_in_says_so() {
    Given::flags(&["--control-backend", "hiqlite"]).refused(&["hiqlite", "--control-backend", "not built"]);
}

#[cfg(feature = "hiqlite")]
#[test]
fn settings_of_hiqlite_that_no_node_could_run_with_are_refused() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "SixteenOrMoreCharacters").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let secret = secret.display();
    let with = |lines: &str| -> Given {
        let text = format!(
            "control_backend = 'hiqlite'\n[hiqlite]\nsecret_api_file = '{secret}'\nsecret_raft_file = '{secret}'\n{lines}"
        );
        Given::file(text.leak())
    };
    assert!(with("").load().is_ok());
    assert!(with("mode = 'remote'\nnodes = ['db.example:1', '[::1]:2']").load().is_ok());
    assert!(with("mode = 'remote'\nnodes = ['db.example:1', '10.0.0.1:2']\ntls = 'verified'").load().is_ok());
    with("raft_addr = '0.0.0.0:1'").refused(&["hiqlite.raft_addr", "could not reach it"]);
    with("api_addr = '127.0.0.1:4602'").refused(&["hiqlite.api_addr", "hiqlite.raft_addr"]);
    with("tls = 'verified'").refused(&["hiqlite.tls", "no authority"]);
    with("tls = 'self-signed'\nraft_addr = '[::1]:4602'").refused(&["hiqlite.tls", "[::1]:4602", "IPv4"]);
    with("tls = 'verified'\nmode = 'remote'\nnodes = ['[::1]:4603']").refused(&["hiqlite.tls", "[::1]:4603"]);
    with("mode = 'remote'").refused(&["hiqlite.nodes", "no node is named"]);
    with("mode = 'remote'\nnodes = ['db/x:1']").refused(&["hiqlite.nodes", "db/x:1"]);
    with("mode = 'both'").refused(&["hiqlite.mode", "embedded or remote"]);
    Given::flags(&["--control-backend", "hiqlite"]).refused(&["hiqlite.secret_api_file", "credential"]);
}

#[test]
fn the_printed_configuration_shows_every_layer() {
    let given = Given::file("data_dir = '/srv/aspen'\n[kv]\nhistory_revisions = 5\n");
    let given = given.and_env("ASPEN_PEERS", "ticket1,ticket2").and_flags(&["--node-id", "3"]);
    let text = given.load().unwrap().render();
    for line in [
        "node_id = 3 # flag --node-id\n",
        "data_dir = \"/srv/aspen\" # file /",
        "http_addr = \"127.0.0.1:4600\" # default\n",
        "# http_token_file is not set\n",
        "peers = [\"ticket1\", \"ticket2\"] # environment variable ASPEN_PEERS\n",
        "[raft]\nheartbeat_interval_ms = 200 # default of network_profile \"lan\"\n",
        "history_revisions = 5 # file /",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

#[test]
fn the_printed_configuration_means_the_same_when_it_is_read() {
    let given = Given::env("ASPEN_NETWORK_PROFILE", "wan").and_env("ASPEN_LOG_FILTER", "info,a=\"b\"");
    let given = given
        .and_env("ASPEN_NETWORK_PROFILE", "wan")
        .and_env("ASPEN_DATA_DIR", "/with \"quotes\" # and more");
    let given = given.and_env("ASPEN_LOG_FILTER", "info");
    let first = given.load().unwrap();
    let text: &'static str = first.render().leak();
    assert_eq!(Given::file(text).config(), first.config);
}

#[test]
fn what_the_nixos_module_writes_is_accepted() {
    let config = Given::file(include_str!("../../tests/fixtures/nixos-settings.toml")).config();
    assert_eq!(config.bootstrap, Bootstrap::Static);
    assert!(matches!(config.peers.as_slice(), [PeerSetting::Node(peer)] if peer.info.addresses.len() == 2));
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    for key in KEYS {
        let error = Given::env(key.variable().leak(), "\u{1}").load();
        // Paths and lists take almost any text.
        if let Err(error) = error {
            assert!(error.to_string().contains(key.name), "{}: {error}", key.name);
        }
    }
}

#[test]
fn the_example_file_holds_every_key_with_its_default() {
    let example = include_str!("../../aspen.example.toml");
    for key in KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(example.contains(&format!("# {name} = ")), "{name} is not in the example");
    }
    // With every default uncommented it still means what no file means.
    let text: String = example
        .lines()
        .filter(|line| !line.contains("(not set)"))
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let from_example = Given::file(text.leak()).config();
    assert_eq!(from_example, Given::default().config());
}
