//! Pages in the wrong place, as the steps of the scrub meet them.

use super::*;
use crate::storage::state_check::tests::{Misplaced, PAGES};

/// Goes through the data in steps. Returns its rows, or what a step said.
fn scrub(tables: &Misplaced) -> Result<u64, String> {
    let (mut scrub, mut records) = (TableScrub::begin(Table::Data), 0);
    for _ in 0..100 {
        let done = check_rows(tables, scrub).map_err(|error| error.to_string())?;
        records += done.records;
        match done.next {
            Some(next) => scrub = next,
            None => return Ok(records),
        }
    }
    panic!("the scrub does not come to an end")
}

#[test]
fn pages_that_are_in_their_places_pass_in_several_steps() {
    let tables = Misplaced::none();
    assert_eq!(scrub(&tables), Ok(tables.count(Table::Data).unwrap()));
    assert!(check_rows(&tables, TableScrub::begin(Table::Data)).unwrap().next.is_some());
}

/// Steps end within pages: some go on behind the page whose rows they have seen too early.
#[test]
fn any_page_in_the_place_of_another_is_found() {
    for place in 0..PAGES {
        for page in (0..PAGES).filter(|page| *page != place) {
            let error = scrub(&Misplaced::page(place, page)).unwrap_err();
            assert!(
                error.contains("table 'data'") && error.contains("wrong place"),
                "{page} at {place}: {error}"
            );
        }
    }
}

#[test]
fn an_older_page_in_the_place_of_the_newest_is_found_while_the_state_stands_still() {
    let error = scrub(&Misplaced::older_page(3)).unwrap_err();
    assert!(error.contains("says that it has"), "{error}");
}

#[test]
fn rows_are_not_counted_over_several_states() {
    let mut scrub = TableScrub::begin(Table::Data);
    scrub.see(None);
    scrub.see(None);
    assert!(matches!(scrub.state, Seen::One(None)));
    let id = openraft::testing::log_id::<crate::raft::types::TypeConfig>(1, crate::kv::types::NodeId(1), 1);
    for applied in [Some(id), Some(id), None] {
        scrub.see(applied);
        assert!(matches!(scrub.state, Seen::Several));
    }
}
