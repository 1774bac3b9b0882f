//! A server process, which ends with its handle.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Time for a server to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program; what it says goes to a file.
    pub fn start(program: &Path, arguments: &[String], log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log).with_context(|| format!("no log file {}", log.display()))?;
        let child = Command::new(program)
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
        self.child.id().ok_or_else(|| anyhow!("a server ended: {}", self.last_words()))
    }

    /// Processor time that it has used, in seconds.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat =
            procfs::process::Process::new(i32::try_from(self.pid()?)?).and_then(|process| process.stat());
        let stat = stat.with_context(|| format!("a server ended: {}", self.last_words()))?;
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
        ended.with_context(|| format!("a server did not stop: {}", self.last_words()))??;
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// The processor time of several servers.
pub fn cpu_s<'a>(servers: impl IntoIterator<Item = &'a Server>) -> anyhow::Result<f64> {
    servers.into_iter().map(Server::cpu_s).sum()
}

/// A port of loopback that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
