//! Pauses in work that could take the disk and a processor for itself.
//!
//! Whoever copies a state does it in steps, makes each step durable, and then rests as long as the step
//! took. A burst of a gigabyte that is synced at its end would hold up the syncs of the log for as long.
//! Also with small ones a sync of the log waits for the step that is on its way to the disk, and its thread
//! for the processor that the step is on: so a step of a file is no larger than what this machine does in
//! [`limits::COPY_STEP_TARGET_US`].
//!
//! # Tiger Style
//! - A step has [`limits::COPY_STEP_MIN_BYTES`] to [`limits::COPY_STEP_BYTES`].
//! - The pauses of one piece of work end after [`limits::COPY_PAUSES_MAX_MS`]; from then on it runs
//!   through, because it holds an old view of the state open.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::limits;

/// The rhythm of one piece of work.
pub(super) struct Pace {
    began: Instant,
    step_began: Instant,
}

impl Pace {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { began: now, step_began: now }
    }

    /// Rests as long as the step that ends here took.
    pub(super) fn end_step(&mut self) {
        // In the simulation there is one thread, and time stands still while it rests.
        if !cfg!(madsim) && self.began.elapsed() < Duration::from_millis(limits::COPY_PAUSES_MAX_MS) {
            std::thread::sleep(self.step_began.elapsed());
        }
        self.step_began = Instant::now();
    }
}

/// A file that is written in steps.
pub(super) struct PacedWriter<W, S> {
    file: W,
    sync: S,
    /// Written since the last sync.
    step_bytes: usize,
    /// After how much the next one comes.
    step_limit: usize,
    pace: Pace,
}

impl<W: Write, S: Fn() -> io::Result<()>> PacedWriter<W, S> {
    /// Writes to `file`; `sync` makes durable what was written.
    pub(super) fn new(file: W, sync: S) -> Self {
        Self { file, sync, step_bytes: 0, step_limit: limits::COPY_STEP_MIN_BYTES, pace: Pace::begin() }
    }
}

impl<W: Write, S: Fn() -> io::Result<()>> Write for PacedWriter<W, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Larger buffers come than a step may be.
        let room = self.step_limit - self.step_bytes;
        let written = self.file.write(&bytes[..bytes.len().min(room)])?;
        self.step_bytes += written;
        if self.step_bytes >= self.step_limit {
            self.step_bytes = 0;
            (self.sync)()?;
            self.step_limit = next_limit(self.step_limit, self.pace.step_began.elapsed());
            self.pace.end_step();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The next step's size, after one that took so long.
fn next_limit(limit: usize, took: Duration) -> usize {
    let target = Duration::from_micros(limits::COPY_STEP_TARGET_US);
    if took > target {
        (limit / 2).max(limits::COPY_STEP_MIN_BYTES)
    } else if took < target / 2 {
        (limit * 2).min(limits::COPY_STEP_BYTES)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_paced_file_is_synced_step_by_step() {
        let (mut written, syncs) = (Vec::new(), Cell::new(0));
        let mut paced = PacedWriter::new(&mut written, || {
            syncs.set(syncs.get() + 1);
            Ok(())
        });
        let piece = vec![7; limits::COPY_STEP_BYTES];
        for _ in 0..5 {
            paced.write_all(&piece).unwrap();
        }
        assert_eq!(written.len(), 5 * piece.len());
        // How large the steps are depends on the time that they take.
        let steps = 5..=5 * limits::COPY_STEP_BYTES / limits::COPY_STEP_MIN_BYTES;
        assert!(steps.contains(&syncs.get()), "{} syncs", syncs.get());
    }

    #[test]
    fn a_step_is_as_large_as_the_disk_takes_in_its_time() {
        let (quick, slow) = (Duration::from_micros(1), Duration::from_millis(50));
        let smallest = limits::COPY_STEP_MIN_BYTES;
        assert_eq!(next_limit(smallest, slow), smallest);
        assert_eq!(next_limit(smallest, quick), 2 * smallest);
        assert_eq!(next_limit(limits::COPY_STEP_BYTES, quick), limits::COPY_STEP_BYTES);
        assert_eq!(
            next_limit(4 * smallest, Duration::from_micros(limits::COPY_STEP_TARGET_US)),
            4 * smallest
        );
    }
}
