//! Signed requests (RFC 8555, 6.2): ES256 only, which every authority must know.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use crate::problem::Problem;

/// A request whose form is right; its signature is not looked at yet.
pub(crate) struct Signed {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    message: String,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
pub(crate) struct Header {
    alg: String,
    pub(crate) nonce: String,
    pub(crate) url: String,
    pub(crate) jwk: Option<Jwk>,
    pub(crate) kid: Option<String>,
}

/// A public key, as RFC 7517 writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |error| Problem::malformed(format!("not base64url: {error}"));
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(wrong)
}

impl Signed {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let wrong = |error| Problem::malformed(format!("no flattened JWS: {error}"));
        let flattened: Flattened = serde_json::from_slice(body).map_err(wrong)?;
        let header: Header = serde_json::from_slice(&decode(&flattened.protected)?).map_err(wrong)?;
        if header.alg != "ES256" {
            return Err(Problem::new(
                400,
                "badSignatureAlgorithm",
                format!("{} is not supported", header.alg),
            ));
        }
        if header.jwk.is_some() == header.kid.is_some() {
            return Err(Problem::malformed("exactly one of jwk and kid is wanted"));
        }
        Ok(Self {
            payload: decode(&flattened.payload)?,
            signature: decode(&flattened.signature)?,
            message: format!("{}.{}", flattened.protected, flattened.payload),
            header,
        })
    }

    pub(crate) fn verify(&self, key: &Jwk) -> Result<(), Problem> {
        let mut point = vec![4];
        point.extend(decode(&key.x)?);
        point.extend(decode(&key.y)?);
        if key.kty != "EC" || key.crv != "P-256" || point.len() != 65 {
            return Err(Problem::new(400, "badPublicKey", "an EC key on P-256 is wanted"));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(self.message.as_bytes(), &self.signature)
            .map_err(|_| Problem::malformed("the signature does not fit"))
    }

    /// Reads the payload; a POST-as-GET has none.
    pub(crate) fn json(&self) -> Result<Value, Problem> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Problem::malformed(format!("the payload is no JSON: {error}")))
    }

    /// Insists that the request only reads (RFC 8555, 6.3).
    pub(crate) fn reads(&self) -> Result<(), Problem> {
        if self.payload.is_empty() { Ok(()) } else { Err(Problem::malformed("a POST-as-GET has no payload")) }
    }
}

impl Jwk {
    /// Returns the thumbprint (RFC 7638).
    pub(crate) fn thumbprint(&self) -> String {
        let text =
            format!(r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#, self.crv, self.kty, self.x, self.y);
        BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
    }
}
