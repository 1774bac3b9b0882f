//! Room on the file system of the data directory, as the kernel tells it.

use std::io;
use std::path::Path;

use crate::storage::space::{Probe, Room};

/// Asks for the room below a directory. The kernel answers from memory.
pub(super) fn probe(dir: &Path) -> Probe {
    let dir = dir.to_owned();
    Box::new(move || room(&dir))
}

fn room(dir: &Path) -> io::Result<Room> {
    let found = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // Blocks kept for root count as free for root alone, as this process would find out.
    let free = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    Ok(Room { total_bytes: bytes(found.f_blocks), free_bytes: bytes(free) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_of_a_directory_has_a_size_and_an_absent_one_is_an_error() {
        let room = probe(Path::new("/"))().unwrap();
        assert!(room.total_bytes > 0 && room.free_bytes <= room.total_bytes, "{room:?}");
        assert!(probe(Path::new("/nowhere/at/all"))().is_err());
    }
}
