//! Pauses in work that could take the disk and a processor for itself.
//!
//! Whoever copies a state does it in steps, makes each step durable, and then rests as long as the step
//! took. A burst of a gigabyte that is synced at its end would hold up the syncs of the log for as long.
//!
//! # Tiger Style
//! The pauses of one piece of work end after [`limits::COPY_PAUSES_MAX_MS`]; from then on it runs
//! through, because it holds an old view of the state open.

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
    step_bytes: usize,
    pace: Pace,
}

impl<W: Write, S: Fn() -> io::Result<()>> PacedWriter<W, S> {
    /// Writes to `file`; `sync` makes durable what was written.
    pub(super) fn new(file: W, sync: S) -> Self {
        Self { file, sync, step_bytes: 0, pace: Pace::begin() }
    }
}

impl<W: Write, S: Fn() -> io::Result<()>> Write for PacedWriter<W, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.step_bytes += written;
        if self.step_bytes >= limits::COPY_STEP_BYTES {
            self.step_bytes = 0;
            (self.sync)()?;
            self.pace.end_step();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
        let piece = vec![7; limits::COPY_STEP_BYTES / 2];
        for _ in 0..5 {
            paced.write_all(&piece).unwrap();
        }
        assert_eq!((written.len(), syncs.get()), (5 * piece.len(), 2));
    }
}
