use std::fmt::Debug;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use redb::ReadableTable;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::kv::types::Founders;
use crate::storage::disk::simulated::SimulatedDisk;

const KEY: PublicKey = PublicKey([7; 32]);

fn peer(id: u64) -> Peer {
    let info = NodeInfo {
        public_key: PublicKey([9; 32]),
        addresses: vec!["192.0.2.1:4601".parse().unwrap(), "[2001:db8::1]:4601".parse().unwrap()],
        relay_url: Some("https://relay.example".to_owned()),
        http_addr: None,
    };
    Peer { node_id: NodeId(id), info }
}

#[test]
fn everything_survives_a_restart_and_the_id_defaults_to_one() {
    let dir = TempDir::new().unwrap();
    let cluster = ClusterId::random();
    let metadata = Metadata::open(dir.path(), None, KEY).unwrap();
    let incarnation = metadata.incarnation();
    assert_eq!((metadata.node_id(), metadata.cluster_id(), metadata.peers()), (NodeId(1), None, vec![]));
    metadata.adopt_cluster_id(cluster).unwrap();
    let once_members = vec![PublicKey([9; 32]), PublicKey([8; 32])];
    metadata.save_peers(&[peer(2), peer(3)], &once_members).unwrap();
    metadata.save_peers(&[peer(3), peer(4)], &once_members).unwrap();
    drop(metadata);

    for given in [None, Some(NodeId(1))] {
        let metadata = Metadata::open(dir.path(), given, KEY).unwrap();
        assert_eq!(metadata.incarnation(), incarnation);
        assert_eq!(metadata.cluster_id(), Some(cluster));
        assert_eq!(
            (metadata.peers(), metadata.once_members()),
            (vec![peer(3), peer(4)], once_members.clone())
        );
        assert_eq!(metadata.public_key(), KEY);
    }
}

#[test]
fn what_is_known_is_told_while_the_disk_hangs_in_a_change() {
    let disk = SimulatedDisk::new("/node", 7);
    let metadata = Metadata::open_on(&*disk.mount(), Path::new("/node"), None, KEY).unwrap();
    let cluster = ClusterId::random();
    metadata.adopt_cluster_id(cluster).unwrap();
    disk.hold_syncs(METADATA_FILE);
    let saving = std::thread::spawn({
        let metadata = metadata.clone();
        move || metadata.save_peers(&[peer(2)], &[])
    });
    assert!(disk.wait_for_held_sync());
    assert_eq!((metadata.cluster_id(), metadata.peers()), (Some(cluster), vec![]), "as of what is on disk");
    disk.release_syncs();
    saving.join().unwrap().unwrap();
    assert_eq!(metadata.peers(), [peer(2)]);
}

#[test]
fn two_directories_have_two_incarnations() {
    let [a, b] = [(); 2].map(|()| TempDir::new().unwrap());
    let [a, b] = [&a, &b].map(|dir| Metadata::open(dir.path(), None, KEY).unwrap().incarnation());
    assert_ne!(a, b);
}

#[test]
fn another_node_id_or_key_is_refused_with_both_named() {
    let dir = TempDir::new().unwrap();
    drop(Metadata::open(dir.path(), Some(NodeId(3)), KEY).unwrap());
    let text = Metadata::open(dir.path(), Some(NodeId(4)), KEY).unwrap_err().to_string();
    assert!(text.contains("node 3") && text.contains("node 4") && text.contains("set it to 3"), "{text}");
    let other = PublicKey([8; 32]);
    let text = Metadata::open(dir.path(), None, other).unwrap_err().to_string();
    assert!(text.contains(&KEY.to_string()) && text.contains(&other.to_string()), "{text}");
    assert_eq!(Metadata::open(dir.path(), None, KEY).unwrap().node_id(), NodeId(3));
}

#[test]
fn a_cluster_is_adopted_once() {
    let dir = TempDir::new().unwrap();
    let (first, second) = (ClusterId::random(), ClusterId::random());
    for metadata in [Metadata::open(dir.path(), None, KEY).unwrap(), Metadata::in_memory(NodeId(1), KEY)] {
        metadata.adopt_cluster_id(first).unwrap();
        metadata.adopt_cluster_id(first).unwrap();
        let text = metadata.adopt_cluster_id(second).unwrap_err().to_string();
        assert!(text.contains(&first.to_string()) && text.contains(&second.to_string()), "{text}");
        assert_eq!(metadata.clone().cluster_id(), Some(first));
    }
}

#[test]
fn more_peers_than_the_limit_are_refused() {
    let metadata = Metadata::in_memory(NodeId(1), KEY);
    let peers = vec![peer(2); limits::PEERS_MAX_COUNT + 1];
    assert!(matches!(metadata.save_peers(&peers, &[]), Err(MetadataError::TooManyPeers { .. })));
    assert_eq!(metadata.peers(), vec![]);
}

fn tamper(dir: &Path, change: impl FnOnce(&mut Table<'_, &'static str, &'static [u8]>)) {
    drop(Metadata::open(dir, None, KEY).unwrap());
    let database = Database::open(dir.join(METADATA_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&mut transaction.open_table(METADATA).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn a_newer_format_is_refused_before_anything_else_is_read() {
    let dir = TempDir::new().unwrap();
    tamper(dir.path(), |table| {
        table.insert(FORMAT_KEY, codec::seal(&(FORMAT + 1)).as_slice()).unwrap();
        table.insert(NODE_ID, &b"of the future"[..]).unwrap();
    });
    let text = Metadata::open(dir.path(), None, KEY).unwrap_err().to_string();
    assert!(text.contains("format 2") && text.contains("newer"), "{text}");
}

#[test]
fn a_damaged_or_missing_value_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    tamper(dir.path(), |table| {
        let mut record = table.get(PUBLIC_KEY).unwrap().unwrap().value().to_vec();
        record[9] ^= 1;
        table.insert(PUBLIC_KEY, record.as_slice()).unwrap();
    });
    let text = Metadata::open(dir.path(), None, KEY).unwrap_err().to_string();
    assert!(text.contains("public_key") && text.contains("checksum"), "{text}");

    let dir = TempDir::new().unwrap();
    tamper(dir.path(), |table| drop(table.remove(INCARNATION).unwrap()));
    let text = Metadata::open(dir.path(), None, KEY).unwrap_err().to_string();
    assert!(text.contains("no incarnation") && text.contains("backup"), "{text}");
}

/// Whether a value comes back as it was sealed.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    prop_assert_eq!(&codec::unseal::<T>("a value", &codec::seal(value)).unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn values_come_back_as_they_were_sealed(
        clusters: (u128, Option<u128>),
        founders in btree_map(any::<u64>(), any::<([u8; 32], u64)>(), 1..5),
        peers in vec(any::<(u64, [u8; 32], Vec<(std::net::IpAddr, u16)>, Option<String>)>(), 0..4),
    ) {
        let cluster = |id| ClusterId(Uuid::from_u128(id));
        let (to, from) = (cluster(clusters.0), clusters.1.map(cluster));
        comes_back(&Recovery { from, to })?;

        let members = founders.iter().map(|(id, (key, _))| (NodeId(*id), PublicKey(*key)));
        let own = members.clone().next().expect("there is one");
        let incarnations = founders.iter().map(|(id, (_, incarnation))| (NodeId(*id), *incarnation)).collect();
        let founding = Founding { cluster_id: to, founders: Founders::new(own, members.clone()), incarnations };
        comes_back(&founding)?;
        comes_back(&members.map(|(_, key)| key).collect::<Vec<_>>())?;

        let peers: Vec<(NodeId, NodeInfo)> = peers
            .into_iter()
            .map(|(id, key, addresses, relay_url)| {
                // Not the scope of a link-local one, which serde leaves out.
                let addresses: Vec<std::net::SocketAddr> = addresses.into_iter().map(Into::into).collect();
                let http_addr = addresses.first().copied();
                (NodeId(id), NodeInfo { public_key: PublicKey(key), addresses, relay_url, http_addr })
            })
            .collect();
        comes_back(&peers)?;
    }
}
