//! A stream of the transport as one for actors.

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};

use crate::transport::actor::ActorStream;

impl ClusterBidiStream for ActorStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (Box::new(self.recv), Box::new(self.send))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.node_id.to_string())
    }
}
