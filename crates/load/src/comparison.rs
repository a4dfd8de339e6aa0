//! The candidate beside stable, by what came of pairs of requests.
//!
//! The judge bets on which side a request had, given what came of it. Here no lottery decides the side: each request goes to
//! both at once. If the candidate is no worse, the two answers of a pair are equally distributed, and independent given what
//! came before. The stake of a suspicion `r` is then multiplied, on average, by `E[r/d] · E[1/d]` with `d = (r + 1)/2`; the
//! two means add up to 2, so their product is at most 1: the same promise as with a lottery.

use std::time::Duration;

use cutover_judge::{Arm, History, Judge, Outcome, Question, Settings, Ticket};
use serde::{Deserialize, Serialize};

use crate::exchange::{Answer, Miss};
use crate::spec::Side;
use crate::verdict::{Judgement, Reason};

/// What a pass of the comparison means: no more than this share of requests fails beyond stable's.
const MARGIN_PPB: u64 = 10_000_000;
/// While caches fill, the candidate's latency is not compared.
const WARM_UP: Duration = Duration::from_secs(5);

/// How the candidate compares with stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What is proven.
    pub verdict: cutover_judge::Verdict,
}

impl Compared {
    /// Only a proof that the candidate is worse fails it; where nothing is proven, the other requirements decide.
    pub(crate) fn reason(&self) -> Reason {
        let (judgement, text) = match &self.verdict {
            cutover_judge::Verdict::Fail(failure) => (Judgement::Fail, failure.to_string()),
            cutover_judge::Verdict::Pass(passed) => (Judgement::Pass, passed.to_string()),
            cutover_judge::Verdict::Inconclusive(open) => (Judgement::Pass, open.to_string()),
        };
        Reason { judgement, text: format!("beside stable, {text}") }
    }
}

/// Pairs of requests, compared.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    judge: Judge,
    warm_after: Duration,
}

impl Comparison {
    pub(crate) fn new(span: Duration) -> Comparison {
        let settings = Settings::new(vec![MARGIN_PPB]);
        let mut judge = Judge::new(settings, History::default()).expect("1 % is a margin, and one is few");
        judge.set_share(5_000);
        let warm_after = WARM_UP.min(span / 4);
        judge.warm_up(!warm_after.is_zero());
        Comparison { judge, warm_after }
    }

    /// Counts a pair that is sent now; the tickets are the candidate's and stable's.
    pub(crate) fn pair(&mut self, now: Duration) -> [Ticket; 2] {
        if now >= self.warm_after {
            self.judge.warm_up(false);
        }
        [self.judge.assign(Arm::Candidate), self.judge.assign(Arm::Stable)]
    }

    pub(crate) fn score(&mut self, ticket: Ticket, answer: &Answer, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let outcome = match answer {
            Answer::Ok => Outcome::Ok { latency_us },
            Answer::Status(400..=499) => Outcome::ClientError,
            Answer::Status(_)
            | Answer::Miss(Miss::Refused(_) | Miss::Broken(_) | Miss::Timeout | Miss::Unsent) => {
                Outcome::Error
            }
        };
        self.judge.score(ticket, outcome);
        if self.judge.due() {
            self.judge.next_epoch();
        }
    }

    /// Says what is proven so far; `took` since the beginning.
    pub(crate) fn compared(&self, took: Duration) -> Compared {
        let step_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut question =
            Question { margin_ppb: MARGIN_PPB, latency: true, step_ms, floor_ms: 0, candidate_per_hour: 0 };
        let verdict = self.judge.verdict(&question);
        // Nothing more is coming, so only the requests that were needed are said, not the time.
        question.latency = false;
        match verdict {
            cutover_judge::Verdict::Inconclusive(_) => match self.judge.verdict(&question) {
                passed @ cutover_judge::Verdict::Pass(_) => Compared { verdict: passed },
                _ => Compared { verdict },
            },
            verdict => Compared { verdict },
        }
    }
}

/// The sides in the order of a pair's tickets.
pub(crate) const PAIR: [Side; 2] = [Side::Candidate, Side::Stable];

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares pairs whose answers `draw` gives: (the candidate's, stable's), each a status and microseconds.
    fn verdict(
        seed: u64,
        pairs: u64,
        mut draw: impl FnMut(&mut fastrand::Rng) -> [(u16, u64); 2],
    ) -> Compared {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut comparison = Comparison::new(Duration::from_secs(30));
        for n in 0..pairs {
            let tickets = comparison.pair(Duration::from_millis(n * 10));
            for (ticket, (status, us)) in tickets.into_iter().zip(draw(&mut random)) {
                let answer = if status < 400 { Answer::Ok } else { Answer::Status(status) };
                comparison.score(ticket, &answer, Duration::from_micros(us));
            }
        }
        comparison.compared(Duration::from_secs(30))
    }

    fn slow(random: &mut fastrand::Rng) -> u64 {
        // About lognormal, around 10 ms.
        let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        (10_000.0 * (normal / 2.0).exp()) as u64
    }

    fn fails(random: &mut fastrand::Rng, share: f64) -> u16 {
        if random.f64() < share { 500 } else { 200 }
    }

    #[test]
    fn a_candidate_that_fails_more_is_proven_worse() {
        for seed in 1..=20 {
            let seen = verdict(seed, 3000, |random| {
                [(fails(random, 0.03), slow(random)), (fails(random, 0.002), slow(random))]
            });
            assert_eq!(seen.reason().judgement, Judgement::Fail, "seed {seed}: {}", seen.reason().text);
        }
    }

    #[test]
    fn a_slower_candidate_is_proven_worse() {
        for seed in 1..=20 {
            let seen = verdict(seed, 3000, |random| [(200, slow(random) * 2), (200, slow(random))]);
            assert_eq!(seen.reason().judgement, Judgement::Fail, "seed {seed}: {}", seen.reason().text);
        }
    }

    /// The promise is one in a hundred; that two of 200 fail by chance would have odds of one in four at the promise's edge.
    #[test]
    fn one_that_is_as_good_is_not_failed() {
        let failed = (1..=200).filter(|seed| {
            let seen = verdict(*seed, 2000, |random| {
                [(fails(random, 0.02), slow(random)), (fails(random, 0.02), slow(random))]
            });
            seen.reason().judgement == Judgement::Fail
        });
        assert!(failed.count() <= 2);
    }

    #[test]
    fn without_pairs_nothing_is_proven() {
        let seen = Comparison::new(Duration::from_secs(30)).compared(Duration::ZERO);
        assert!(seen.reason().text.starts_with("beside stable, inconclusive: "), "{}", seen.reason().text);
    }
}
