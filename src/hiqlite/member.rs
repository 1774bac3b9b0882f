//! What an embedded node's directory says about itself: who it is, and where the cluster knows it to be.
//!
//! A vote hangs on the directory, so its node id never changes. The addresses stand in the membership, which
//! Hiqlite has no way to change, so they stay as well.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::ticket::Ticket;

/// Holds the ticket of the node whose directory it is. The name must stay stable.
const TICKET_FILE: &str = "node";
/// Is there once the node has been a member. The name must stay stable.
const MEMBER_FILE: &str = "member";

/// An embedded node's directory.
#[derive(Clone, Debug)]
pub struct Membership {
    dir: PathBuf,
    /// Whether it was there before this start.
    pub is_known: bool,
}

/// Why an embedded node's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// It is another node's.
    #[error(
        "{} belongs to the node {found}, and not to {given}: its id and addresses stand in the cluster's membership. Start it with those, or remove it from the cluster and add it with an empty directory and another id",
        dir.display()
    )]
    Another {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        given: Ticket,
    },
    /// It cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Membership {
    /// Makes the directory a node's, or checks that it is.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn open(dir: &Path, ticket: Ticket) -> Result<Self, MemberError> {
        let path = dir.join(TICKET_FILE);
        let failed = |source| MemberError::Io { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(found) if found.trim().parse() == Ok(ticket) => {
                Ok(Self { dir: dir.to_owned(), is_known: true })
            }
            Ok(found) => Err(MemberError::Another {
                dir: dir.to_owned(),
                found: found.trim().to_owned(),
                given: ticket,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { dir: dir.to_owned(), is_known: false })
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Writes down whose the directory is, before anything else is in it.
    ///
    /// # Errors
    /// [`MemberError::Io`].
    pub fn claim(&self, ticket: Ticket) -> Result<(), MemberError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| MemberError::Io { path: self.dir.clone(), source })?;
        self.write(TICKET_FILE, &ticket.to_string())
    }

    /// Whether the node has been a member.
    pub fn was_member(&self) -> bool {
        self.dir.join(MEMBER_FILE).exists()
    }

    /// Writes down that it is one.
    ///
    /// # Errors
    /// [`MemberError::Io`].
    pub fn note_member(&self) -> Result<(), MemberError> {
        if self.was_member() { Ok(()) } else { self.write(MEMBER_FILE, "") }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), MemberError> {
        let path = self.dir.join(name);
        let unfinished = path.with_extension("new");
        let write = || {
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| MemberError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_the_same_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("hiqlite");
        let ticket: Ticket = "hiqlite:1@127.0.0.1:1@127.0.0.1:2".parse().unwrap();
        let new = Membership::open(&home, ticket).unwrap();
        assert!(!new.is_known);
        new.claim(ticket).unwrap();
        assert!(Membership::open(&home, ticket).unwrap().is_known);
        for other in ["hiqlite:2@127.0.0.1:1@127.0.0.1:2", "hiqlite:1@127.0.0.1:3@127.0.0.1:2"] {
            let error = Membership::open(&home, other.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
        }
    }
}
