//! What is to be sent, to whom, and how fast.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

/// Clients, or connections, that one test may have.
const MOST_CLIENTS: usize = 10_000;
/// Requests a second that one test may send.
const MOST_PER_S: u64 = 100_000;
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A load test.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What is asked, and how often compared with the others. Never empty.
    pub scenarios: Vec<Scenario>,
    /// How fast.
    pub pace: Pace,
    /// For how long requests are sent; the last answers are awaited beyond it, for `timeout` at most.
    pub span: Duration,
    /// A request that is not answered whole within this time failed.
    pub timeout: Duration,
    /// What the targets speak, without TLS.
    pub protocol: Protocol,
    /// Who may be asked.
    pub against: Against,
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Open loop: at a constant rate, to each side.
    Rate {
        /// Requests in a thousand seconds: 200,000 are 200 a second.
        per_1000_s: u64,
        /// The most requests that may be open at once to one side; with HTTP/1.1 each has a connection. One that is due when
        /// as many are open is not sent, and counts as failed.
        open: usize,
    },
    /// Closed loop: so many clients, each of which waits for its answer.
    Clients {
        /// How many.
        count: usize,
        /// All send one request, wait until all are answered, and pause for so long. Without it each sends its next request at
        /// once.
        pause: Option<Duration>,
    },
}

/// One kind of request.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What reports call it, such as `GET /api/products`.
    pub name: String,
    /// Its share of the requests, in parts of the sum of all weights; at least 1.
    pub weight: u32,
    /// The method.
    pub method: Method,
    /// The path and query, from `/`.
    pub path: PathAndQuery,
    /// The headers; `Host` is sent as it stands here, or else names the target's address.
    pub headers: HeaderMap,
    /// The body; without one, none is sent.
    pub body: Bytes,
    /// The statuses of answers that succeeded.
    pub expect: RangeInclusive<u16>,
}

/// What targets speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Whose targets may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Against {
    /// The candidate's alone.
    #[default]
    Candidate,
    /// The candidate's and stable's, at the same time and with the same requests; each gets the whole pace.
    Both,
}

/// A revision under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The revision to come.
    Candidate,
    /// The one that has the traffic.
    Stable,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Side::Candidate => "candidate",
            Side::Stable => "stable",
        })
    }
}

/// An instance, and whose it is. Redirects are never followed, so nothing else is ever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose it is.
    pub side: Side,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why a test does not begin. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A target that the test was not told it may ask.
    #[error(
        "{address} is not the candidate's: load is sent to the candidate alone unless both sides are asked for"
    )]
    NotTheCandidates {
        /// Where it listens.
        address: SocketAddr,
    },
    /// One address under two names.
    #[error("{address} is given as the candidate's and as stable's: they cannot be compared")]
    Both {
        /// Where it listens.
        address: SocketAddr,
    },
    /// Nobody to ask.
    #[error("there is no instance of {side} to send load to")]
    NoTarget {
        /// Of which side.
        side: Side,
    },
    /// The test makes no sense.
    #[error("{what}")]
    Senseless {
        /// What does not, and what to give instead.
        what: String,
    },
}

impl Spec {
    /// Tells whether the test can be run as it stands, against these targets.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn check(&self, targets: &[Target]) -> Result<(), SpecError> {
        let senseless = |what: String| Err(SpecError::Senseless { what });
        if self.scenarios.is_empty() || self.scenarios.iter().any(|scenario| scenario.weight == 0) {
            return senseless("each test has scenarios, each with a weight of 1 or more".into());
        }
        if self.span.is_zero() || self.timeout.is_zero() || self.span.max(self.timeout) > LONGEST {
            return senseless("a test and its timeout take some time, a day at most".into());
        }
        match self.pace {
            Pace::Rate { per_1000_s, open } => {
                if !(1..=MOST_PER_S * 1000).contains(&per_1000_s) {
                    return senseless(format!("give a rate of at most {MOST_PER_S} requests a second"));
                }
                if !(1..=MOST_CLIENTS).contains(&open) {
                    return senseless(format!("give 1 to {MOST_CLIENTS} requests that may be open at once"));
                }
            }
            Pace::Clients { count, .. } if !(1..=MOST_CLIENTS).contains(&count) => {
                return senseless(format!("give 1 to {MOST_CLIENTS} clients"));
            }
            Pace::Clients { .. } => {}
        }
        self.check_targets(targets)
    }

    fn check_targets(&self, targets: &[Target]) -> Result<(), SpecError> {
        let of = |side: Side| targets.iter().filter(move |target| target.side == side).map(|t| t.address);
        if let Some(address) = of(Side::Stable).find(|address| of(Side::Candidate).any(|own| own == *address))
        {
            return Err(SpecError::Both { address });
        }
        match (self.against, of(Side::Stable).next()) {
            (Against::Candidate, Some(address)) => return Err(SpecError::NotTheCandidates { address }),
            (Against::Both, None) => return Err(SpecError::NoTarget { side: Side::Stable }),
            _ => {}
        }
        match of(Side::Candidate).next() {
            Some(_) => Ok(()),
            None => Err(SpecError::NoTarget { side: Side::Candidate }),
        }
    }
}

impl Pace {
    /// Returns the requests a second, to each side, that it never exceeds; none for clients, which have no rate.
    pub fn per_s(&self) -> Option<f64> {
        match self {
            Pace::Rate { per_1000_s, .. } => Some(*per_1000_s as f64 / 1000.0),
            Pace::Clients { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(against: Against) -> Spec {
        Spec {
            scenarios: vec![Scenario {
                name: "GET /".into(),
                weight: 1,
                method: Method::GET,
                path: PathAndQuery::from_static("/"),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                expect: 200..=399,
            }],
            pace: Pace::Clients { count: 1, pause: None },
            span: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            protocol: Protocol::Http1,
            against,
        }
    }

    fn said(against: Against, targets: &[(Side, u16)]) -> String {
        let target =
            |(side, port): &(Side, u16)| Target { side: *side, address: ([127, 0, 0, 1], *port).into() };
        let targets: Vec<Target> = targets.iter().map(target).collect();
        spec(against).check(&targets).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_not_the_candidates_is_refused_unless_it_is_asked_for() {
        use Side::{Candidate, Stable};
        assert_eq!(said(Against::Candidate, &[(Candidate, 1)]), "");
        assert_eq!(said(Against::Both, &[(Candidate, 1), (Stable, 2)]), "");
        assert_eq!(
            said(Against::Candidate, &[(Candidate, 1), (Stable, 2)]),
            "127.0.0.1:2 is not the candidate's: load is sent to the candidate alone unless both sides are asked for"
        );
        assert_eq!(
            said(Against::Both, &[(Candidate, 1), (Stable, 1)]),
            "127.0.0.1:1 is given as the candidate's and as stable's: they cannot be compared"
        );
        assert_eq!(said(Against::Both, &[(Candidate, 1)]), "there is no instance of stable to send load to");
        assert_eq!(said(Against::Candidate, &[]), "there is no instance of candidate to send load to");
    }

    #[test]
    fn a_test_that_makes_no_sense_does_not_begin() {
        let target = [Target { side: Side::Candidate, address: ([127, 0, 0, 1], 1).into() }];
        for pace in [
            Pace::Rate { per_1000_s: 0, open: 1 },
            Pace::Rate { per_1000_s: 1000, open: 0 },
            Pace::Rate { per_1000_s: u64::MAX, open: 1 },
            Pace::Clients { count: 0, pause: None },
        ] {
            let spec = Spec { pace, ..spec(Against::Candidate) };
            assert!(matches!(spec.check(&target), Err(SpecError::Senseless { .. })), "{pace:?}");
        }
        let spec = Spec { scenarios: Vec::new(), ..spec(Against::Candidate) };
        assert!(matches!(spec.check(&target), Err(SpecError::Senseless { .. })));
    }
}
