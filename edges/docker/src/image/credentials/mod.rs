//! Who cutover is to a registry: from the environment, Docker's own configuration, and credential helpers.
//!
//! Looked up anew for each use, so that a `docker login` counts at once. Nothing of it is printed, journaled or kept.

mod config;
mod helper;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cutover_core::Fault;
use serde_json::json;

use self::config::Config;
use super::reference::is_hub;

/// The key under which Docker keeps the login for its own registry.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a credential helper may take: one that asks a person never ends.
const HELPER_LIMIT: Duration = Duration::from_secs(20);

/// A login for one registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The user's name; empty with an identity token alone.
    pub(crate) user: String,
    /// The password, or a token in its place.
    pub(crate) password: String,
    /// What the registry's own login gave instead of a password; empty where there is none.
    pub(crate) identity: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    /// Returns it as the engine wants it in a header.
    pub(crate) fn header(&self, registry: &str) -> String {
        let server = if is_hub(registry) { HUB_KEY } else { registry };
        let login = match self.identity.is_empty() {
            true => json!({"username": self.user, "password": self.password, "serveraddress": server}),
            false => json!({"identitytoken": self.identity, "serveraddress": server}),
        };
        URL_SAFE.encode(login.to_string())
    }
}

/// Where logins are looked for.
#[derive(Clone)]
pub struct Credentials {
    /// The folder of Docker's `config.json`.
    folder: Option<PathBuf>,
    /// Where credential helpers are looked for: a list of folders as in `PATH`.
    path: OsString,
    /// The longest that a helper may take.
    limit: Duration,
    /// What the environment says: registry, user, password.
    given: [Option<String>; 3],
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("folder", &self.folder).finish_non_exhaustive()
    }
}

const GIVEN: [&str; 3] = ["CUTOVER_REGISTRY", "CUTOVER_REGISTRY_USER", "CUTOVER_REGISTRY_PASSWORD"];

impl Credentials {
    /// Looks into `CUTOVER_REGISTRY`, `CUTOVER_REGISTRY_USER` and `CUTOVER_REGISTRY_PASSWORD`, then into `config.json` in
    /// `DOCKER_CONFIG`, else in `~/.docker`.
    pub fn of_environment() -> Self {
        let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        let given = GIVEN.map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { folder: folder.or_else(home), path, limit: HELPER_LIMIT, given }
    }

    /// Looks into the `config.json` of this folder alone, for helpers in the folders of `path`, each for as long as `limit`.
    pub fn of_folder(folder: impl Into<PathBuf>, path: impl Into<OsString>, limit: Duration) -> Self {
        Self { folder: Some(folder.into()), path: path.into(), limit, given: [None, None, None] }
    }

    /// Uses this login for this registry before any other, as the environment's.
    #[must_use]
    pub fn with(mut self, registry: &str, user: &str, password: &str) -> Self {
        self.given = [registry, user, password].map(|value| Some(value.to_owned()));
        self
    }

    /// Returns the login for a registry; none where nothing is known about it.
    ///
    /// # Errors
    /// The configuration cannot be read, or a helper that it names does not do its work.
    pub(crate) async fn login(&self, registry: &str) -> Result<Option<Login>, Fault> {
        if let Some(login) = self.given(registry)? {
            return Ok(Some(login));
        }
        let Some(folder) = &self.folder else { return Ok(None) };
        let config = Config::read(&folder.join("config.json"))?;
        if let Some(name) = config.helper(registry) {
            let key = config.key(registry);
            if let Some(login) = helper::ask(name, &key, &self.path, self.limit).await? {
                return Ok(Some(login));
            }
        }
        config.login(registry)
    }

    /// Returns the login of the environment, if it is for this registry. A password that went to whichever registry a file
    /// names would be stolen by a change of that file: it has to say where it belongs.
    fn given(&self, registry: &str) -> Result<Option<Login>, Fault> {
        let [host, user, password] = &self.given;
        match (host, user, password) {
            (Some(host), Some(user), Some(password)) if same(host, registry) => {
                Ok(Some(Login { user: user.clone(), password: password.clone(), identity: String::new() }))
            }
            (Some(_), Some(_), Some(_)) | (_, None, None) => Ok(None),
            (host, user, _) => {
                let [registry, name, word] = GIVEN;
                let missing = if user.is_none() {
                    name
                } else if host.is_none() {
                    registry
                } else {
                    word
                };
                let what = format!("find the login of the environment: {missing} is not set");
                let hint =
                    format!("Set {registry} (such as registry.example), {name} and {word}, or none of them.");
                Err(Fault::configuration(what).hint(hint))
            }
        }
    }
}

/// Tells whether a key of a configuration is about this registry: with or without a scheme and a path.
fn same(key: &str, registry: &str) -> bool {
    let host = host(key);
    host.eq_ignore_ascii_case(registry) || (is_hub(host) && is_hub(registry))
}

fn host(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    bare.split('/').next().unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(given: [Option<&str>; 3]) -> Credentials {
        let given = given.map(|value| value.map(str::to_owned));
        Credentials { folder: None, path: OsString::new(), limit: HELPER_LIMIT, given }
    }

    #[tokio::test]
    async fn the_environments_login_goes_to_its_registry_alone() {
        let credentials = environment([Some("https://r.example/v2/"), Some("me"), Some("word")]);
        assert_eq!(credentials.login("r.example").await.unwrap().unwrap().user, "me");
        assert!(credentials.login("other.example").await.unwrap().is_none());
        let hub = environment([Some("docker.io"), Some("me"), Some("word")]);
        assert!(hub.login("docker.io").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn half_a_login_is_a_fault_that_names_the_missing_half_and_no_value() {
        let check = async |given, missing: &str| {
            let fault = environment(given).login("r").await.unwrap_err();
            assert_eq!(fault.what, format!("find the login of the environment: {missing} is not set"));
            assert!(!format!("{fault:?}").contains("hush"));
        };
        check([None, Some("me"), Some("hush")], "CUTOVER_REGISTRY").await;
        check([Some("r"), None, Some("hush")], "CUTOVER_REGISTRY_USER").await;
        check([Some("r"), Some("me"), None], "CUTOVER_REGISTRY_PASSWORD").await;
        assert!(environment([None, None, None]).login("r").await.unwrap().is_none());
    }

    #[test]
    fn a_login_is_never_printed() {
        let login = Login { user: "me".into(), password: "hush".into(), identity: String::new() };
        let credentials = environment([Some("r"), Some("me"), Some("hush")]);
        assert!(!format!("{login:?} {credentials:?}").contains("hush"));
    }

    #[test]
    fn the_header_holds_the_token_or_the_password_and_names_dockers_registry_in_full() {
        let read = |login: &Login, registry: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE.decode(login.header(registry)).unwrap()).unwrap()
        };
        let mut login = Login { user: "me".into(), password: "w".into(), identity: String::new() };
        let expected = json!({"username": "me", "password": "w", "serveraddress": HUB_KEY});
        assert_eq!(read(&login, "docker.io"), expected);
        login.identity = "t".into();
        assert_eq!(read(&login, "r:5000"), json!({"identitytoken": "t", "serveraddress": "r:5000"}));
    }
}
