//! A small part of `bench/run judge`, with fixed seeds: whoever breaks the statistics learns it here.

use cutover_judge::sim::{Found, Limit, Random, Stream, quantile};
use cutover_judge::{Arm, Histogram, History, Judge, Outcome, Question, Settings, Verdict, ladder};

use crate::{MARGINS, history, latency};

struct Cell {
    per_s: f64,
    share_bp: u16,
    rates: [f64; 2],
}

impl Cell {
    /// What judge and limit took, in each of `n` watches of half an hour.
    fn watches(&self, n: u64, warm: bool) -> Vec<[Option<Found>; 2]> {
        (0..n).map(|seed| self.watch(seed, warm)).collect()
    }

    fn watch(&self, seed: u64, warm: bool) -> [Option<Found>; 2] {
        let mut random = Random::new(seed);
        let past = if warm { 10_000 } else { 0 };
        let errors = random.poisson(past as f64 * self.rates[0]);
        let history = History { requests: past, errors, client_errors: 0, latencies: Histogram::default() };
        let mut judge = Judge::new(Settings::new(MARGINS.to_vec()), history).expect("good settings");
        judge.set_share(self.share_bp);
        let share = f64::from(self.share_bp) / 10_000.0;
        let mut limit = Limit::new(self.rates, share);
        let stream = Stream { per_s: self.per_s, share, seconds: 1_800, rates: &|_| self.rates };
        let found = stream.run(&mut random, &mut [&mut judge, &mut limit]);
        [found[0], found[1]]
    }
}

#[test]
fn good_releases_stay() {
    for (share_bp, rate) in [(100, 0.001), (1_000, 0.01), (5_000, 0.01)] {
        for warm in [true, false] {
            let cell = Cell { per_s: 10.0, share_bp, rates: [rate, rate] };
            let failed = cell.watches(200, warm).iter().filter(|found| found[0].is_some()).count();
            assert!(failed <= 2, "{failed} of 200 at {share_bp} bp, {rate}, warm {warm}");
        }
    }
}

#[test]
fn a_regression_is_found_near_the_limit() {
    let mut ratios = Vec::new();
    for share_bp in [500, 1_000, 5_000] {
        for rates in [[0.0, 0.05], [0.001, 0.011], [0.001, 0.051], [0.01, 0.06], [0.001, 0.5]] {
            let found = Cell { per_s: 100.0, share_bp, rates }.watches(100, true);
            let median = |at: usize| {
                quantile(found.iter().map(|found| found[at].map(|found| found.requests as f64)), 0.5)
            };
            let (ours, limit) = (median(0), median(1));
            assert!(ours <= 1.6 * limit + 2.0, "{ours} for {limit} at {share_bp} bp, {rates:?}");
            ratios.push(ours / limit);
        }
    }
    let median = quantile(ratios.into_iter().map(Some), 0.5);
    assert!(median <= 1.35, "{median}");
}

#[test]
fn a_candidate_that_fails_by_half_costs_three_requests() {
    for share_bp in [100, 500, 1_000] {
        for rates in [[0.0, 0.5], [0.001, 0.5], [0.01, 0.5], [0.001, 1.0]] {
            let found = Cell { per_s: 100.0, share_bp, rates }.watches(300, true);
            let errors = |p| quantile(found.iter().map(|found| found[0].map(|found| found.errors as f64)), p);
            assert!(
                errors(0.5) <= 3.0 && errors(0.95) <= 5.0,
                "{} {} at {share_bp} bp, {rates:?}",
                errors(0.5),
                errors(0.95)
            );
        }
    }
}

/// Both arms fail by a third for five seconds now and then, or more and more.
#[test]
fn shared_trouble_rolls_nobody_back() {
    let outage = |second: u32| if second % 300 < 5 { [0.3; 2] } else { [0.001; 2] };
    let drift = |second: u32| [0.001 * 10f64.powf(f64::from(second) / 1_800.0); 2];
    for (what, rates) in [("outage", &outage as &dyn Fn(u32) -> [f64; 2]), ("drift", &drift)] {
        let failed = (0..300).filter(|seed| {
            let mut judge = Judge::new(
                Settings::new(vec![]),
                History { requests: 10_000, errors: 10, ..History::default() },
            )
            .expect("good settings");
            judge.set_share(1_000);
            let stream = Stream { per_s: 20.0, share: 0.1, seconds: 1_800, rates };
            stream.run(&mut Random::new(*seed), &mut [&mut judge])[0].is_some()
        });
        assert!(failed.count() <= 3, "{what}");
    }
}

/// Virtual seconds until a good candidate has passed 5, 25 and 50 %, at 100 requests/s.
fn ramp(seed: u64, latency_too: bool) -> Option<f64> {
    let weights = [500, 2_500, 5_000];
    let past = history(10);
    let margins = ladder(&weights, &past);
    let mut judge = Judge::new(Settings::new(margins.clone()), past).expect("good settings");
    let mut random = Random::new(seed);
    let mut now = 0.0;
    for (share_bp, margin_ppb) in weights.into_iter().zip(margins) {
        judge.set_share(share_bp);
        let begun = now;
        loop {
            now += random.exponential(100.0);
            let ticket = judge.assign(random.arm(f64::from(share_bp) / 10_000.0));
            let fails = random.unit() < 0.001;
            judge.score(
                ticket,
                if fails { Outcome::Error } else { Outcome::Ok { latency_us: latency(&mut random) } },
            );
            if judge.due() {
                judge.next_epoch();
            }
            let question = Question {
                margin_ppb,
                latency: latency_too && share_bp == 5_000,
                step_ms: ((now - begun) * 1000.0) as u64,
                floor_ms: 2_000,
                candidate_per_hour: 0,
            };
            // Asked at each answer of the candidate.
            if ticket.arm() == Arm::Candidate {
                match judge.verdict(&question) {
                    Verdict::Pass(_) => break,
                    Verdict::Fail(_) => return None,
                    Verdict::Inconclusive(_) if now > 1_800.0 => return None,
                    Verdict::Inconclusive(_) => {}
                }
            }
        }
    }
    Some(now)
}

#[test]
fn a_good_release_has_all_traffic_within_a_minute() {
    for (latency, most) in [(false, 60.0), (true, 90.0)] {
        let median = quantile((0..40).map(|seed| ramp(seed, latency)), 0.5);
        assert!(median <= most, "{median} s, latency {latency}");
    }
}
