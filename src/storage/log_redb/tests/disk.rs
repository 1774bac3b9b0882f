//! A disk in memory whose syncs can be held up, made to fail, and survived.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Clone, Debug, Default)]
pub(super) struct TestDisk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    now: Vec<u8>,
    synced: Vec<u8>,
    syncs: Syncs,
    held: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Syncs {
    #[default]
    Work,
    Wait,
    Fail,
}

impl TestDisk {
    pub(super) fn backend(&self) -> Backend {
        Backend(self.clone())
    }

    /// Makes syncs wait from now on.
    pub(super) fn hold_syncs(&self) {
        self.set(Syncs::Wait);
    }

    /// Returns once a sync waits.
    pub(super) fn wait_for_held_sync(&self) {
        let state = self.0.changed.wait_while(self.lock(), |state| !state.held).unwrap();
        drop(state);
    }

    pub(super) fn release_syncs(&self) {
        self.set(Syncs::Work);
    }

    pub(super) fn fail_syncs(&self) {
        self.set(Syncs::Fail);
    }

    /// What the disk holds if the power goes now: what was synced, and nothing else.
    pub(super) fn after_power_cut(&self) -> TestDisk {
        let synced = self.lock().synced.clone();
        let state = State { now: synced.clone(), synced, ..State::default() };
        TestDisk(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn set(&self, syncs: Syncs) {
        self.lock().syncs = syncs;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

#[derive(Debug)]
pub(super) struct Backend(TestDisk);

fn place(offset: u64, len: usize) -> std::ops::Range<usize> {
    let offset = usize::try_from(offset).unwrap();
    offset..offset + len
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        out.copy_from_slice(state.now.get(place(offset, out.len())).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().now[place(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        while state.syncs == Syncs::Wait {
            state.held = true;
            self.0.0.changed.notify_all();
            state = self.0.0.changed.wait(state).unwrap();
        }
        state.held = false;
        if state.syncs == Syncs::Fail {
            return Err(io::Error::other("the disk is gone"));
        }
        state.synced = state.now.clone();
        Ok(())
    }
}
