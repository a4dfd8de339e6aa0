//! What somebody meant who wrote `10min`, `0.99`, `512MB` or `localhost:8080`.

use std::net::{IpAddr, SocketAddr};

use super::tree::short;
use crate::units::{Size, Span};

/// Splits what a quantity says of itself (`"10" is not a duration: …`) into what is wrong and what to do.
pub(super) fn quantity(text: &str) -> Option<(String, String)> {
    let (what, expected) = text.split_once("\" is not ")?;
    let written = what.strip_prefix('"')?;
    let Some((kind, expected)) = expected.split_once(": ").or_else(|| expected.split_once(" from ")) else {
        return Some((format!("\"{}\" is not {expected}", short(written)), "give less".into()));
    };
    let (guess, expected) = match kind {
        "a duration" => (duration(written), expected.to_string()),
        "a size" => (size(written), expected.to_string()),
        "a share in percent" => (share(written), format!("a share from {expected}")),
        _ => (None, expected.to_string()),
    };
    let hint = match guess {
        Some(guess) => format!("did you mean {guess}? Write {expected}"),
        None => format!("write {expected}"),
    };
    Some((format!("\"{}\" is not {kind}", short(written)), hint))
}

/// A number and what follows it.
fn parts(written: &str) -> Option<(f64, String)> {
    let end = written.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(written.len());
    let (number, unit) = written.split_at(end);
    let number = number.parse::<f64>().ok().filter(|number| number.is_finite() && *number < 1e9)?;
    Some((number, unit.trim().to_lowercase()))
}

fn duration(written: &str) -> Option<String> {
    let (number, unit) = parts(written)?;
    let ms = match unit.as_str() {
        "" if number.fract() == 0.0 => return Some(format!("`{written}s`, `{written}m` or `{written}ms`")),
        "ms" | "msec" | "msecs" | "millis" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600e3,
        "d" | "day" | "days" => 86_400e3,
        "w" | "week" | "weeks" => 604_800e3,
        _ => return None,
    };
    let span = Span::from_ms(whole(number * ms)?);
    span.to_string().parse::<Span>().is_ok().then(|| format!("`{span}`"))
}

fn size(written: &str) -> Option<String> {
    let (number, unit) = parts(written)?;
    let unit = unit.strip_suffix("bytes").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit).trim();
    let factor = match unit.strip_suffix('i').unwrap_or(unit) {
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    #[allow(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let bytes = whole(number * (1_u64 << factor) as f64)?;
    Some(format!("`{}`", Size::from_bytes(bytes)))
}

fn share(written: &str) -> Option<String> {
    let (number, unit) = parts(written)?;
    // 0.995 is 99.5 %; more places than a basis point are floating-point noise.
    match unit.as_str() {
        "" if number > 0.0 && number < 1.0 => Some(format!("`{}%`", (number * 10_000.0).round() / 100.0)),
        "" if (1.0..=100.0).contains(&number) => Some(format!("`{}%`", (number * 100.0).round() / 100.0)),
        "%" if number <= 100.0 => Some(format!("`{}%`", (number * 100.0).floor() / 100.0)),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn whole(number: f64) -> Option<u64> {
    (0.0..=9e15).contains(&number).then_some(number.round() as u64)
}

/// The address that was meant by a port, by `localhost`, or by a URL.
pub(super) fn address(written: &str) -> Option<SocketAddr> {
    let text = written.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split('/').next().unwrap_or(text);
    if let Ok(port) = text.parse::<u16>() {
        return Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        "" | "*" => Some(SocketAddr::from(([0, 0, 0, 0], port))),
        "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        host => host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)),
    }
}
