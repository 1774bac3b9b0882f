//! Stores that are damaged in every place: noticed, or provably the same; and made anew where they can be.

mod damage;
mod fixture;
pub(crate) mod store;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use store::{Closed, Store};

use super::*;
use crate::storage::repair::{self, Action};

/// Names and contents of all files.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn outcome(report: &Report, file: &str) -> Outcome {
    report.checks.iter().find(|check| check.file == Path::new(file)).unwrap().outcome
}

#[test]
fn a_whole_store_is_well_however_it_was_closed_and_stays_as_it_is() {
    for closed in [Closed::Cleanly, Closed::ByACrash] {
        let store = Store::written(closed);
        let before = files(store.dir());
        let report = verify(store.dir()).unwrap();
        assert_eq!(report.damage, [], "{closed:?}");
        assert!(report.checks.iter().all(|check| check.outcome == Outcome::Whole), "{:?}", report.checks);
        assert_eq!(report.checks.len(), 4, "metadata, log, state, snapshot");
        assert_eq!(report.node_id, Some(NodeId(1)));
        assert!(report.keys > Some(0) && report.revision > Some(Revision(0)), "{report:?}");
        assert!(files(store.dir()) == before, "{closed:?}: verify changed something");
    }
}

#[test]
fn a_report_is_json_that_says_where() {
    let store = Store::written(Closed::Cleanly);
    store.flip_record_of_state(b"key-3");
    let report = verify(store.dir()).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["damage"][0]["place"]["row"]["table"], "data");
    assert_eq!(json["damage"][0]["place"]["row"]["key"], "key-3");
    assert!(json["damage"][0]["file"].as_str().unwrap().ends_with("state.redb"));
    assert_eq!(json["checks"][2]["outcome"], "damaged");
}

#[test]
fn a_flipped_page_is_found_with_its_offset() {
    for file in ["raft.redb", "state.redb", "metadata.redb"] {
        let store = Store::written(Closed::Cleanly);
        let path = store.dir().join(file);
        let (at, block) = store.flip_in_a_record(file);
        let report = verify(store.dir()).unwrap();
        let [damage] = &report.damage[..] else { panic!("{file}: {:?}", report.damage) };
        assert_eq!((&damage.file, &damage.place), (&path, &Place::Offset(block)), "a bit at {at}: {damage}");
        assert_eq!(outcome(&report, file), Outcome::Damaged);
    }
}

#[test]
fn a_directory_without_a_store_and_one_of_a_newer_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = verify(dir.path()).unwrap_err();
    assert!(error.to_string().contains("holds no data of an Aspen node"), "{error}");

    let store = Store::written(Closed::Cleanly);
    store.claim_format(2);
    let error = verify(store.dir()).unwrap_err();
    assert!(matches!(error, VerifyError::NewerFormat(_)), "{error}");
    assert!(error.to_string().contains("has format 2"), "{error}");
}

#[test]
fn a_record_of_a_newer_aspen_is_refused_and_is_no_damage() {
    let store = Store::written(Closed::Cleanly);
    store.write_newer_vote();
    let error = verify(store.dir()).unwrap_err();
    assert!(matches!(error, VerifyError::NewerRecord(_)), "{error}");
    assert!(
        error.to_string().contains("cannot be read by this program: it was written by a newer Aspen"),
        "{error}"
    );
    assert!(repair::plan(store.dir()).is_err());
}

#[test]
fn what_the_disk_does_not_give_is_told_apart_from_damage() {
    for file in ["metadata.redb", "raft.redb"] {
        let store = Store::written(Closed::Cleanly);
        store.make_unreadable(&store.dir().join(file));
        let plan = repair::plan(store.dir()).unwrap();
        assert_eq!(outcome(&plan.report, file), Outcome::Unreadable);
        let Action::Wait { reason } = &plan.action else { panic!("{file}: {:?}", plan.action) };
        assert!(
            reason.contains(file) && reason.contains("cannot be read or written: Is a directory"),
            "{reason}"
        );
        assert!(plan.report.damage.iter().all(|damage| !damage.is_damage()), "{:?}", plan.report.damage);
    }
    // What is damaged besides is not called whole.
    let store = Store::written(Closed::Cleanly);
    store.make_unreadable(&store.dir().join("raft.redb"));
    store.flip_in_a_record("metadata.redb");
    let plan = repair::plan(store.dir()).unwrap();
    assert!(matches!(&plan.action, Action::Rejoin { reason } if reason.contains("the metadata is damaged")));

    // What can be made anew is, and belongs to whom the directory belongs.
    let store = Store::written(Closed::Cleanly);
    if rustix::process::geteuid().is_root() {
        chown(store.dir(), Some(4_711), Some(4_712)).unwrap();
    }
    let expected = store.content().unwrap();
    let unreadable = store.dir().join("state.redb");
    store.make_unreadable(&unreadable);
    let plan = repair::plan(store.dir()).unwrap();
    assert_eq!(outcome(&plan.report, "state.redb"), Outcome::Unreadable);
    plan.carry_out(|_, _| {}).unwrap();
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!(owner(&unreadable), owner(store.dir()));
    assert_eq!(store.content().unwrap().state, expected.state);

    let store = Store::written(Closed::Cleanly);
    let snapshot = store.snapshot();
    store.make_unreadable(&snapshot);
    let plan = repair::plan(store.dir()).unwrap();
    assert_eq!(plan.action, Action::SetSnapshotsAside { files: vec![snapshot] });
}

#[test]
fn a_missing_file_is_damage_and_a_leftover_is_a_note() {
    for file in ["metadata.redb", "raft.redb", "state.redb"] {
        let store = Store::written(Closed::Cleanly);
        fs::remove_file(store.dir().join(file)).unwrap();
        fs::write(store.dir().join("snapshots/7.tmp"), b"half").unwrap();
        let report = verify(store.dir()).unwrap();
        assert_eq!(outcome(&report, file), Outcome::Missing);
        assert!(report.damage[0].to_string().ends_with("it is missing"), "{:?}", report.damage);
        assert!(report.notes[0].contains("7.tmp"), "{:?}", report.notes);
    }
}

#[test]
fn everything_that_a_crash_leaves_unfinished_is_a_note() {
    let store = Store::written(Closed::Cleanly);
    let leftovers =
        ["snapshots/7.tmp", "state.redb.new", "state.redb.shrunk", "metadata.redb.new", "raft.redb.new"];
    for file in leftovers {
        fs::write(store.dir().join(file), b"half").unwrap();
    }
    let report = verify(store.dir()).unwrap();
    assert_eq!(report.damage, []);
    for file in leftovers {
        let noted = report.notes.iter().any(|note| note.contains(&format!("{file} is unfinished")));
        assert!(noted, "{file}: {:?}", report.notes);
    }
}

#[test]
fn a_state_that_the_log_does_not_lead_to_is_damage() {
    let (one, other) = (Store::written(Closed::Cleanly), Store::begun());
    fs::copy(other.dir().join("state.redb"), one.dir().join("state.redb")).unwrap();
    fs::remove_dir_all(one.dir().join("snapshots")).unwrap();
    let report = verify(one.dir()).unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert!(report.damage[0].problem.contains("the log begins behind"), "{}", report.damage[0]);
}

#[test]
fn a_damaged_or_lost_state_is_made_anew_and_the_old_one_is_kept() {
    for closed in [Closed::Cleanly, Closed::ByACrash] {
        let store = Store::written(closed);
        let expected = store.content().unwrap();
        let state = store.dir().join("state.redb");
        store.flip_in_a_record("state.redb");
        let damaged = fs::read(&state).unwrap();

        let plan = repair::plan(store.dir()).unwrap();
        let Action::RebuildState { snapshot: Some(_), from, to, .. } = plan.action.clone() else {
            panic!("{:?}", plan.action)
        };
        assert!(0 < from && from < to, "{from}..{to}");
        assert_eq!(fs::read(&state).unwrap(), damaged, "a plan changes nothing");
        let mut seen = Vec::new();
        let repaired = plan.carry_out(|done, all| seen.push((done, all))).unwrap();
        assert_eq!(seen.last(), Some(&(to - from, to - from)));
        assert_eq!(repaired.kept, [store.dir().join("state.redb.damaged-1")]);
        assert_eq!(fs::read(&repaired.kept[0]).unwrap(), damaged);
        assert_eq!(verify(store.dir()).unwrap().damage, []);
        assert_eq!(store.content().unwrap(), expected, "{closed:?}");

        fs::remove_file(&state).unwrap();
        let repaired = repair::plan(store.dir()).unwrap().carry_out(|_, _| {}).unwrap();
        assert_eq!(repaired.kept, [] as [PathBuf; 0]);
        assert_eq!(store.content().unwrap(), expected);
        assert_eq!(repair::plan(store.dir()).unwrap().action, Action::Nothing);
    }
}

#[test]
fn a_state_is_made_from_the_log_alone_where_that_goes_back_to_the_beginning() {
    let store = Store::begun();
    let expected = store.content().unwrap();
    fs::write(store.dir().join("state.redb"), b"").unwrap();
    let plan = repair::plan(store.dir()).unwrap();
    assert!(matches!(plan.action, Action::RebuildState { snapshot: None, from: 0, .. }), "{:?}", plan.action);
    plan.carry_out(|_, _| {}).unwrap();
    assert_eq!(store.content().unwrap(), expected);
}

#[test]
fn a_repair_applies_nothing_behind_the_committed_entry() {
    let store = Store::begun();
    store.append_uncommitted();
    fs::remove_file(store.dir().join("state.redb")).unwrap();
    let committed = repair::plan(store.dir()).unwrap().report.committed_index.unwrap();
    let repaired = repair::plan(store.dir()).unwrap().carry_out(|_, _| {}).unwrap();
    assert_eq!(repaired.applied_index, Some(committed));
}

#[test]
fn a_damaged_snapshot_alone_is_set_aside() {
    let store = Store::written(Closed::Cleanly);
    let expected = store.content().unwrap();
    let snapshot = store.snapshot();
    store.flip(&snapshot, fs::metadata(&snapshot).unwrap().len() / 2);
    let plan = repair::plan(store.dir()).unwrap();
    assert!(matches!(plan.report.damage[0].place, Place::Part(_)), "{:?}", plan.report.damage);
    assert_eq!(plan.action, Action::SetSnapshotsAside { files: vec![snapshot.clone()] });
    let repaired = plan.carry_out(|_, _| {}).unwrap();
    assert!(repaired.kept[0].exists() && !snapshot.exists());
    let content = store.content().unwrap();
    assert_eq!((content.state, content.log), (expected.state, expected.log));
}

#[test]
fn what_cannot_be_made_anew_is_left_alone() {
    type Harm = fn(&Store);
    let harms: [(&str, Harm); 5] = [
        ("the log is damaged", |store| {
            store.flip_in_a_record("raft.redb");
        }),
        ("the log is damaged or missing", |store| fs::remove_file(store.dir().join("raft.redb")).unwrap()),
        ("the metadata is damaged", |store| {
            store.flip_in_a_record("metadata.redb");
        }),
        ("no whole snapshot reaches as far", |store| {
            store.flip_in_a_record("state.redb");
            store.flip(&store.snapshot(), 40);
        }),
        ("no whole snapshot reaches as far", |store| {
            fs::remove_file(store.dir().join("state.redb")).unwrap();
            fs::remove_dir_all(store.dir().join("snapshots")).unwrap();
        }),
    ];
    for (expected, harm) in harms {
        let store = Store::written(Closed::Cleanly);
        harm(&store);
        let before = files(store.dir());
        let plan = repair::plan(store.dir()).unwrap();
        let Action::Rejoin { reason } = &plan.action else { panic!("{expected}: {:?}", plan.action) };
        assert!(reason.contains(expected), "{reason}");
        plan.carry_out(|_, _| {}).unwrap();
        assert!(files(store.dir()) == before, "{expected}: something was touched");
    }
}
