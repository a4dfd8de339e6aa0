//! Sends load to the instances of a candidate, and says whether they held what was asked of them.
//!
//! Usable alone: [`start`] takes a [`Spec`] and [`Target`]s, and gives a [`Running`] test, which lives on a thread of its own,
//! can be looked at while it runs, and stops at once when it is dropped. What comes of it is a [`Report`], of which
//! [`Requirements::verdict`] says whether it is enough.
//!
//! - **Open loop** ([`Pace::Rate`]): a request is due at fixed times, whatever came of those before. Its latency counts from
//!   the time at which it was due, so a stall is seen by every request that it would have met (coordinated omission).
//! - **Closed loop** ([`Pace::Clients`]): each client sends its next request when the last one is answered; or all send one,
//!   and pause when all are answered.
//! - **Side by side** ([`Against::Both`]): each request goes to both sides at once, and [`cutover_judge`] compares what came
//!   of the pairs, so that "worse" means proven worse.

mod arrivals;
mod clients;
mod comparison;
mod course;
mod exchange;
mod histogram;
mod http1;
mod http2;
mod mix;
mod rate;
mod report;
mod running;
mod spec;
mod tally;
mod verdict;

pub use comparison::Compared;
pub use report::{Failures, Report, Sent, Share, Summary};
pub use running::{Progress, Running, start};
pub use spec::{Against, Pace, Protocol, Scenario, Side, Spec, SpecError, Target};
pub use verdict::{Judgement, Reason, Requirements, Verdict, least_requests};
