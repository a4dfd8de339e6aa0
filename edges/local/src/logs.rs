//! Logs of instances: written by the instances themselves, bounded and read by cutover.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longer lines are cut where they are shown.
const LONGEST_LINE: usize = 2000;
/// More is never read of a log at once.
const MOST_READ: u64 = 16 << 20;
/// So often what came in during a copy is copied too; a log that is written without a pause would never be cut.
const LATE_LOOKS: usize = 8;
/// What is kept of a log where the disk has no room for half of its size.
const SQUEEZED: u64 = 256 << 10;

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

/// Returns the size at which a log is cut that may keep `most` bytes with its predecessor.
pub(crate) fn full(most: u64) -> u64 {
    (most / 2).max(1)
}

/// Keeps the log and its predecessor together within `most` bytes: at half of it the log moves over to `.1`.
/// The instance writes to the same file meanwhile, so the file stays and is copied and cut. Returns whether it was cut:
/// then more may be on its way.
pub(crate) fn bound(path: &Path, most: u64) -> io::Result<bool> {
    let half = full(most);
    // Most looks find nothing to do: they need neither a descriptor nor a folder that can be written.
    if fs::metadata(path).is_ok_and(|found| found.len() <= half) {
        return Ok(false);
    }
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() <= half {
        return Ok(false);
    }
    let mut copy =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(older(path))?;
    match copy_newest(&mut file, &mut copy, half) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => squeeze(path, &file, &mut copy, half)?,
        copied => copied?,
    }
    file.set_len(0)?;
    Ok(true)
}

/// Copies the newest `half` bytes, and what comes in while that goes on. Whatever comes between the last look and the
/// cut is lost, which is what a bound costs.
fn copy_newest(file: &mut File, copy: &mut File, half: u64) -> io::Result<()> {
    let mut begin = file.metadata()?.len().saturating_sub(half);
    let mut at = begin;
    for _ in 0..LATE_LOOKS {
        let end = file.metadata()?.len();
        if end <= at {
            break;
        }
        if end - begin > half {
            // With what came in the copy would be longer than that: its beginning is old by now.
            begin = end - half;
            at = begin;
            copy.set_len(0)?;
            copy.rewind()?;
        }
        file.seek(SeekFrom::Start(at))?;
        at += io::copy(&mut (&mut *file).take(end - at), copy)?;
    }
    Ok(())
}

/// The disk is full, and perhaps this very log filled it: the end of it goes through memory, so that cutting it needs no
/// space.
fn squeeze(path: &Path, file: &File, copy: &mut File, half: u64) -> io::Result<()> {
    copy.set_len(0)?;
    copy.rewind()?;
    let (newest, _) = last_bytes(path, half.min(SQUEEZED))?;
    file.set_len(0)?;
    copy.write_all(&newest)
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
    fn a_full_disk_is_freed_and_the_newest_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let small = |args: &[&str]| {
            std::process::Command::new("mount")
                .args(args)
                .arg(folder.path())
                .output()
                .is_ok_and(|o| o.status.success())
        };
        if !small(&["-t", "tmpfs", "-o", "size=2M", "cutover-test"]) {
            println!(
                "skipped: a_full_disk_is_freed_and_the_newest_lines_stay: it may not mount a small file system"
            );
            return;
        }
        let path = folder.path().join("a.log");
        let mut writer = open(&path).unwrap();
        let mut written = 0;
        let full = loop {
            match writer.write(format!("line {written:027}\n").repeat(8).as_bytes()) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        // The whole log would be allowed: only the disk is too small for it and its predecessor.
        let cut = bound(&path, 2 << 20);
        let left = fs::metadata(&path).unwrap().len();
        writer.write_all(b"and on\n").unwrap();
        let last = tail(&path, 3);
        let unmounted =
            std::process::Command::new("umount").arg("-l").arg(folder.path()).status().unwrap().success();
        assert!(unmounted && full.kind() == io::ErrorKind::StorageFull, "{full}");
        assert_eq!((cut.unwrap(), left), (true, 0));
        // The line before it is torn: that is where the disk ended.
        assert!(last[0].starts_with("line 0") && last[2] == "and on", "{last:?}");
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
