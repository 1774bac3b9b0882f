//! Real `aspen-node` processes, each with its own data directory, stopped when dropped. They are on loopback
//! at ports of their own choice, unless they are given a host.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use aspen::kv::types::Peer;
use aspen::transport::ticket::NodeTicket;

use super::PATIENCE;
use super::hosts::Door;

/// One node: its data directory, and its process while it runs.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its data directory.
    pub dir: PathBuf,
    launcher: Vec<String>,
    /// Whether it is started with its id.
    is_named: bool,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Child>,
    /// Kept across restarts, so that clients find the node again.
    http_addr: SocketAddr,
    /// Whether that is where it is told to listen: its ticket says nothing of HTTP.
    is_http_fixed: bool,
    /// Kept across restarts, unless the node is made to move.
    iroh_addr: SocketAddr,
    /// Where the log of the last process begins.
    log_start: usize,
    /// Leads to its HTTP API where it is on a host of its own.
    door: Option<Door>,
}

/// Any free port on loopback.
fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A UDP port on loopback that is free at the moment, for a node whose address is told before it starts.
pub fn free_udp_port() -> SocketAddr {
    UdpSocket::bind(any_port()).and_then(|socket| socket.local_addr()).expect("a port on loopback is free")
}

/// Where a process whose coverage is measured writes its counts, as it ends; for a process that is started without
/// the variables of this one.
pub fn coverage_file() -> Option<(&'static str, OsString)> {
    const VARIABLE: &str = "LLVM_PROFILE_FILE";
    Some((VARIABLE, std::env::var_os(VARIABLE)?))
}

impl Node {
    /// A node that is not started yet. Where `flags` do not say otherwise, it is placed on loopback and
    /// in a directory of its own.
    pub fn new(id: u64, base: &Path, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let dir = base.join(format!("n{id}"));
        Self {
            id,
            dir,
            launcher: Vec::new(),
            is_named: true,
            flags,
            environment: Vec::new(),
            process: None,
            http_addr: any_port(),
            is_http_fixed: false,
            iroh_addr: any_port(),
            log_start: 0,
            door: None,
        }
    }

    /// Places the node at an iroh address that others know before it starts.
    pub fn at_iroh_addr(mut self, iroh_addr: SocketAddr) -> Self {
        self.iroh_addr = iroh_addr;
        self
    }

    /// Places its HTTP API where a door leads to.
    pub fn behind(mut self, door: Door) -> Self {
        self.http_addr = door.addr();
        self.door = Some(door);
        self
    }

    /// Where its iroh endpoint is, or will be.
    pub fn iroh_addr(&self) -> SocketAddr {
        self.iroh_addr
    }

    /// Has the node's HTTP API listen at an address that its ticket does not tell.
    #[cfg(feature = "hiqlite")]
    pub fn at_http_addr(mut self, http_addr: SocketAddr) -> Self {
        self.http_addr = http_addr;
        self.is_http_fixed = true;
        self
    }

    /// Leaves the node's id to its data directory, or to the cluster that it joins.
    pub fn without_id(mut self) -> Self {
        self.is_named = false;
        self
    }

    /// Adds flags for the starts to come.
    pub fn with_flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Starts the node through a program that becomes it, such as one that sets limits.
    pub fn with_launcher(mut self, words: &[&str]) -> Self {
        self.launcher = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Sets a variable of the environment, which is empty otherwise, for the starts to come.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the process and waits until its ports are open.
    pub fn start(&mut self) {
        self.spawn();
        self.await_ports();
    }

    /// Waits until the ports of a process that was spawned are open.
    pub fn await_ports(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.ticket().is_none() {
            self.assert_running();
            assert!(Instant::now() < until, "node {} wrote no ticket:\n{}", self.id, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.is_http_fixed {
            return;
        }
        self.http_addr = self.http();
        // A node on all addresses of its host stays there.
        if !self.iroh_addr.ip().is_unspecified() {
            self.iroh_addr = self.peer().info.addresses[0];
        }
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "node {} runs already", self.id);
        // The ticket of an earlier process would send us to ports that are gone.
        std::fs::remove_file(self.dir.join("endpoint")).ok();
        let mut log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let length = log.seek(SeekFrom::End(0)).expect("a file has an end");
        self.log_start = usize::try_from(length).expect("a log fits into memory");
        let dir = self.dir.to_str().expect("temporary directories have names in UTF-8");
        let defaults = [
            ("--node-id", self.id.to_string()),
            ("--data-dir", dir.to_owned()),
            ("--http-addr", self.http_addr.to_string()),
            ("--iroh-addr", self.iroh_addr.to_string()),
            ("--log-format", "text".to_owned()),
        ];
        let is_given = |name: &str| self.flags.iter().any(|flag| flag == name);
        let is_left_out = |name: &str| is_given(name) || (name == "--node-id" && !self.is_named);
        let defaults = defaults.into_iter().filter(|(name, _)| !is_left_out(name));
        let mut words = self.launcher.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_aspen-node")]);
        let child = Command::new(words.next().expect("the node's binary is the last word"))
            .args(words)
            .args(defaults.flat_map(|(name, value)| [name.to_owned(), value]))
            .args(&self.flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(coverage_file())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("the node's binary starts");
        self.process = Some(child);
    }

    /// Has the node come back at another iroh port at its next start.
    pub fn move_at_next_start(&mut self) {
        self.iroh_addr = any_port();
    }

    /// Ends the process as a power cut of the process would.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("the node runs");
        child.kill().expect("the process can be killed");
        child.wait().expect("the process can be waited for");
    }

    /// Ends the process as systemd would, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    /// Sends the process a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        // The kill of the shell: the program is in a package that a small system does not have.
        let sent =
            Command::new("bash").args(["-c", &format!("kill -{name} {pid}")]).status().expect("bash runs");
        assert!(sent.success(), "SIG{name} was not sent to node {}", self.id);
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        // It stays this node's until it has ended: a test that fails here must not leave it running.
        let ended = wait_for_exit(self.process.as_mut().expect("the node runs"));
        let status = ended.unwrap_or_else(|| panic!("node {} still runs:\n{}", self.id, self.log()));
        self.process = None;
        status
    }

    /// The process has not ended by itself.
    pub fn assert_running(&mut self) {
        let child = self.process.as_mut().expect("the node runs");
        if let Some(status) = child.try_wait().expect("the process can be asked") {
            panic!("node {} ended with {status}:\n{}", self.id, self.log());
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    /// Whether the process was started and not ended by the test.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// All that the node has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What the process that was started last has logged.
    pub fn last_log(&self) -> String {
        self.log().split_off(self.log_start)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn ticket(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.join("endpoint")).ok().map(|text| text.trim().to_owned())
    }

    /// The ticket as others need it.
    pub fn endpoint(&self) -> String {
        self.ticket().expect("a started node has written its ticket")
    }

    /// What the ticket says.
    pub fn peer(&self) -> Peer {
        let ticket: NodeTicket = self.endpoint().parse().expect("the ticket is valid");
        ticket.into()
    }

    /// Where its HTTP API listens.
    pub fn http(&self) -> SocketAddr {
        if self.is_http_fixed {
            return self.http_addr;
        }
        self.peer().info.http_addr.expect("the ticket holds the HTTP address")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // One that is killed writes no counts of what it has run.
        let is_measured = coverage_file().is_some() && !std::thread::panicking();
        if is_measured && self.is_running() {
            self.signal("TERM");
        }
        if let Some(mut child) = self.process.take() {
            if is_measured {
                wait_for_exit(&mut child);
            }
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- node {}\n{}", self.id, self.log());
        }
    }
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the process can be asked") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}
