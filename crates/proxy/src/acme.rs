//! Certificates by ACME (RFC 8555): what the table says of them, where they lie, and the answers to challenges.
//!
//! Who asks for them is the control thread's task, in `control/acme`. It leaves an answer to a challenge in a file named
//! as its token, where every worker finds it, whichever of them the authority's connection reaches during an upgrade.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::body::DownBody;
use crate::pin::encode_hex;
use crate::route::Router;
#[cfg(not(feature = "acme"))]
use crate::tls::CertificateObservation;
use crate::tls::TlsRoute;

/// Where an authority looks (RFC 8555, 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// Counted name of an answer to a challenge.
const ANSWERED: &str = "acme-challenge";
/// Longest token that is looked for; Let's Encrypt's have 43 letters.
const LONGEST_TOKEN: usize = 200;
/// No answer is longer: a token, a dot and a hash.
const LONGEST_ANSWER: u64 = 1024;

/// Who signs the certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AcmeIssuer {
    /// Address of its directory, by https.
    pub directory: String,
    /// Whom it may write to.
    #[serde(default)]
    pub email: Option<String>,
    /// File of the root certificates that it is known by, PEM; none: those that this machine trusts.
    #[serde(default)]
    pub root: Option<String>,
}

/// How far the certificate of a listener is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeObservation {
    /// Address of the authority's directory.
    pub directory: String,
    /// It is being asked for right now.
    pub under_way: bool,
    /// Attempts in a row that came to nothing.
    pub failures: u32,
    /// When it is asked for next, in milliseconds since 1970; none: nobody asks.
    pub next_ms: Option<u64>,
}

impl AcmeIssuer {
    /// Returns where its account, orders and certificates lie. People read it, so it looks like the address; the hash
    /// keeps apart what only looks the same.
    pub(crate) fn folder(&self, base: &Path) -> PathBuf {
        let name: String = self
            .directory
            .trim_start_matches("https://")
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' })
            .take(60)
            .collect();
        let hash = encode_hex(&Sha256::digest(self.directory.as_bytes())[..4]);
        base.join(format!("{name}-{hash}"))
    }

    /// Returns the file of a host's certificate: its chain, then its key.
    pub(crate) fn certificate(&self, base: &Path, host: &str) -> PathBuf {
        self.folder(base).join(format!("{}.pem", host.to_ascii_lowercase()))
    }

    /// Says what makes it impossible.
    pub(crate) fn mistake(&self, route: &TlsRoute) -> Option<String> {
        let at = route.listen;
        let Some(host) = &route.host else {
            return Some(format!("ACME on {at} needs a host: a certificate is for a name"));
        };
        // It becomes the name of a file.
        if host.contains('/') || !matches!(ServerName::try_from(host.as_str()), Ok(ServerName::DnsName(_))) {
            return Some(format!("ACME on {at}: \"{host}\" is no name that an authority signs for"));
        }
        if !self.directory.starts_with("https://") {
            return Some(format!("ACME on {at}: the directory \"{}\" is asked by https", self.directory));
        }
        if !route.cert.is_empty() || !route.key.is_empty() {
            return Some(format!("TLS for {host} on {at}: give files or ACME, not both"));
        }
        unsupported()
    }
}

/// Says why this proxy cannot ask for certificates, if it cannot.
pub(crate) fn unsupported() -> Option<String> {
    let text =
        "this cutover was built without ACME (feature `acme`); use one that has it, or give `cert` and `key`";
    (!cfg!(feature = "acme")).then(|| text.to_owned())
}

/// Returns where the answers to challenges lie.
pub(crate) fn challenges(base: &Path) -> PathBuf {
    base.join("challenges")
}

/// Completes what is seen of certificates in a proxy that cannot ask for any.
#[cfg(not(feature = "acme"))]
pub(crate) fn cannot_renew(route: &TlsRoute, seen: &mut CertificateObservation) {
    if let Some(issuer) = &route.acme {
        let directory = issuer.directory.clone();
        seen.acme = Some(AcmeObservation { directory, under_way: false, failures: 0, next_ms: None });
        seen.problem = unsupported();
    }
}

/// Answers an authority that looks whether a name is ours. Only where a challenge of our own is under way: whatever else
/// is asked for below this path is the service's.
pub(crate) fn answer<B>(router: &Router, request: &Request<B>) -> Option<Response<DownBody>> {
    let token = request.uri().path().strip_prefix(CHALLENGES)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) || !is_token(token) {
        return None;
    }
    let folder = router.compiled.borrow().challenges.clone()?;
    let mut answer = Vec::new();
    fs::File::open(folder.join(token)).ok()?.take(LONGEST_ANSWER).read_to_end(&mut answer).ok()?;
    *router.unrouted.borrow_mut().entry(ANSWERED).or_default() += 1;
    let body = (request.method() == Method::GET).then(|| Bytes::from(answer));
    let mut response = Response::new(DownBody::Own(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// Letters of base64url only: nothing that leads out of the folder, and nothing of ours that is not whole yet.
fn is_token(token: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_TOKEN).contains(&token.len()) && token.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_have_folders_of_their_own_that_people_can_read() {
        let issuer = |directory: &str| AcmeIssuer { directory: directory.into(), email: None, root: None };
        let folder = |directory: &str| issuer(directory).folder(Path::new("/s")).display().to_string();
        let real = folder("https://acme-v02.api.letsencrypt.org/directory");
        assert!(real.starts_with("/s/acme-v02.api.letsencrypt.org-directory-"), "{real}");
        assert_ne!(folder("https://a.test/b"), folder("https://a.test-b"));
        assert!(!folder("https://../../etc").contains("/../"));
    }

    #[test]
    fn a_token_leads_nowhere_else() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"));
        for token in ["", ".", "..", "../account.json", "a/b", "a.new", "a%2e", &"a".repeat(201)] {
            assert!(!is_token(token), "{token}");
        }
    }
}
