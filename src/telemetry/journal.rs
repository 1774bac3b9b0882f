//! The journal of systemd, with fields by which one finds the lines of a node, a term, a peer or a request.
//!
//! A line's own fields are there as `ASPEN_PEER`, `ASPEN_REQUEST_ID` and so on; every line also has
//! `ASPEN_NODE_ID` and `ASPEN_TERM` once they are known. These names must stay stable.

use std::io;

use tracing_subscriber::{Registry, reload};

/// In front of the name of each field.
const PREFIX: &str = "ASPEN";

/// What writes to the journal.
pub(super) type JournalLayer = reload::Layer<tracing_journald::Layer, Registry>;

/// Changes the fields that all lines have.
#[derive(Clone)]
pub(super) struct Journal(reload::Handle<tracing_journald::Layer, Registry>);

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

/// Opens the journal.
///
/// # Errors
/// Where nobody listens at its socket, or a sandbox hides it.
pub(super) fn open() -> io::Result<(JournalLayer, Journal)> {
    let (layer, handle) = reload::Layer::new(plain()?);
    Ok((layer, Journal(handle)))
}

impl Journal {
    pub(super) fn name_node(&self, node_id: u64, term: u64) {
        let fields = [("NODE_ID", node_id), ("TERM", term)];
        let fields = fields.map(|(name, value)| (format!("{PREFIX}_{name}"), value.to_string()));
        // The fields of a layer cannot be changed, but the layer can.
        let renamed = plain().map(|layer| self.0.reload(layer.with_custom_fields(fields)));
        if !matches!(renamed, Ok(Ok(()))) {
            tracing::debug!("lines in the journal do not say of which node and term they are");
        }
    }
}

fn plain() -> io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(Some(PREFIX.to_owned())))
}
