//! A stream within the process as one for actors, for tests.

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::DuplexStream;

/// What fits between the two ends.
const BUFFER_BYTES: usize = 64 * 1024;

/// One end of a stream within the process.
pub(super) struct DuplexEnd(DuplexStream);

/// Both ends of a new stream.
pub(super) fn duplex() -> (DuplexEnd, DuplexEnd) {
    let (one, other) = tokio::io::duplex(BUFFER_BYTES);
    (DuplexEnd(one), DuplexEnd(other))
}

impl ClusterBidiStream for DuplexEnd {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.0);
        (Box::new(read), Box::new(write))
    }
}
