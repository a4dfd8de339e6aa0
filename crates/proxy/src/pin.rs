//! Pin header: a signed wish to reach one revision, used by checks and by people.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Request header that pins a revision: `<revision>:<hex hmac-sha256(service|revision)>`.
pub const PIN_HEADER: &str = "x-cutover-pin";

/// Cookie with the same value, for people with a browser.
pub const PIN_COOKIE: &str = "cutover-pin";

/// Returns the value of [`PIN_HEADER`] that routes to `revision` of `service`.
///
/// `key` is the service's pin key in hex; text that is not hex signs with its bytes, which the proxy refuses as a key.
pub fn sign_pin(key: &str, service: &str, revision: &str) -> String {
    format!("{revision}:{}", signature(key, service, revision))
}

/// Returns the revision a header pins, when its signature is ours.
pub(crate) fn verify<'header>(key: &str, service: &str, header: &'header str) -> Option<&'header str> {
    let (revision, signature) = header.rsplit_once(':')?;
    is_signed(key, service, revision, signature).then_some(revision)
}

/// Signs a text for a service; hex.
pub(crate) fn signature(key: &str, service: &str, text: &str) -> String {
    encode_hex(&keyed(key).chain_update(message(service, text)).finalize().into_bytes())
}

/// Tells whether a signature is ours.
pub(crate) fn is_signed(key: &str, service: &str, text: &str, signature: &str) -> bool {
    // `verify_slice` compares in constant time: the signature cannot be guessed byte by byte.
    decode_hex(signature).is_some_and(|signature| {
        keyed(key).chain_update(message(service, text)).verify_slice(&signature).is_ok()
    })
}

fn keyed(key: &str) -> Hmac<Sha256> {
    let bytes = decode_hex(key).unwrap_or_else(|| key.as_bytes().to_vec());
    Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length")
}

fn message(service: &str, text: &str) -> String {
    format!("{service}|{text}")
}

pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_signature_pins() {
        let key = "00112233445566778899aabbccddeeff";
        let header = sign_pin(key, "shop", "v2:a");
        assert_eq!(verify(key, "shop", &header), Some("v2:a"));
        assert_eq!(verify(key, "other", &header), None);
        assert_eq!(verify("ff112233445566778899aabbccddeeff", "shop", &header), None);
        assert_eq!(verify(key, "shop", "v2:00"), None);
        assert_eq!(verify(key, "shop", "v2"), None);
    }
}
