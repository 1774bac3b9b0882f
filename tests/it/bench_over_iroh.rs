//! The load generator as a client with a key of its own, against real nodes that admit it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::support::cluster::Cluster;
use crate::support::node::{Node, coverage_file};

/// Makes a key, and returns its public half.
fn keygen(path: &Path) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_aspen-node")).arg("keygen").arg("--out").arg(path).output();
    let made = made.expect("the node's binary starts");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("a key is printed as hex").trim().to_owned()
}

async fn bench(key: &Path, nodes: &[Node], arguments: &[&str]) -> Output {
    let tickets: Vec<String> = nodes.iter().map(Node::endpoint).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
    command.args(["bench", "--json", "--iroh", &tickets.join(","), "--key-file"]).arg(key).args(arguments);
    command.env_clear().envs(coverage_file());
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("waiting does not panic");
    ran.expect("the client's binary starts")
}

fn report(run: &Output) -> Json {
    assert!(run.status.success(), "{run:?}");
    serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admitted_load_runs_over_iroh_against_three_nodes_and_a_stranger_gets_nowhere() {
    const KINDS: [&str; 5] = ["put", "get", "stale_get", "range", "txn"];
    let dir = tempfile::tempdir().unwrap();
    let (key, strange_key) = (dir.path().join("client.key"), dir.path().join("stranger.key"));
    let public_key = keygen(&key);
    keygen(&strange_key);
    let cluster = Cluster::start_in(dir, 3, &["--client-key", &public_key]).await;
    let every_kind =
        ["--mix", "put=30,get=30,stale-get=20,range=10,txn=10", "--clients", "12", "--keys", "100"];
    let briefly = ["--duration", "2", "--warmup", "0.5", "--connections", "3"];

    println!("phase: every kind of operation, and none fails");
    let http: Vec<String> = cluster.nodes.iter().map(|node| node.http().to_string()).collect();
    let measured = ["--addr", &http.join(",")];
    let run = bench(&key, &cluster.nodes, &[&every_kind[..], &briefly, &measured].concat()).await;
    let first = report(&run);
    assert_eq!((&first["errors"], &first["first_error"]), (&Json::from(0), &Json::Null), "{first}");
    assert_eq!((&first["clients"], &first["connections"]), (&Json::from(12), &Json::from(3)), "{first}");
    assert!(first["server_cpu_us_per_op"].as_f64().is_some_and(|cpu_us| cpu_us > 0.0), "{first}");
    let kinds = first["kinds"].as_array().expect("a report has kinds");
    for name in KINDS {
        let kind = kinds.iter().find(|kind| kind["kind"] == name).expect("each kind is in the report");
        assert!(kind["operations"].as_u64().is_some_and(|operations| operations > 0), "{kind}");
        assert!(kind["p50_ms"].as_f64() <= kind["max_ms"].as_f64(), "{kind}");
    }
    for node in &cluster.nodes {
        let page = node.get("/metrics").body;
        for kind in ["read", "write"] {
            let series = format!("aspen_client_requests_total{{kind=\"{kind}\",result=\"ok\"}} ");
            assert!(page.contains(&series), "node {} was asked by no client: {page}", node.id);
        }
    }

    println!("phase: the same key again, in another process, at once");
    let again = report(&bench(&key, &cluster.nodes, &[&every_kind[..], &briefly].concat()).await);
    assert_eq!(again["errors"], 0, "{again}");
    assert_eq!(again["server_cpu_us_per_op"], Json::Null, "no node was named whose figures would count");

    println!("phase: a key that no node admits");
    let refused = bench(&strange_key, &cluster.nodes, &briefly).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("refused the connection") && told.contains("client_keys"), "{told}");
}
