//! When an authority wants a certificate to be renewed (ARI, RFC 9773): earlier than planned where it must revoke it, say.

use std::time::Duration;

use instant_acme::{CertificateIdentifier, Error};
use rustls::pki_types::Der;

use crate::account;
use crate::error::AcmeError;
use crate::http::Http;
use crate::obtain::Asked;

/// What tells an authority which certificate is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The identifier of the key that signed it.
    pub authority_key: Vec<u8>,
    /// Its serial number, as DER writes it.
    pub serial: Vec<u8>,
}

/// When to renew, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suggested {
    /// First and last second, since 1970; none: the authority does not say such things.
    pub window: Option<(i64, i64)>,
    /// When to ask again.
    pub again_after: Duration,
}

/// How long an authority that says nothing of it is not asked again.
const SILENT: Duration = Duration::from_secs(24 * 3_600);

impl Asked {
    /// Asks when a certificate of this authority is to be renewed. Nothing is changed by it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point.
    pub async fn suggested(&self, certificate: &Identity) -> Result<Suggested, AcmeError> {
        let http = Http::new(self.authority.root.as_deref())?;
        let account = account::ensure(&self.folder, &self.authority, &http).await?;
        let (key, serial) =
            (Der::from_slice(&certificate.authority_key), Der::from_slice(&certificate.serial));
        match account.renewal_info(&CertificateIdentifier::new(key, serial)).await {
            Ok((info, again_after)) => {
                let window = info.suggested_window;
                let window = Some((window.start.unix_timestamp(), window.end.unix_timestamp()));
                Ok(Suggested { window, again_after })
            }
            Err(Error::Unsupported(_)) => Ok(Suggested { window: None, again_after: SILENT }),
            Err(error) => Err(AcmeError::of(&format!("ask when to renew {}", self.host), &error)),
        }
    }
}
