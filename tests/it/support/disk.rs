//! Disks of a size of our choice: file systems in memory, which take root to mount. Without it the tests
//! that need them say that they were skipped.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::skipped;

/// A file that takes room from the node.
const FILLER: &str = "filler";

/// A file system in memory, unmounted when dropped.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at a new directory. Absent, after a line that says so, where this is not permitted.
    pub fn mount(path: &Path, options: &str, test: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("a directory can be made");
        match mount(path, &["-t", "tmpfs", "-o", options, "tmpfs"]) {
            Ok(()) => Some(Self { path: path.to_owned() }),
            Err(reason) => {
                skipped(test, &format!("no file system can be mounted: {reason}"));
                None
            }
        }
    }

    /// Mounts it again, with other options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        mount(&self.path, &["-o", &options]).expect("what was mounted can be mounted again");
    }

    /// Takes all room but so many bytes, as something else on the same disk would.
    pub fn fill_up_to(&self, left: u64) {
        let mut file = File::options().append(true).create(true).open(self.path.join(FILLER)).unwrap();
        let piece = vec![7; 1 << 20];
        loop {
            let more = self.free_bytes().saturating_sub(left).min(piece.len() as u64);
            let piece = &piece[..usize::try_from(more).expect("a piece fits into memory")];
            // The node takes room meanwhile, so the last bytes may not be there any more.
            if piece.is_empty() || file.write_all(piece).is_err() {
                return;
            }
        }
    }

    /// Gives back what was taken by [`Self::fill_up_to`].
    pub fn empty(&self) {
        fs::remove_file(self.path.join(FILLER)).expect("the disk was filled");
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.path).output();
        let text = String::from_utf8(output.expect("df runs").stdout).expect("df answers in text");
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("df answers with a number")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while a process still uses it.
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}

fn mount(path: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(path).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
