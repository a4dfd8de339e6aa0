//! The judge of one release: it is told what is assigned and what comes of it, and says when the candidate is worse.

use serde::{Deserialize, Serialize};

use crate::baseline::{Baseline, History};
use crate::experts::EXPERTS;
use crate::guard::{Guard, SharedFailure};
use crate::histogram::Histogram;
use crate::ledger::{Block, Drawn, Ledger, Scraped};
use crate::math::{Nats, ln, nats};
use crate::outcome::{Arm, Class, Counts, Outcome};
use crate::settings::Settings;
use crate::sheet::{Sheet, Tally, Ticket, learned};
use crate::table::{Logs, PROCESSES};
use crate::terms::{FULL, Terms};
use crate::verdict::Failure;

/// Requests between two looks at a failure that was not confirmed.
const RECONSIDER: u64 = 64;

/// Everything that a judge knows, to be written down and given to the next one.
///
/// It holds wealth and counts of the release so far, so neither is spent again after a crash or an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub(crate) settings: Settings,
    pub(crate) baseline: Baseline,
    pub(crate) ledger: Ledger,
    /// The epochs that still count: the last one, and the one before if it had another share.
    pub(crate) open: Vec<OpenEpoch>,
    pub(crate) latencies: Histogram,
    pub(crate) guard: Guard,
    pub(crate) failure: Option<Failure>,
    /// Wealth is enough, and what else a failure needs is not there.
    pub(crate) unconfirmed: bool,
    pub(crate) warming: bool,
    /// Outcomes that came after the failure, too late for their epoch, or found it full.
    pub(crate) uncounted: u64,
}

impl State {
    /// What the judge was asked to prove.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The requests that its open epochs hold.
    pub fn held(&self) -> u64 {
        let held = |open: &OpenEpoch| {
            open.blocks
                .iter()
                .map(|block| block.counts().total())
                .fold(open.counts.total(), u64::saturating_add)
        };
        self.open.iter().map(held).fold(0, u64::saturating_add)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenEpoch {
    pub(crate) terms: Terms,
    pub(crate) counts: Counts,
    pub(crate) blocks: Vec<Block>,
}

/// The judge of one release.
#[derive(Clone, Debug)]
pub struct Judge {
    pub(crate) state: State,
    /// One for each open epoch.
    pub(crate) drawn: Vec<Drawn>,
    pub(crate) sheet: Sheet,
    /// What the open epochs add, outcome by outcome.
    pub(crate) sums: Logs,
    /// Requests that the open epochs hold, and the history's rate; kept for speed.
    pub(crate) held: u64,
    before_ppb: u64,
    /// ln(1/α).
    needed: Nats,
}

impl Judge {
    /// A judge for a release of which nothing was seen, at a share of 0.
    ///
    /// Fails if the settings make no sense, with what to give instead.
    pub fn new(settings: Settings, history: History) -> Result<Judge, String> {
        let baseline = Baseline::new(history);
        let terms = Terms {
            epoch: 0,
            share_since: 0,
            share_bp: 0,
            estimates: baseline.estimates(),
            margins_ppb: settings.margins_ppb.clone(),
        };
        let state = State {
            settings,
            baseline,
            ledger: Ledger::default(),
            open: vec![OpenEpoch { terms, counts: Counts::default(), blocks: Vec::new() }],
            latencies: Histogram::default(),
            guard: Guard::default(),
            failure: None,
            unconfirmed: false,
            warming: false,
            uncounted: 0,
        };
        Judge::resume(state)
    }

    /// The judge that wrote the state down. Fails if no judge did.
    pub fn resume(state: State) -> Result<Judge, String> {
        state.settings.check()?;
        let last = state.open.last().filter(|_| state.open.len() <= 2);
        let last = last.ok_or("the state has no open epoch, or too many")?;
        state.open.iter().try_for_each(|open| open.terms.check(&open.counts, &open.blocks))?;
        state.ledger.check()?;
        let drawn: Vec<Drawn> = state.open.iter().map(|open| Drawn::new(open.terms.clone())).collect();
        let sheet = Sheet { terms: last.terms.clone(), warming: state.warming };
        let before_ppb = state.baseline.history_errors_ppb();
        let needed = nats(-ln(state.settings.alpha()));
        let mut judge = Judge { state, drawn, sheet, sums: [0; PROCESSES], held: 0, before_ppb, needed };
        judge.recount();
        Ok(judge)
    }

    /// Everything it knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What threads that count by themselves need for this epoch.
    pub fn sheet(&self) -> &Sheet {
        &self.sheet
    }

    /// Whether an instance of the candidate is warming up. Until it is told otherwise, the latency of requests that are
    /// assigned from now on is left out; their errors are not.
    pub fn warm_up(&mut self, warming: bool) {
        self.state.warming = warming;
        self.sheet.warming = warming;
    }

    /// Counts a request that was just assigned to an arm by lottery. A request that was sent to an arm for another reason
    /// (pinned, mirrored, a check, a load test) must not be told.
    #[inline]
    pub fn assign(&mut self, arm: Arm) -> Ticket {
        self.assigned(arm, 1);
        self.sheet.ticket(arm)
    }

    /// Counts requests that were just assigned to an arm by lottery, where nobody keeps their tickets.
    pub fn assigned(&mut self, arm: Arm, n: u64) {
        let assigned = &mut self.last().counts.assigned[arm.index()];
        *assigned = assigned.saturating_add(n);
    }

    /// Counts what came of a request, and says if that proves the candidate worse.
    #[inline]
    pub fn score(&mut self, ticket: Ticket, outcome: Outcome) -> Option<&Failure> {
        let Some(at) = self.place(ticket.epoch, 1) else { return self.failure() };
        let class = self.state.open[at].terms.class(ticket, outcome);
        if let Some(latency) = learned(ticket, outcome) {
            self.state.latencies.add(latency);
        }
        self.count(at, ticket.arm, class, 1);
        self.failure()
    }

    /// Turns a request that was scored as good into a failure: its body broke off after its head had come.
    pub fn spoil(&mut self, ticket: Ticket, scored: Outcome) -> Option<&Failure> {
        let Some(at) = self.place(ticket.epoch, 1) else { return self.failure() };
        let open = &mut self.state.open[at];
        let (arm, good) = (ticket.arm, open.terms.class(ticket, scored));
        let counted = &mut open.counts.scored[arm.index()][good.index()];
        // Where its good half was closed with an earlier epoch, it stays: the bad half then bets on errors alone, where
        // good and bad are opposites, so that both together win no more than one of them would have.
        let whole = open.terms.epoch == ticket.epoch && *counted > 0;
        let bad = if whole { open.terms.class(ticket, Outcome::Error) } else { Class::UNTIMED_ERROR };
        if whole {
            *counted -= 1;
            self.held -= 1;
            self.drawn[at].table.add(&mut self.sums, arm, good, -1);
        }
        self.count(at, arm, bad, 1);
        self.failure()
    }

    /// Counts equal outcomes of the current epoch, of requests that were already counted as assigned.
    pub fn score_many(&mut self, arm: Arm, class: Class, n: u64) -> Option<&Failure> {
        if let Some(at) = self.place(self.sheet.terms.epoch, n) {
            self.count(at, arm, class, n);
        }
        self.failure()
    }

    /// Counts what another thread counted.
    pub fn merge(&mut self, tally: &Tally) -> Option<&Failure> {
        let Some(at) = self.place(tally.epoch, tally.counts.total()) else { return self.failure() };
        self.state.latencies.merge(&tally.latencies);
        let same = self.state.open[at].terms.epoch == tally.epoch;
        for arm in Arm::BOTH {
            let assigned = &mut self.state.open[at].counts.assigned[arm.index()];
            *assigned = assigned.saturating_add(tally.counts.assigned[arm.index()]);
            for class in Class::all() {
                let n = tally.counts.of(arm, class);
                // A bucket of an epoch that is over means another latency now.
                let class = match class {
                    class if same => class,
                    Class::ERROR => Class::UNTIMED_ERROR,
                    class if class.bucket().is_some() => Class::UNTIMED,
                    class => class,
                };
                self.tell(at, arm, class, n);
            }
        }
        let of = |arm| Scraped { requests: tally.counts.requests(arm), errors: tally.counts.errors(arm) };
        self.state.guard.add_both(Arm::BOTH.map(of), self.before_ppb);
        self.decide(true);
        self.failure()
    }

    /// Counts what a scraped source counted between two looks. Its own split is used, not the one that was meant.
    pub fn block(&mut self, block: Block) -> Option<&Failure> {
        let counts = block.counts();
        let fits = counts.total() <= FULL - self.held.min(FULL) && self.state.failure.is_none();
        if counts.total() > 0 && fits {
            let at = self.drawn.len() - 1;
            let logs = self.drawn[at].block(&block);
            self.sums.iter_mut().zip(logs).for_each(|(sum, log)| *sum += log);
            self.state.open[at].blocks.push(block);
            self.held += counts.total();
            let of = |arm| Scraped { requests: counts.requests(arm), errors: counts.errors(arm) };
            self.state.guard.add_both(Arm::BOTH.map(of), self.before_ppb);
            self.decide(true);
        } else {
            self.state.uncounted = self.state.uncounted.saturating_add(counts.total());
        }
        self.failure()
    }

    /// The failure that was proven, once it was.
    pub fn failure(&self) -> Option<&Failure> {
        self.state.failure.as_ref()
    }

    /// Failures that both arms share, if there were any.
    pub fn shared(&self) -> Option<&SharedFailure> {
        self.state.guard.found.as_ref()
    }

    /// Forgets a shared failure that is over.
    pub fn clear_shared(&mut self) {
        self.state.guard = Guard::default();
    }

    fn last(&mut self) -> &mut OpenEpoch {
        self.state.open.last_mut().expect("a judge has an open epoch: checked in resume")
    }

    /// The open epoch that counts what was assigned in `epoch`: the last with the same share.
    #[inline]
    fn place(&mut self, epoch: u32, n: u64) -> Option<usize> {
        let open = &self.state.open;
        let at = open.iter().rposition(|open| (open.terms.share_since..=open.terms.epoch).contains(&epoch));
        // What comes after a failure would only blur what it was proven with.
        if at.is_none() || self.held.saturating_add(n) > FULL || self.state.failure.is_some() {
            self.state.uncounted = self.state.uncounted.saturating_add(n);
            return None;
        }
        at
    }

    #[inline]
    fn count(&mut self, at: usize, arm: Arm, class: Class, n: u64) {
        self.tell(at, arm, class, n);
        self.state.guard.add(arm, n, if class.failed() { n } else { 0 }, self.before_ppb);
        // Only what the candidate does can make it worse.
        if arm == Arm::Candidate {
            self.decide(class.failed() || class == Class::CLIENT_ERROR || class == Class::SLOWEST);
        }
    }

    #[inline]
    fn tell(&mut self, at: usize, arm: Arm, class: Class, n: u64) {
        if n == 0 {
            return;
        }
        self.state.open[at].counts.scored[arm.index()][class.index()] += n;
        self.held += n;
        self.drawn[at].table.add(&mut self.sums, arm, class, n as i64);
    }

    /// Says fail as soon as it is proven, for good.
    #[inline]
    fn decide(&mut self, bad: bool) {
        let carried = &self.state.ledger.wealth;
        // A mean is never above its largest term: nearly always this is all that is looked at.
        if (0..EXPERTS).any(|expert| carried[expert] + self.sums[expert] >= self.needed)
            && self.state.failure.is_none()
        {
            self.decide_exactly(bad);
        }
    }

    /// Looks at everything that a failure needs. That takes as long as a hundred requests, so while wealth is enough and
    /// the rest is not there (the split is wrong, say) it is looked at after bad outcomes, and
    /// now and then.
    #[cold]
    fn decide_exactly(&mut self, bad: bool) {
        if nats(Ledger::ln_rollback(&self.wealth())) < self.needed {
            return;
        }
        if bad || !self.state.unconfirmed || self.held.is_multiple_of(RECONSIDER) {
            let ledger = self.ledger();
            self.state.failure = ledger.failure(&self.sheet.terms, self.state.settings.alpha());
            self.state.unconfirmed = self.state.failure.is_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::exp;

    /// The mean wealth over all courses of `left` requests with a common rate of failure, epochs included.
    fn mean(judge: &Judge, left: u32, share: f64, rate: f64) -> f64 {
        if left == 0 {
            return exp(Ledger::ln_rollback(&judge.ledger().wealth));
        }
        let mut sum = 0.0;
        for (arm, drawn) in [(Arm::Stable, 1.0 - share), (Arm::Candidate, share)] {
            for (outcome, chance) in [(Outcome::Error, rate), (Outcome::Untimed, 1.0 - rate)] {
                let mut judge = judge.clone();
                let ticket = judge.assign(arm);
                judge.score(ticket, outcome);
                if left.is_multiple_of(2) {
                    judge.next_epoch();
                }
                sum += drawn * chance * mean(&judge, left - 1, share, rate);
            }
        }
        sum
    }

    /// Terms that know nothing of the requests that they are bet on: the whole wealth is 1 on average.
    #[test]
    fn wealth_wins_nothing_on_average_over_epochs() {
        for (share_bp, rate) in [(1_000, 0.01), (5_000, 0.3)] {
            let mut judge =
                Judge::new(Settings { alpha_bp: 1, ..Settings::new(vec![]) }, History::default()).unwrap();
            judge.set_share(share_bp);
            let mean = mean(&judge, 5, crate::table::share(share_bp), rate);
            assert!(mean <= 1.0 && mean > 0.999_999, "{mean}");
        }
    }
}
