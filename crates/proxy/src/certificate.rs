//! A certificate and its key, read from files and looked at before anybody sees them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::x509::{day, validity};

/// No more of a file is read: a chain has a few kilobytes.
const MOST: u64 = 1 << 20;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Files {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// What tells whether files have changed: device, inode, size and time of each; None: it is not there.
pub(crate) type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

/// Whether a certificate may be out of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    MustFit,
    /// It has been in use before: still better than none.
    Any,
}

impl Files {
    pub(crate) fn stamp(&self) -> Stamp {
        [&self.cert, &self.key].map(|path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        })
    }

    /// Reads both files; the error says what is wrong with which, and what to do.
    pub(crate) fn load(
        &self,
        host: Option<&str>,
        time: Time,
        provider: &CryptoProvider,
    ) -> Result<(Arc<CertifiedKey>, i64), String> {
        let (cert, key) = (&self.cert, &self.key);
        let text = read("certificate", cert)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("certificate \"{cert}\" is not PEM: {error}"))?;
        let Some(first) = chain.first() else {
            return Err(format!(
                "certificate \"{cert}\" holds none; give the chain in PEM, the server's own first"
            ));
        };
        let parsed = ParsedCertificate::try_from(first).map_err(|error| {
            format!(
                "certificate \"{cert}\" cannot be understood ({error}); give a certificate of X.509 version 3"
            )
        })?;
        let (from, to) = validity(first)
            .ok_or_else(|| format!("certificate \"{cert}\" does not say how long it is valid"))?;
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        if time == Time::MustFit && now > to {
            return Err(format!("certificate \"{cert}\" expired on {}; renew it", day(to)));
        }
        if time == Time::MustFit && now < from {
            let from = day(from);
            return Err(format!(
                "certificate \"{cert}\" is not valid before {from}; see whether the clock is right"
            ));
        }
        if let Some(host) = host {
            let name =
                ServerName::try_from(host).map_err(|_| format!("\"{host}\" is no name for a certificate"))?;
            verify_server_name(&parsed, &name).map_err(|_| {
                format!("certificate \"{cert}\" is not for host \"{host}\"; give one that names it")
            })?;
        }
        let secret = PrivateKeyDer::from_pem_slice(&read("key", key)?).map_err(|_| {
            format!("key \"{key}\" holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)")
        })?;
        let secret = provider.key_provider.load_private_key(secret).map_err(|error| {
            format!(
                "key \"{key}\" cannot be used ({error}); give an RSA, ECDSA (P-256, P-384) or Ed25519 key"
            )
        })?;
        let certified = CertifiedKey::new(chain, secret);
        match certified.keys_match() {
            // Some kinds of keys do not tell; the handshake then would.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(format!(
                    "key \"{key}\" is not the one of certificate \"{cert}\"; give both of a pair"
                ));
            }
        }
        Ok((Arc::new(certified), to))
    }
}

/// Returns the first certificate of a file.
#[cfg(feature = "acme")]
pub(crate) fn first_of(path: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(&read("certificate", path).ok()?).ok()
}

fn read(what: &str, path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => {
            Err(format!("cannot read {what} \"{path}\": {error}; the proxy's user must be able to"))
        }
        Ok(_) if bytes.len() as u64 > MOST => Err(format!("{what} \"{path}\" is larger than {MOST} bytes")),
        Ok(_) => Ok(bytes),
    }
}
