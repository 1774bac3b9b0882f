//! The examples of clients, run as they stand against a node.

use std::process::Command;

use crate::support::cluster::client_of;
use crate::support::node::Node;

#[allow(dead_code, reason = "its `main` is for `cargo run --example`")]
#[path = "../../examples/client.rs"]
mod client;
#[allow(dead_code, reason = "its `main` is for `cargo run --example`")]
#[path = "../../examples/iroh_client.rs"]
mod iroh_client;

#[tokio::test(flavor = "multi_thread")]
async fn example_over_http_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    node.start_serving();
    let said = client::run(&client_of([node.http()])).await.unwrap();
    let expected = [
        "visitors/name is front door",
        "3 visitors, in 3 writes",
        "2500 keys begin with visitor/",
        "2502 keys are deleted",
    ];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn example_over_iroh_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("client.key");
    let made =
        Command::new(env!("CARGO_BIN_EXE_aspen-node")).arg("keygen").arg("--out").arg(&key_file).output();
    let public_key = String::from_utf8(made.expect("the node's binary starts").stdout).unwrap();
    let mut node = Node::new(1, dir.path(), &["--client-key", public_key.trim()]);
    node.start_serving();
    let said = iroh_client::run(&key_file, &node.endpoint().parse().unwrap()).await.unwrap();
    assert_eq!(said, "node 1 has \"hello\" since revision 1");
}
