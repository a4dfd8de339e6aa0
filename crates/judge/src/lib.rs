//! Says whether a candidate is worse than stable, as good, or not known yet; at any moment, and with a known chance of error.
//!
//! Pure: counts and times come in, a [`Verdict`] comes out. No clock, no randomness, no file, no socket, no dependency but
//! serde's traits. `examples/canary.rs` is a whole release in 60 lines.
//!
//! # The idea: test the label
//!
//! A proxy gives each request to the candidate with a probability `s` that it knows. If the candidate is no worse, which
//! arm a request had says nothing about what came of it, **whatever the traffic does**: outages, drift and bursts hit both
//! arms alike. So the judge bets on the label given the outcome. For a suspicion (an "expert") with likelihood ratio
//! `r(y) = P(y at the candidate) / P(y at stable)`, a request with outcome `y` multiplies the stake by
//!
//! ```text
//! r(y)/d  at the candidate,   1/d  at stable,   d = s·r(y) + 1 − s
//! ```
//!
//! which is 1 on average, given `y` and everything before, if label and outcome are independent. The stake is a
//! non-negative martingale then, and by Ville's inequality (1939) reaches 1/α with a chance of at most α, however often one
//! looks. [`Judge`] spreads its stake over 18 experts (8 on errors, 8 on latency, 2 on client errors) and fails the
//! candidate at 1/α = 100. A mean of martingales is one: α covers all experts and the whole release together.
//! Only [`Failure`]s that name two bad requests, and that hold if the observed split is put in place of `s`, are told.
//!
//! Betting on labels: Shekhar & Ramdas, arXiv 2112.09162; Lindon & Malek, arXiv 2011.03567. Two streams of successes and
//! failures: Turner, Ly & Grünwald, arXiv 2106.02693.
//!
//! # Passing
//!
//! For H₀ "the candidate fails more often by the margin m or more", with both believed to fail at θ: `a` solves
//! `(1−s)(θ−a)/(a(1−a)) + s(θ−a−m)/((a+m)(1−a−m)) = 0`, and a request multiplies the stake by
//!
//! ```text
//! θ/(a+m) or (1−θ)/(1−a−m)  at the candidate,   θ/a or (1−θ)/(1−a)  at stable      (failed or not)
//! ```
//!
//! The mean is linear in both error rates, depends on their difference alone by the choice of `a`, is 1 at the margin and
//! less beyond. [`Judge::verdict`] passes at 1/β = 100. Latency is the same question about requests that are slower than
//! stable's median and 99th percentile.
//!
//! # Counts, epochs and fixed point
//!
//! What an epoch bets on ([`Terms`]: share, estimates of stable, bucket edges) is fixed before its first request, from
//! closed epochs only. So the logarithm of wealth is a sum over counts (epoch, arm, class), and
//!
//! - one request costs one lookup and 26 additions;
//! - the [`Tally`]s of several threads add up to what one thread would have had;
//! - a verdict can be computed again from the journal: [`replay`].
//!
//! These sums are of **integers**, in units of 2⁻³² nats. Sums of floating-point numbers depend on their order, hence on
//! which thread was quicker; sums of integers do not, and `n` equal outcomes are a multiplication. Rounding is always
//! downwards, so that a stake loses at most 2⁻³¹ nats per request, and never gains. What is computed in floating point, once per
//! epoch, uses the four basic operations and `sqrt` alone, whose results IEEE 754 prescribes: it is the same on every machine.
//!
//! # Other traffic
//!
//! - Counters that somebody else's router scraped: [`Judge::block`], with the split that they show instead of `s`.
//! - Clients that stay with their arm: [`Clusters`]. What is drawn is the unit that bets.
//! - A wrong split, by a circuit breaker say, voids the verdict: [`Cause::WrongSplit`].
//! - Failures that both arms share cannot be seen by any comparison; they are an absolute rule's: [`SharedFailure`].
//! - Only randomised traffic bets: no pinned, mirrored, check or load requests. The first attempt is scored, for the
//!   arm that was assigned, not a retry that succeeded elsewhere.
//! - An open request is scored as [`Outcome::Hung`] when it is older than stable's 99.9th percentile.
//! - Once the candidate has all traffic there is no comparison: [`Watch`], and after its alarm [`Probe`].
//!
//! # What it costs in evidence
//!
//! In simulation (`bench/run judge-power`) a regression is found with 1.31 times the requests, in the median over 115 cells, that the
//! two-sample SPRT needs which knows both rates and, as the judge must, names two failed requests; with 1.33 times if one is
//! enough for it. Where the limit is 20 requests or more it is never more than 1.46 times. The third more is the price
//! of not knowing what to look for.

mod baseline;
mod clusters;
mod epochs;
mod experts;
mod guard;
mod histogram;
mod judge;
mod ledger;
mod math;
mod outcome;
mod plan;
mod probe;
mod promotion;
mod question;
mod replay;
mod settings;
mod sheet;
pub mod sim;
mod split;
mod standing;
mod table;
mod terms;
mod verdict;
mod watch;

pub use baseline::{Estimates, History, LatencyShape};
pub use clusters::Clusters;
pub use guard::SharedFailure;
pub use histogram::Histogram;
pub use judge::{Judge, State};
pub use ledger::{Block, Epoch, Ledger, Scraped};
pub use outcome::{Arm, Class, Counts, Outcome};
pub use plan::{StepPlan, ladder, plan};
pub use probe::{Attribution, Probe, ProbeState};
pub use question::Question;
pub use replay::{Replayed, replay, replay_pass};
pub use settings::Settings;
pub use sheet::{Sheet, Tally, Ticket};
pub use terms::{MARGINS, Terms};
pub use verdict::{Cause, Failure, Inconclusive, Needs, Passed, Seen, Verdict};
pub use watch::{Tick, Watch, WatchState};
