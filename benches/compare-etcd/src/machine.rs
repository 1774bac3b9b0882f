//! What the machine itself takes: the limit that the figures can be related to.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SYNCS: usize = 300;
const ROUND_TRIPS: usize = 3_000;
const BYTES: usize = 256;

/// Medians of the machine.
pub struct Figures {
    fsync: Duration,
    round_trip: Duration,
}

impl Figures {
    /// Measures them, on the disk of a directory.
    pub async fn measure(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { fsync: fsync(dir)?, round_trip: round_trip().await? })
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

async fn round_trip() -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut bytes = [0; BYTES];
        while stream.read_exact(&mut bytes).await.is_ok() {
            stream.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    });
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut bytes) = (Vec::new(), [7; BYTES]);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        stream.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        times.push(began.elapsed());
    }
    drop(stream);
    echo.await??;
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
