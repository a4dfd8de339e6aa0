//! The account with an authority. Its key lies on disk before anybody hears of it: a lost answer costs no account.

use std::path::Path;

use instant_acme::{Account, Error, Key};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::error::{AcmeError, kind};
use crate::files;
use crate::http::Http;
use crate::obtain::Authority;

const FILE: &str = "account.json";

#[derive(Serialize, Deserialize)]
struct Stored {
    /// The key in PKCS#8.
    key: Vec<u8>,
    /// What the authority calls the account; none: it may not know it yet.
    id: Option<String>,
    /// The address that the authority was told.
    #[serde(default)]
    email: Option<String>,
}

/// Returns the account, made if need be. Asked twice with the same key, an authority returns the same account.
pub(crate) async fn ensure(folder: &Path, authority: &Authority, http: &Http) -> Result<Account, AcmeError> {
    let path = folder.join(FILE);
    let failed = |error: std::io::Error| AcmeError::new(format!("write \"{}\": {error}", path.display()));
    let mut stored = match files::load::<Stored>(&path) {
        Some(stored) => stored,
        None => {
            let (_, key) =
                Key::generate_pkcs8().map_err(|error| AcmeError::of("make an account key", &error))?;
            let stored = Stored { key: key.secret_pkcs8_der().to_vec(), id: None, email: None };
            files::store(&path, &stored).map_err(failed)?;
            stored
        }
    };
    let doing = format!("reach the account at {}", authority.directory);
    let refused = |error: Error| AcmeError::of(&doing, &error).with_again_after(http.again_after());
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let (key, directory) = (PrivatePkcs8KeyDer::from(stored.key.clone()), authority.directory.clone());
    let account = match &stored.id {
        Some(id) => builder.from_parts(id.clone(), key, directory).await.map_err(refused)?,
        None => {
            let parsed = Key::from_pkcs8_der(key.clone_key()).map_err(refused)?;
            let pair = (parsed, PrivateKeyDer::Pkcs8(key));
            let (account, _) = builder.create_from_key(pair, directory).await.map_err(refused)?;
            stored.id = Some(account.id().to_owned());
            files::store(&path, &stored).map_err(failed)?;
            account
        }
    };
    if stored.email != authority.email {
        let contact = authority.email.as_ref().map(|email| format!("mailto:{email}"));
        let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
        match account.update_contacts(&contacts).await {
            Ok(()) => {}
            Err(error) => {
                forget_if_unknown(folder, &error);
                return Err(refused(error));
            }
        }
        stored.email.clone_from(&authority.email);
        files::store(&path, &stored).map_err(failed)?;
    }
    Ok(account)
}

/// Forgets what an authority calls the account when it does not know it any more: the next attempt makes it anew.
pub(crate) fn forget_if_unknown(folder: &Path, error: &Error) {
    let path = folder.join(FILE);
    if let Error::Api(problem) = error
        && kind(problem) == "accountDoesNotExist"
        && let Some(mut stored) = files::load::<Stored>(&path)
    {
        (stored.id, stored.email) = (None, None);
        if let Err(error) = files::store(&path, &stored) {
            tracing::error!(path = %path.display(), %error, "an account cannot be forgotten");
        }
    }
}
