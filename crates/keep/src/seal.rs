//! Secrets: the key of their hashes, and one private file of values per revision.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cutover_core::{Fault, RevisionId, ServiceName};
use cutover_ports::Secret;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::disk;

/// The values of a revision's secrets.
pub type Values = BTreeMap<String, Secret>;

/// Keeps secret values; only this knows where they lie.
pub struct Vault {
    folder: PathBuf,
    key: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    schema: u32,
    revision: RevisionId,
    /// Whose it is; files of before this was written down say nothing.
    #[serde(default)]
    service: Option<ServiceName>,
    /// The hash of everything else the revision is made from.
    content: String,
    values: Values,
}

impl Vault {
    /// Opens the vault in `folder`; its key is made once.
    pub fn open(folder: PathBuf) -> Result<Vault, Fault> {
        disk::ensure_folder(&folder, 0o700)?;
        let path = folder.join("key");
        if !path.exists() {
            let key = disk::random_hex(32).map_err(|error| disk::fault("make", &path, &error))?;
            disk::write(&path, key.as_bytes()).map_err(|error| disk::fault("write", &path, &error))?;
        }
        let key = fs::read(&path).map_err(|error| disk::fault("read", &path, &error))?;
        if key.len() != 64 {
            return Err(Fault::cutover(format!("read {}: the key is damaged", path.display())).fatal());
        }
        Ok(Vault { folder, key })
    }

    /// Hashes the values with the key, so that the hash tells nobody without it whether a guess is right.
    pub fn hash(&self, values: &Values) -> Result<String, Fault> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .map_err(|error| Fault::cutover(format!("key the secrets' hash: {error}")).fatal())?;
        for (name, value) in values {
            for text in [name.as_str(), value.expose()] {
                mac.update(&(text.len() as u64).to_le_bytes());
                mac.update(text.as_bytes());
            }
        }
        Ok(disk::hex(&mac.finalize().into_bytes()))
    }

    /// Seals the values for the revision; there already is a no-op.
    pub fn seal(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        content: &str,
        values: &Values,
    ) -> Result<(), Fault> {
        if self.path(revision).exists() {
            return Ok(());
        }
        self.reseal(service, revision, content, values)
    }

    /// Seals the values for the revision in the place of any others; no values change nothing.
    pub fn reseal(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        content: &str,
        values: &Values,
    ) -> Result<(), Fault> {
        if values.is_empty() {
            return Ok(());
        }
        let sealed = Sealed {
            schema: 1,
            revision: revision.clone(),
            service: Some(service.clone()),
            content: content.into(),
            values: values.clone(),
        };
        disk::write_json(&self.path(revision), &sealed)
    }

    /// Returns the sealed values of the revision, `None` where it has none.
    pub fn values(&self, revision: &RevisionId) -> Result<Option<Values>, Fault> {
        Ok(disk::read_json::<Sealed>(&self.path(revision))?.map(|sealed| sealed.values))
    }

    /// Returns the revisions of the service that have sealed values.
    pub fn of(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let mut found = Vec::new();
        for name in disk::names(&self.folder)?.iter().filter(|name| name.ends_with(".json")) {
            // One that cannot be read belongs to nobody: it stays for a person to look at.
            if let Ok(Some(sealed)) = disk::read_json::<Sealed>(&self.folder.join(name))
                && sealed.service.as_ref() == Some(service)
            {
                found.push(sealed.revision);
            }
        }
        Ok(found)
    }

    /// Forgets the values of the revision.
    pub fn forget(&self, revision: &RevisionId) -> Result<(), Fault> {
        let path = self.path(revision);
        disk::remove(&path).map_err(|error| disk::fault("remove", &path, &error))
    }

    /// Returns the values that were sealed for the same content and agree with `given`, if there is only one
    /// such set:
    /// between two, guessing would run a revision nobody asked for.
    fn recall(&self, content: &str, given: &Values) -> Result<Option<Values>, Fault> {
        let mut found = Vec::new();
        for name in disk::names(&self.folder)?.iter().filter(|name| name.ends_with(".json")) {
            if let Some(sealed) = disk::read_json::<Sealed>(&self.folder.join(name))?
                && sealed.content == content
                && given.iter().all(|(name, value)| sealed.values.get(name) == Some(value))
            {
                found.push(sealed.values);
            }
        }
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// Returns the values of these names, out of those that are given; where some are missing, those that were sealed for the
    /// same content.
    ///
    /// # Errors
    /// A value is neither given nor sealed.
    pub fn choose(&self, names: &[String], all: &Values, content: &str) -> Result<Values, Fault> {
        let given: Values =
            names.iter().filter_map(|name| Some((name.clone(), all.get(name)?.clone()))).collect();
        if given.len() < names.len()
            && let Some(values) = self.recall(content, &given)?
        {
            return Ok(values);
        }
        complete(names, &given)?;
        Ok(given)
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(Path::new(&format!("{revision}.json")))
    }
}

/// Says which of the names have no value.
pub fn complete(names: &[String], values: &Values) -> Result<(), Fault> {
    let missing: Vec<&str> =
        names.iter().filter(|name| !values.contains_key(*name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(", ");
    Err(Fault::configuration(format!(
        "find the value of secret {list}: not in the environment, and not sealed before"
    ))
    .hint(format!("Set {list} in the environment of cutover deploy.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_again_is_what_was_given_last() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path().join("vault")).unwrap();
        let (service, revision) = (ServiceName::new("shop"), RevisionId::new("r-1"));
        let values = |value: &str| Values::from([("TOKEN".to_string(), Secret::new(value))]);
        vault.seal(&service, &revision, "c", &values("expired")).unwrap();
        vault.seal(&service, &revision, "c", &values("ignored")).unwrap();
        assert_eq!(vault.values(&revision).unwrap(), Some(values("expired")));
        vault.reseal(&service, &revision, "c", &values("new")).unwrap();
        vault.reseal(&service, &revision, "c", &Values::new()).unwrap();
        assert_eq!(vault.values(&revision).unwrap(), Some(values("new")));
    }
}
