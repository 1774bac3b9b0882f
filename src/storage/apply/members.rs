//! Deciding who may come in: tickets are issued and redeemed, members are known by their data directories.
//!
//! # Tiger Style
//! - Redeeming takes one use and allots one id, both or neither. The same node that asks again with the same
//!   ticket gets the same answer, and takes nothing.
//! - An id is never allotted twice, nor one that a member has had.
//! - At most [`limits::JOIN_TICKETS_MAX_COUNT`] tickets and [`limits::PEERS_MAX_COUNT`] nodes are kept, and the
//!   keys of [`limits::FORMER_MEMBERS_MAX_COUNT`] former members.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Applier;
use crate::kv::types::{
    Admitted, JoinRefusal, Joiner, MemberOp, MemberOpResult, NodeId, OpResult, PublicKey, SecretHash,
    TicketId, WriteReply,
};
use crate::limits;
use crate::raft::types::StoredMembership;
use crate::storage::admissions::{self, FormerMember, IssuedTicket};
use crate::storage::tables::{StateError, Table, WriteTables};
use crate::storage::{head, record};

/// The members of the cluster as of the entry that is applied, whether the tables have it yet or not.
pub(super) type Members = BTreeMap<NodeId, PublicKey>;

fn members_of(membership: &StoredMembership) -> Members {
    membership.nodes().map(|(node_id, info)| (*node_id, info.public_key)).collect()
}

impl<T: WriteTables> Applier<'_, T> {
    pub(super) fn member_op(&mut self, op: &MemberOp) -> Result<WriteReply, StateError> {
        let result = match op {
            MemberOp::IssueTicket { hash, now_ms, expires_at_ms, uses } => {
                self.issue(hash, *now_ms, IssuedTicket { expires_at_ms: *expires_at_ms, uses_left: *uses })?
            }
            MemberOp::Redeem { hash, now_ms, joiner } => self.redeem(hash, *now_ms, joiner)?,
            MemberOp::NoteIncarnations { members } => {
                members.iter().try_for_each(|(id, key, given)| self.note_incarnation(*id, *key, *given))?;
                MemberOpResult::Done
            }
            MemberOp::RevokeTicket { id } => self.revoke(*id)?,
        };
        let succeeded = !matches!(result, MemberOpResult::Refused(_));
        let revision = self.head.revisions.current;
        Ok(WriteReply { revision, succeeded, results: vec![OpResult::Member(result)], replayed: false })
    }

    /// Follows a change of the membership: who leaves is forgotten, and comes back as another. Its key is kept,
    /// so that nodes which come later, and never saw it as a member, know that it was removed.
    pub(crate) fn membership(&mut self, membership: &StoredMembership) -> Result<(), StateError> {
        let now = members_of(membership);
        for (node_id, admitted) in admissions::nodes(self.tables)? {
            let belongs = now.get(&node_id) == Some(&admitted.public_key);
            let votes = membership.voter_ids().any(|voter| voter == node_id);
            let wants_vote = admitted.wants_vote && !(belongs && votes);
            let next = Admitted { is_member: admitted.is_member || belongs, wants_vote, ..admitted };
            if admitted.is_member && !belongs {
                self.tables.remove(Table::Admissions, &admissions::node_key(node_id))?;
            } else if next != admitted {
                self.put_node(node_id, &next)?;
            }
        }
        self.note_former_members(&now, membership.log_id().map_or(0, |log_id| log_id.index))?;
        let highest = now.keys().next_back().copied().max(Some(self.highest_id()?));
        head::store_highest_id(self.tables, highest.unwrap_or_default())?;
        self.members = Some(now);
        Ok(())
    }

    /// Notes the keys of those who leave. One that is a member's again is a former one's no more; to have taken
    /// a ticket is not enough, for who took one may never come.
    fn note_former_members(&mut self, now: &Members, removed_at: u64) -> Result<(), StateError> {
        let before = self.members()?.clone();
        let keys: BTreeSet<&PublicKey> = now.values().collect();
        let gone: Vec<(NodeId, PublicKey)> =
            before.into_iter().filter(|(_, public_key)| !keys.contains(public_key)).collect();
        for (node_id, public_key) in &gone {
            self.put_row(
                &admissions::former_key(public_key),
                &FormerMember { node_id: *node_id, removed_at },
            )?;
        }
        let former = admissions::former_members(self.tables)?;
        let (back, out): (Vec<_>, Vec<_>) =
            former.iter().partition(|(public_key, _)| keys.contains(public_key));
        let excess = out.len().saturating_sub(limits::FORMER_MEMBERS_MAX_COUNT);
        for (public_key, _) in back.into_iter().chain(out.into_iter().take(excess)) {
            self.tables.remove(Table::Admissions, &admissions::former_key(&public_key))?;
        }
        Ok(())
    }

    fn issue(
        &mut self,
        hash: &SecretHash,
        now_ms: u64,
        ticket: IssuedTicket,
    ) -> Result<MemberOpResult, StateError> {
        self.forget_expired(now_ms)?;
        if admissions::ticket(self.tables, hash)?.is_some() {
            return Ok(MemberOpResult::Done);
        }
        let max = limits::JOIN_TICKETS_MAX_COUNT;
        if admissions::tickets(self.tables)?.len() >= max {
            return Ok(MemberOpResult::Refused(JoinRefusal::TooManyTickets { max }));
        }
        self.put_row(&admissions::ticket_key(hash), &ticket)?;
        Ok(MemberOpResult::Done)
    }

    /// Once it is gone, nobody comes in with it; so when it was gone before.
    fn revoke(&mut self, id: TicketId) -> Result<MemberOpResult, StateError> {
        for (key, _) in admissions::tickets(self.tables)? {
            if admissions::ticket_id(&key)? == id {
                self.tables.remove(Table::Admissions, &key)?;
            }
        }
        Ok(MemberOpResult::Done)
    }

    fn redeem(
        &mut self,
        hash: &SecretHash,
        now_ms: u64,
        joiner: &Joiner,
    ) -> Result<MemberOpResult, StateError> {
        let nodes = admissions::nodes(self.tables)?;
        let known = nodes.iter().find(|(_, admitted)| admitted.public_key == joiner.public_key);
        if let Some((node_id, admitted)) = known
            && (admitted.incarnation, admitted.ticket) == (joiner.incarnation, Some(*hash))
        {
            return Ok(MemberOpResult::Admitted { node_id: *node_id });
        }
        if let Some(node_id) = self.member_with(&joiner.public_key)? {
            return Ok(MemberOpResult::Refused(JoinRefusal::AlreadyMember { node_id }));
        }
        let ticket = match admissions::ticket(self.tables, hash)? {
            None => return Ok(MemberOpResult::Refused(JoinRefusal::UnknownTicket)),
            Some(ticket) if now_ms >= ticket.expires_at_ms => {
                let ago_ms = now_ms - ticket.expires_at_ms;
                return Ok(MemberOpResult::Refused(JoinRefusal::Expired { ago_ms }));
            }
            Some(ticket) => ticket,
        };
        let Some(uses_left) = ticket.uses_left.checked_sub(1) else {
            return Ok(MemberOpResult::Refused(JoinRefusal::UsedUp));
        };
        if nodes.len() >= limits::PEERS_MAX_COUNT {
            let max = limits::PEERS_MAX_COUNT;
            return Ok(MemberOpResult::Refused(JoinRefusal::TooManyNodes { max }));
        }
        if let Some((earlier, _)) = known {
            // It began to come in with another directory, and never was a member.
            self.tables.remove(Table::Admissions, &admissions::node_key(*earlier))?;
        }
        self.put_row(&admissions::ticket_key(hash), &IssuedTicket { uses_left, ..ticket })?;
        let node_id = NodeId(self.highest_id()?.0 + 1);
        head::store_highest_id(self.tables, node_id)?;
        let Joiner { public_key, incarnation, wants_vote } = *joiner;
        let ticket = Some(*hash);
        let admitted =
            Admitted { public_key, incarnation, wants_vote, is_member: false, ticket, since_ms: now_ms };
        self.put_node(node_id, &admitted)?;
        Ok(MemberOpResult::Admitted { node_id })
    }

    /// The first word counts: another directory under the same id and key has lost what the node promised.
    fn note_incarnation(
        &mut self,
        node_id: NodeId,
        public_key: PublicKey,
        incarnation: u64,
    ) -> Result<(), StateError> {
        let is_member = self.members()?.get(&node_id) == Some(&public_key);
        let known = admissions::node(self.tables, node_id)?;
        if !is_member || known.is_some_and(|known| known.public_key == public_key) {
            return Ok(());
        }
        let admitted =
            Admitted { public_key, incarnation, wants_vote: false, is_member, ticket: None, since_ms: 0 };
        self.put_node(node_id, &admitted)
    }

    /// Forgets tickets that expired a while ago, and nodes that took one and never came.
    fn forget_expired(&mut self, now_ms: u64) -> Result<(), StateError> {
        let before_ms = now_ms.saturating_sub(limits::JOIN_REMEMBERED_MS);
        for (key, ticket) in admissions::tickets(self.tables)? {
            if ticket.expires_at_ms < before_ms {
                self.tables.remove(Table::Admissions, &key)?;
            }
        }
        for (node_id, admitted) in admissions::nodes(self.tables)? {
            if !admitted.is_member && admitted.since_ms < before_ms {
                self.tables.remove(Table::Admissions, &admissions::node_key(node_id))?;
            }
        }
        Ok(())
    }

    fn members(&mut self) -> Result<&Members, StateError> {
        if self.members.is_none() {
            self.members = Some(members_of(&head::load_membership(self.tables)?));
        }
        Ok(self.members.as_ref().expect("they were just loaded"))
    }

    fn member_with(&mut self, key: &PublicKey) -> Result<Option<NodeId>, StateError> {
        Ok(self.members()?.iter().find(|(_, known)| *known == key).map(|(node_id, _)| *node_id))
    }

    /// The highest id that a node has or had.
    fn highest_id(&mut self) -> Result<NodeId, StateError> {
        let member = self.members()?.keys().next_back().copied().unwrap_or_default();
        Ok(member.max(head::load_highest_id(self.tables)?))
    }

    fn put_node(&mut self, node_id: NodeId, admitted: &Admitted) -> Result<(), StateError> {
        self.put_row(&admissions::node_key(node_id), admitted)
    }

    fn put_row<H: Serialize>(&mut self, key: &[u8], row: &H) -> Result<(), StateError> {
        self.tables.put(Table::Admissions, key, &record::seal(Table::Admissions, key, row, &[]))
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::log_id;

    use super::*;
    use crate::kv::types::{Command, KvError, NodeInfo, WriteOp};
    use crate::raft::types::TypeConfig;
    use crate::storage::apply::tests::apply;
    use crate::storage::tables::{MemTables, ReadTables};

    const HOUR_MS: u64 = 60 * 60 * 1_000;

    fn hash(of: u8) -> SecretHash {
        SecretHash([of; 32])
    }

    fn joiner(key: u8, incarnation: u64) -> Joiner {
        Joiner { public_key: PublicKey([key; 32]), incarnation, wants_vote: true }
    }

    fn run(tables: &mut MemTables, op: MemberOp) -> MemberOpResult {
        let reply = apply(tables, &Command::new(WriteOp::Member(op))).unwrap();
        let [OpResult::Member(result)] = &reply.results[..] else { panic!("{reply:?}") };
        assert_eq!(reply.succeeded, !matches!(result, MemberOpResult::Refused(_)));
        result.clone()
    }

    fn issue(tables: &mut MemTables, of: u8, now_ms: u64, uses: u32) -> MemberOpResult {
        let expires_at_ms = now_ms + HOUR_MS;
        run(tables, MemberOp::IssueTicket { hash: hash(of), now_ms, expires_at_ms, uses })
    }

    fn redeem(tables: &mut MemTables, of: u8, now_ms: u64, joiner: Joiner) -> MemberOpResult {
        run(tables, MemberOp::Redeem { hash: hash(of), now_ms, joiner })
    }

    fn refused(result: MemberOpResult) -> JoinRefusal {
        match result {
            MemberOpResult::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn admitted(id: u64) -> MemberOpResult {
        MemberOpResult::Admitted { node_id: NodeId(id) }
    }

    /// Voters by id and key, and learners.
    fn become_members(tables: &mut MemTables, index: u64, voters: &[(u64, u8)], learners: &[(u64, u8)]) {
        let stored = stored(index, voters, learners);
        let mut applier = Applier::begin(tables).unwrap();
        applier.membership(&stored).unwrap();
        applier.finish().unwrap();
        head::store_membership(tables, &stored).unwrap();
    }

    fn stored(index: u64, voters: &[(u64, u8)], learners: &[(u64, u8)]) -> StoredMembership {
        let info = |key: u8| NodeInfo { public_key: PublicKey([key; 32]), ..NodeInfo::default() };
        let nodes: BTreeMap<NodeId, NodeInfo> =
            voters.iter().chain(learners).map(|(id, key)| (NodeId(*id), info(*key))).collect();
        let voters = voters.iter().map(|(id, _)| NodeId(*id)).collect();
        let membership = openraft::Membership::new(vec![voters], nodes).unwrap();
        StoredMembership::new(Some(log_id::<TypeConfig>(1, NodeId(1), index)), membership)
    }

    #[test]
    fn a_ticket_lets_in_as_many_as_it_was_issued_for_and_each_of_them_once() {
        let mut tables = MemTables::default();
        become_members(&mut tables, 1, &[(1, 1), (7, 7)], &[]);
        issue(&mut tables, 1, 0, 2);
        assert_eq!(redeem(&mut tables, 1, 1, joiner(10, 1)), admitted(8));
        assert_eq!(redeem(&mut tables, 1, 2, joiner(10, 1)), admitted(8), "asked again");
        assert_eq!(redeem(&mut tables, 1, 3, joiner(11, 1)), admitted(9));
        assert_eq!(refused(redeem(&mut tables, 1, 4, joiner(12, 1))), JoinRefusal::UsedUp);
        let late = 9 * HOUR_MS;
        assert_eq!(redeem(&mut tables, 1, late, joiner(11, 1)), admitted(9), "after it expired as well");
        let expired = refused(redeem(&mut tables, 1, late, joiner(12, 1)));
        assert_eq!(expired, JoinRefusal::Expired { ago_ms: 8 * HOUR_MS });
        assert_eq!(refused(redeem(&mut tables, 2, 5, joiner(12, 1))), JoinRefusal::UnknownTicket);
    }

    #[test]
    fn a_ticket_that_is_revoked_lets_nobody_in_and_whoever_came_in_stays() {
        let mut tables = MemTables::default();
        become_members(&mut tables, 1, &[(1, 1)], &[]);
        for of in [1, 2] {
            assert_eq!(issue(&mut tables, of, 0, 2), MemberOpResult::Done);
        }
        assert_eq!(redeem(&mut tables, 1, 1, joiner(2, 1)), admitted(2));
        become_members(&mut tables, 2, &[(1, 1)], &[(2, 2)]);
        let ids = |tables: &MemTables, now_ms| -> Vec<(TicketId, u32)> {
            let outstanding = admissions::outstanding(tables, now_ms).unwrap();
            outstanding.iter().map(|ticket| (ticket.id, ticket.uses_left)).collect()
        };
        let [first, second] = [1, 2].map(|of| TicketId::of(&hash(of)));
        assert_eq!(ids(&tables, 1), [(first, 1), (second, 2)]);
        assert_eq!(ids(&tables, HOUR_MS), [], "they expired");

        for _ in 0..2 {
            assert_eq!(run(&mut tables, MemberOp::RevokeTicket { id: first }), MemberOpResult::Done);
            assert_eq!(ids(&tables, 1), [(second, 2)]);
        }
        assert_eq!(refused(redeem(&mut tables, 1, 2, joiner(3, 1))), JoinRefusal::UnknownTicket);
        assert!(admissions::node(&tables, NodeId(2)).unwrap().unwrap().is_member);
        assert_eq!(redeem(&mut tables, 2, 2, joiner(3, 1)), admitted(3));
    }

    #[test]
    fn no_client_lets_anybody_in() {
        let op = MemberOp::NoteIncarnations { members: Vec::new() };
        assert_eq!(Command::new(WriteOp::Member(op)).validate(), Err(KvError::NotForClients));
    }

    #[test]
    fn a_member_is_not_let_in_twice_and_an_id_never_given_again() {
        let mut tables = MemTables::default();
        become_members(&mut tables, 1, &[(1, 1)], &[]);
        issue(&mut tables, 1, 0, 5);
        assert_eq!(redeem(&mut tables, 1, 1, joiner(2, 1)), admitted(2));
        // With another directory, before it was a member: it begins anew, at a use of its own.
        assert_eq!(redeem(&mut tables, 1, 1, joiner(2, 2)), admitted(3));
        become_members(&mut tables, 2, &[(1, 1)], &[(3, 2)]);
        let again = refused(redeem(&mut tables, 1, 2, joiner(2, 3)));
        assert_eq!(again, JoinRefusal::AlreadyMember { node_id: NodeId(3) });
        assert!(admissions::node(&tables, NodeId(3)).unwrap().unwrap().wants_vote);
        become_members(&mut tables, 3, &[(1, 1), (3, 2)], &[]);
        assert!(!admissions::node(&tables, NodeId(3)).unwrap().unwrap().wants_vote, "it has it");
        become_members(&mut tables, 4, &[(1, 1)], &[]);
        assert_eq!(admissions::node(&tables, NodeId(3)).unwrap(), None);
        assert_eq!(redeem(&mut tables, 1, 3, joiner(2, 3)), admitted(4), "removed, it comes back as another");
    }

    #[test]
    fn the_first_word_about_a_members_directory_counts_until_it_is_removed() {
        let mut tables = MemTables::default();
        become_members(&mut tables, 1, &[(1, 1), (2, 2)], &[]);
        let note = |tables: &mut MemTables, incarnation| {
            let members = vec![
                (NodeId(2), PublicKey([2; 32]), incarnation),
                (NodeId(2), PublicKey([9; 32]), 7),
                (NodeId(5), PublicKey([5; 32]), 7),
            ];
            assert_eq!(run(tables, MemberOp::NoteIncarnations { members }), MemberOpResult::Done);
            admissions::nodes(tables)
                .unwrap()
                .iter()
                .map(|(id, known)| (id.0, known.incarnation))
                .collect::<Vec<_>>()
        };
        assert_eq!(note(&mut tables, 20), [(2, 20)]);
        assert_eq!(note(&mut tables, 21), [(2, 20)]);
        become_members(&mut tables, 2, &[(1, 1)], &[]);
        become_members(&mut tables, 3, &[(1, 1)], &[(2, 2)]);
        assert_eq!(note(&mut tables, 22), [(2, 22)]);
    }

    /// The first byte of each former member's key, and its id.
    fn former(tables: &MemTables) -> Vec<(u8, u64)> {
        let former = admissions::former_members(tables).unwrap();
        former.iter().map(|(key, member)| (key.0[0], member.node_id.0)).collect()
    }

    #[test]
    fn a_removed_members_key_is_kept_until_it_is_a_members_again() {
        let mut tables = MemTables::default();
        become_members(&mut tables, 1, &[(1, 1), (2, 2), (3, 3)], &[(4, 4)]);
        assert_eq!(former(&tables), []);
        become_members(&mut tables, 2, &[(1, 1), (2, 2)], &[(4, 4)]);
        become_members(&mut tables, 3, &[(1, 1), (2, 2)], &[]);
        assert_eq!(former(&tables), [(3, 3), (4, 4)], "whether it was noted by its directory or not");

        issue(&mut tables, 1, 0, 1);
        assert_eq!(redeem(&mut tables, 1, 1, joiner(3, 9)), admitted(5));
        assert_eq!(former(&tables), [(3, 3), (4, 4)], "it may never come");
        become_members(&mut tables, 4, &[(1, 1), (2, 2)], &[(5, 3), (6, 4)]);
        assert_eq!(former(&tables), []);
        become_members(&mut tables, 5, &[(1, 1)], &[(5, 3), (6, 4)]);
        become_members(&mut tables, 6, &[(1, 1)], &[(6, 4)]);
        assert_eq!(former(&tables), [(2, 2), (3, 5)], "under the id that it had last");
        // Another node under the old id is not the old node.
        become_members(&mut tables, 7, &[(1, 1), (2, 9)], &[]);
        assert_eq!(former(&tables), [(2, 2), (3, 5), (4, 6)]);
        for (key, _) in admissions::former_members(&tables).unwrap() {
            let row = admissions::former_key(&key);
            let sealed = tables.get(Table::Admissions, &row).unwrap().unwrap();
            admissions::check(&row, sealed).unwrap();
        }
    }

    #[test]
    fn a_membership_that_follows_in_the_same_batch_knows_the_one_before() {
        let mut tables = MemTables::default();
        let mut applier = Applier::begin(&mut tables).unwrap();
        for (index, voters) in [(1, &[(1, 1), (2, 2)][..]), (2, &[(1, 1)])] {
            applier.membership(&stored(index, voters, &[])).unwrap();
        }
        applier.finish().unwrap();
        assert_eq!(former(&tables), [(2, 2)]);
    }

    #[test]
    fn former_members_are_bounded_and_who_left_first_is_forgotten_first() {
        let mut tables = MemTables::default();
        let max = limits::FORMER_MEMBERS_MAX_COUNT as u64;
        let key = |number: u64| {
            let mut key = PublicKey([0; 32]);
            // So that the order of the keys is not that in which they left.
            key.0[..8].copy_from_slice(&(u64::MAX - number).to_be_bytes());
            key
        };
        let mut applier = Applier::begin(&mut tables).unwrap();
        for number in 1..=max + 3 {
            let node = NodeInfo { public_key: key(number), ..NodeInfo::default() };
            let nodes = BTreeMap::from([(NodeId(number), node)]);
            let membership = openraft::Membership::new(vec![[NodeId(number)].into()], nodes).unwrap();
            let log_id = log_id::<TypeConfig>(1, NodeId(1), number);
            applier.membership(&StoredMembership::new(Some(log_id), membership)).unwrap();
        }
        applier.finish().unwrap();
        let kept: Vec<PublicKey> =
            admissions::former_members(&tables).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(kept, (3..=max + 2).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn tickets_are_bounded_and_forgotten_a_day_after_they_expired() {
        let mut tables = MemTables::default();
        for number in 0..limits::JOIN_TICKETS_MAX_COUNT {
            let mut hash = hash(0);
            hash.0[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let op = MemberOp::IssueTicket { hash, now_ms: 0, expires_at_ms: HOUR_MS, uses: 1 };
            assert_eq!(run(&mut tables, op), MemberOpResult::Done);
        }
        let max = limits::JOIN_TICKETS_MAX_COUNT;
        assert_eq!(refused(issue(&mut tables, 255, 1, 1)), JoinRefusal::TooManyTickets { max });
        let later = HOUR_MS + limits::JOIN_REMEMBERED_MS + 1;
        assert_eq!(issue(&mut tables, 255, later, 1), MemberOpResult::Done);
        assert_eq!(admissions::tickets(&tables).unwrap().len(), 1);
    }
}
