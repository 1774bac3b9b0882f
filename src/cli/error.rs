//! How a command ends, and which exit code that is. Scripts rely on the codes: they must stay stable.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::bench::OperationError;
use crate::config::secret_file::SecretFileError;
use crate::kv::backup::BackupError;
use crate::kv::client::{Address, BuildError, ClientError};
use crate::kv::json::{ErrorBody, FormError};
use crate::kv::token::HttpTokenError;
use crate::kv::types::KvError;
use crate::transport::client::OpenError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to.
    Done,
    /// There is no such key, or a comparison failed.
    NotFound,
    /// The command line or its input is wrong.
    Usage,
    /// The cluster cannot serve.
    Unavailable,
    /// The cluster refused the request.
    Refused,
    /// A change may or may not have taken effect.
    OutcomeUnknown,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::NotFound => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
            Exit::Refused => 4,
            Exit::OutcomeUnknown => 5,
        })
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Token(#[from] HttpTokenError),
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    #[error("{} holds no secret key, which is 64 hex digits", path.display())]
    NotAKey { path: PathBuf },
    #[error(transparent)]
    Endpoint(#[from] OpenError),
    /// A key or value out of bounds.
    #[error(transparent)]
    Limit(#[from] KvError),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error("there is no key {key}{}", at(*.revision))]
    NoSuchKey { key: String, revision: Option<u64> },
    #[error("{} cannot be read: {source}", input(.path))]
    Input { path: PathBuf, source: io::Error },
    #[error("{} has more than the {max_bytes} bytes that can be sent", input(.path))]
    InputTooLarge { path: PathBuf, max_bytes: usize },
    #[error("the transaction is not understood: {0}")]
    Txn(serde_json::Error),
    #[error("history before revision {revision} is not all gone yet: it took too long")]
    CompactionUnfinished { revision: u64 },
    #[error("{} cannot be written: {source}", path.display())]
    OutputFile { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    BadBackup { path: PathBuf, source: BackupError },
    #[error("what came from {address} was not kept: {source}")]
    BadTransfer { address: Address, source: BackupError },
    #[error("{} is there already", path.display())]
    FileExists { path: PathBuf },
    #[error("another backup to {} is under way", path.display())]
    BackupUnderWay { path: PathBuf },
    #[error(
        "init makes a cluster of one node, and {count} addresses are given: where the first did not answer, the next one would make a second cluster"
    )]
    OneToInit { count: usize },
    #[error(
        "init makes a cluster with an id of its own, and another one is asked for by its id: nothing was sent"
    )]
    NewIdToInit,
    #[error(
        "the cluster holds {keys} keys at revision {revision}, which the backup of {backup_keys} keys would replace: nothing was changed"
    )]
    WouldReplace { keys: u64, revision: u64, backup_keys: u64 },
    #[error("{} was changed while it was read: nothing was restored", path.display())]
    FileChanged { path: PathBuf },
    #[error("the restore was interrupted: nothing was changed")]
    Interrupted,
    #[error("the load could not be made: {0}")]
    Bench(OperationError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) if error.is_outcome_unknown() => Exit::OutcomeUnknown,
            Self::Client(error) if error.is_unavailable() => Exit::Unavailable,
            Self::Client(ClientError::Form(_)) => Exit::Usage,
            Self::Client(_) => Exit::Refused,
            Self::NoSuchKey { .. } => Exit::NotFound,
            Self::WouldReplace { .. } | Self::Interrupted => Exit::Refused,
            Self::BadTransfer { .. } => Exit::Unavailable,
            Self::CompactionUnfinished { .. } | Self::Bench(_) | Self::Endpoint(_) => Exit::Unavailable,
            _ => Exit::Usage,
        }
    }

    /// Whether whoever read the output has gone.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error in the form of the HTTP API's.
    pub(super) fn body(&self) -> ErrorBody {
        let (code, action) = match self {
            Self::Client(ClientError::Refused { error, outcome_unknown: None, .. }) => {
                return ErrorBody::clone(error);
            }
            Self::Client(error) => (error.code(), error.action()),
            Self::Limit(error) => (error.code(), error.action()),
            Self::Form(error) => (error.code(), error.action()),
            Self::Build(_) => ("no_address", "name a member with --addr"),
            Self::Token(_) => ("bad_token", "name the file that holds the node's token with --token-file"),
            Self::KeyFile(_) | Self::NotAKey { .. } => {
                ("bad_key", "name a file with --key-file that `aspen-node keygen` has written")
            }
            Self::Endpoint(_) => ("no_socket", "check that this machine has a network"),
            Self::NoSuchKey { .. } => ("no_such_key", "list the keys that there are with `aspen range`"),
            Self::Input { .. } => ("bad_input", "name a file that can be read, or - for the standard input"),
            Self::InputTooLarge { .. } => ("input_too_large", "split it over several keys or writes"),
            Self::Txn(_) => ("bad_json", "see `aspen txn --help` for an example"),
            Self::CompactionUnfinished { .. } => ("unfinished", "run it again"),
            Self::OutputFile { .. } => ("bad_output", "name a file that can be written"),
            Self::BadBackup { .. } => (
                "bad_backup",
                "use another backup, and check each with `aspen backup --check` when it is made",
            ),
            Self::BadTransfer { .. } => {
                ("broken_off", "run it again; the node's log says what happened there")
            }
            Self::BackupUnderWay { .. } => ("busy_file", "wait until it has ended, or name another file"),
            Self::OneToInit { .. } => ("too_many_addresses", "name that one node with --addr"),
            Self::NewIdToInit => (
                "cluster_id_to_init",
                "if there is to be another cluster, leave --cluster-id out, and ASPEN_CLUSTER_ID unset",
            ),
            Self::FileExists { .. } => ("file_exists", "name another file, or replace it with --force"),
            Self::WouldReplace { .. } => {
                ("not_empty", "back the cluster up first, then run it again with --replace")
            }
            Self::FileChanged { .. } => ("bad_backup", "run it again when nobody writes to the file"),
            Self::Interrupted => ("interrupted", "run it again when the keys are to be replaced"),
            Self::Bench(_) => {
                ("no_load", "check that the nodes run, serve, and let this client in: `aspen status`")
            }
            Self::Output(_) => ("bad_output", "check where the output goes to"),
        };
        let mut body = ErrorBody::new(code, self.to_string(), action);
        if let Self::Client(ClientError::OtherCluster { asked, found, .. }) = self {
            body.details.insert("asked".to_owned(), asked.to_string().into());
            body.details.insert("own".to_owned(), found.to_string().into());
        }
        body
    }
}

fn input(path: &Path) -> String {
    if path == Path::new("-") { "the standard input".to_owned() } else { path.display().to_string() }
}

fn at(revision: Option<u64>) -> String {
    revision.map(|revision| format!(" at revision {revision}")).unwrap_or_default()
}
