//! What each outcome of each arm adds to the wealth of each process, as integers, while an epoch lasts.

use crate::baseline::{Estimates, P50, P99, fraction};
use crate::experts::{EXPERTS, LIST};
use crate::math::{Nats, ln, nats};
use crate::outcome::{Arm, CLASSES, Class, Counts};
use crate::promotion::Factors;
use crate::terms::{MARGINS, Terms};

/// Where the margins and the two for latency stand among the processes; the experts come first.
pub(crate) const MARGIN: usize = EXPERTS;
pub(crate) const LATENCY: [usize; 2] = [MARGIN + MARGINS, MARGIN + MARGINS + 1];
pub(crate) const PROCESSES: usize = MARGIN + MARGINS + 2;
/// How many more requests than at stable may be slower than its median, and than its 99th percentile.
pub(crate) const LATENCY_MARGINS: [(usize, f64); 2] = [(P50, 0.05), (P99, 0.01)];

/// The wealth of every process, in units of 2⁻³² nats.
pub(crate) type Logs = [Nats; PROCESSES];

/// Terms as ratios and factors; a share makes a table of them.
#[derive(Clone, Debug)]
pub(crate) struct Bets {
    ratios: [[f64; CLASSES]; EXPERTS],
    estimates: Estimates,
    margins_ppb: Vec<u64>,
}

/// What one outcome adds. One lookup per request, one addition per process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    steps: Box<[[Logs; CLASSES]; 2]>,
}

impl Bets {
    pub(crate) fn new(terms: &Terms) -> Bets {
        Bets {
            ratios: LIST.map(|expert| expert.ratios(&terms.estimates)),
            estimates: terms.estimates.clone(),
            margins_ppb: terms.margins_ppb.clone(),
        }
    }

    /// The table for a share of 0 to 1. At the ends there is one arm, nothing to compare, and nothing to win.
    pub(crate) fn table(&self, share: f64) -> Table {
        let mut table = Table { steps: Box::new([[[0; PROCESSES]; CLASSES]; 2]) };
        if share <= 0.0 || share >= 1.0 {
            return table;
        }
        for (process, ratios) in self.ratios.iter().enumerate() {
            for (class, ratio) in ratios.iter().enumerate().filter(|(_, ratio)| **ratio != 1.0) {
                let mean = ln(share * ratio + 1.0 - share);
                table.steps[Arm::Stable.index()][class][process] = nats(-mean);
                table.steps[Arm::Candidate.index()][class][process] = nats(ln(*ratio) - mean);
            }
        }
        let theta = fraction(self.estimates.errors_ppb);
        for (at, margin) in self.margins_ppb.iter().enumerate().take(MARGINS) {
            if let Some(factors) = Factors::new(theta, fraction(*margin), share) {
                table.set(MARGIN + at, &factors, |class| Some(class.failed()));
            }
        }
        for (process, which) in LATENCY.into_iter().enumerate() {
            if let Some((factors, edge)) = self.latency(process, share) {
                table.set(which, &factors, |class| slow(class, edge));
            }
        }
        table
    }

    fn latency(&self, process: usize, share: f64) -> Option<(Factors, usize)> {
        let (edge, margin) = LATENCY_MARGINS[process];
        Some((Factors::new(self.latency_theta(process)?, margin, share)?, edge))
    }

    fn latency_theta(&self, process: usize) -> Option<f64> {
        let errors = fraction(self.estimates.errors_ppb);
        let shape = self.estimates.latency.as_ref()?;
        Some(errors + (1.0 - errors) * shape.beyond(LATENCY_MARGINS[process].0))
    }

    /// Nats that a process of promotion wins per request of a candidate that is as good as stable.
    pub(crate) fn growth(&self, process: usize, share: f64) -> Option<f64> {
        if let Some(which) = LATENCY.iter().position(|latency| *latency == process) {
            let (factors, _) = self.latency(which, share)?;
            return Some(factors.growth(self.latency_theta(which)?, share));
        }
        let theta = fraction(self.estimates.errors_ppb);
        let margin = fraction(*self.margins_ppb.get(process - MARGIN)?);
        Some(Factors::new(theta, margin, share)?.growth(theta, share))
    }
}

/// Whether a class is bad for the question "slower than this edge?". An error counts as slow: else a candidate would get
/// quicker by failing. What has no time does not bet.
fn slow(class: Class, edge: usize) -> Option<bool> {
    match class {
        Class::UNTIMED | Class::UNTIMED_ERROR => None,
        Class::ERROR => Some(true),
        class => Some(class.bucket().is_some_and(|bucket| bucket > edge)),
    }
}

impl Table {
    fn set(&mut self, process: usize, factors: &Factors, bad: impl Fn(Class) -> Option<bool>) {
        for class in Class::all() {
            let Some(bad) = bad(class) else { continue };
            let which = usize::from(!bad);
            self.steps[Arm::Stable.index()][class.index()][process] = nats(factors.stable[which]);
            self.steps[Arm::Candidate.index()][class.index()][process] = nats(factors.candidate[which]);
        }
    }

    /// What `n` equal outcomes add.
    #[inline]
    pub(crate) fn add(&self, sums: &mut Logs, arm: Arm, class: Class, n: i64) {
        for (sum, step) in sums.iter_mut().zip(&self.steps[arm.index()][class.index()]) {
            *sum += n * step;
        }
    }

    /// What all outcomes of an epoch add up to; the order in which they came does not matter.
    pub(crate) fn sum(&self, counts: &Counts) -> Logs {
        let mut sums = [0; PROCESSES];
        for arm in Arm::BOTH {
            for class in Class::all() {
                let n = counts.of(arm, class);
                if n > 0 {
                    self.add(&mut sums, arm, class, i64::try_from(n).unwrap_or(i64::MAX));
                }
            }
        }
        sums
    }

    /// A number that changes when anything in the table does (FNV-1a).
    pub(crate) fn fingerprint(&self) -> u64 {
        let all = self.steps.iter().flatten().flatten();
        all.flat_map(|step| step.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// A share in basis points as a number.
pub(crate) fn share(bp: u16) -> f64 {
    f64::from(bp) / 10_000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::baseline::{Baseline, History};
    use crate::histogram::Histogram;
    use crate::math::{exp, from_nats};

    fn histories() -> impl Strategy<Value = History> {
        let latencies = proptest::collection::vec(1u64..10_000_000, 0..400);
        (0u64..50_000, 0.0f64..1.0, 0.0f64..1.0, latencies).prop_map(
            |(requests, errors, client, latencies)| {
                let mut histogram = Histogram::default();
                latencies.into_iter().for_each(|latency| histogram.add(latency));
                let errors = (requests as f64 * errors * errors * errors) as u64;
                let client_errors = ((requests - errors) as f64 * client * client) as u64;
                History { requests, errors, client_errors, latencies: histogram }
            },
        )
    }

    fn bets(history: History) -> Bets {
        Bets::new(&Terms {
            epoch: 0,
            share_since: 0,
            share_bp: 0,
            estimates: Baseline::new(history).estimates(),
            margins_ppb: vec![5_000_000, 20_000_000, 50_000_000],
        })
    }

    fn factor(table: &Table, arm: Arm, class: usize, process: usize) -> f64 {
        exp(from_nats(table.steps[arm.index()][class][process]))
    }

    proptest! {
        /// What makes a false rollback rarer than α: whatever stable is like, whatever history says, and whatever the
        /// outcome was, the label wins nothing on average. It loses nothing to speak of either.
        #[test]
        fn no_outcome_wins_on_average(history in histories(), share_bp in 1u16..10_000) {
            let share = share(share_bp);
            let table = bets(history).table(share);
            for class in 0..CLASSES {
                for expert in 0..EXPERTS {
                    let mean = share * factor(&table, Arm::Candidate, class, expert)
                        + (1.0 - share) * factor(&table, Arm::Stable, class, expert);
                    prop_assert!(mean <= 1.0 && mean > 1.0 - 1e-8, "expert {expert}, class {class}: {mean}");
                }
            }
        }

        /// What makes a false pass rarer than β, for errors and for latency.
        #[test]
        fn who_is_worse_by_the_margin_wins_nothing_on_average(
            history in histories(), share_bp in 10u16..9_990, stable in 0.0f64..0.9, beyond in 0.0f64..0.05,
        ) {
            let share = share(share_bp);
            let table = bets(history).table(share);
            let good_bad = [
                (MARGIN, 0.005, Class::UNTIMED), (MARGIN + 1, 0.02, Class::UNTIMED), (MARGIN + 2, 0.05, Class::UNTIMED),
                (LATENCY[0], 0.05, Class(0)), (LATENCY[1], 0.01, Class(0)),
            ];
            for (process, margin, good) in good_bad {
                let candidate = (stable + margin + beyond).min(1.0);
                let mean = |arm, p: f64| {
                    p * factor(&table, arm, Class::ERROR.index(), process)
                        + (1.0 - p) * factor(&table, arm, good.index(), process)
                };
                let all = share * mean(Arm::Candidate, candidate) + (1.0 - share) * mean(Arm::Stable, stable);
                prop_assert!(all <= 1.0 + 1e-9, "process {process}: {all}");
            }
        }
    }

    /// Experts are fair where both arms fail alike, a margin where the candidate fails more often by it.
    #[test]
    fn a_block_wins_nothing_on_average_whatever_its_split() {
        let bets = bets(History { requests: 1_000, errors: 20, ..History::default() });
        let margins = (0..3).map(|at| (MARGIN + at, [0.005, 0.02, 0.05][at]));
        let processes: Vec<_> = (0..EXPERTS).map(|expert| (expert, 0.0)).chain(margins).collect();
        for (stable, candidate) in [(1, 1), (9, 2), (20, 5), (3, 12)] {
            let table = bets.table(f64::from(candidate) / f64::from(stable + candidate));
            for common in [0.001, 0.02, 0.3] {
                for (process, margin) in &processes {
                    let mean = |arm, p: f64, n: i32| {
                        let each = p * factor(&table, arm, Class::UNTIMED_ERROR.index(), *process)
                            + (1.0 - p) * factor(&table, arm, Class::UNTIMED.index(), *process);
                        each.powi(n)
                    };
                    let all =
                        mean(Arm::Stable, common, stable) * mean(Arm::Candidate, common + margin, candidate);
                    assert!(all <= 1.0 + 1e-9, "process {process}, {stable}:{candidate}, {common}: {all}");
                }
            }
        }
    }

    /// Without a time nothing is bet on latency: neither by what succeeds nor by what fails.
    #[test]
    fn what_has_no_time_does_not_bet_on_latency() {
        let mut latencies = Histogram::default();
        (1..=1_000).for_each(|latency| latencies.add(latency));
        let table = bets(History { latencies, ..History::default() }).table(0.1);
        assert!((8..16).chain(LATENCY).all(|process| table.steps[1][Class::SLOWEST.index()][process] != 0));
        for class in [Class::UNTIMED, Class::UNTIMED_ERROR] {
            for process in (8..16).chain(LATENCY) {
                assert!(Arm::BOTH.iter().all(|arm| table.steps[arm.index()][class.index()][process] == 0));
            }
        }
    }

    #[test]
    fn with_one_arm_alone_nothing_is_bet() {
        let bets = bets(History::default());
        for share in [0.0, 1.0] {
            assert!(bets.table(share).steps.iter().flatten().flatten().all(|step| *step == 0));
        }
    }
}
