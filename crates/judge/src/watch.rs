//! After the switch: one arm, no comparison, and a candidate that may break at any moment.
//!
//! For each expert a Shiryaev–Roberts process with weights (Shin, Ramdas & Rinaldo, *E-detectors*):
//! `R ← (R + w)·LR`, where half of all `w` is put in at the switch and the rest evenly over the watch. Then Σw = 1, R has
//! an expectation of at most 1 at any time while the error rate stays below the one that is allowed, and the chance of
//! a false alarm *in the whole watch* is at most α.

use serde::{Deserialize, Serialize};

use crate::baseline::{Estimates, P99, PPB, fraction};
use crate::experts::LIST;
use crate::math::{exp, ln};
use crate::outcome::{Arm, Class, Counts, Outcome};
use crate::settings::Settings;

/// Ticks of a watch at most; it bounds what has to be written down.
const TICKS: u32 = 600;
/// Experts on errors, which are those before the switch, and on slow requests.
const ERRORS: usize = 8;
const SLOW: [f64; 3] = [3.0, 8.0, 30.0];
const ALL: usize = ERRORS + SLOW.len();
const ERROR_WEIGHT: f64 = 0.75;

/// What a watch was begun with, and what it counted: all that it takes to go on after a crash, or to check its alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchState {
    alpha_bp: u16,
    /// What stable was like.
    estimates: Estimates,
    /// Milliseconds of a tick, and ticks of the watch.
    tick_ms: u64,
    ticks: u32,
    /// What came in each tick, the last being the one under way.
    counted: Vec<Tick>,
}

impl WatchState {
    /// The same watch from its beginning, or none if its time is over.
    pub fn begin_again(mut self) -> Option<WatchState> {
        let left = self.ticks.saturating_sub(self.counted.len() as u32);
        self.counted.clear();
        self.ticks = left;
        (left > 0).then_some(self)
    }
}

/// Requests of one tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tick {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that did not, with a latency.
    pub timed: u64,
    /// Those of them that were slower than stable's 99th percentile.
    pub slow: u64,
}

/// The watch over a candidate that has all the traffic.
#[derive(Clone, Debug)]
pub struct Watch {
    state: WatchState,
    /// ln of LR for a bad and a good outcome, per expert.
    ratios: [[f64; 2]; ALL],
    /// ln R per expert, at the start of the tick under way, with its weight.
    logs: [f64; ALL],
    alarm: bool,
}

impl Watch {
    /// A watch of so many seconds, against what a judge knows of stable.
    ///
    /// Fails if the chance of a false alarm, in basis points, or the estimates make no sense.
    pub fn new(estimates: Estimates, alpha_bp: u16, seconds: u64) -> Result<Watch, String> {
        let all_ms = seconds.saturating_mul(1000);
        let tick_ms = all_ms.div_ceil(u64::from(TICKS)).max(1000);
        let ticks = all_ms.div_ceil(tick_ms).max(1) as u32;
        Watch::resume(WatchState { alpha_bp, estimates, tick_ms, ticks, counted: Vec::new() })
    }

    /// The watch that wrote the state down. Fails if none did.
    pub fn resume(state: WatchState) -> Result<Watch, String> {
        Settings { alpha_bp: state.alpha_bp, ..Settings::new(Vec::new()) }.check()?;
        state.estimates.check()?;
        if !(1..=TICKS).contains(&state.ticks) || state.counted.len() > state.ticks as usize {
            return Err(format!(
                "a watch of {} ticks with {} counted is none of ours",
                state.ticks,
                state.counted.len()
            ));
        }
        let counted = state.counted.clone();
        let ratios = ratios(&state.estimates);
        let state = WatchState { counted: Vec::new(), ..state };
        let mut watch = Watch { state, ratios, logs: [f64::NEG_INFINITY; ALL], alarm: false };
        watch.begin();
        for (at, tick) in counted.iter().enumerate() {
            if at > 0 {
                watch.tick();
            }
            watch.add(*tick);
        }
        Ok(watch)
    }

    /// Everything it knows.
    pub fn state(&self) -> &WatchState {
        &self.state
    }

    /// Milliseconds between two calls of [`tick`](Watch::tick).
    pub fn tick_ms(&self) -> u64 {
        self.state.tick_ms
    }

    /// Whether the candidate has become worse than it was allowed to. It stays so.
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// Counts what came of a request, and says whether that is an alarm.
    pub fn score(&mut self, outcome: Outcome) -> bool {
        self.add(Tick::of(&self.state.estimates, outcome))
    }

    /// Counts what others counted in this tick.
    pub fn add(&mut self, more: Tick) -> bool {
        // What comes after an alarm would only blur what it was raised for.
        if self.alarm {
            return true;
        }
        self.state.counted.last_mut().expect("a watch has a tick under way: begun in resume").add(more);
        // Good outcomes only lower it.
        if more.errors > 0 || more.slow > 0 {
            self.alarm = self.wealth() >= -ln(f64::from(self.state.alpha_bp) / 10_000.0);
        }
        self.alarm
    }

    /// Ends a tick. The last one goes on until the watch is dropped: nothing more is put in then.
    pub fn tick(&mut self) {
        if self.over() || self.alarm {
            return;
        }
        let tick = *self.state.counted.last().expect("a watch has a tick under way: begun in resume");
        for (expert, log) in self.logs.iter_mut().enumerate() {
            *log += gain(&self.ratios, expert, &tick);
        }
        self.begin();
    }

    /// Whether all ticks have passed.
    pub fn over(&self) -> bool {
        self.state.counted.len() >= self.state.ticks as usize
    }

    fn begin(&mut self) {
        let even = 0.5 / f64::from(self.state.ticks.max(1));
        let weight = if self.state.counted.is_empty() { 0.5 + even } else { even };
        for log in &mut self.logs {
            // ln(R + w), of the larger part first.
            let (most, least) = if *log > ln(weight) { (*log, ln(weight)) } else { (ln(weight), *log) };
            *log = most + ln(1.0 + exp(least - most));
        }
        self.state.counted.push(Tick::default());
    }

    /// ln of the mean of all R, with the tick under way.
    fn wealth(&self) -> f64 {
        let tick = *self.state.counted.last().expect("a watch has a tick under way: begun in resume");
        ln_mean(&std::array::from_fn(|expert| self.logs[expert] + gain(&self.ratios, expert, &tick)))
    }
}

impl Tick {
    /// One request, as an expert on what was known of stable sees it.
    pub(crate) fn of(estimates: &Estimates, outcome: Outcome) -> Tick {
        let slow = match (outcome, &estimates.latency) {
            (Outcome::Ok { latency_us }, Some(shape)) => Some(shape.class(latency_us).index() > P99),
            (Outcome::Hung, Some(_)) => Some(true),
            _ => None,
        };
        Tick {
            requests: 1,
            errors: u64::from(outcome == Outcome::Error),
            timed: u64::from(slow.is_some()),
            slow: u64::from(slow == Some(true)),
        }
    }

    /// The candidate's requests among those that were counted by terms with the same estimates.
    pub fn of_candidate(counts: &Counts) -> Tick {
        let mut tick = Tick {
            requests: counts.requests(Arm::Candidate),
            errors: counts.errors(Arm::Candidate),
            ..Tick::default()
        };
        for class in Class::all() {
            let Some(bucket) = class.bucket() else { continue };
            let n = counts.of(Arm::Candidate, class);
            tick.timed = tick.timed.saturating_add(n);
            tick.slow = tick.slow.saturating_add(if bucket > P99 { n } else { 0 });
        }
        tick
    }

    /// Adds what somebody else counted; more bad outcomes than requests are as many.
    pub(crate) fn add(&mut self, more: Tick) {
        self.requests = self.requests.saturating_add(more.requests);
        self.errors = self.errors.saturating_add(more.errors.min(more.requests));
        self.timed = self.timed.saturating_add(more.timed.min(more.requests));
        self.slow = self.slow.saturating_add(more.slow.min(more.timed));
    }

    /// Whether these requests prove by themselves that more is bad than was allowed. A product of likelihood ratios is a
    /// function of the counts alone, and may be looked at after each request.
    pub(crate) fn proves(&self, estimates: &Estimates, alpha: f64) -> bool {
        let ratios = ratios(estimates);
        ln_mean(&std::array::from_fn(|expert| gain(&ratios, expert, self))) >= -ln(alpha)
    }
}

/// ln of the weighted mean of what these are the logarithms of.
fn ln_mean(logs: &[f64; ALL]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().enumerate().map(|(expert, log)| weight(expert) * exp(log - most)).sum();
    most + ln(sum.max(f64::MIN_POSITIVE))
}

/// What a tick adds to ln R.
fn gain(ratios: &[[f64; 2]; ALL], expert: usize, tick: &Tick) -> f64 {
    let (all, bad) = if expert < ERRORS { (tick.requests, tick.errors) } else { (tick.timed, tick.slow) };
    let [if_bad, if_good] = ratios[expert];
    bad as f64 * if_bad + all.saturating_sub(bad) as f64 * if_good
}

fn weight(expert: usize) -> f64 {
    if expert < ERRORS { ERROR_WEIGHT / ERRORS as f64 } else { (1.0 - ERROR_WEIGHT) / SLOW.len() as f64 }
}

/// The logarithms of likelihood ratios against the worst rate that is still allowed: one and a half times what is known, two
/// standard errors above it, and never less than 0.05 %. Without a comparison, "as good as stable" must leave room.
fn ratios(estimates: &Estimates) -> [[f64; 2]; ALL] {
    let errors = allowed(fraction(estimates.errors_ppb), estimates.requests);
    let shape = estimates.latency.as_ref();
    let slow = shape.map(|shape| allowed(shape.beyond(P99), estimates.requests));
    std::array::from_fn(|expert| {
        let pair = if expert < ERRORS {
            LIST[expert].error_rate(errors).map(|rate| (errors, rate))
        } else {
            slow.map(|slow| (slow, (slow * SLOW[expert - ERRORS]).min(0.97)))
                .filter(|(slow, rate)| rate > slow)
        };
        pair.map_or([0.0; 2], |(null, rate)| [ln(rate / null), ln((1.0 - rate) / (1.0 - null))])
    })
}

fn allowed(rate: f64, requests: u64) -> f64 {
    let uncertain = rate + 2.0 * (rate / requests.max(100) as f64).sqrt();
    (1.5 * rate).max(uncertain).max(0.0005).min(1.0 - 1.0 / PPB as f64)
}
