//! Backups as those see them who take them and keep them.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use crate::storage::backup::{BackupDecoder, BackupError, BackupHeader, Decoded};

/// The bytes of a backup as they come. One that cannot be made to its end ends with an error.
pub type BackupStream = BoxStream<'static, io::Result<Bytes>>;
