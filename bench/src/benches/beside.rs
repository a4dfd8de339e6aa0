//! What runs beside the load to compare shifts to: a byte through a pipe and back, and a file made durable.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::numbers::Samples;
use super::scratch::Running;

/// About the size of a table with two revisions of two instances.
const FILE_BYTES: usize = 2 << 10;

/// Does one thing again and again on a thread of its own, and measures it.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Samples>>,
}

impl Sampler {
    /// Sends a byte through a pipe to another process and waits for it to come back.
    pub(super) fn pipe() -> Result<Sampler> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("pipe-echo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start the other end of the pipe")?;
        let mut there = child.stdin.take().context("the child has an input")?;
        let mut back = child.stdout.take().context("the child has an output")?;
        let child = Running::new(child);
        Ok(Sampler::start(Duration::from_millis(20), move || {
            let _held_until_the_end = &child;
            there.write_all(b"?")?;
            back.read_exact(&mut [0])
        }))
    }

    /// Replaces a small file so that it survives a power cut: written aside, synced, renamed, folder synced.
    pub(super) fn disk(folder: &Path) -> Result<Sampler> {
        let folder = folder.join("disk");
        fs::create_dir(&folder)?;
        Ok(Sampler::start(Duration::from_millis(100), move || {
            let aside = folder.join("aside");
            let mut file = File::create(&aside)?;
            file.write_all(&[b'.'; FILE_BYTES])?;
            file.sync_all()?;
            fs::rename(&aside, folder.join("file"))?;
            File::open(&folder)?.sync_all()
        }))
    }

    fn start(pause: Duration, mut act: impl FnMut() -> io::Result<()> + Send + 'static) -> Sampler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut samples = Samples::default();
            while !stopped.load(Ordering::SeqCst) {
                let begun = Instant::now();
                act()?;
                samples.add(begun.elapsed());
                std::thread::sleep(pause);
            }
            Ok(samples)
        });
        Sampler { stop, thread }
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<Samples> {
        self.stop.store(true, Ordering::SeqCst);
        let samples = self.thread.join().map_err(|_| anyhow!("what runs beside the load panicked"))?;
        samples.context("what runs beside the load failed")
    }
}

/// Writes back every byte that comes.
pub(crate) fn echo() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut byte = [0];
    while input.read(&mut byte)? > 0 {
        output.write_all(&byte)?;
        output.flush()?;
    }
    Ok(())
}
