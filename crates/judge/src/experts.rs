//! What the candidate may be suspected of: a fixed list of alternatives to "as stable".
//!
//! An expert is a likelihood ratio r(y) = P(y at the candidate) / P(y at stable) over classes of outcomes. Any positive r
//! gives a fair bet; a good one gives a quick verdict.

use std::fmt;

use crate::baseline::{Estimates, LatencyShape, P90, P99, P999, fraction};
use crate::math::{normal, normal_quantile};
use crate::outcome::{BUCKETS, CLASSES, Class};

/// Number of experts.
pub(crate) const EXPERTS: usize = 18;

/// The share of the stake that each expert bets with: ¾ on errors, a good fifth on latency, the rest on client errors.
///
/// What is small takes long to prove and needs the larger stake; what is plain is proven by two or three requests anyway.
pub(crate) const WEIGHTS: [f64; EXPERTS] = [
    0.13, 0.10, 0.09, 0.10, 0.10, 0.08, 0.10, 0.05, 0.03, 0.03, 0.03, 0.02, 0.03, 0.03, 0.03, 0.03, 0.01,
    0.01,
];

/// What one expert suspects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expert {
    /// The error rate is this many times stable's.
    ErrorsTimes(f64),
    /// The error rate is this much above stable's.
    ErrorsPlus(f64),
    /// The error rate is this, whatever stable's is.
    ErrorsAt(f64),
    /// Every request is slower, by this many of stable's own standard deviations.
    Shift(f64),
    /// So many requests are slower than this edge.
    Tail(usize, f64),
    /// The rate of client errors is this many times stable's.
    ClientErrorsTimes(f64),
    /// The rate of client errors is this, whatever stable's is.
    ClientErrorsAt(f64),
}

use Expert::*;

/// All of them. The latency experts hold what a service slows down by: a bit everywhere, or a lot for a few.
pub(crate) const LIST: [Expert; EXPERTS] = [
    ErrorsTimes(2.0),
    ErrorsTimes(4.0),
    ErrorsPlus(0.007),
    ErrorsPlus(0.02),
    ErrorsPlus(0.07),
    ErrorsPlus(0.20),
    ErrorsPlus(0.45),
    ErrorsAt(0.95),
    Shift(0.2),
    Shift(0.6),
    Shift(1.5),
    Tail(P90, 0.20),
    Tail(P99, 0.03),
    Tail(P99, 0.08),
    Tail(P999, 0.005),
    Tail(P999, 0.03),
    ClientErrorsTimes(4.0),
    ClientErrorsAt(0.95),
];

impl Expert {
    /// r(y) for each class; all ones where the expert has nothing to say.
    pub(crate) fn ratios(self, estimates: &Estimates) -> [f64; CLASSES] {
        let errors = fraction(estimates.errors_ppb);
        let client = fraction(estimates.client_errors_ppb);
        match self {
            ErrorsTimes(_) | ErrorsPlus(_) | ErrorsAt(_) => {
                let suspected = self.error_rate(errors);
                suspected.map_or([1.0; CLASSES], |rate| binary(errors, rate, Class::failed))
            }
            ClientErrorsTimes(times) => raised(client, client * times)
                .map_or([1.0; CLASSES], |rate| binary(client, rate, |class| class == Class::CLIENT_ERROR)),
            ClientErrorsAt(rate) => raised(client, rate)
                .map_or([1.0; CLASSES], |rate| binary(client, rate, |class| class == Class::CLIENT_ERROR)),
            Shift(by) => estimates.latency.as_ref().map_or([1.0; CLASSES], |shape| shifted(shape, by)),
            Tail(edge, rate) => {
                estimates.latency.as_ref().map_or([1.0; CLASSES], |shape| tail(shape, edge, rate))
            }
        }
    }

    /// The error rate that is suspected where `baseline` is stable's; none if that is not an increase.
    pub(crate) fn error_rate(self, baseline: f64) -> Option<f64> {
        match self {
            ErrorsTimes(times) => raised(baseline, baseline * times),
            ErrorsPlus(plus) => raised(baseline, baseline + plus),
            ErrorsAt(rate) => raised(baseline, rate),
            _ => None,
        }
    }
}

/// A suspicion is an increase to 97 % at most: of a certainty a single success would take everything.
fn raised(from: f64, to: f64) -> Option<f64> {
    let to = to.min(0.97);
    (to > from * 1.01).then_some(to)
}

fn binary(stable: f64, candidate: f64, bad: impl Fn(Class) -> bool) -> [f64; CLASSES] {
    let mut ratios = [(1.0 - candidate) / (1.0 - stable); CLASSES];
    for class in Class::all().filter(|class| bad(*class)) {
        ratios[class.index()] = candidate / stable;
    }
    ratios
}

/// The buckets under a normal distribution that is moved by `by`, after the scale on which stable's is normal.
fn shifted(shape: &LatencyShape, by: f64) -> [f64; CLASSES] {
    let mut ratios = [1.0; CLASSES];
    let (mut below, mut below_shifted) = (0.0, 0.0);
    for (bucket, ratio) in ratios.iter_mut().enumerate().take(BUCKETS) {
        let up_to = shape.up_to_ppb.get(bucket).map_or(1.0, |ppb| fraction(*ppb));
        let shifted = if bucket + 1 == BUCKETS { 1.0 } else { normal(normal_quantile(up_to) - by) };
        *ratio = ((shifted - below_shifted) / (up_to - below).max(1e-9)).clamp(1e-4, 1e4);
        (below, below_shifted) = (up_to, shifted);
    }
    ratios
}

fn tail(shape: &LatencyShape, edge: usize, rate: f64) -> [f64; CLASSES] {
    let stable = shape.beyond(edge);
    // Below a fifth more there is nothing to suspect; the estimate itself is no better.
    if rate < stable * 1.2 {
        return [1.0; CLASSES];
    }
    let mut ratios = binary(stable, rate, |class| class.bucket().is_some_and(|bucket| bucket > edge));
    // What has no latency says nothing about it.
    ratios[BUCKETS..].fill(1.0);
    ratios
}

impl fmt::Display for Expert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ErrorsTimes(times) => write!(f, "about {times:.0} times as many errors as stable"),
            ErrorsPlus(plus) => {
                write!(f, "about {:.1} percentage points more errors than stable", plus * 100.0)
            }
            ErrorsAt(_) => write!(f, "hardly a request that does not fail"),
            Shift(by) if by < 0.4 => write!(f, "all requests a little slower than at stable"),
            Shift(by) if by < 1.0 => write!(f, "all requests clearly slower than at stable"),
            Shift(_) => write!(f, "all requests much slower than at stable"),
            Tail(P90, _) => {
                write!(f, "twice as many slow requests as at stable (beyond its 90th percentile)")
            }
            Tail(P99, rate) => {
                write!(
                    f,
                    "about {:.0} times as many very slow requests as at stable (beyond its 99th percentile)",
                    rate / 0.01
                )
            }
            Tail(_, rate) => {
                write!(
                    f,
                    "about {:.0} times as many hanging requests as at stable (beyond its 99.9th percentile)",
                    rate / 0.001
                )
            }
            ClientErrorsTimes(times) => write!(f, "about {times:.0} times as many 4xx answers as stable"),
            ClientErrorsAt(_) => write!(f, "hardly a request that is not answered with a 4xx status"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stakes_are_one() {
        assert!((WEIGHTS.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_suspicion_is_more_than_stable_has() {
        for baseline in [1e-6, 0.001, 0.5, 0.96, 0.999] {
            for expert in LIST {
                assert!(expert.error_rate(baseline).is_none_or(|rate| rate > baseline && rate <= 0.97));
            }
        }
    }
}
