//! Which part of a node a sample of its processor time belongs to.
//!
//! A sample is a stack of function names, the innermost first, as `perf script` prints it. The innermost
//! function that a rule knows decides: what a library does on its own account is the library's, and what it
//! calls of ours is ours.

use std::collections::BTreeMap;
use std::io::BufRead;

/// A part of a node, as the table calls it.
pub type Component = &'static str;

/// What no rule knows.
pub const REST: Component = "everything else";

const FSYNC: Component = "log: fdatasync";
const LOG: Component = "log: thread and redb";
const CHECKPOINT: Component = "checkpoints and other upkeep";

/// Functions and the component that they belong to, the more telling ones first: of one function, the first
/// rule counts.
const RULES: [(&str, Component); 30] = [
    ("RedbState::apply", "apply"),
    ("RedbState::read", "read of the state"),
    ("transport::forward", "forward"),
    ("noq_udp", "network: UDP"),
    ("netwatch::udp", "network: UDP"),
    ("recvmmsg", "network: UDP"),
    ("ring::", "network: encryption"),
    ("ring_core", "network: encryption"),
    ("rustls", "network: encryption"),
    ("noq", "network: QUIC"),
    ("iroh", "network: QUIC"),
    ("irpc", "network: frames"),
    ("postcard", "network: frames"),
    ("aspen::transport", "network: frames"),
    ("openraft", "raft"),
    ("log_redb", LOG),
    ("aspen::raft", "raft"),
    ("aspen::kv::json", "HTTP: JSON"),
    ("serde_json", "HTTP: JSON"),
    ("aspen::kv", "service"),
    ("aspen::api", "HTTP"),
    ("axum", "HTTP"),
    ("tower", "HTTP"),
    ("hyper", "HTTP"),
    ("tokio_io_timeout", "HTTP"),
    ("tokio::net::tcp", "HTTP"),
    ("scheduler::multi_thread::worker", "tasks and threads that sleep and wake"),
    ("scheduler::multi_thread::park", "tasks and threads that sleep and wake"),
    ("tokio::runtime", "tasks and threads that sleep and wake"),
    ("start_thread", REST),
];

/// Samples by component.
#[derive(Debug, Default)]
pub struct Profile {
    by_component: BTreeMap<Component, u64>,
    samples: u64,
}

impl Profile {
    /// Reads what `perf script -F comm,ip,sym` prints.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(text: impl BufRead) -> std::io::Result<Self> {
        let mut profile = Self::default();
        let (mut thread, mut stack) = (String::new(), Vec::new());
        for line in text.lines() {
            let line = line?;
            match line.strip_prefix(['\t', ' ']) {
                Some(frame) => stack.extend(frame.trim().split_once(' ').map(|(_, name)| name.to_owned())),
                None if line.is_empty() => profile.add(&thread, &mut stack),
                None => {
                    profile.add(&thread, &mut stack);
                    line.trim().clone_into(&mut thread);
                }
            }
        }
        profile.add(&thread, &mut stack);
        Ok(profile)
    }

    fn add(&mut self, thread: &str, stack: &mut Vec<String>) {
        if !stack.is_empty() {
            *self.by_component.entry(component(thread, stack)).or_default() += 1;
            self.samples += 1;
            stack.clear();
        }
    }

    /// The part of all samples that a component has.
    pub fn share(&self, component: Component) -> f64 {
        let count = self.by_component.get(component).copied().unwrap_or(0);
        count as f64 / self.samples.max(1) as f64
    }

    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// All components, in the order of a request's way.
pub fn all() -> Vec<Component> {
    vec![
        "HTTP",
        "HTTP: JSON",
        "service",
        "forward",
        "raft",
        LOG,
        FSYNC,
        "network: frames",
        "network: QUIC",
        "network: encryption",
        "network: UDP",
        "apply",
        "read of the state",
        "tasks and threads that sleep and wake",
        CHECKPOINT,
        REST,
    ]
}

fn component(thread: &str, stack: &[String]) -> Component {
    let syncs = stack.iter().any(|frame| frame.contains("fdatasync"));
    if thread.starts_with("aspen-log") {
        return if syncs { FSYNC } else { LOG };
    }
    // The log has a thread of its own: what others sync is a checkpoint or a snapshot.
    if syncs || thread.starts_with("state-") {
        return CHECKPOINT;
    }
    // All that is below it serves the batch, whatever library it is in.
    let whole = ["RedbState::apply", "RedbState::read"];
    if let Some(found) = whole.iter().find(|name| stack.iter().any(|frame| frame.contains(*name))) {
        return rule_of(found).expect("the rules know it");
    }
    stack.iter().find_map(|frame| rule_of(frame)).unwrap_or(REST)
}

fn rule_of(frame: &str) -> Option<Component> {
    RULES.iter().find(|(name, _)| frame.contains(name)).map(|(_, component)| *component)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
aspen
\tffff malloc
\tffff hyper::proto::h1::dispatch::Dispatcher<D>::poll_catch
\tffff tokio::runtime::task::harness::Harness<T>::poll
\tffff start_thread

aspen-log
\tffff ext4_sync_file
\tffff fdatasync
\tffff aspen::storage::log_redb::writer::Writer::turn

aspen
\tffff redb::table::Table<K,V>::insert
\tffff aspen::storage::state_redb::RedbState::apply
\tffff openraft::core::sm::worker::Worker<C>::apply
";

    #[test]
    fn innermost_known_function_decides_and_what_serves_a_batch_is_the_batchs() {
        let profile = Profile::read(TEXT.as_bytes()).unwrap();
        assert_eq!(profile.samples(), 3);
        for component in ["HTTP", FSYNC, "apply"] {
            assert!((profile.share(component) - 1.0 / 3.0).abs() < 1e-9, "{component}: {profile:?}");
        }
    }

    #[test]
    fn a_sync_is_the_logs_on_its_thread_alone() {
        let stack =
            |thread: &str, innermost: &str| format!("{thread}\n\tffff {innermost}\n\tffff fdatasync\n");
        for (thread, innermost, component) in [
            ("aspen-log", "ext4_sync_file", FSYNC),
            ("state-checkpoin", "ext4_sync_file", CHECKPOINT),
            ("tokio-rt-worker", "aspen::storage::snapshot", CHECKPOINT),
        ] {
            let profile = Profile::read(stack(thread, innermost).as_bytes()).unwrap();
            assert!((profile.share(component) - 1.0).abs() < 1e-9, "{thread}: {profile:?}");
        }
    }

    #[test]
    fn every_component_has_a_row() {
        assert!(RULES.iter().all(|(_, component)| all().contains(component)));
    }
}
