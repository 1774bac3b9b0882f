//! Any sequence of calls, with restarts in between, against a model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    /// Keeps this share of what is not committed, in 256ths.
    Truncate(u8),
    /// Purges this share of what is committed, in 256ths.
    Purge(u8),
    /// Commits this share of what is not, in 256ths.
    Commit(u8),
    Vote,
    DropTail,
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..30_u64).prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Truncate),
        2 => any::<u8>().prop_map(Step::Purge),
        3 => any::<u8>().prop_map(Step::Commit),
        1 => Just(Step::Vote),
        1 => Just(Step::DropTail),
        2 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    /// After what is purged.
    entries: Vec<Entry>,
}

impl Model {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn uncommitted(&self) -> u64 {
        self.committed.map_or(0, |id| id.index + 1).max(self.first())
    }

    fn id(&self, index: u64) -> Option<LogId> {
        if index < self.first() {
            return self.purged;
        }
        self.entries.get(usize::try_from(index - self.first()).unwrap()).map(|entry| entry.log_id)
    }
}

fn share(of: u64, part: u8) -> u64 {
    of * u64::from(part) / 256
}

async fn take(step: &Step, log: &mut RedbLog, progress: &Progress, model: &mut Model) {
    match step {
        Step::Append(count) => {
            let more = entries(model.term, model.next()..model.next() + count);
            log.blocking_append(more.clone()).await.unwrap();
            model.entries.extend(more);
        }
        Step::Truncate(part) => {
            let next = model.uncommitted() + share(model.next() - model.uncommitted(), *part);
            model.term += 1;
            let last = next.checked_sub(1).and_then(|index| model.id(index));
            log.truncate_after(last).await.unwrap();
            model.entries.truncate(usize::try_from(next - model.first()).unwrap());
        }
        Step::Purge(part) => {
            let Some(committed) = model.committed else { return };
            let count = share((committed.index + 1).saturating_sub(model.first()), *part);
            let Some(last) = (model.first() + count).checked_sub(1).filter(|_| count > 0) else { return };
            let last = model.id(last).unwrap();
            progress.set_durable(Some(last.index));
            log.purge(last).await.unwrap();
            model.entries.drain(..usize::try_from(count).unwrap());
            model.purged = Some(last);
        }
        Step::Commit(part) => {
            let count = share(model.next() - model.uncommitted(), *part);
            if count > 0 {
                model.committed = model.id(model.uncommitted() + count - 1);
                log.save_committed(model.committed).await.unwrap();
            }
        }
        Step::Vote => {
            model.term += 1;
            model.vote = Some(Vote::new(model.term, NodeId(2)));
            log.save_vote(&model.vote.unwrap()).await.unwrap();
        }
        Step::DropTail => drop_tail(log),
        Step::Restart => unreachable!("the caller opens the log anew"),
    }
}

async fn check(log: &mut RedbLog, model: &Model) {
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, model.purged);
    assert_eq!(state.last_log_id, model.entries.last().map(|entry| entry.log_id).or(model.purged));
    assert_eq!(log.read_committed().await.unwrap(), model.committed);
    let mut reader = log.reader();
    assert_eq!(reader.read_vote().await.unwrap(), model.vote);
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), model.entries);
    let streamed: Vec<Entry> = reader.entries_stream(..).await.try_collect().await.unwrap();
    assert_eq!(streamed, model.entries);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_log_is_what_was_written_to_it(steps in prop::collection::vec(any_step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = Dir::new();
            let (mut log, mut progress) = dir.open();
            let mut model = Model::default();
            for step in &steps {
                if matches!(step, Step::Restart) {
                    drop(log);
                    (log, progress) = dir.open();
                } else {
                    take(step, &mut log, &progress, &mut model).await;
                }
                check(&mut log, &model).await;
                assert_eq!(progress.flushed(), model.next().checked_sub(1));
            }
        });
    }
}
