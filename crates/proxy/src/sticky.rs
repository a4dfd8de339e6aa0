//! Clients that stay with their revision while a release is under way.
//!
//! A client has a *seat*, a number from 0 to 9999, and the candidate has the seats below its weight. So raising the weight
//! moves clients to the candidate and none of them back, and taking the weight away moves all of them back at once:
//! nobody has to be remembered. The seat is drawn anew for each release, so that it is not always the same people who try
//! what is new. It comes from a signed cookie that the proxy makes, or from the hash of a header.

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pin;
use crate::table::WHOLE;

/// Cookie of the seat where nothing else is said.
pub const SEAT_COOKIE: &str = "cutover-seat";

/// By what clients are known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A cookie that the proxy makes, signs, and keeps from the targets.
    Cookie {
        /// Its name.
        name: String,
    },
    /// The hash of what a header says; requests without it are spread by chance.
    Header {
        /// Its name.
        name: String,
    },
}

impl Sticky {
    /// Says what makes it impossible.
    pub(crate) fn mistake(&self) -> Option<String> {
        let (Self::Cookie { name } | Self::Header { name }) = self;
        // The rule for names of headers is that of cookies too.
        let usable = !name.is_empty() && HeaderName::try_from(name.as_str()).is_ok();
        (!usable).then(|| format!("clients cannot be known again by \"{}\"", name.escape_debug()))
    }
}

/// Where a client sits.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) number: u16,
    /// Tells the client; none where it knows.
    pub(crate) cookie: Option<HeaderValue>,
}

/// What a seat is valid for, and who says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) service: &'a str,
    pub(crate) release: &'a str,
    /// The key that signs, and the one before it, which is still believed.
    pub(crate) keys: [Option<&'a str>; 2],
    pub(crate) secure: bool,
}

/// Finds the client's seat, or gives it one. The cookie is taken out of the headers: it is nothing for the target.
pub(crate) fn seat(sticky: &Sticky, headers: &mut HeaderMap, issuer: Option<Issuer<'_>>) -> Option<Seat> {
    match sticky {
        Sticky::Header { name } => {
            let value = headers.get(name.as_str())?;
            let issuer = issuer?;
            Some(Seat { number: hashed(issuer.release, value.as_bytes()), cookie: None })
        }
        Sticky::Cookie { name } => {
            let said = take_cookie(headers, name);
            let issuer = issuer?;
            let known = said.and_then(|said| known(&said, issuer));
            known.map(|number| Seat { number, cookie: None }).or_else(|| {
                let number = fastrand::u16(..WHOLE);
                Some(Seat { number, cookie: Some(cookie(name, number, issuer)?) })
            })
        }
    }
}

/// Returns the index of the revision that has the seat: the candidate below its weight, the others in proportion above.
pub(crate) fn drawn(weights: &[u16], candidate: Option<usize>, seat: u16) -> Option<usize> {
    let mut at = seat;
    let others = (0..weights.len()).filter(|index| Some(*index) != candidate);
    for index in candidate.into_iter().chain(others) {
        let weight = *weights.get(index)?;
        if at < weight {
            return Some(index);
        }
        at -= weight;
    }
    None
}

fn hashed(release: &str, key: &[u8]) -> u16 {
    let hash = Sha256::new().chain_update(release).chain_update([0]).chain_update(key).finalize();
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    u16::try_from(number % u64::from(WHOLE)).unwrap_or(0)
}

fn message(issuer: Issuer<'_>, number: u16) -> String {
    format!("seat|{}|{number}", issuer.release)
}

fn known(said: &str, issuer: Issuer<'_>) -> Option<u16> {
    let (seat, signature) = said.rsplit_once('.')?;
    let (release, number) = seat.rsplit_once('.')?;
    let number = number.parse().ok().filter(|number| *number < WHOLE)?;
    let ours = |key: &str| pin::is_signed(key, issuer.service, &message(issuer, number), signature);
    (release == issuer.release && issuer.keys.into_iter().flatten().any(ours)).then_some(number)
}

fn cookie(name: &str, number: u16, issuer: Issuer<'_>) -> Option<HeaderValue> {
    let [key, _] = issuer.keys;
    let signature = pin::signature(key?, issuer.service, &message(issuer, number));
    let secure = if issuer.secure { "; Secure" } else { "" };
    let release = issuer.release;
    HeaderValue::try_from(format!(
        "{name}={release}.{number}.{signature}; Path=/; HttpOnly; SameSite=Lax{secure}"
    ))
    .ok()
}

/// Takes a cookie out of the headers, all of its kind; returns the first. What else the client says is passed on as it
/// is, even where it is no text.
pub(crate) fn take_cookie(headers: &mut HeaderMap, name: &str) -> Option<String> {
    let value_of = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let ours = pair[..at].trim_ascii() == name.as_bytes();
        ours.then(|| String::from_utf8_lossy(pair[at + 1..].trim_ascii()).into_owned())
    };
    let pairs = |value: &HeaderValue| -> Vec<Vec<u8>> {
        value.as_bytes().split(|byte| *byte == b';').map(|pair| pair.trim_ascii().to_vec()).collect()
    };
    let all: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    let found = all.iter().flat_map(pairs).find_map(|pair| value_of(&pair))?;
    headers.remove(COOKIE);
    for value in all {
        let mut rest = pairs(&value);
        rest.retain(|pair| value_of(pair).is_none());
        if let Ok(rest) = HeaderValue::from_bytes(&rest.join(&b"; "[..]))
            && !rest.is_empty()
        {
            headers.append(COOKIE, rest);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";
    const NEXT: &str = "ffeeddccbbaa99887766554433221100";

    fn issuer<'a>(release: &'a str, keys: [Option<&'a str>; 2]) -> Issuer<'a> {
        Issuer { service: "shop", release, keys, secure: false }
    }

    fn by_cookie() -> Sticky {
        Sticky::Cookie { name: "seat".into() }
    }

    fn with(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(cookie).unwrap())])
    }

    /// Returns what a client sends back of a `Set-Cookie`.
    fn kept(cookie: &HeaderValue) -> String {
        cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn raising_the_weight_moves_nobody_back() {
        for seat in 0..WHOLE {
            let mut was_there = false;
            for weight in [0, 1, 500, 2_500, 9_999, WHOLE] {
                let there = drawn(&[WHOLE - weight, weight], Some(1), seat) == Some(1);
                assert!(there || !was_there, "seat {seat} at {weight}");
                was_there = there;
            }
            assert!(was_there);
        }
        let at = |weights: &[u16], candidate| {
            (0..WHOLE).filter(|seat| drawn(weights, candidate, *seat) == Some(1)).count()
        };
        assert_eq!(at(&[6_000, 3_000, 1_000], Some(2)), 3_000);
        assert_eq!(drawn(&[0, 0], Some(1), 0), None);
    }

    #[test]
    fn a_seat_is_kept_for_its_release_and_nobody_can_make_one() {
        let now = issuer("shop-2", [Some(KEY), None]);
        let given = seat(&by_cookie(), &mut HeaderMap::new(), Some(now)).unwrap();
        let cookie = kept(given.cookie.as_ref().unwrap());
        let mut headers = with(&format!("a=1; {cookie}; b=2"));
        let again = seat(&by_cookie(), &mut headers, Some(now)).unwrap();
        assert_eq!((again.number, again.cookie), (given.number, None));
        assert_eq!(headers[COOKIE], "a=1; b=2", "it is nothing for the target");
        // The key was changed: the one before is believed, until it is changed again.
        let rotated = issuer("shop-2", [Some(NEXT), Some(KEY)]);
        assert_eq!(seat(&by_cookie(), &mut with(&cookie), Some(rotated)).unwrap().number, given.number);
        let (head, _) = cookie.rsplit_once('.').unwrap();
        for other in [
            (cookie.replace("shop-2", "shop-3"), issuer("shop-3", [Some(KEY), None])),
            (cookie.clone(), issuer("shop-3", [Some(KEY), None])),
            (cookie.clone(), issuer("shop-2", [Some(NEXT), None])),
            (cookie.clone(), Issuer { service: "other", ..now }),
            (format!("{head}."), now),
            ("seat=".into(), now),
            ("seat=shop-2.10000.00".into(), now),
        ] {
            let given = seat(&by_cookie(), &mut with(&other.0), Some(other.1)).unwrap();
            assert!(given.cookie.is_some(), "{other:?} is believed");
        }
    }

    #[test]
    fn the_cookie_is_for_no_script_and_for_https_where_that_is_spoken() {
        let issuer = Issuer { secure: true, ..issuer("shop-2", [Some(KEY), None]) };
        let cookie = seat(&by_cookie(), &mut HeaderMap::new(), Some(issuer)).unwrap().cookie.unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    }

    #[test]
    fn a_header_gives_the_same_seat_to_the_same_client_and_another_in_the_next_release() {
        let sticky = Sticky::Header { name: "x-user".into() };
        let of = |user: &str, release| {
            let mut headers = HeaderMap::new();
            headers.insert("x-user", HeaderValue::try_from(user).unwrap());
            seat(&sticky, &mut headers, Some(issuer(release, [None, None]))).map(|seat| seat.number)
        };
        assert_eq!(of("ann", "shop-2"), of("ann", "shop-2"));
        assert_ne!(of("ann", "shop-2"), of("ann", "shop-3"));
        let low = (0..4_000).filter(|user| of(&user.to_string(), "shop-2") < Some(2_500)).count();
        assert!((900..1_100).contains(&low), "{low} of 4000 are in the first quarter");
        assert!(seat(&sticky, &mut HeaderMap::new(), Some(issuer("shop-2", [None, None]))).is_none());
    }

    #[test]
    fn without_a_release_nobody_needs_a_seat_and_the_cookie_goes_all_the_same() {
        let mut headers = with("seat=shop-1.5.abc");
        assert!(seat(&by_cookie(), &mut headers, None).is_none());
        assert!(headers.is_empty());
    }
}
