//! What the machine itself takes: the limit that the figures can be related to.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const SYNCS: usize = 300;
const ROUND_TRIPS: usize = 3_000;
const BYTES: usize = 256;

/// Above any pause that a loopback makes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Medians of the machine.
pub struct Figures {
    fsync: Duration,
    round_trip: Duration,
}

impl Figures {
    /// Measures them, on the disk of a directory.
    pub fn measure(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { fsync: fsync(dir)?, round_trip: round_trip()? })
    }

    /// What a put takes at least: one fsync, and one round trip to another node.
    pub fn least_put(&self) -> Duration {
        self.fsync + self.round_trip
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        write!(
            f,
            "This machine: {} processors; 256 B and fdatasync {:.0} us; 256 B there and back over loopback {:.0} us (medians).",
            std::thread::available_parallelism().map_or(1, usize::from),
            us(self.fsync),
            us(self.round_trip),
        )
    }
}

/// A write into a file that has its length, and its fdatasync.
fn fsync(dir: &Path) -> anyhow::Result<Duration> {
    let mut file = File::create(dir.join("fsync"))?;
    file.write_all(&vec![0; SYNCS * BYTES])?;
    file.sync_all()?;
    let file = File::options().write(true).open(dir.join("fsync"))?;
    let mut times = Vec::new();
    for at in 0..SYNCS {
        let began = Instant::now();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; BYTES], (at * BYTES) as u64)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    std::fs::remove_file(dir.join("fsync"))?;
    Ok(median(times))
}

/// Between two threads of the kernel, each of which blocks: what a runtime's tasks add is no property of the machine.
fn round_trip() -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    }
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; BYTES];
        while far.read_exact(&mut bytes).is_ok() {
            far.write_all(&bytes)?;
        }
        std::io::Result::Ok(())
    });
    let (mut times, mut bytes) = (Vec::new(), [7; BYTES]);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        near.write_all(&bytes)?;
        near.read_exact(&mut bytes)?;
        times.push(began.elapsed());
    }
    drop(near);
    echo.join().expect("the echo does not panic")?;
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_measured_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let figures = Figures::measure(dir.path()).unwrap();
        assert!(figures.least_put() > figures.round_trip && figures.round_trip > Duration::ZERO);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
