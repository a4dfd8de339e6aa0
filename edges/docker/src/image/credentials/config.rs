//! Docker's `config.json`: the parts that are about logins.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cutover_core::Fault;
use serde::Deserialize;

use super::{HUB_KEY, Login, same};
use crate::image::reference::is_hub;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Config {
    /// Reads the file; nothing is in one that is not there.
    pub(super) fn read(path: &Path) -> Result<Config, Fault> {
        let unreadable = |why: String| {
            Fault::configuration(format!("read the logins of {}: {why}", path.display()))
                .hint("Repair the file, or move it away and run docker login again.")
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Config::default());
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        // serde's words quote what they stumble over, which may be a password: the place has to do.
        serde_json::from_slice(&text).map_err(|error| {
            unreadable(format!("no configuration at line {} column {}", error.line(), error.column()))
        })
    }

    /// Returns the helper that keeps the login for this registry.
    pub(super) fn helper(&self, registry: &str) -> Option<&str> {
        let own =
            self.cred_helpers.iter().find(|(key, _)| same(key, registry)).map(|(_, name)| name.as_str());
        own.or(Some(&self.creds_store)).filter(|name| !name.is_empty())
    }

    /// Returns the name under which a helper knows the registry: as it was written by `docker login`.
    pub(super) fn key(&self, registry: &str) -> String {
        let known = || self.auths.keys().find(|key| same(key, registry)).cloned();
        let hub = is_hub(registry).then(|| HUB_KEY.to_owned());
        hub.or_else(known).unwrap_or_else(|| registry.to_owned())
    }

    /// Returns the login that stands in the file itself.
    pub(super) fn login(&self, registry: &str) -> Result<Option<Login>, Fault> {
        let exact = self.auths.get(registry);
        let Some(entry) =
            exact.or_else(|| self.auths.iter().find(|(key, _)| same(key, registry)).map(|(_, e)| e))
        else {
            return Ok(None);
        };
        let (user, password) = entry.pair().ok_or_else(|| {
            Fault::configuration(format!(
                "read the login for {registry}: its `auth` is no base64 of USER:PASSWORD"
            ))
            .hint(format!("Write it anew: docker login {registry}."))
        })?;
        let login = Login { user, password, identity: entry.identitytoken.clone() };
        let empty = login.password.is_empty() && login.identity.is_empty();
        Ok((!empty).then_some(login))
    }
}

impl Entry {
    fn pair(&self) -> Option<(String, String)> {
        if self.auth.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).unwrap()
    }

    #[test]
    fn a_login_is_found_under_any_spelling_of_its_registry() {
        // me:word, and you:wo:rd
        let config = config(
            r#"{"auths": {"https://r.example/v2/": {"auth": "bWU6d29yZA=="}, "s.example:5000": {"auth": "eW91OndvOnJk"},
                "https://index.docker.io/v1/": {"username": "hub", "password": "p"}, "t": {"identitytoken": "tok"}, "u": {}}}"#,
        );
        let login = |registry: &str| config.login(registry).unwrap();
        let pair = |registry: &str| login(registry).map(|login| (login.user, login.password)).unwrap();
        assert_eq!(pair("r.example"), ("me".into(), "word".into()));
        assert_eq!(pair("s.example:5000"), ("you".into(), "wo:rd".into()));
        assert_eq!(pair("docker.io"), ("hub".into(), "p".into()));
        assert_eq!(login("t").unwrap().identity, "tok");
        assert!(login("u").is_none() && login("s.example").is_none());
    }

    #[test]
    fn the_registrys_own_helper_goes_before_the_store_for_all() {
        let config =
            config(r#"{"credsStore": "desktop", "credHelpers": {"r.example": "ecr", "none.example": ""}}"#);
        assert_eq!(config.helper("r.example"), Some("ecr"));
        assert_eq!(config.helper("s.example"), Some("desktop"));
        assert_eq!(config.helper("none.example"), None);
        assert_eq!(config.key("docker.io"), HUB_KEY);
        assert_eq!(config.key("s.example"), "s.example");
    }

    #[test]
    fn a_broken_file_is_told_by_place_without_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{\"auths\": {\"r\": {\"auth\": 12345678}}}").unwrap();
        let fault = Config::read(&path).err().unwrap();
        assert!(fault.what.contains("no configuration at line 1"), "{}", fault.what);
        assert!(!fault.what.contains("12345678"));
        let fault = config(r#"{"auths": {"r": {"auth": "%hush%"}}}"#).login("r").unwrap_err();
        assert!(fault.hint.contains("docker login r") && !format!("{fault:?}").contains("hush"));
        assert!(Config::read(&folder.path().join("none/config.json")).unwrap().auths.is_empty());
    }
}
