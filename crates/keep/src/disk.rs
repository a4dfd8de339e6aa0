//! Files that are there whole or not at all: write, sync, rename, sync the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use cutover_core::Fault;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Makes a fault of an I/O error: `write /x/y: No space left on device (os error 28)`.
pub fn fault(did: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::platform(format!("{did} {}: {error}", path.display()))
}

/// Ensures that the folder and its parents are there; the folder itself gets exactly `mode`.
pub fn ensure_folder(path: &Path, mode: u32) -> Result<(), Fault> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| fault("create folder", path, &error))
}

/// Writes the value as JSON, complete or not at all, even if the machine loses power; readable by this user
/// alone.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Fault> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Fault::cutover(format!("encode {}: {error}", path.display())).fatal())?;
    write(path, &bytes).map_err(|error| fault("write", path, &error))
}

/// Writes the bytes, complete or not at all; readable by this user alone.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", random_hex(4)?));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.and_then(|()| sync_folder(folder))
}

/// Reads JSON; `None` where the file is not there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Fault> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault("read", path, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Fault::cutover(format!("read {}: {error}", path.display())).fatal().hint(
            "The file is damaged, or from another version of cutover; it is never repaired by guessing.",
        )
    })
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path.parent().unwrap_or(Path::new("/"))),
    }
}

/// Removes a folder with all in it, as far as it goes; read-only folders of an artifact are no obstacle. What stays is
/// said; where it has a leading dot the next start tries again.
pub fn remove_tree(path: &Path) {
    let removed = fs::remove_dir_all(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        io::ErrorKind::PermissionDenied => {
            open_folders(path);
            fs::remove_dir_all(path)
        }
        _ => Err(error),
    });
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "folder not removed");
    }
}

fn open_folders(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let folders = fs::read_dir(path).into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| open_folders(&entry.path()));
}

/// Makes the names in the folder survive a loss of power.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Returns the names of what lies in the folder, sorted, drafts (with a leading dot) left out.
pub fn names(path: &Path) -> Result<Vec<String>, Fault> {
    let read = |error: &io::Error| fault("read folder", path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| read(&error))? {
        let entry = entry.map_err(|error| read(&error))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Returns `bytes` random bytes as hex.
pub fn random_hex(bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        filled += rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(hex(&buffer))
}

/// Returns the bytes as hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the bytes free for this process on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, Fault> {
    let stat =
        rustix::fs::statvfs(path).map_err(|error| fault("ask the free space of", path, &error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns the size for people: `512Mi`, `21.3Gi`.
pub fn human(bytes: u64) -> String {
    for (unit, shift) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return if tenths % 10 == 0 {
                format!("{}{unit}", tenths / 10)
            } else {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for value in [vec![1, 2, 3], vec![4]] {
            write_json(&path, &value).unwrap();
            assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()).unwrap(), ["state.json"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn damage_is_said_and_not_taken_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<u8>(&path).unwrap(), None);
        fs::write(&path, "{").unwrap();
        let fault = read_json::<u8>(&path).unwrap_err();
        assert!(fault.what.contains("state.json") && !fault.hint.is_empty(), "{fault:?}");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!([0, 512 << 20, 22_871_000_000].map(human), ["0 bytes", "512Mi", "21.3Gi"]);
    }
}
