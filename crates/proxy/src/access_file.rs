//! Files of access logs: one thread writes them all, and no request ever waits for it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Lines that may wait to be written; more are dropped and counted.
const MOST_LINES: usize = 8_192;
/// How often files are looked at that somebody may have moved away.
const LOOK: Duration = Duration::from_secs(1);
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

enum Job {
    Line(Arc<Place>, String),
    /// Says when everything before it is written.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    size: u64,
    dropped: AtomicU64,
}

/// One file, as the threads see it.
#[derive(Debug, Clone)]
pub(crate) struct AccessFile(Arc<Place>);

/// The way to the one thread that writes; it is started by the first line.
fn writer() -> Option<&'static SyncSender<Job>> {
    static WRITER: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = sync_channel(MOST_LINES);
        // Not joined: `flush` waits for its last line, and it ends with the process.
        let started = std::thread::Builder::new().name("access-log".into()).spawn(move || run(&receiver));
        started.map_err(|error| tracing::error!(%error, "access logs cannot be written")).ok().map(|_| sender)
    };
    WRITER.get_or_init(start).as_ref()
}

/// Waits a moment until what was logged is written.
pub(crate) fn flush() {
    let (done, written) = sync_channel(1);
    if let Some(writer) = writer()
        && writer.try_send(Job::Flush(done)).is_ok()
    {
        // The process ends either way.
        let _ = written.recv_timeout(FLUSH_LIMIT);
    }
}

impl AccessFile {
    pub(crate) fn new(path: PathBuf, size: u64) -> Self {
        Self(Arc::new(Place { path, size, dropped: AtomicU64::new(0) }))
    }

    /// Hands a line over. When the disk is slower than the requests the line is lost, and counted.
    pub(crate) fn write(&self, line: String) {
        let handed = writer().is_some_and(|writer| writer.try_send(Job::Line(self.0.clone(), line)).is_ok());
        if !handed {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many lines were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

fn run(jobs: &Receiver<Job>) {
    let mut files: HashMap<PathBuf, Open> = HashMap::new();
    loop {
        match jobs.recv_timeout(LOOK) {
            Ok(job) => {
                take(&mut files, job);
                while let Ok(job) = jobs.try_recv() {
                    take(&mut files, job);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Nothing waits: whoever reads the files sees all of it. A file that was moved away is left to its mover.
        files.retain(|path, open| open.file.flush().is_ok() && open.is_at(path));
    }
}

fn take(files: &mut HashMap<PathBuf, Open>, job: Job) {
    match job {
        Job::Line(place, line) => {
            if write(files, &place, &line).is_err() {
                // Tried anew with the next line: the disk may be full for a while.
                files.remove(&place.path);
                place.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Job::Flush(done) => {
            files.retain(|_, open| open.file.flush().is_ok());
            // Who asked may have stopped waiting.
            let _ = done.try_send(());
        }
    }
}

struct Open {
    file: BufWriter<File>,
    inode: u64,
    bytes: u64,
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Addresses of clients are nobody else's business.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let about = file.metadata()?;
        Ok(Self { file: BufWriter::with_capacity(64 << 10, file), inode: about.ino(), bytes: about.len() })
    }

    fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|about| about.ino() == self.inode)
    }
}

fn write(files: &mut HashMap<PathBuf, Open>, place: &Place, line: &str) -> io::Result<()> {
    let path = &place.path;
    if files.get(path).is_some_and(|open| open.bytes >= place.size)
        && let Some(mut full) = files.remove(path)
    {
        full.file.flush()?;
        // Another worker that leaves or comes may have done so already.
        if full.is_at(path) {
            let mut aside = path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(path, aside)?;
        }
    }
    if !files.contains_key(path) {
        files.insert(path.clone(), Open::at(path)?);
    }
    let Some(open) = files.get_mut(path) else { return Ok(()) };
    open.file.write_all(line.as_bytes())?;
    open.file.write_all(b"\n")?;
    open.bytes += line.len() as u64 + 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_one_before_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access").join("shop.log");
        let place = Place { path: path.clone(), size: 10, dropped: AtomicU64::new(0) };
        let mut files = HashMap::new();
        for line in ["one two three", "four five six", "seven"] {
            write(&mut files, &place, line).unwrap();
        }
        files.values_mut().for_each(|open| open.file.flush().unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "seven\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("access/shop.log.1")).unwrap(), "four five six\n");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.log");
        let open = Open::at(&path).unwrap();
        assert!(open.is_at(&path));
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        assert!(!open.is_at(&path));
        std::fs::write(&path, "another").unwrap();
        assert!(!open.is_at(&path));
    }
}
