//! Network namespaces with names of this process.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps them, by name.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "aspen-test-";

/// One namespace, removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, or says why that is not possible.
    pub fn make(name: &str) -> Result<Self, String> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // The first one also makes the directory, which two at a time get wrong.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if !rustix::process::geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        SWEEP.call_once(remove_leftovers);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{name}", std::process::id());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on what is in it, which must succeed.
    pub fn ip(&self, words: &[&str]) {
        let all = [&["-n", &self.name], words].concat();
        ip(&all).unwrap_or_else(|reason| panic!("ip {}: {reason}", all.join(" ")));
    }

    /// Something that takes the thread that asks for it into the namespace, for good.
    pub fn entrance(&self) -> impl FnOnce() + Send + 'static {
        let file = File::open(Path::new(NAMES).join(&self.name)).expect("the namespace has a name");
        move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace");
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of it ends with the last process in it.
        ip(&["netns", "del", &self.name]).ok();
    }
}

/// Runs `ip`; the error is what it says.
pub fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Removes what processes left behind that were killed.
fn remove_leftovers() {
    for entry in std::fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((owner, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        let runs = PathBuf::from("/proc").join(owner).exists();
        if !runs || owner == std::process::id().to_string() {
            // Another process may remove it at the same time.
            ip(&["netns", "del", &name]).ok();
        }
    }
}
