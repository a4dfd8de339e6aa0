//! What holds whatever an input is: for the fuzz targets, and for the unit tests on a few inputs of their own.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

use crate::compiled::{Compiled, Live};
use crate::sticky::{Issuer, Sticky, seat};
use crate::table::{Table, WHOLE, normal_hosts};
use crate::validate::validate;

const NAME: &str = "seat";
const KEY: &str = "00112233445566778899aabbccddeeff";

/// A table that is taken routes each request that a service claims to that service, and loses nothing on disk.
///
/// Panics where that is broken; input that is no table promises nothing, and returns false.
pub fn table(json: &[u8]) -> bool {
    let Ok(table) = serde_json::from_slice::<Table>(json) else { return false };
    for (name, service) in &table.services {
        let mut rest = table.clone();
        rest.services.remove(name);
        if validate(name, service, &rest).is_err() {
            return false;
        }
    }
    let text = serde_json::to_vec(&table).expect("a table can be written");
    assert_eq!(serde_json::from_slice::<Table>(&text).expect("and read again"), table);
    let live = |_: &str| Live {
        gate: None,
        suspended: false,
        tripped: false,
        down: BTreeSet::new(),
        room: std::sync::Arc::default(),
        log: None,
    };
    let compiled = Compiled::build(&table, false, BTreeSet::new(), live);
    let anywhere: SocketAddr = ([127, 0, 0, 1], 1).into();
    for (name, service) in &table.services {
        let listener = *service.listen.first().unwrap_or(&anywhere);
        for host in normal_hosts(&service.hosts).iter().filter(|host| *host != "*") {
            let root = ["/".to_owned()];
            let paths = if service.paths.is_empty() { &root[..] } else { &service.paths };
            for path in paths {
                let found = compiled.find(host, path, listener).map(|at| &*compiled.services[at].name);
                assert_eq!(found, Some(name.as_str()), "{host}{path}");
            }
        }
    }
    for compiled in &compiled.services {
        let sum: u32 = compiled.weights.iter().map(|weight| u32::from(*weight)).sum();
        assert!(sum == 0 || sum == u32::from(WHOLE), "weights add up to {sum}");
    }
    true
}

/// A seat is one of ours or a new one, its cookie never reaches a target, and every other cookie does.
///
/// Takes the values of cookie headers, one a line; panics where that is broken.
pub fn cookies(lines: &[u8]) {
    let values = lines.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut headers: HeaderMap = values.map(|value| (COOKIE, value)).collect();
    let others = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let values =
            headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|at| *at == b';'));
        let pairs = values.map(|pair| pair.trim_ascii().to_vec()).filter(|pair| !pair.is_empty());
        pairs
            .filter(|pair| {
                pair.split(|at| *at == b'=').next().map(<[u8]>::trim_ascii) != Some(NAME.as_bytes())
            })
            .collect()
    };
    let issuer = Issuer { service: "shop", release: "r1", keys: [Some(KEY), None], secure: false };
    let sticky = Sticky::Cookie { name: NAME.into() };
    let before = others(&headers);
    let given = seat(&sticky, &mut headers, Some(issuer)).expect("there is a key");
    assert!(given.number < WHOLE);
    assert_eq!(others(&headers), before, "other cookies");
    let ours = |value: &HeaderValue| {
        let mut pairs = value.as_bytes().split(|at| *at == b';');
        pairs.any(|pair| pair.trim_ascii().starts_with(b"seat="))
    };
    assert!(!headers.get_all(COOKIE).iter().any(ours), "the target sees it: {headers:?}");
    if let Some(cookie) = given.cookie {
        let said = cookie.to_str().expect("text").split(';').next().expect("a pair").to_owned();
        let mut again = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(said).expect("a value"))]);
        let known = seat(&sticky, &mut again, Some(issuer)).expect("there is a key");
        assert!(known.cookie.is_none() && known.number == given.number && again.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn tables_keep_their_promises() {
        for seed in std::fs::read_dir("../../fuzz/seeds/route_table").expect("the seeds") {
            assert!(super::table(&std::fs::read(seed.expect("a seed").path()).expect("a file")));
        }
    }

    proptest! {
        #[test]
        fn cookies_keep_their_promises(lines in proptest::collection::vec("(seat|a|b)?( ?= ?)?[a-z0-9.\\x80-\\xff]{0,8}(; (seat|c)=[a-z0-9.]{0,9}){0,3}", 0..4)) {
            super::cookies(lines.join("\n").as_bytes());
        }
    }
}
