//! Where a setting came from, and what is wrong with one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::NetworkProfile;
use super::secret_file::SecretFileError;

/// The layer that set a value, as a person finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and the network profile says what it is.
    Profile(NetworkProfile),
    /// The environment variable of that name.
    Environment(String),
    /// The file.
    File(PathBuf),
    /// The flag, with its dashes.
    Flag(String),
    /// The credential of that name, which systemd has for the unit.
    Credential(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(NetworkProfile::Lan) => f.write_str("default of network_profile \"lan\""),
            Self::Profile(NetworkProfile::Wan) => f.write_str("default of network_profile \"wan\""),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Credential(name) => write!(f, "systemd credential {name}"),
        }
    }
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}. Check the path and its permissions", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error(
        "the configuration file {} is longer than {max_bytes} bytes: is it the right file?",
        path.display()
    )]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// The bound.
        max_bytes: u64,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is not valid TOML: {source}", path.display())]
    SyntaxFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// No such key.
    #[error("unknown key '{key}', set by {origin}.{} Allowed are: {allowed}", did_you_mean(nearest))]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// Who set it.
        origin: Origin,
        /// The key that was likely meant.
        nearest: Option<String>,
        /// All keys that would be allowed there.
        allowed: String,
    },
    /// A value that is not of its key's type.
    #[error("{key} = {value}, set by {origin}, is refused: {reason}. Allowed: {allowed}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// Its value, shortened.
        value: String,
        /// Who set it.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A value in the place of a table of keys.
    #[error("'{table}', set by {origin}, must be a table of keys: write [{table}] and the keys below it")]
    NotATable {
        /// The table.
        table: String,
        /// Who set it.
        origin: Origin,
    },
    /// An environment variable that is no text.
    #[error("environment variable {variable} is not valid UTF-8. Set it to text, or unset it")]
    NotUnicode {
        /// Its name.
        variable: String,
    },
    /// Anyone on the network could read and write.
    #[error(
        "http_addr = {http_addr}, set by {origin}, can be reached from other machines, and \
         http_token_file is not set: everyone there could read and write. Set http_token_file to a file \
         with a bearer token, or http_addr to a loopback address such as 127.0.0.1:4600"
    )]
    TokenMissing {
        /// The address.
        http_addr: SocketAddr,
        /// Who set it.
        origin: Origin,
    },
    /// A secret file that cannot be used.
    #[error("{key}, set by {origin}, is refused: {source}")]
    SecretFile {
        /// The key that names the file.
        key: &'static str,
        /// Who set it.
        origin: Origin,
        /// What is wrong with the file.
        source: SecretFileError,
    },
    /// A token that no HTTP header can carry.
    #[error(
        "http_token_file = {}, set by {origin}, holds a token that no HTTP header can carry. Write one \
         line of visible ASCII characters without spaces into it",
        path.display()
    )]
    TokenNotVisible {
        /// The file.
        path: PathBuf,
        /// Who set it.
        origin: Origin,
    },
    /// A backend that this program was built without.
    #[error(
        "control_backend = \"hiqlite\", set by {origin}, is not built into this program. Set it to \"raft\", \
         or use a build with the feature `hiqlite`"
    )]
    BackendNotBuiltIn {
        /// Who set it.
        origin: Origin,
    },
    /// A secret of Hiqlite that nobody gave.
    #[error(
        "{key} is not set, and there is no credential {credential}: nodes and clients of a Hiqlite cluster prove that they know it. Set it to a file of mode 0600, the same on all of them"
    )]
    HiqliteSecretMissing {
        /// The key.
        key: &'static str,
        /// The credential.
        credential: &'static str,
    },
    /// A file of a secret of Hiqlite that cannot be used.
    #[error("{key} is refused: {source}")]
    HiqliteSecret {
        /// The key.
        key: &'static str,
        /// What is wrong with the file.
        source: SecretFileError,
    },
    /// A secret that Hiqlite does not take.
    #[error(
        "{key} = {}, is refused: a secret of Hiqlite is one line of {} or more visible ASCII characters without spaces",
        path.display(), crate::limits::HIQLITE_SECRET_MIN_BYTES
    )]
    HiqliteSecretUnfit {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" Did you mean '{name}'?"))
}
