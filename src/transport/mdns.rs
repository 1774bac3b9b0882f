//! Finding nodes on the local network by multicast DNS, where an operator wants that.
//!
//! A node announces its public key and its addresses to everybody on the network, and hears what others
//! announce. It only ever learns where a node is that it knows already: who is let in is decided elsewhere,
//! and an announcement by somebody else leads to an address where the handshake fails.
//!
//! # Tiger Style
//! - What is announced is never written to disk, and never a reason to let anybody in.
//! - It is hearsay like that of members, within the same bounds.

use futures::StreamExt;
use iroh::Endpoint;
use iroh::address_lookup::{AddressLookup, EndpointData};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::peers::PeerBook;
use super::ticket::public_key;

/// Aspen's own, so that other programs with iroh are not asked. It must stay stable.
const SERVICE: &str = "aspen";

/// Announces this node, and notes in the book where others are. It ends with the handle.
pub(super) fn start(endpoint: &Endpoint, book: PeerBook) -> AbortOnDropHandle<()> {
    let (published, addresses) = watch::channel(None);
    if let Ok(lookups) = endpoint.address_lookup() {
        lookups.add(Published(published));
    }
    let id = endpoint.id();
    AbortOnDropHandle::new(tokio::spawn(async move { announce(id, book, addresses).await }))
}

/// Takes this node's addresses from iroh. It is never asked for those of others, which go to the book.
#[derive(Debug)]
struct Published(watch::Sender<Option<EndpointData>>);

impl AddressLookup for Published {
    fn publish(&self, data: &EndpointData) {
        let is_new = |before: &mut Option<EndpointData>| before.replace(data.clone()).as_ref() != Some(data);
        self.0.send_if_modified(is_new);
    }
}

async fn announce(
    id: iroh::EndpointId,
    book: PeerBook,
    mut addresses: watch::Receiver<Option<EndpointData>>,
) {
    loop {
        let data = addresses.borrow_and_update().clone();
        if let Some(data) = data {
            // Anew after each move: the multicast group is joined on an interface, and left with its address.
            match MdnsAddressLookup::builder().service_name(SERVICE).build(id) {
                Ok(lookup) => {
                    lookup.publish(&data);
                    tokio::select! {
                        () = listen(&lookup, &book) => {
                            tracing::warn!("this node is not announced on the local network any more, until its addresses change or it is restarted: the search by multicast DNS has ended");
                        }
                        changed = addresses.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    }
                }
                Err(error) => tracing::warn!(
                    "this node is not announced on the local network, and looks for no others there, until its addresses change or it is restarted: {error:#}"
                ),
            }
        }
        if addresses.changed().await.is_err() {
            return;
        }
    }
}

/// Notes where others are, for as long as the search runs.
async fn listen(lookup: &MdnsAddressLookup, book: &PeerBook) {
    let mut events = lookup.subscribe().await;
    while let Some(event) = events.next().await {
        if let DiscoveryEvent::Discovered { endpoint_info, .. } = event {
            let key = public_key(&endpoint_info.endpoint_id);
            book.told_of(&key, endpoint_info.ip_addrs().copied());
        }
    }
}
