//! The layers of settings, each read into the same shape and checked for unknown keys on its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::NetworkProfile;
use super::error::{ConfigError, Origin};
use super::flags::Flags;
use super::keys::{self, Default, KEYS, Key, Kind};
use crate::limits;

const DEFAULTS: &str = "defaults";
const PROFILE_LAN: &str = "profile lan";
const PROFILE_WAN: &str = "profile wan";
const ENVIRONMENT: &str = "environment";
const FILE: &str = "file";
const FLAGS: &str = "flags";

/// Settings of one origin.
pub(super) struct Layer {
    name: &'static str,
    path: Option<PathBuf>,
    values: Dict,
}

impl Layer {
    fn new(name: &'static str) -> Self {
        Self { name, path: None, values: Dict::new() }
    }

    /// Sets `table.key`, or a key outside of tables.
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let nested = figment::util::nest(name, value.into());
        let (key, value) =
            nested.into_dict().and_then(|dict| dict.into_iter().next()).expect("nest makes a dict");
        match (self.values.get_mut(&key), value) {
            (Some(Value::Dict(_, table)), Value::Dict(_, keys)) => table.extend(keys),
            (_, value) => {
                self.values.insert(key, value);
            }
        }
    }

    /// Where a value with the metadata of a layer was set.
    pub fn origin(metadata: &Metadata, key: &Key) -> Origin {
        match (metadata.name.as_ref(), &metadata.source) {
            (PROFILE_LAN, _) => Origin::Profile(NetworkProfile::Lan),
            (PROFILE_WAN, _) => Origin::Profile(NetworkProfile::Wan),
            (ENVIRONMENT, _) => Origin::Environment(key.variable()),
            (FILE, Some(figment::Source::File(path))) => Origin::File(path.clone()),
            (FLAGS, _) => Origin::Flag(Flags::name_of(key.name)),
            _ => Origin::Default,
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        match &self.path {
            Some(path) => Metadata::from(self.name, path.as_path()),
            None => Metadata::named(self.name),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The defaults that depend on nothing.
pub(super) fn defaults() -> Layer {
    let mut layer = Layer::new(DEFAULTS);
    for key in KEYS {
        match key.default {
            Default::Unset | Default::Profile => {}
            Default::Text(text) => layer.set(key.name, text),
            Default::Number(number) => layer.set(key.name, number),
            Default::No => layer.set(key.name, false),
            Default::EmptyList => layer.set(key.name, Vec::<String>::new()),
        }
    }
    layer
}

/// The timings that fit the network.
pub(super) fn profile(profile: NetworkProfile) -> Layer {
    let (name, heartbeat_ms, election_ms) = match profile {
        NetworkProfile::Lan => {
            (PROFILE_LAN, limits::HEARTBEAT_LAN_INTERVAL_MS, limits::ELECTION_LAN_TIMEOUT_MS)
        }
        NetworkProfile::Wan => {
            (PROFILE_WAN, limits::HEARTBEAT_WAN_INTERVAL_MS, limits::ELECTION_WAN_TIMEOUT_MS)
        }
    };
    let mut layer = Layer::new(name);
    layer.set("raft.heartbeat_interval_ms", heartbeat_ms);
    layer.set("raft.election_timeout_min_ms", election_ms.0);
    layer.set("raft.election_timeout_max_ms", election_ms.1);
    layer
}

/// What the environment says.
pub(super) struct Environment {
    pub settings: Layer,
    pub config_file: Option<PathBuf>,
    pub credentials_dir: Option<PathBuf>,
}

/// Reads the environment. Names outside of `ASPEN_` are not ours; unknown ones inside are refused.
pub(super) fn environment(variables: &[(OsString, OsString)]) -> Result<Environment, ConfigError> {
    let mut environment =
        Environment { settings: Layer::new(ENVIRONMENT), config_file: None, credentials_dir: None };
    for (name, value) in variables {
        if name == "ASPEN_CONFIG" {
            environment.config_file = Some(PathBuf::from(value));
        } else if name == "CREDENTIALS_DIRECTORY" {
            environment.credentials_dir = Some(PathBuf::from(value));
        } else if name.as_encoded_bytes().starts_with(b"ASPEN_") && !is_other(name) {
            let variable = name.to_string_lossy().into_owned();
            let key = KEYS.iter().find(|key| key.variable() == variable);
            let key = key.ok_or_else(|| unknown_variable(&variable))?;
            let text = value.to_str().ok_or(ConfigError::NotUnicode { variable })?;
            environment.settings.set(key.name, typed(key, text));
        }
    }
    Ok(environment)
}

fn is_other(name: &OsStr) -> bool {
    keys::OTHER_VARIABLES.iter().any(|other| name == *other)
}

fn unknown_variable(variable: &str) -> ConfigError {
    let mut known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    known.extend(keys::OTHER_VARIABLES.iter().map(|&name| name.to_owned()));
    ConfigError::UnknownKey {
        key: variable.to_owned(),
        origin: Origin::Environment(variable.to_owned()),
        nearest: keys::nearest(variable, &known),
        allowed: known.join(", "),
    }
}

/// Text as a value of the key's type. Text that is no number stays text, and is refused as such later.
fn typed(key: &Key, text: &str) -> Value {
    match key.kind {
        Kind::Text => Value::from(text),
        Kind::Number => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
        Kind::Flag => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
    }
}

/// Reads the file.
pub(super) fn file(path: &Path) -> Result<Layer, ConfigError> {
    parse(path, &read_file(path)?)
}

/// Reads what is in the file.
pub(super) fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let values: Dict =
        toml::from_str(text).map_err(|source| ConfigError::SyntaxFile { path: path.to_owned(), source })?;
    refuse_unknown(path, &values)?;
    Ok(Layer { name: FILE, path: Some(path.to_owned()), values })
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let failed = |source: io::Error| ConfigError::ReadFile { path: path.to_owned(), source };
    let max_bytes = limits::CONFIG_FILE_MAX_BYTES;
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.take(max_bytes + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > max_bytes {
        return Err(ConfigError::FileTooLong { path: path.to_owned(), max_bytes });
    }
    Ok(text)
}

fn refuse_unknown(path: &Path, values: &Dict) -> Result<(), ConfigError> {
    for (name, value) in values {
        match value {
            Value::Dict(_, table) if keys::is_table(name) => {
                for key in table.keys() {
                    let full = format!("{name}.{key}");
                    if keys::find(&full).is_none() {
                        return Err(unknown_in_file(path, full));
                    }
                }
            }
            _ if keys::find(name).is_some() => {}
            // Not a table, though it should be one: refused with its type when it is read.
            _ if keys::is_table(name) => {}
            _ => return Err(unknown_in_file(path, name.clone())),
        }
    }
    Ok(())
}

fn unknown_in_file(path: &Path, key: String) -> ConfigError {
    let known: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    ConfigError::UnknownKey {
        nearest: keys::nearest(&key, &known),
        key,
        origin: Origin::File(path.to_owned()),
        allowed: known.join(", "),
    }
}

/// What the command line says.
pub(super) fn flags(flags: &Flags) -> Layer {
    let mut layer = Layer::new(FLAGS);
    for (name, text) in flags.settings() {
        let key = keys::find(name).expect("every flag sets a key");
        layer.set(name, typed(key, text));
    }
    for (name, pieces) in flags.lists().filter(|(_, pieces)| !pieces.is_empty()) {
        layer.set(name, pieces.into_iter().map(Value::from).collect::<Vec<_>>());
    }
    layer
}
