//! What a node tells systemd, and what it does on its signals. A socket of the test's stands for systemd's.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::node::Node;

/// Where systemd would listen.
struct NotifySocket {
    socket: UnixDatagram,
    path: String,
}

impl NotifySocket {
    fn listen(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    /// The next message, unless none comes in time.
    fn next(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within.max(Duration::from_millis(1)))).unwrap();
        let mut bytes = [0; 4_096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// Messages up to the first that has such a line.
    fn wait_for(&self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let message = self.next(until.saturating_duration_since(Instant::now()));
            let message = message.unwrap_or_else(|| panic!("systemd was not told {what}, but {seen:?}"));
            let found = message.lines().any(&mut is_it);
            seen.push(message);
            if found {
                return seen;
            }
        }
    }

    /// Takes what has come in by now.
    fn drain(&self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }
}

fn node(dir: &Path, manager: &NotifySocket, flags: &[&str]) -> Node {
    Node::new(1, dir, flags).with_env("NOTIFY_SOCKET", &manager.path)
}

#[test]
fn systemd_is_told_ready_when_the_node_serves_then_what_it_does_then_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let manager = NotifySocket::listen(dir.path());
    let mut node = node(dir.path(), &manager, &[]);
    node.spawn();
    manager.wait_for("ready", |line| line == "READY=1");
    std::net::TcpStream::connect(node.http()).expect("a node that is ready takes requests");
    manager.wait_for("that it leads", |line| line.starts_with("STATUS=node 1 leads in term 1, at revision "));

    let asked = Instant::now();
    assert!(node.terminate().success());
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop", asked.elapsed());
    manager.wait_for("that it stops", |line| line == "STOPPING=1");
}

#[test]
fn the_watchdog_is_fed_while_raft_answers_and_not_by_a_process_that_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let manager = NotifySocket::listen(dir.path());
    let mut node = node(dir.path(), &manager, &[]).with_env("WATCHDOG_USEC", "600000");
    node.start();
    let is_alive = |line: &str| line == "WATCHDOG=1";
    manager.wait_for("that it lives", is_alive);
    let first = Instant::now();
    for _ in 0..5 {
        manager.wait_for("that it lives", is_alive);
    }
    assert!(first.elapsed() < Duration::from_secs(3), "5 signs of life took {:?}", first.elapsed());

    node.signal("STOP");
    manager.drain();
    assert_eq!(manager.next(Duration::from_millis(1_200)), None, "a stopped process says nothing");
    node.signal("CONT");
    manager.wait_for("that it lives again", is_alive);
    assert!(node.terminate().success());
}

#[test]
fn a_hangup_has_the_settings_read_again_and_bad_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let manager = NotifySocket::listen(dir.path());
    let file = dir.path().join("aspen.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("log_filter = \"info\"\n");
    let mut node = node(dir.path(), &manager, &["--config", file.to_str().unwrap()]);
    node.start();
    manager.wait_for("ready", |line| line == "READY=1");
    let reload = |node: &Node, expected: &str| {
        node.signal("HUP");
        let seen = manager.wait_for("that it reads its settings", |line| line == "RELOADING=1");
        let message = seen.last().unwrap();
        assert!(message.contains("MONOTONIC_USEC="), "systemd 253 and newer wants the time: {message}");
        manager.wait_for("ready again", |line| line == "READY=1");
        let log = node.last_log();
        assert!(log.contains(expected), "'{expected}' is not in the log:\n{log}");
    };

    write("log_filter = \"debug\"\n[kv]\nhistory_revisions = 5000\n");
    reload(&node, "the log filter is 'debug' now, and was 'info'");
    let log = node.last_log();
    assert!(log.contains("these take effect with the next start: kv.history_revisions"), "{log}");

    write("log_filter = \"aspen=loud\"\n");
    reload(&node, "the settings were not read again");
    assert!(node.last_log().contains("aspen=loud"));

    write("log_filter = \"info\"\n[kv]\nhistory_revisions = 5000\n");
    reload(&node, "the log filter is 'info' now, and was 'debug'");

    let key = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
    assert!(!node.get("/peers").body.contains(key));
    write(&format!(
        "log_filter = \"info\"\n[[peers]]\nnode_id = 2\npublic_key = \"{key}\"\naddresses = [\"127.0.0.1:9\"]\n"
    ));
    reload(&node, "these take effect with the next start: kv.history_revisions");
    assert!(node.get("/peers").body.contains(key), "a further peer is known at once");
    assert!(node.terminate().success());
}
