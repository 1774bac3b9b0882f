//! What real nodes count of the messages between them, against what simulated ones count in the same
//! steps: the scenario `hiqlite_flow`, whose artifact is in `docs/simulations/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aspen::kv::types::{Key, NodeId, Value};
use aspen::limits;
use aspen::raft::traffic::{DIALS_TOTAL, RPCS_TOTAL, Rpc, Traffic};
use futures::StreamExt;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::node::Node;

const SNAPSHOT_EVERY: u64 = 500;

/// A follower that lacks so many entries is sent a snapshot: they are purged from the leader's log.
const BEHIND: u64 = limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES + 2 * SNAPSHOT_EVERY;

/// Writes on their way at a time.
const AT_ONCE: usize = 64;

/// Counts by series.
type Counts = BTreeMap<String, u64>;

/// What a node exports of its traffic.
fn exported(node: &Node) -> Counts {
    let page = node.get("/iroh-metrics").body;
    let ours = page.lines().filter(|line| line.starts_with(RPCS_TOTAL) || line.starts_with(DIALS_TOTAL));
    ours.map(|line| {
        let (series, count) = line.rsplit_once(' ').expect("a figure has a value");
        (series.to_owned(), count.parse().expect("counts are whole"))
    })
    .collect()
}

/// The transport's figures in the artifacts of a scenario, by file.
fn simulated(scenario: &str) -> Vec<(String, Counts)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/simulations");
    let files = fs::read_dir(dir).expect("the directory of artifacts can be listed");
    let paths = files.map(|file| file.expect("the directory can be listed").path());
    let artifacts = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    artifacts
        .filter_map(|path| {
            let artifact: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let metrics = artifact["metrics"].as_object().expect("an artifact has figures");
            let of_transport = metrics.iter().filter(|(name, _)| name.starts_with("aspen_transport"));
            let counts = of_transport.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect();
            (artifact["scenario"] == scenario).then(|| (path.display().to_string(), counts))
        })
        .collect()
}

/// A cluster, and what its nodes have counted, also those of its processes that are gone.
struct Counted {
    cluster: Cluster,
    of_ended: Counts,
    before: Counts,
}

impl Counted {
    fn counts(&self) -> Counts {
        let mut sum = self.of_ended.clone();
        for node in self.cluster.nodes.iter().filter(|node| node.is_running()) {
            for (series, count) in exported(node) {
                *sum.entry(series).or_default() += count;
            }
        }
        sum
    }

    fn kill(&mut self, index: usize) {
        for (series, count) in exported(&self.cluster.nodes[index]) {
            *self.of_ended.entry(series).or_default() += count;
        }
        self.cluster.nodes[index].kill();
    }

    /// Waits until all that a step consists of has been counted since the last one, while clients write.
    async fn counts_step(&mut self, step: &str, expected: &[(Traffic, bool)]) {
        println!("step: {step}");
        for (traffic, is_ok) in expected {
            let series = traffic.series(*is_ok);
            eventually(&format!("{step}: {series} grows"), async || {
                self.write(10).await;
                self.counts().get(&series) > self.before.get(&series)
            })
            .await;
        }
        self.before = self.counts();
    }

    /// Writes through the nodes that run.
    async fn write(&self, writes: u64) {
        let client = self.cluster.client();
        let writes = futures::stream::iter(0..writes).map(|index| {
            let client = client.clone();
            async move { client.put(key(index % 50), Value::new(index.to_string()).unwrap()).await }
        });
        let written: Vec<_> = writes.buffer_unordered(AT_ONCE).collect().await;
        for error in written.into_iter().filter_map(Result::err) {
            // A leader that is killed takes answers along.
            assert!(error.is_outcome_unknown() || error.is_unavailable(), "{error}");
        }
    }
}

fn key(index: u64) -> Key {
    Key::new(format!("flow/{index}")).unwrap()
}

fn ok(rpc: Rpc) -> (Traffic, bool) {
    (Traffic::Rpc(rpc), true)
}

fn failed(rpc: Rpc) -> (Traffic, bool) {
    (Traffic::Rpc(rpc), false)
}

#[test]
fn a_node_exports_the_series_that_simulations_report_from_its_start_on() {
    let dir = TempDir::new().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    node.start();
    let exported = exported(&node);
    let names: BTreeSet<String> = exported.keys().cloned().collect();
    assert_eq!(names, Traffic::all_series().collect());
    assert!(exported.values().all(|count| *count == 0), "{exported:?}");

    let page = node.get("/metrics").body;
    for name in &names {
        assert!(page.contains(name), "{name} is not among all figures: {page}");
    }
    for scenario in ["hiqlite_flow", "mixed", "elections", "churn", "purges"] {
        let artifacts = simulated(scenario);
        assert!(!artifacts.is_empty(), "no run of {scenario} is kept");
        for (file, counts) in artifacts {
            assert!(!counts.is_empty(), "{file} has no figures of the transport");
            let unknown: Vec<&String> = counts.keys().filter(|series| !names.contains(*series)).collect();
            assert!(unknown.is_empty(), "{file} has figures that no node exports: {unknown:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_the_simulated_flow_are_counted_by_real_nodes() {
    // The steps of tests/sim/src/scenarios/hiqlite_flow.rs, and a follower that lacks the log.
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("aspen.toml");
    fs::write(&config, format!("[raft]\nsnapshot_every_entries = {SNAPSHOT_EVERY}\n")).unwrap();
    let flags = ["--config", config.to_str().expect("temporary directories have names in UTF-8")];

    let learner = Node::new(4, dir.path(), &flags);
    let cluster = Cluster::start_in(dir, 3, &flags).await;
    let mut flow = Counted { cluster, of_ended: Counts::new(), before: Counts::new() };
    let formed = [(Traffic::Dial, true), ok(Rpc::Append), ok(Rpc::Heartbeat)];
    flow.counts_step("init of three nodes", &formed).await;

    let first = flow.cluster.nodes[0].client();
    let mut learner = learner.with_flags(["--peer".to_owned(), flow.cluster.nodes[0].endpoint()]);
    learner.start();
    first.add_learner(learner.endpoint()).await.expect("a learner can be added");
    flow.cluster.nodes.push(learner);
    flow.counts_step("a learner joins", &[(Traffic::Dial, true), ok(Rpc::Append)]).await;

    first.set_voters((1..=4).map(NodeId).collect()).await.expect("the learner can be promoted");
    flow.counts_step("the learner is promoted", &[ok(Rpc::Append), ok(Rpc::Heartbeat)]).await;

    flow.kill(3);
    let away = [(Traffic::Dial, false), failed(Rpc::Append), failed(Rpc::Heartbeat), failed(Rpc::Snapshot)];
    flow.write(BEHIND).await;
    flow.counts_step("a follower is killed", &away).await;
    flow.cluster.nodes[3].start();
    flow.counts_step("it is back", &[(Traffic::Dial, true), ok(Rpc::Snapshot), ok(Rpc::Append)]).await;

    let leader = flow.cluster.leader().await;
    flow.kill(leader);
    let elected = [ok(Rpc::PreVote), ok(Rpc::Vote), failed(Rpc::PreVote), failed(Rpc::Vote)];
    flow.counts_step("the leader is killed", &elected).await;

    // A node hands over only where its disk is full or stuck, which tests of disks look at.
    let handed_over = [true, false].map(|is_ok| Traffic::Rpc(Rpc::TransferLeader).series(is_ok));
    let counts = flow.counts();
    for (file, simulated) in simulated("hiqlite_flow") {
        for series in simulated.keys().filter(|series| !handed_over.contains(series)) {
            assert!(counts[series] > 0, "{series} is counted in {file}, and not by real nodes: {counts:?}");
        }
    }
}
