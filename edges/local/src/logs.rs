//! Logs of instances: written by the instances themselves, bounded and read by cutover.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longer lines are cut where they are shown.
const LONGEST_LINE: usize = 2000;
/// More is never read of a log at once.
const MOST_READ: u64 = 16 << 20;

/// Opens the log for appending; whoever holds it goes on writing after it was cut.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Appends a line of cutover's own. A log that cannot be written must not stop what is being done.
pub(crate) fn note(path: &Path, text: &str) {
    let written = open(path).and_then(|mut file| file.write_all(format!("[cutover] {text}\n").as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "log not written");
    }
}

/// Keeps the log and its predecessor together within `most` bytes: at half of it the log moves over to `.1`.
/// The instance writes to the same file meanwhile, so the file stays and is copied and cut.
pub(crate) fn bound(path: &Path, most: u64) -> io::Result<()> {
    let half = (most / 2).max(1);
    // Most looks find nothing to do: they need neither a descriptor nor a folder that can be written.
    if fs::metadata(path).is_ok_and(|found| found.len() <= half) {
        return Ok(());
    }
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length <= half {
        return Ok(());
    }
    let older = older(path);
    let mut copy = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&older)?;
    file.seek(SeekFrom::Start(length - half))?;
    io::copy(&mut (&mut file).take(half), &mut copy)?;
    // What came in while copying; whatever comes between this and the cut is lost, which is what a bound costs.
    let late = file.metadata()?.len().saturating_sub(length);
    if late > 0 && late < half {
        io::copy(&mut (&mut file).take(late), &mut copy)?;
    }
    file.set_len(0)
}

/// Returns the last `lines` lines, oldest first, from the log and its predecessor.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut found = last_lines(path, lines);
    if found.len() < lines {
        let mut earlier = last_lines(&older(path), lines - found.len());
        earlier.append(&mut found);
        found = earlier;
    }
    found
}

/// Deletes the logs of earlier instances but the newest `keep`; those in `live` stay.
pub(crate) fn prune(folder: &Path, live: &[PathBuf], keep: usize) {
    let mut dead: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log") && !live.contains(path))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    dead.sort();
    dead.truncate(dead.len().saturating_sub(keep));
    for (_, path) in dead {
        let _ = fs::remove_file(older(&path));
        let _ = fs::remove_file(path);
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn last_lines(path: &Path, lines: usize) -> Vec<String> {
    let mut window = (lines as u64).saturating_mul(256).clamp(16 << 10, MOST_READ);
    loop {
        let Ok((bytes, whole)) = last_bytes(path, window) else { return Vec::new() };
        let text = String::from_utf8_lossy(&bytes);
        // The first line of a part is a part of a line.
        let mut found: Vec<String> = text.lines().skip(usize::from(!whole)).map(shorten).collect();
        if whole || found.len() >= lines || window >= MOST_READ {
            found.drain(..found.len().saturating_sub(lines));
            return found;
        }
        window *= 8;
    }
}

fn last_bytes(path: &Path, window: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
    let mut bytes = Vec::new();
    file.take(window).read_to_end(&mut bytes)?;
    Ok((bytes, length <= window))
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_the_newest_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut writer = open(&path).unwrap();
        for number in 0..2000 {
            writeln!(writer, "line {number}").unwrap();
            bound(&path, 4096).unwrap();
            let total = [path.clone(), older(&path)]
                .iter()
                .filter_map(|p| fs::metadata(p).ok())
                .map(|m| m.len())
                .sum::<u64>();
            assert!(total <= 4096, "{total} bytes after line {number}");
        }
        let last = tail(&path, 20);
        assert_eq!((last.len(), last[0].as_str(), last[19].as_str()), (20, "line 1980", "line 1999"));
    }

    #[test]
    fn a_tail_reaches_into_the_predecessor_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        assert_eq!(tail(&path, 5), Vec::<String>::new());
        fs::write(older(&path), "1\n2\n3\n").unwrap();
        fs::write(&path, "4\nfive\u{fffd}").unwrap();
        assert_eq!(tail(&path, 3), ["3", "4", "five\u{fffd}"]);
        assert_eq!(tail(&path, 9).len(), 5);
    }

    #[test]
    fn logs_of_dead_instances_go_but_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            note(&folder.path().join(format!("{name}.log")), "x");
        }
        prune(folder.path(), &[folder.path().join("a.log")], 1);
        assert!(folder.path().join("a.log").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
