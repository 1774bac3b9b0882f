use openraft::alias::LeaderIdOf;

use super::*;
use crate::raft::types::{LogId, TypeConfig};

fn peer(node_id: u64, key: u8, port: u16) -> Peer {
    let addresses = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let info = NodeInfo { public_key: PublicKey([key; 32]), addresses, ..NodeInfo::default() };
    Peer { node_id: NodeId(node_id), info }
}

fn members<const N: usize>(index: u64, peers: [Peer; N]) -> Members {
    let leader_id = LeaderIdOf::<TypeConfig> { term: 1, node_id: NodeId(2) };
    let nodes = peers.into_iter().map(|peer| (peer.node_id, peer.info)).collect();
    Members { log_id: Some(LogId { leader_id, index }), nodes }
}

fn book() -> PeerBook {
    PeerBook::new(NodeId(1), PublicKey([1; 32]))
}

#[test]
fn only_declared_peers_and_members_are_let_in() {
    let book = book();
    assert_eq!(book.admitted(&PublicKey([2; 32])), None);
    book.declare(peer(2, 2, 1)).unwrap();
    let third = peer(3, 3, 1);
    book.set_members(members(1, [third]));
    assert_eq!(book.admitted(&PublicKey([2; 32])), Some(NodeId(2)));
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)));
    assert_eq!(book.admitted(&PublicKey([4; 32])), None);
}

#[test]
fn a_removed_member_is_let_in_no_more_even_if_it_was_declared() {
    let book = book();
    let second = peer(2, 2, 1);
    book.declare(second.clone()).unwrap();
    book.set_members(members(1, [second]));
    assert_eq!(book.set_members(members(2, [])), vec![PublicKey([2; 32])]);
    assert_eq!(book.admitted(&PublicKey([2; 32])), None);
}

#[test]
fn a_removed_member_that_the_configuration_still_names_stays_out_after_a_restart() {
    let (second, third) = (peer(2, 2, 1), peer(3, 3, 1));
    let before = book();
    before.set_members(members(1, [second.clone(), third.clone()]));
    before.set_members(members(2, [third.clone()]));

    let book = book();
    for named in [second.clone(), third.clone(), peer(4, 4, 1)] {
        book.declare(named).unwrap();
    }
    book.recall_members(&before.once_members());
    book.set_members(Members::default());
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)), "the log has not told yet");
    assert_eq!(book.set_members(members(2, [third])), vec![PublicKey([2; 32])]);
    assert_eq!(book.admitted(&PublicKey([2; 32])), None);
    assert_eq!(book.admitted(&PublicKey([4; 32])), Some(NodeId(4)), "it never was one");
    let refused = book.declare_configured(second.clone());
    assert_eq!(refused, Err(DeclareError::Removed(NodeId(2), PublicKey([2; 32]))), "read again");
    assert_eq!(book.declare_configured(peer(3, 3, 1)), Ok(()));

    book.declare(second.clone()).unwrap();
    let third = peer(3, 3, 7);
    book.set_members(members(3, [third.clone()]));
    assert_eq!(book.admitted(&PublicKey([2; 32])), Some(NodeId(2)), "it was declared anew");
    book.set_members(members(4, [second, third.clone()]));
    book.set_members(members(5, [third]));
    assert_eq!(book.admitted(&PublicKey([2; 32])), None, "and removed again");
}

#[test]
fn a_former_member_that_this_node_never_knew_is_shut_out_once_the_state_tells_of_it() {
    let book = book();
    let (second, third, fourth) = (peer(2, 2, 1), peer(3, 3, 1), peer(4, 4, 1));
    for named in [second.clone(), third.clone(), fourth.clone()] {
        book.declare_configured(named).unwrap();
    }
    assert_eq!(book.set_members(members(9, [second.clone()])), []);
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)), "nobody has told");
    // A member may stand among the former ones until the entry that added it again is applied.
    let told = [PublicKey([3; 32]), PublicKey([2; 32]), PublicKey([9; 32])];
    assert_eq!(book.set_former_members(&told), [PublicKey([3; 32])]);
    assert_eq!(book.admitted(&PublicKey([3; 32])), None);
    assert_eq!(book.admitted(&PublicKey([2; 32])), Some(NodeId(2)));
    assert_eq!(book.admitted(&PublicKey([4; 32])), Some(NodeId(4)));
    for removed in [third.clone(), peer(7, 9, 1)] {
        let (node_id, key) = (removed.node_id, removed.info.public_key);
        assert_eq!(book.declare_configured(removed), Err(DeclareError::Removed(node_id, key)));
    }
    assert!(book.to_keep().iter().all(|kept| kept.node_id != NodeId(3)), "nor is it known after a restart");

    book.declare(third.clone()).unwrap();
    assert_eq!(book.set_former_members(&told), [], "it was declared since");
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)));
    book.set_members(members(10, [second.clone(), third]));
    assert_eq!(book.set_former_members(&[PublicKey([9; 32])]), []);
    book.set_members(members(11, [second]));
    assert_eq!(book.set_former_members(&told), [], "the membership has told already");
    assert_eq!(book.admitted(&PublicKey([3; 32])), None, "removed again");
}

#[test]
fn a_declared_peer_reads_and_writes_only_once_it_is_known_who_was_removed() {
    let book = book();
    book.declare(peer(2, 2, 1)).unwrap();
    book.set_members(members(1, [peer(3, 3, 1)]));
    let may = |key: u8| book.may_use_the_store(&PublicKey([key; 32]));
    assert_eq!([2, 3, 4].map(may), [false, true, false]);
    book.set_former_members(&[]);
    assert_eq!([2, 3, 4].map(may), [true, true, false]);
}

#[test]
fn of_too_many_who_were_members_those_are_forgotten_who_were_it_longest_ago() {
    let book = book();
    let key = |number: usize| {
        let mut key = PublicKey([0; 32]);
        key.0[..8].copy_from_slice(&(usize::MAX - number).to_be_bytes());
        key
    };
    let member = |number: usize| {
        let info = NodeInfo { public_key: key(number), ..NodeInfo::default() };
        Peer { node_id: NodeId(number as u64 + 10), info }
    };
    let max = limits::PEERS_MAX_COUNT;
    for number in 0..max + 2 {
        // The first one stays a member all the time.
        book.set_members(members(number as u64, [member(0), member(number.max(1))]));
    }
    let remembered = book.once_members();
    assert_eq!(remembered.len(), max);
    let forgotten = [1, 2].map(key);
    assert!(remembered.iter().all(|key| !forgotten.contains(key)));
    assert_eq!(remembered[0], key(3));
    assert!(remembered.contains(&key(0)));
    for removed in [3, max] {
        let refused = book.declare_configured(member(removed));
        assert!(matches!(refused, Err(DeclareError::Removed(..))), "{refused:?}");
    }
}

#[test]
fn an_id_that_comes_back_with_another_key_is_not_looked_for_where_the_old_node_was() {
    let book = book();
    let (old, new) = (peer(2, 2, 1), peer(2, 3, 8));
    book.set_members(members(1, [old]));
    book.heard_from(NodeId(2), peer(2, 2, 7).info);
    book.set_members(members(2, []));
    book.set_members(members(3, [new.clone()]));
    assert_eq!(book.lookup(NodeId(2)).unwrap().info, new.info);
}

#[test]
fn a_members_word_lets_others_in_until_the_own_log_is_as_new() {
    let book = book();
    let (second, third, fourth) = (peer(2, 2, 1), peer(3, 3, 1), peer(4, 4, 1));
    book.set_members(members(1, [second.clone()]));
    book.vouched(NodeId(2), members(5, [second.clone(), third.clone()]));
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)));

    book.vouched(NodeId(2), members(4, [fourth.clone()]));
    assert_eq!(book.admitted(&PublicKey([4; 32])), None, "older than what is known");
    book.vouched(NodeId(9), members(9, [fourth.clone()]));
    assert_eq!(book.admitted(&PublicKey([4; 32])), None, "a stranger's word");

    assert_eq!(book.set_members(members(3, [fourth])), vec![]);
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)), "the own log is behind");
    assert_eq!(book.set_members(members(5, [second])).len(), 2);
    assert_eq!(book.admitted(&PublicKey([3; 32])), None, "the own log knows better");
}

#[test]
fn a_members_word_shuts_nobody_out() {
    let book = book();
    let (second, third) = (peer(2, 2, 1), peer(3, 3, 1));
    book.set_members(members(1, [second.clone(), third]));
    book.vouched(NodeId(2), members(5, [second]));
    assert_eq!(book.admitted(&PublicKey([3; 32])), Some(NodeId(3)));
}

#[test]
fn tickets_that_contradict_what_is_known_are_refused() {
    let book = book();
    book.declare(peer(2, 2, 1)).unwrap();
    assert!(matches!(book.declare(peer(9, 1, 1)), Err(DeclareError::Own(_))));
    assert!(matches!(book.declare(peer(1, 9, 1)), Err(DeclareError::OwnId(_))));
    assert!(matches!(book.declare(peer(2, 9, 1)), Err(DeclareError::OtherKey { .. })));
    assert!(matches!(book.declare(peer(9, 2, 1)), Err(DeclareError::OtherId { .. })));
}

fn ports(book: &PeerBook) -> Vec<u16> {
    let addresses = book.lookup(NodeId(2)).unwrap().info.addresses;
    addresses.iter().map(SocketAddr::port).collect()
}

#[test]
fn hearsay_is_tried_but_neither_kept_nor_believed_beyond_the_nodes_own_word() {
    let book = book();
    book.declare(peer(2, 2, 1)).unwrap();
    book.heard_from(NodeId(2), peer(2, 2, 7).info);
    book.told_of(&PublicKey([2; 32]), peer(2, 2, 8).info.addresses);
    assert_eq!(ports(&book), [8, 7, 1]);
    book.told_of(&PublicKey([3; 32]), peer(3, 3, 9).info.addresses);
    assert_eq!(book.admitted(&PublicKey([3; 32])), None, "hearsay lets nobody in");
    let kept: Vec<_> = book.to_keep().into_iter().flat_map(|peer| peer.info.addresses).collect();
    assert_eq!(kept.iter().map(SocketAddr::port).collect::<Vec<_>>(), [7, 1]);

    let left = book.heard_from(NodeId(2), peer(2, 2, 9).info);
    assert_eq!(left.iter().map(SocketAddr::port).collect::<Vec<_>>(), [7]);
    assert_eq!(ports(&book), [9, 1]);
}

#[test]
fn a_node_that_moves_again_and_again_leaves_no_endless_list() {
    let book = book();
    for port in 1..=100 {
        book.declare(Peer {
            node_id: NodeId(2),
            info: book.lookup(NodeId(2)).map_or(peer(2, 2, port).info, |it| it.info),
        })
        .unwrap();
        book.heard_from(NodeId(2), peer(2, 2, port).info);
    }
    assert_eq!(ports(&book).len(), limits::PEER_ADDRESSES_MAX_COUNT);
    assert_eq!(ports(&book)[0], 100);
}

#[test]
fn the_address_that_a_node_named_last_comes_first() {
    let book = book();
    book.declare(peer(2, 2, 1)).unwrap();
    book.heard_from(NodeId(2), peer(2, 2, 7).info);
    book.heard_from(NodeId(2), peer(2, 9, 8).info);
    assert_eq!(ports(&book), [7, 1]);
}

#[test]
fn stranger_knows_a_node_that_is_alone_from_elsewhere_unless_it_was_a_member_here() {
    let book = book();
    let (stranger, former) = (PublicKey([9; 32]), PublicKey([2; 32]));
    assert!(!book.is_alone_and_never_knew(&stranger), "it is in no cluster yet");
    book.set_members(members(1, [peer(2, 2, 1)]));
    assert!(!book.is_alone_and_never_knew(&stranger));
    book.set_members(members(2, []));
    assert!(book.is_alone_and_never_knew(&stranger));
    assert!(!book.is_alone_and_never_knew(&former));
    book.declare(peer(3, 3, 1)).unwrap();
    assert!(!book.is_alone_and_never_knew(&stranger), "there is one that is to join");
}
