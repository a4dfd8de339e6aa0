//! Files that survive a crash: written aside, synced, renamed, with a checksum and a schema version.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pin::encode_hex;
use crate::table::SCHEMA;

#[derive(Serialize, Deserialize)]
struct Sealed {
    schema: u32,
    sha256: String,
    payload: serde_json::Value,
}

/// What reading a file came to.
pub(crate) enum Read<T> {
    Missing,
    /// Why it cannot be trusted.
    Damaged(String),
    /// It is whole, and of a proxy that knows more than this one: not to be read, and not to be replaced.
    Newer(String),
    Good(T),
}

fn checksum(payload: &serde_json::Value) -> serde_json::Result<String> {
    Ok(encode_hex(&Sha256::digest(serde_json::to_vec(payload)?)))
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Read<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Read::Missing,
        Err(error) => return Read::Damaged(format!("{}: {error}", path.display())),
    };
    let damaged = |why: String| Read::Damaged(format!("{}: {why}", path.display()));
    let sealed: Sealed = match serde_json::from_slice(&bytes) {
        Ok(sealed) => sealed,
        Err(error) => return damaged(error.to_string()),
    };
    if checksum(&sealed.payload).ok().as_ref() != Some(&sealed.sha256) {
        return damaged("its checksum is wrong".into());
    }
    if sealed.schema > SCHEMA {
        let why = format!("it has schema {}, this proxy reads up to {SCHEMA}", sealed.schema);
        return Read::Newer(format!("{}: {why}", path.display()));
    }
    match serde_json::from_value(sealed.payload) {
        Ok(value) => Read::Good(value),
        Err(error) => damaged(error.to_string()),
    }
}

/// Writes a file; with `previous` the content before stays there.
pub(crate) fn write(path: &Path, value: &impl Serialize, previous: Option<&Path>) -> io::Result<()> {
    let payload = serde_json::to_value(value)?;
    let sealed = Sealed { schema: SCHEMA, sha256: checksum(&payload)?, payload };
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(&sealed)?)?;
    file.sync_all()?;
    if let Some(previous) = previous.filter(|_| path.exists()) {
        // A link beside the old file, then a rename: at no moment is the table under neither name.
        let link = previous.with_extension("link");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::hard_link(path, &link)?,
        }
        fs::rename(&link, previous)?;
    }
    fs::rename(&aside, path)?;
    sync_folder_of(path)
}

pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_and_every_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.json");
        write(&path, &vec!["some", "payload"], None).unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(matches!(read::<Vec<String>>(&path), Read::Good(_)));
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(read::<Vec<String>>(&path), Read::Damaged(_)), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x01;
            fs::write(&path, &changed).unwrap();
            // A changed blank between tokens is harmless; whatever is read must be what was written.
            if let Read::Good(read) = read::<Vec<String>>(&path) {
                assert_eq!(read, ["some", "payload"], "byte {at}");
            }
        }
    }

    #[test]
    fn the_content_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, previous) = (dir.path().join("table.json"), dir.path().join("table.prev.json"));
        for round in 0..3 {
            write(&path, &round, Some(&previous)).unwrap();
        }
        assert!(matches!(read::<i32>(&path), Read::Good(2)));
        assert!(matches!(read::<i32>(&previous), Read::Good(1)));
    }
}
