//! Questions to the members who else belongs to the cluster, as the real transport asks them.
//!
//! # Tiger Style
//! A node asks in one round at a time, with a pause after it, however many strangers come.

use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::limits;
use aspen::raft::observe;
use futures::FutureExt;
use futures::future::BoxFuture;
use madsim::runtime::Handle;

use super::station::Members;
use super::{CONNECT_TIMEOUT, Handlers, Lane, Network, STALL_TIMEOUT, node_name};

impl Network {
    /// Somebody unknown has called a node, or is to be called by it.
    pub(super) fn ask_about_strangers(&self, own: NodeId) {
        let Some(station) = self.station(own).filter(|station| station.begin_asking()) else { return };
        // On the node, so that it ends with it.
        let Some(node) = Handle::current().get_node(node_name(own).as_str()) else { return };
        let network = self.clone();
        node.spawn(async move {
            let patience = CONNECT_TIMEOUT + STALL_TIMEOUT;
            let answers = station.members().into_iter().map(|member| {
                let (network, station) = (&network, &station);
                async move {
                    let way = (own, member, Lane::Control);
                    // Boxed: a call may dial, and a dial may ask.
                    let asked = network.call(way, "members", &(), patience, serve).boxed().await;
                    if let Ok(members) = asked {
                        station.vouched(member, members);
                    }
                }
            });
            futures::future::join_all(answers).await;
            madsim::time::sleep(Duration::from_millis(limits::VOUCHING_INTERVAL_MS)).await;
            station.end_asking();
        });
    }
}

fn serve(handlers: Handlers, (): ()) -> BoxFuture<'static, Members> {
    async move { Members::of(&observe::metrics(&handlers.raft).membership_config) }.boxed()
}
