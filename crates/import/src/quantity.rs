//! Sizes, times and cores as Docker writes them.

use cutover_core::{Cores, Size, Span};

/// Reads `512m`, `1.5gb`, `64MiB` or plain bytes; powers of 1024, as Docker counts.
pub(crate) fn size(text: &str) -> Option<Size> {
    let text = text.trim().to_lowercase().replace('_', "");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * f64::from(1_u32 << 15).powi(shift / 15) * f64::from(1_u32 << (shift % 15));
    // Beyond 2^53 a float would round; nobody has that much memory.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes.is_finite() && (0.0..9e15).contains(&bytes)).then(|| Size::from_bytes(bytes as u64))
}

/// Reads `1m30s`, `500ms`, `1.5h`; a plain number is `unit_ms` each where the tool allows one.
pub(crate) fn span(text: &str, unit_ms: Option<u64>) -> Option<Span> {
    let text = text.trim();
    if let (Ok(number), Some(unit)) = (text.parse::<f64>(), unit_ms) {
        return milliseconds(number, unit);
    }
    let mut rest = text;
    let mut total = Span::default();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let number: f64 = number.parse().ok()?;
        let part = match unit.trim() {
            "h" => milliseconds(number, 3_600_000)?,
            "m" => milliseconds(number, 60_000)?,
            "s" => milliseconds(number, 1000)?,
            "ms" => milliseconds(number, 1)?,
            "us" | "µs" => milliseconds(number / 1000.0, 1)?,
            "ns" => milliseconds(number / 1e6, 1)?,
            _ => return None,
        };
        total = total.plus(part);
        rest = behind;
    }
    (total.ms() <= MOST_MS).then_some(total)
}

/// What a release file holds at most.
const MOST_MS: u64 = 366 * 86_400_000;

fn milliseconds(number: f64, unit_ms: u64) -> Option<Span> {
    #[allow(clippy::cast_precision_loss)]
    let ms = number * unit_ms as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    (ms.is_finite() && (0.0..=MOST_MS as f64).contains(&ms)).then(|| Span::from_ms(ms.round() as u64))
}

/// Reads a number of cores, rounded to thousandths.
pub(crate) fn cores(text: &str) -> Option<Cores> {
    let number: f64 = text.trim().parse().ok()?;
    let milli = (number * 1000.0).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (milli.is_finite() && (10.0..1e8).contains(&milli)).then(|| Cores::from_milli(milli as u32))
}

/// Reads a whole number, with `_` between digits as YAML allows them.
pub(crate) fn whole(text: &str) -> Option<u32> {
    text.trim().replace('_', "").parse().ok()
}

/// Reads a port.
pub(crate) fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_docker() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1.5gb", 3 << 29),
            ("64MiB", 64 << 20),
            ("1024", 1024),
            ("2T", 2 << 40),
            ("0", 0),
        ] {
            assert_eq!(size(text).map(Size::bytes), Some(bytes), "{text}");
        }
        for bad in ["", "m", "-1", "12x", "99999999999999999t", "1.2.3m"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_those_of_docker() {
        for (text, ms) in [("1m30s", 90_000), ("500ms", 500), ("1.5h", 5_400_000), ("2500us", 3), ("0s", 0)] {
            assert_eq!(span(text, None).map(Span::ms), Some(ms), "{text}");
        }
        assert_eq!(span("10", Some(1000)).map(Span::ms), Some(10_000));
        for bad in ["", "10", "s", "1d", "-1s", "1e400s", "99999999h"] {
            assert_eq!(span(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn cores_are_rounded_to_thousandths() {
        assert_eq!(cores("0.5").map(Cores::milli), Some(500));
        assert_eq!(cores("1.23456").map(Cores::milli), Some(1235));
        for bad in ["", "0", "0.001", "-1", "inf", "nan", "two"] {
            assert_eq!(cores(bad), None, "{bad}");
        }
    }
}
