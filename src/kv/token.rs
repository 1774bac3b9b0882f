//! The bearer token of the HTTP API, as the node checks it and as clients send it.
//!
//! It comes from a file and never from a command line or an environment, and never gets into a log:
//! its `Debug` shows nothing of it, and comparing takes the same time wherever two tokens differ.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use crate::limits;

/// A secret that opens the HTTP API.
#[derive(Clone)]
pub struct HttpToken(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum HttpTokenError {
    /// The file could not be read.
    #[error("the token file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too short to be a secret, or too long for a header.
    #[error(
        "the token has {bytes} bytes; it must have {} to {}, for example from `openssl rand -hex 32`",
        limits::HTTP_TOKEN_MIN_BYTES,
        limits::HTTP_TOKEN_MAX_BYTES
    )]
    Length {
        /// Its length, less the blanks around it.
        bytes: usize,
    },
    /// It would not fit into a header.
    #[error("the token has a character other than printable ASCII without blanks at byte {at}")]
    Character {
        /// Where, from 0.
        at: usize,
    },
}

impl HttpToken {
    /// Takes a token, less the blanks and line ends around it.
    ///
    /// # Errors
    /// [`HttpTokenError::Length`] and [`HttpTokenError::Character`].
    pub fn new(token: &str) -> Result<Self, HttpTokenError> {
        let token = token.trim();
        if !(limits::HTTP_TOKEN_MIN_BYTES..=limits::HTTP_TOKEN_MAX_BYTES).contains(&token.len()) {
            return Err(HttpTokenError::Length { bytes: token.len() });
        }
        match token.bytes().position(|byte| !byte.is_ascii_graphic()) {
            Some(at) => Err(HttpTokenError::Character { at }),
            None => Ok(Self(token.to_owned())),
        }
    }

    /// Reads a token from a file that holds nothing else.
    ///
    /// # Errors
    /// Those of reading, and those of [`HttpToken::new`].
    pub fn read(path: &Path) -> Result<Self, HttpTokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| HttpTokenError::Unreadable { path: path.to_owned(), source })?;
        Self::new(&text)
    }

    /// Whether this is the token, in a time that tells nothing about it but its length.
    pub fn matches(&self, sent: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(sent).into()
    }

    /// The value of the header `authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for HttpToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_trimmed_and_matches_only_itself() {
        let token = HttpToken::new(" 0123456789abcdef\n").unwrap();
        assert!(token.matches(b"0123456789abcdef"));
        assert!(!token.matches(b"0123456789abcdeg"));
        assert!(!token.matches(b"0123456789abcde"));
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn weak_and_unsendable_tokens_are_refused() {
        assert!(matches!(HttpToken::new("short\n"), Err(HttpTokenError::Length { bytes: 5 })));
        assert!(matches!(HttpToken::new("0123456789 abcdef"), Err(HttpTokenError::Character { at: 10 })));
    }
}
