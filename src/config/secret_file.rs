//! Files that hold a key or a token.
//!
//! What is read must never be shown: [`Secret`] prints as nothing. A file that group or others can
//! read is refused, as its secret may be known already. Credentials of systemd are shown as readable
//! by their group because of an access control list for the unit's user; they are refused only if
//! others can read them.
//!
//! # Tiger Style
//!
//! At most [`SECRET_FILE_MAX_BYTES`] are read.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use iroh::SecretKey;

use crate::limits::SECRET_FILE_MAX_BYTES;

/// A secret without the white space around it. It is never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret, unless there is nothing but white space.
    pub fn new(text: &str) -> Option<Self> {
        Some(text.trim()).filter(|secret| !secret.is_empty()).map(|secret| Self(secret.to_owned()))
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret as a key, if it is 64 hex digits.
    pub fn to_key(&self) -> Option<SecretKey> {
        let bytes = HEXLOWER.decode(self.0.as_bytes()).ok()?;
        Some(SecretKey::from_bytes(&bytes.try_into().ok()?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a secret file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the secret file {}: {source}. Check the path and its owner", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("the secret file {} is no regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others can read it.
    #[error(
        "the secret file {} can be read by others (mode {mode:04o}), so its secret may be known. Make a \
         new secret, or run `chmod 600` on the file if nobody else has used this machine",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is longer than a secret.
    #[error("the secret file {} is longer than {SECRET_FILE_MAX_BYTES} bytes: is it the right file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("the secret file {} is empty. Write the secret into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a secret. Files under `credentials_dir` are held to the rule for credentials.
///
/// # Errors
/// [`SecretFileError`]: one for each thing that may be wrong with the file.
pub fn read(path: &Path, credentials_dir: Option<&Path>) -> Result<Secret, SecretFileError> {
    let failed = |source| SecretFileError::Read { path: path.to_owned(), source };
    // Asked before the file is opened: opening a pipe would wait for its other end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(SecretFileError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    let is_credential = credentials_dir.is_some_and(|dir| path.starts_with(dir));
    let forbidden = if is_credential { 0o007 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(SecretFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let length = file.take(SECRET_FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > SECRET_FILE_MAX_BYTES {
        return Err(SecretFileError::TooLong { path: path.to_owned() });
    }
    Secret::new(&text).ok_or_else(|| SecretFileError::Empty { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret_file(dir: &Path, text: &str, mode: u32) -> PathBuf {
        let path = dir.join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_private_file_is_read_without_the_space_around_its_secret() {
        let dir = tempfile::tempdir().unwrap();
        let secret = read(&secret_file(dir.path(), " abc\n", 0o600), None).unwrap();
        assert_eq!(secret.expose(), "abc");
        assert!(!format!("{secret:?}").contains("abc"));
    }

    #[test]
    fn a_secret_is_a_key_only_as_64_hex_digits() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let hex = HEXLOWER.encode(&key.to_bytes());
        assert_eq!(Secret(hex.clone()).to_key().unwrap().public(), key.public());
        for other in [&hex[1..], &format!("{hex}00"), &"x".repeat(64)] {
            assert!(Secret(other.to_owned()).to_key().is_none(), "{other}");
        }
    }

    #[test]
    fn a_file_that_group_or_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o666, 0o610] {
            let error = read(&secret_file(dir.path(), "abc", mode), None).unwrap_err();
            assert!(
                matches!(error, SecretFileError::Exposed { mode: found, .. } if found == mode),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn a_credential_may_be_readable_by_its_group_but_not_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = secret_file(dir.path(), "abc", 0o440);
        assert!(read(&path, Some(dir.path())).is_ok());
        assert!(read(&path, Some(Path::new("/run/credentials/other"))).is_err());
        let path = {
            fs::remove_file(&path).unwrap();
            secret_file(dir.path(), "abc", 0o444)
        };
        assert!(matches!(read(&path, Some(dir.path())), Err(SecretFileError::Exposed { .. })));
    }

    #[test]
    fn what_holds_no_secret_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let empty = read(&secret_file(dir.path(), " \n", 0o600), None).unwrap_err();
        assert!(matches!(empty, SecretFileError::Empty { .. }));
        let long = "x".repeat(usize::try_from(SECRET_FILE_MAX_BYTES).unwrap() + 1);
        assert!(matches!(
            read(&secret_file(dir.path(), &long, 0o600), None),
            Err(SecretFileError::TooLong { .. })
        ));
        assert!(matches!(read(dir.path(), None), Err(SecretFileError::NotAFile { .. })));
        let missing = read(&dir.path().join("none"), None).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }
}
