//! The leadership moves on demand, and before a leader stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspen::kv::types::{Key, NodeId, Value};
use serde_json::json;

use super::{cluster, voters, wait_until_missed};
use crate::support::cluster::Cluster;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_goes_to_whom_it_is_handed_and_to_nobody_who_cannot_take_it() {
    let mut three = Cluster::start(3, &[]).await;
    for _ in 0..3 {
        let leader = three.leader().await;
        let (to, through) = (three.nodes[(leader + 1) % 3].id, &three.nodes[(leader + 2) % 3]);
        let answer = through.post("/transfer-leader", &json!({ "to": to })).ok();
        assert_eq!(answer["leader"], to, "{answer}");
        wait_until("all follow it", || three.nodes.iter().all(|node| cluster(node)["leader"] == to));
        through.put("under", &format!("node {to}"));
    }
    let leader = three.leader().await;
    let old = three.nodes[leader].id;
    let led = three.nodes[(leader + 1) % 3].client().transfer_leader(None).await.expect("somebody takes it");
    assert_ne!(led, NodeId(old));

    let leader = three.leader().await;
    let dead = (leader + 1) % 3;
    three.nodes[dead].kill();
    let id = three.nodes[dead].id;
    wait_until_missed(&three.nodes[leader], id);
    let answer = three.nodes[leader].post("/transfer-leader", &json!({ "to": id }));
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (409, Some("not_handed_over")),
        "{answer:?}"
    );
    let answer = three.nodes[leader].post("/transfer-leader", &json!({ "to": 9 }));
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (404, Some("unknown_node")),
        "{answer:?}"
    );
    assert_eq!(cluster(&three.nodes[leader])["role"], "leader");
    three.nodes[leader].put("still", "taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_nodes_under_load_fails_no_request_for_more_than_half_a_second() {
    const WRITERS: usize = 4;
    const LONGEST: Duration = Duration::from_millis(500);
    let mut three = Cluster::start(3, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, stop) = (three.client(), stop.clone());
            tokio::spawn(async move {
                let (mut longest, mut count) = (Duration::ZERO, 0_u64);
                while !stop.load(Ordering::SeqCst) {
                    let key = Key::new(format!("load/{writer}/{}", count % 50)).unwrap();
                    let began = Instant::now();
                    let put = client.put(key, Value::new(count.to_string()).unwrap()).await;
                    put.unwrap_or_else(|error| panic!("writer {writer}: {error}"));
                    longest = longest.max(began.elapsed());
                    count += 1;
                }
                (longest, count)
            })
        })
        .collect();

    for index in 0..3 {
        // Each restart is that of the leader: the others are as harmless as can be.
        let leader = three.leader().await;
        assert!(three.nodes[leader].terminate().success(), "{}", three.nodes[leader].log());
        let log = three.nodes[leader].log();
        assert!(log.contains("handed the leadership over to node"), "restart {index}: {log}");
        three.nodes[leader].start_serving();
        assert_eq!(voters(&three.nodes[leader]), [1, 2, 3]);
    }
    stop.store(true, Ordering::SeqCst);
    let mut all = 0;
    for writer in writers {
        let (longest, count) = writer.await.expect("no write fails");
        println!("a writer wrote {count} times, and waited {longest:?} at the most");
        assert!(longest <= LONGEST, "a write took {longest:?}");
        all += count;
    }
    assert!(all > 0);
}
