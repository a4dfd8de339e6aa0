//! Quantities of the release file: spans of time, sizes, route weights. Each reads and prints one way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not a quantity of the wanted kind; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {expected}")]
pub struct QuantityError {
    text: String,
    expected: &'static str,
}

/// A span of time in whole milliseconds: `500ms`, `30s`, `10m`, `2h`, `1d`, or a sum such as `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

const SPAN_EXPECTED: &str = "a duration: a number with its unit, such as 500ms, 30s, 10m, 2h or 1h30m";
const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Longer spans are typing errors; the bound also keeps every sum of times far from overflow.
const SPAN_MAX_MS: u64 = 366 * 86_400_000;

impl Span {
    /// Makes a span from milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Makes a span from seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// Returns the span in milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// Returns both spans one after the other.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns the span as the standard library's duration.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.into(), expected: SPAN_EXPECTED };
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number: u64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = &rest[..letters];
            let (_, ms) = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            total = number.checked_mul(*ms).and_then(|part| total.checked_add(part)).ok_or_else(error)?;
            rest = rest[letters..].trim_start();
        }
        if total > SPAN_MAX_MS {
            return Err(QuantityError { text: text.into(), expected: "a duration of at most 366 days" });
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, ms) in SPAN_UNITS {
            if rest >= ms {
                write!(f, "{}{name}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

/// A size in bytes: `512Ki`, `64Mi`, `2Gi`, or a plain number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

const SIZE_EXPECTED: &str = "a size: a number with Ki, Mi, Gi or Ti, such as 512Mi, or a number of bytes";
const SIZE_UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

impl Size {
    /// Makes a size from bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.into(), expected: SIZE_EXPECTED };
        let text = text.trim();
        let (number, factor) = SIZE_UNITS
            .iter()
            .find_map(|(name, factor)| text.strip_suffix(name).map(|number| (number, *factor)))
            .unwrap_or((text, 1));
        let number: u64 = number.trim().parse().map_err(|_| error())?;
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in SIZE_UNITS {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Processor cores in thousandths: `0.5`, `2`, `1.25`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cores(u32);

const CORES_EXPECTED: &str = "a number of cores in steps of 0.001, such as 0.5 or 2";

impl Cores {
    /// Makes cores from thousandths.
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }

    /// Returns the cores in thousandths.
    pub const fn milli(self) -> u32 {
        self.0
    }
}

impl FromStr for Cores {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.into(), expected: CORES_EXPECTED };
        let text = text.trim();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || whole.len() > 6 || !digits(fraction) || fraction.len() > 3 {
            return Err(error());
        }
        let milli: u32 = format!("{fraction:0<3}").parse().map_err(|_| error())?;
        Ok(Self(whole.parse::<u32>().map_err(|_| error())? * 1000 + milli))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        if milli == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{milli:03}").trim_end_matches('0'))
    }
}

/// A share of requests in basis points, 0..=10000; written in percent: `5%`, `0.5%`, `100%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

const WEIGHT_EXPECTED: &str = "a share in percent from 0% to 100%, in steps of 0.01, such as 5% or 99.9%";

impl Weight {
    /// Nothing.
    pub const ZERO: Weight = Weight(0);
    /// Everything.
    pub const FULL: Weight = Weight(10_000);

    /// Makes a weight from basis points; larger values are cut to everything.
    pub const fn from_bp(bp: u16) -> Self {
        Self(if bp > 10_000 { 10_000 } else { bp })
    }

    /// Tells whether it is nothing.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Returns the weight in basis points.
    pub const fn bp(self) -> u16 {
        self.0
    }

    /// Returns what is left of everything.
    pub const fn rest(self) -> Self {
        Self(10_000 - self.0)
    }
}

impl FromStr for Weight {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.into(), expected: WEIGHT_EXPECTED };
        let number = text.trim().strip_suffix('%').ok_or_else(error)?.trim();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || !digits(whole) || fraction.len() > 2 || !digits(fraction) {
            return Err(error());
        }
        let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| error())?;
        let bp = whole.parse::<u32>().map_err(|_| error())? * 100 + hundredths;
        // In 16 bits 656% would be 0.64%.
        u16::try_from(bp).ok().filter(|bp| *bp <= Self::FULL.0).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match hundredths {
            0 => write!(f, "{whole}%"),
            h if h % 10 == 0 => write!(f, "{whole}.{}%", h / 10),
            h => write!(f, "{whole}.{h:02}%"),
        }
    }
}

/// Requests a second, in thousandths: `200/s`, `0.5/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

const RATE_EXPECTED: &str = "a rate: requests a second from 0.001/s to 100000/s, such as 200/s or 0.5/s";

impl Rate {
    /// Makes a rate from requests in a thousand seconds.
    pub const fn from_per_1000_s(requests: u64) -> Self {
        Self(requests)
    }

    /// Returns how many requests there are in a thousand seconds.
    pub const fn per_1000_s(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.into(), expected: RATE_EXPECTED };
        let number = text.trim().strip_suffix("/s").ok_or_else(error)?.trim();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || whole.len() > 6 || !digits(fraction) || fraction.len() > 3 {
            return Err(error());
        }
        let milli: u64 = format!("{fraction:0<3}").parse().map_err(|_| error())?;
        let requests = whole.parse::<u64>().map_err(|_| error())? * 1000 + milli;
        if (1..=100_000_000).contains(&requests) { Ok(Self(requests)) } else { Err(error()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        if milli == 0 {
            return write!(f, "{whole}/s");
        }
        write!(f, "{whole}.{}/s", format!("{milli:03}").trim_end_matches('0'))
    }
}

macro_rules! text_quantity {
    ($type:ident, $expected:expr, $number:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": ["string", $number], "description": $expected })
            }
        }
    };
}

text_quantity!(Span, SPAN_EXPECTED, "integer");
text_quantity!(Size, SIZE_EXPECTED, "integer");
text_quantity!(Cores, CORES_EXPECTED, "number");
text_quantity!(Weight, WEIGHT_EXPECTED, "integer");
text_quantity!(Rate, RATE_EXPECTED, "integer");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print_the_same() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("1d", 86_400_000)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.ms(), span.to_string().as_str()), (ms, text));
        }
        assert_eq!(Span::from_ms(0).to_string(), "0s");
        assert_eq!("0s".parse::<Span>().unwrap().ms(), 0);
        for bad in ["", "30", "s", "30 parsecs", "-1s", "1.5s", "99999999999999999999s", "367d", "1s1"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_are_exact_to_a_basis_point() {
        for (text, bp) in [("5%", 500), ("0.5%", 50), ("0.05%", 5), ("99.9%", 9990), ("100%", 10_000)] {
            let weight: Weight = text.parse().unwrap();
            assert_eq!((weight.bp(), weight.to_string().as_str()), (bp, text));
        }
        for bad in
            ["", "%", "5", "101%", "656%", "999.99%", "1000%", "-1%", "0.001%", "1e2%", ".5%", "100.01%"]
        {
            assert!(bad.parse::<Weight>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_and_print_the_same() {
        for (text, bytes) in [("512Ki", 512 << 10), ("64Mi", 64 << 20), ("2Gi", 2 << 30), ("1000", 1000)] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        }
        for bad in ["", "Mi", "1.5Gi", "64MB", "99999999999Ti"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_exact_to_a_thousandth() {
        for (text, requests) in
            [("200/s", 200_000), ("0.5/s", 500), ("0.001/s", 1), ("100000/s", 100_000_000)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.per_1000_s(), rate.to_string().as_str()), (requests, text));
        }
        for bad in
            ["", "/s", "200", "200/m", "0/s", "100001/s", "-1/s", "1e3/s", "0.0005/s", "200 per second"]
        {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_exact_to_a_thousandth() {
        for (text, milli) in [("0.5", 500), ("2", 2000), ("1.25", 1250), ("0.001", 1), ("0", 0)] {
            let cores: Cores = text.parse().unwrap();
            assert_eq!((cores.milli(), cores.to_string().as_str()), (milli, text));
        }
        for bad in ["", ".5", "1.", "0.0005", "-1", "1e3", "500m", "2 cores", "9999999"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }
}
