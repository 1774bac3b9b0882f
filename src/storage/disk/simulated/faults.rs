//! What may go wrong, and when.

/// An operation that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Bytes of a file.
    Write,
    /// The length of a file.
    SetLen,
    /// A file is made durable.
    Sync,
    /// A file is made.
    Create,
    /// A directory is made.
    CreateDir,
    /// A file gets another name.
    Rename,
    /// A file loses its name.
    Remove,
    /// The names in a directory are made durable.
    SyncDir,
}

/// A promise that a disk may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A sync of a file returns without having done anything.
    FilesAreSynced,
    /// A sync of a directory does.
    NamesAreSynced,
}

/// What happens to an operation instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    PowerCut,
    Error,
}

/// The faults that are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Operations to go, and what happens to the last of them.
    due: Option<(u64, Due)>,
    /// Name of the files whose syncs wait.
    pub(super) held: Option<String>,
    /// Syncs that wait.
    pub(super) waiting: usize,
    /// Name of the files whose syncs fail.
    pub(super) failing: Option<String>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) delays: bool,
    pub(super) lie: Option<Lie>,
}

impl Faults {
    pub(super) fn set_due(&mut self, n: u64, fault: Due) {
        assert!(n > 0, "operations are counted from 1");
        self.due = Some((n, fault));
    }

    pub(super) fn release_syncs(&mut self) {
        self.held = None;
        self.failing = None;
    }

    pub(super) fn fail_syncs(&mut self, file_name: &str) {
        self.held = None;
        self.failing = Some(file_name.to_owned());
    }

    /// Ends what was set to come.
    pub(super) fn clear(&mut self) {
        self.clear_due();
        self.release_syncs();
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_some()
    }

    pub(super) fn clear_due(&mut self) {
        self.due = None;
    }

    /// Counts an operation, and returns what happens to it instead.
    pub(super) fn next(&mut self) -> Option<Due> {
        let (to_go, fault) = self.due.as_mut()?;
        *to_go -= 1;
        if *to_go > 0 {
            return None;
        }
        let fault = *fault;
        self.due = None;
        Some(fault)
    }
}
