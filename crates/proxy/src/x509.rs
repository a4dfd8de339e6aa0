//! What rustls does not tell of a certificate: from when to when it is valid (RFC 5280, 4.1.2.5), and who it is.

/// Returns the first and the last second, since 1970, in which a certificate in DER is valid.
pub(crate) fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if let (VERSION, _, after) = element(rest)? {
        rest = after;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, validity, _) = element(rest)? else { return None };
    let (from_tag, from, rest) = element(validity)?;
    let (to_tag, to, _) = element(rest)?;
    Some((seconds(from_tag, from)?, seconds(to_tag, to)?))
}

/// Returns the identifier of the key that signed a certificate (RFC 5280, 4.2.1.1), and its serial number as it is written.
#[cfg(feature = "acme")]
pub(crate) fn identity(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if let (VERSION, _, after) = element(rest)? {
        rest = after;
    }
    let (INTEGER, serial, mut rest) = element(rest)? else { return None };
    let extensions = loop {
        match element(rest)? {
            (EXTENSIONS, extensions, _) => break element(extensions)?.1,
            (_, _, after) => rest = after,
        }
    };
    let mut rest = extensions;
    loop {
        let (SEQUENCE, extension, after) = element(rest)? else { return None };
        rest = after;
        let (OBJECT_IDENTIFIER, name, mut value) = element(extension)? else { return None };
        if name != AUTHORITY_KEY {
            continue;
        }
        if let (BOOLEAN, _, after) = element(value)? {
            value = after;
        }
        let (OCTET_STRING, value, _) = element(value)? else { return None };
        let (SEQUENCE, value, _) = element(value)? else { return None };
        let (KEY_IDENTIFIER, key, _) = element(value)? else { return None };
        return Some((key, serial));
    }
}

/// Returns the day of a second since 1970, such as `2026-11-24`.
pub fn day(second: i64) -> String {
    // Howard Hinnant's civil_from_days: years begin in March, so that the leap day is the last.
    let shifted = second.div_euclid(86_400) + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + i64::from(month <= 2))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
#[cfg(feature = "acme")]
mod tags {
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const KEY_IDENTIFIER: u8 = 0x80;
    pub(super) const EXTENSIONS: u8 = 0xa3;
    /// 2.5.29.35
    pub(super) const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];
}
#[cfg(feature = "acme")]
use tags::{AUTHORITY_KEY, BOOLEAN, EXTENSIONS, INTEGER, KEY_IDENTIFIER, OBJECT_IDENTIFIER, OCTET_STRING};
const GENERALIZED_TIME: u8 = 0x18;

/// Returns the tag and the content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        // Two digits of the year: 1950 to 2049.
        (UTC_TIME, 12) => (number(&digits[..2]), &digits[2..]),
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let year = match tag {
        UTC_TIME if year < 50 => year + 2_000,
        UTC_TIME => year + 1_900,
        _ => year,
    };
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let (month, day) = (part(0), part(1));
    // Howard Hinnant's days_from_civil.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + part(2) * 3_600 + part(3) * 60 + part(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_kinds_are_read() {
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, b"240229235959Z"), Some(1_709_251_199));
        assert_eq!(seconds(GENERALIZED_TIME, b"20500301000000Z"), Some(2_529_705_600));
        assert_eq!(seconds(UTC_TIME, b"2402292359Z"), None);
        for second in [0, 951_782_400, 1_709_164_800, 1_709_251_200, 2_529_705_600] {
            let text = format!("{}000000Z", day(second).replace('-', ""));
            assert_eq!(seconds(GENERALIZED_TIME, text.as_bytes()), Some(second), "{text}");
        }
    }

    #[cfg(feature = "acme")]
    #[test]
    fn a_certificate_is_told_by_its_issuers_key_and_its_number() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap();
        params.serial_number = Some(vec![0x01, 0xfe, 0x02].into());
        let without = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(identity(&without), None, "nobody says who signed it");
        params.use_authority_key_identifier_extension = true;
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let (signer, serial) = identity(&der).unwrap();
        assert_eq!((signer, serial), (&*params.key_identifier(&key), &[0x01, 0xfe, 0x02][..]));
        for cut in 0..der.len() {
            assert_eq!(identity(&der[..cut]), None);
        }
    }

    #[test]
    fn a_certificate_that_is_cut_off_has_no_validity() {
        let (from, to) = (rcgen::date_time_ymd(2020, 2, 29), rcgen::date_time_ymd(2051, 1, 1));
        let mut params = rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap();
        (params.not_before, params.not_after) = (from, to);
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let (first, last) = validity(&der).unwrap();
        assert_eq!((first, last), (from.unix_timestamp(), to.unix_timestamp()));
        assert_eq!((day(first), day(last)), ("2020-02-29".into(), "2051-01-01".into()));
        for cut in 0..der.len() {
            assert_eq!(validity(&der[..cut]), None);
        }
    }
}
