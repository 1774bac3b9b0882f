//! The node's secret key: where it is found, and how it is made.
//!
//! The key is the node's identity on the network. It is looked for in the configured file, then among
//! systemd's credentials, then in the data directory, where it is made on the first start. Whether it
//! is the key that the data directory belongs to is for `storage::metadata` to say. The secret must
//! never be logged, printed, or replaced once it stands.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use iroh::SecretKey;

use crate::config::secret_file::{self, SecretFileError};
use crate::kv::types::PublicKey;

/// The key's name in the data directory, and among systemd's credentials. It must stay stable.
pub const SECRET_KEY_FILE_NAME: &str = "iroh-secret-key";

/// A node's key.
#[derive(Clone, Debug)]
pub struct Identity {
    secret_key: SecretKey,
    path: PathBuf,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file with a key cannot be used.
    #[error(transparent)]
    SecretFile(#[from] SecretFileError),
    /// A file holds something else.
    #[error(
        "the secret key file {} does not hold a secret key, which is 64 hex digits. Restore it from a \
         backup; a new one, made with `aspen-node keygen`, makes this a new node",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// A key stands there already.
    #[error("{} exists and is not overwritten. Move it away, or choose another path", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A new key cannot be written.
    #[error("cannot write the secret key file {}: {source}. Check the directory, its owner and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Identity {
    /// Finds the node's key, or makes one in the data directory, which must be locked.
    ///
    /// # Errors
    /// [`IdentityError`], if the configured file, or the one in the data directory, is no usable key, or a new
    /// one cannot be written.
    pub fn resolve(
        data_dir: &Path,
        secret_key_file: Option<&Path>,
        credentials_dir: Option<&Path>,
    ) -> Result<Self, IdentityError> {
        let credential = credentials_dir.map(|dir| dir.join(SECRET_KEY_FILE_NAME));
        let credential = credential.filter(|path| path.exists());
        if let Some(path) = secret_key_file.map(Path::to_owned).or(credential) {
            return Self::read(path, credentials_dir);
        }
        let path = data_dir.join(SECRET_KEY_FILE_NAME);
        match Self::read(path.clone(), None) {
            Err(IdentityError::SecretFile(SecretFileError::Read { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Self::generate(path)
            }
            outcome => outcome,
        }
    }

    fn read(path: PathBuf, credentials_dir: Option<&Path>) -> Result<Self, IdentityError> {
        let secret = secret_file::read(&path, credentials_dir)?;
        match secret.to_key() {
            Some(secret_key) => Ok(Self { secret_key, path }),
            None => Err(IdentityError::NotAKey { path }),
        }
    }

    fn generate(path: PathBuf) -> Result<Self, IdentityError> {
        let secret_key = SecretKey::generate();
        write_new(&path, &secret_key)?;
        Ok(Self { secret_key, path })
    }

    /// The secret, for the endpoint.
    pub fn secret_key(&self) -> &SecretKey {
        &self.secret_key
    }

    /// What others know the node by.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*self.secret_key.public().as_bytes())
    }

    /// The file that holds the key.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a new key to a file that must not exist, and returns its public half.
///
/// # Errors
/// [`IdentityError`], if there is a file already, or it cannot be written.
pub fn keygen(out: &Path) -> Result<PublicKey, IdentityError> {
    Identity::generate(out.to_owned()).map(|identity| identity.public_key())
}

/// Writes the key whole or not at all: a crash half way must not leave a file that looks like a
/// broken key. Linking the finished file into its place fails where there is one already.
fn write_new(path: &Path, secret_key: &SecretKey) -> Result<(), IdentityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists { path: path.to_owned() },
        _ => IdentityError::Write { path: path.to_owned(), source },
    };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    remove_if_there(&unfinished).map_err(failed)?;
    let linked = write_private(&unfinished, secret_key).and_then(|()| fs::hard_link(&unfinished, path));
    remove_if_there(&unfinished).map_err(failed)?;
    linked.map_err(failed)?;
    sync_parent(path).map_err(failed)
}

fn write_private(path: &Path, secret_key: &SecretKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", HEXLOWER.encode(&secret_key.to_bytes()))?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_first_start_makes_a_private_key_and_later_ones_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::resolve(dir.path(), None, None).unwrap();
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
        let second = Identity::resolve(dir.path(), None, None).unwrap();
        assert_eq!(first.public_key(), second.public_key());
    }

    #[test]
    fn what_a_crash_left_unfinished_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("iroh-secret-key.new"), "").unwrap();
        assert!(Identity::resolve(dir.path(), None, None).is_ok());
    }

    #[test]
    fn a_configured_file_wins_over_a_credential_and_that_over_the_data_directory() {
        let [data, credentials, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let in_data = Identity::resolve(data.path(), None, None).unwrap().public_key();
        let resolve = |file: Option<&Path>| {
            Identity::resolve(data.path(), file, Some(credentials.path())).unwrap().public_key()
        };
        assert_eq!(resolve(None), in_data, "an empty credentials directory is passed over");
        let credential = keygen(&credentials.path().join(SECRET_KEY_FILE_NAME)).unwrap();
        assert_eq!(resolve(None), credential);
        let file = other.path().join("key");
        let configured = keygen(&file).unwrap();
        assert_eq!(resolve(Some(&file)), configured);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("key");
        keygen(&out).unwrap();
        let before = fs::read(&out).unwrap();
        let error = keygen(&out).unwrap_err();
        assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
        assert_eq!(fs::read(&out).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_that_hold_no_key_stop_the_node_and_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SECRET_KEY_FILE_NAME);
        for text in ["", "garbage\n", &"0".repeat(63), &"0".repeat(66)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = Identity::resolve(dir.path(), None, None).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SECRET_KEY_FILE_NAME);
        keygen(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = Identity::resolve(dir.path(), None, None).unwrap_err();
        assert!(error.to_string().contains("0644"), "{error}");
    }

    #[test]
    fn the_secret_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::resolve(dir.path(), None, None).unwrap();
        let secret = fs::read_to_string(identity.path()).unwrap();
        assert!(!format!("{identity:?}").contains(secret.trim()));
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let error = keygen(Path::new("/nonexistent/key")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/key"), "{error}");
    }
}
