//! The few functions that the formulas need, made of the basic operations alone.
//!
//! IEEE 754 says to the bit what `+ - * /` and `sqrt` return; it does not for `exp` and `ln`, and every C library rounds
//! them in its own way. A verdict must come out the same on the machine of the person who asks afterwards, so nothing
//! here calls the platform's.

use std::f64::consts::{LN_2, LOG2_E, PI};

/// Units of [`Nats`] in one nat.
const UNITS: f64 = (1u64 << 32) as f64;

/// A logarithm of wealth in units of 2⁻³² nats.
pub(crate) type Nats = i64;

/// Returns `x` nats as an integer that is never more than `x`, so that rounding takes from a bet and never adds to it.
///
/// Zero stays zero; everything else loses up to two units, one of them for what `ln` itself may be wrong by.
pub(crate) fn nats(x: f64) -> Nats {
    if x == 0.0 { 0 } else { (x * UNITS).floor() as Nats - 1 }
}

/// The inverse of [`nats`].
pub(crate) fn from_nats(x: Nats) -> f64 {
    x as f64 / UNITS
}

/// eˣ, to about 10⁻¹⁵.
pub(crate) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    let k = (x * LOG2_E + 0.5).floor();
    // ln 2 in two parts, so that the remainder keeps its last bits.
    const HIGH: f64 = 0.693_147_180_369_123_8;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    let r = (x - k * HIGH) - k * LOW;
    let mut sum = 1.0;
    for i in (1..=14).rev() {
        sum = 1.0 + sum * r / f64::from(i);
    }
    sum * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// The natural logarithm of a positive, normal number, to about 10⁻¹⁵.
pub(crate) fn ln(x: f64) -> f64 {
    debug_assert!(x.is_normal() && x > 0.0, "ln of {x}");
    let bits = x.to_bits();
    let mut power = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        power += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    for i in (0..13).rev() {
        sum = sum * square + 1.0 / f64::from(2 * i + 1);
    }
    power as f64 * LN_2 + 2.0 * t * sum
}

/// The normal distribution function, by Marsaglia's series (Evaluating the Normal Distribution, 2004).
pub(crate) fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut i) = (x, x, 1.0);
    while term.abs() > 1e-17 && i < 400.0 {
        i += 2.0;
        term *= x * x / i;
        sum += term;
    }
    (0.5 + sum * exp(-x * x / 2.0) / (2.0 * PI).sqrt()).clamp(0.0, 1.0)
}

/// The inverse of [`normal`], by bisection: it is asked 15 times per epoch.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    bisect(-8.0, 8.0, 40, |x| normal(x) < p)
}

/// The place between `low` and `high` where `below` ceases to hold.
pub(crate) fn bisect(mut low: f64, mut high: f64, steps: u32, below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..steps {
        let middle = (low + high) / 2.0;
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// The logarithm of Σ weight · e^log, always summed in the order of the arguments.
pub(crate) fn ln_mixture(logs: &[Nats], weights: &[f64]) -> f64 {
    let most = logs.iter().copied().max().unwrap_or(0);
    let sum: f64 = logs.iter().zip(weights).map(|(&log, weight)| weight * exp(from_nats(log - most))).sum();
    from_nats(most) + ln(sum.max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_agree_with_the_platforms() {
        for i in -2000..=2000 {
            let x = f64::from(i) / 7.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "exp {x}");
            let y = x.abs() + 1e-7;
            assert!((ln(y) - y.ln()).abs() < 1e-14 * (1.0 + y.ln().abs()), "ln {y}");
        }
        assert_eq!((exp(-1e9), exp(0.0), ln(1.0)), (0.0, 1.0, 0.0));
    }

    #[test]
    fn the_normal_distribution_is_the_tables() {
        for (x, p) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_543),
            (-1.96, 0.024_997_895_148_220_4),
            (3.0, 0.998_650_101_968_37),
        ] {
            assert!((normal(x) - p).abs() < 1e-12, "{x}: {}", normal(x));
            assert!((normal_quantile(p) - x).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }

    #[test]
    fn a_logarithm_is_only_rounded_down() {
        for i in 1..1000 {
            let x = ln(f64::from(i) / 500.0);
            assert!(from_nats(nats(x)) <= x && x - from_nats(nats(x)) < 1e-9, "{x}");
        }
        assert_eq!(nats(0.0), 0);
    }

    #[test]
    fn a_mixture_is_the_weighted_mean_of_wealths() {
        let logs = [nats(ln(3.0)), nats(ln(200.0))];
        assert!((ln_mixture(&logs, &[0.5, 0.5]) - ln(101.5)).abs() < 1e-8);
        // Too far apart for a plain sum.
        assert!((ln_mixture(&[nats(5000.0), nats(-5000.0)], &[0.5, 0.5]) - 4_999.306_852_819).abs() < 1e-6);
    }
}
