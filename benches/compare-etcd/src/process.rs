//! A process, which ends with its handle, and with this program.
//!
//! # Tiger Style
//! - Where a handle is gone, so is its process: its files can be removed.
//! - One that is killed has [`STOP_TIMEOUT`] to be gone, and so has one that is asked to end.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::process::{Child, Command};

/// Time for a process to end in order, or to be gone once it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it says goes to a file.
    ///
    /// It must be called on the thread that lives as long as this program, since the kernel kills the child when
    /// the thread is gone that started it.
    pub fn start(program: &Path, arguments: &[String], log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log).with_context(|| format!("no log file {}", log.display()))?;
        let child = dying_with_this(program)?
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        Ok(Self { child, log })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().ok_or_else(|| anyhow!("a process ended: {}", self.last_words()))
    }

    /// Processor time that it has used, in seconds.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat =
            procfs::process::Process::new(i32::try_from(self.pid()?)?).and_then(|process| process.stat());
        let stat = stat.with_context(|| format!("a process ended: {}", self.last_words()))?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    /// The most memory that it has had resident.
    pub fn memory_max_bytes(&self) -> anyhow::Result<u64> {
        let status = procfs::process::Process::new(i32::try_from(self.pid()?)?)?.status()?;
        Ok(status.vmhwm.unwrap_or(0) * 1_024)
    }

    /// Kills it as a power cut would.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Lets it end in order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("a process has an id")?;
        rustix::process::kill_process(pid, Signal::TERM)?;
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
        ended.with_context(|| format!("a process did not stop: {}", self.last_words()))??;
        Ok(())
    }

    /// Waits until it has done its work. Returns what it said.
    pub async fn finish(mut self) -> anyhow::Result<String> {
        let ended = self.child.wait().await?;
        ensure!(ended.success(), "{ended}: {}", self.last_words());
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else {
            return;
        };
        // It cannot be another process: who has not been waited for keeps its id.
        let Ok(ended) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // One that has ended by itself is no matter.
        let _ = self.child.start_kill();
        let bound = Timespec::try_from(STOP_TIMEOUT).expect("ten seconds are a time");
        let is_gone =
            poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&bound)).is_ok_and(|count| count > 0);
        if !is_gone {
            eprintln!("process {pid:?} was killed and is not gone after {} s", STOP_TIMEOUT.as_secs());
        }
    }
}

/// A command that the kernel kills when this program is gone, also where that was killed itself.
fn dying_with_this(program: &Path) -> anyhow::Result<Command> {
    let program = found(program)?;
    let with = ["--pdeathsig", "KILL"];
    // It is in util-linux, and there are others of its name that lack this.
    let can = BlockingCommand::new("setpriv").args(with).arg("true").stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(with).arg(program);
    Ok(command)
}

/// Where a program is, so that one that is missing is told of before anything waits for it.
fn found(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 {
        ensure!(program.is_file(), "there is no program {}", program.display());
        return Ok(program.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).map(|dir| dir.join(program));
    places
        .into_iter()
        .find(|place| place.is_file())
        .with_context(|| format!("there is no program {} on the PATH", program.display()))
}

/// The processor time of several processes.
pub fn cpu_s<'a>(processes: impl IntoIterator<Item = &'a Process>) -> anyhow::Result<f64> {
    processes.into_iter().map(Process::cpu_s).sum()
}

/// A port of loopback that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(pid: u32) -> bool {
        Path::new("/proc").join(pid.to_string()).join("exe").read_link().is_ok()
    }

    #[tokio::test]
    async fn a_process_is_gone_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let process =
            Process::start(Path::new("sleep"), &["600".to_owned()], dir.path().join("log")).unwrap();
        let pid = process.pid().unwrap();
        assert!(is_there(pid));
        drop(process);
        assert!(!is_there(pid), "its files can be removed at once");
    }

    #[tokio::test]
    async fn what_a_process_said_is_told_and_so_is_a_program_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, argument: &str| {
            Process::start(Path::new(program), &[argument.to_owned()], dir.path().join("log"))
        };
        assert_eq!(run("echo", "done").unwrap().finish().await.unwrap(), "done\n");
        let error = run("ls", "/no/such").unwrap().finish().await.unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
        for missing in ["no-such-program", "/no/such"] {
            let error = run(missing, "").err().expect("it is not there").to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
