//! A backup of the state on disk, written while entries are applied.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use redb::ReadableDatabase;

use super::RedbState;
use crate::kv::types::BackupOrigin;
use crate::storage::backup::{self, BackupPieces, GrowingFile, growing};
use crate::storage::pace::PacedWriter;
use crate::storage::tables::{RedbRead, StateError};

impl RedbState {
    /// Takes a view of the newest state. The first result writes the backup of it, which takes as long as
    /// the disk needs; the second reads it meanwhile.
    pub(in crate::storage) fn begin_backup(
        &self,
        origin: BackupOrigin,
    ) -> io::Result<(impl FnOnce() + Send + use<>, BackupPieces)> {
        let (store, handle) = (self.store.clone(), self.store.handle());
        let begun = store.watched(|| handle.database.begin_read().map_err(StateError::database));
        let transaction = begun?;
        let temporary = self.store.snapshots.create_temporary()?;
        let file = temporary.reader();
        let paced = PacedWriter::new(temporary.writer(), move || file.sync());
        let (published, pieces) = growing(Arc::new(GrowingFile::File(temporary)), paced);
        let write = move || {
            let mut out = BufWriter::new(published);
            let written = store.watched_io(|| {
                // Before the tables: a transaction ends before its database closes.
                let _handle = handle;
                let tables = RedbRead::new(transaction);
                backup::write(&tables, origin, &mut out).and_then(|()| out.flush())
            });
            out.into_parts().0.end(written);
        };
        Ok((write, pieces))
    }

    /// How long a backup would be now. It reads all of the state.
    pub(in crate::storage) fn measure_backup(&self, origin: BackupOrigin) -> io::Result<u64> {
        self.store.watched_io(|| {
            let handle = self.store.handle();
            let mut out = super::Counted(0);
            backup::write(&handle.read()?, origin, &mut out)?;
            Ok(out.0)
        })
    }
}
