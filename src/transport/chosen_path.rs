//! Whether the path that iroh has chosen to a node still leads there.
//!
//! iroh sends what begins a connection over that path alone, and chooses anew only when the last connection
//! to the node is gone, also where one of them works over another path.
//!
//! # Tiger Style
//! A path is silent only if nothing came over it for longer than the pause between two signs of life.

use std::collections::HashMap;

use iroh::endpoint::Connection;

use super::Transport;
use crate::kv::types::PublicKey;

impl Transport {
    /// Waits until nothing has come for a while over the chosen path to the owner of a key. It never ends
    /// where there is none, or where it works.
    pub(super) async fn chosen_path_is_silent(&self, key: PublicKey) {
        let before = received(&self.0.links.connections_of(key));
        if !before.is_empty() {
            // Long enough for a sign of life.
            tokio::time::sleep(self.0.timeouts.keep_alive * 3 / 2).await;
            let now = received(&self.0.links.connections_of(key));
            // A connection that is new since has received something on its own.
            if now.iter().all(|(id, count)| *count <= before.get(id).copied().unwrap_or(0)) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Datagrams that have come over the chosen path, on each connection.
fn received(connections: &[Connection]) -> HashMap<usize, u64> {
    let of_one = |connection: &Connection| {
        let paths = connection.paths();
        let chosen = paths.iter().filter(|path| path.is_selected());
        (connection.stable_id(), chosen.map(|path| path.stats().udp_rx.datagrams).sum::<u64>())
    };
    connections.iter().map(of_one).collect()
}
