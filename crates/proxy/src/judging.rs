//! The judge of a release, fed by all threads: each counts for itself, and whatever may decide is added up at once.
//!
//! A [`Desk`] is where requests of one table are counted, so that each is scored with the share that drew it. Its threads
//! share nothing while all is well. When a request of the candidate fails, or is slower than stable's slowest in a hundred,
//! the thread adds up what *all* threads have counted, on all desks, and asks the judge: adding up its own alone would count
//! the candidate's failures at once and stable's later, which is no comparison.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cutover_judge::{
    Arm as Side, Block, Clusters, Epoch, Failure, History, Judge, Outcome, Question, Scraped, Settings,
    SharedFailure, Sheet, State, Tally, Ticket, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::store::boot_ms;
use crate::table::JudgeTerms;

/// Clients that are told apart where routing is sticky; seats are fewer.
const CLIENTS: usize = 1 << 14;

/// A request that was drawn, until it is scored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bet {
    /// By itself.
    Request(Ticket),
    /// With its client, which stays where it was drawn to.
    Seat(u16, Side),
}

/// Where the requests of one table are counted.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) judging: Arc<Judging>,
    share_bp: u16,
    /// One for each thread.
    tallies: Box<[Mutex<Counting>]>,
    /// Another table is in force: few requests are left, and each is added up at once.
    retired: AtomicBool,
    /// The age at which an open request hangs; 0: not known.
    hung_after_us: AtomicU64,
}

#[derive(Debug)]
struct Counting {
    sheet: Sheet,
    tally: Tally,
}

/// The judge of one release.
#[derive(Debug)]
pub(crate) struct Judging {
    pub(crate) release: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    judge: Judge,
    /// Closed epochs: what a verdict can be computed from again.
    epochs: Vec<Epoch>,
    clusters: Clusters,
    desks: Vec<Weak<Desk>>,
    /// The gate that is to be closed.
    gate: Weak<Gate>,
    step: Step,
    warm_up_ms: u64,
    warm_until_ms: u64,
    targets: BTreeSet<SocketAddr>,
    over: bool,
}

/// The time at one share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    /// Boot time.
    since_ms: u64,
    /// What had been seen of the arms before it.
    stable: Scraped,
    candidate: Scraped,
}

/// Why the candidate is to lose its traffic.
pub(crate) struct Because {
    pub(crate) why: String,
    /// Stable fails as well: the release is not to blame.
    pub(crate) shared: bool,
}

/// A judge, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    release: String,
    state: State,
    epochs: Vec<Epoch>,
    step: Step,
    over: bool,
}

impl Kept {
    /// Tells whether it knows more than another one of the same release.
    pub(crate) fn is_newer(&self, other: &Kept) -> bool {
        let known = |kept: &Kept| (kept.epochs.len(), kept.state.held());
        self.release != other.release || known(self) >= known(other)
    }
}

/// What a judge says, with all that it takes to compute it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The release.
    pub release: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The candidate's share of requests now, in basis points.
    pub share_bp: u16,
    /// Requests of the service per hour, at the rate since the last shift.
    pub per_hour: u64,
    /// The epoch after which a pass holds: the last closed one.
    pub epoch: Option<u32>,
    /// The settings it began with.
    pub settings: Settings,
    /// The closed epochs that were asked for.
    pub epochs: Vec<Epoch>,
}

/// How a judge stands, for who only looks: nothing is closed or counted by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeStanding {
    /// The release.
    pub release: String,
    /// The logarithm of the wealth against the candidate, in thousandths of a nat: it is taken back at ln(1/α).
    pub wealth_millinats: i64,
    /// What it says, in a word: `fail`, `shared` (stable fails as well) or `none` (neither, so far).
    pub verdict: String,
    /// Requests scored, and failed ones among them, by arm: stable's, the candidate's.
    pub scored: [[u64; 2]; 2],
}

/// What is asked of a judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeQuestion {
    /// The margin of errors to be proven, in parts per billion; one of those of the table.
    pub margin_ppb: u64,
    /// Whether latency is to be proven, too.
    pub latency: bool,
    /// The shortest time at one weight, in milliseconds.
    pub floor_ms: u64,
    /// The first closed epoch that is wanted; none: no epochs are.
    pub epochs_from: Option<u32>,
    /// Close what is open: nothing more will come.
    pub close: bool,
}

impl Judging {
    pub(crate) fn new(release: &str, terms: &JudgeTerms, known: History) -> Result<Arc<Self>, String> {
        let JudgeTerms { alpha_bp, beta_bp, margins_ppb, warm_up_ms } = terms.clone();
        let judge = Judge::new(Settings { alpha_bp, beta_bp, margins_ppb }, known)?;
        Ok(Self::with(release, judge, warm_up_ms))
    }

    fn with(release: &str, judge: Judge, warm_up_ms: u64) -> Arc<Self> {
        let inner = Inner {
            judge,
            epochs: Vec::new(),
            clusters: Clusters::new(CLIENTS),
            desks: Vec::new(),
            gate: Weak::new(),
            step: Step::default(),
            warm_up_ms,
            warm_until_ms: 0,
            targets: BTreeSet::new(),
            over: false,
        };
        Arc::new(Self { release: release.to_owned(), inner: Mutex::new(inner) })
    }

    /// The judge of a release that an earlier worker wrote down; none where no judge did.
    pub(crate) fn resume(kept: &Kept, warm_up_ms: u64) -> Option<Arc<Self>> {
        let judge = match Judge::resume(kept.state.clone()) {
            Ok(judge) => judge,
            Err(why) => {
                tracing::warn!(release = kept.release, why, "what the judge wrote down cannot be used");
                return None;
            }
        };
        let judging = Self::with(&kept.release, judge, warm_up_ms);
        {
            let mut inner = judging.lock();
            (inner.epochs, inner.step, inner.over) = (kept.epochs.clone(), kept.step, kept.over);
        }
        Some(judging)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count the requests of another table, in which the candidate has this share.
    pub(crate) fn open(
        self: &Arc<Self>,
        share_bp: u16,
        targets: BTreeSet<SocketAddr>,
        threads: usize,
    ) -> Arc<Desk> {
        let mut inner = self.lock();
        inner.gather();
        let now = boot_ms();
        if share_bp > 0 && !targets.is_subset(&inner.targets) {
            // Instances that have served nobody yet: they may be slow, as any is at first.
            inner.warm_until_ms = now + inner.warm_up_ms;
            let warming = inner.warm_up_ms > 0;
            inner.judge.warm_up(warming);
            inner.targets = targets;
        }
        if share_bp != inner.judge.sheet().terms().share_bp || inner.step == Step::default() {
            let seen = inner.judge.seen();
            inner.step = Step { since_ms: now, stable: seen.stable, candidate: seen.candidate };
        }
        if share_bp != inner.judge.sheet().terms().share_bp {
            let block = inner.clusters.take();
            inner.take((block != Block::default()).then_some(block));
            let closed = inner.judge.set_share(share_bp);
            inner.epochs.extend(closed);
        }
        let sheet = inner.judge.sheet().clone();
        let counting = || Mutex::new(Counting { sheet: sheet.clone(), tally: Tally::new(&sheet) });
        let desk = Arc::new(Desk {
            judging: self.clone(),
            share_bp,
            tallies: (0..threads.max(1)).map(|_| counting()).collect(),
            retired: AtomicBool::new(false),
            hung_after_us: AtomicU64::new(sheet.hung_after_us().unwrap_or(0)),
        });
        inner.desks.retain(|desk| desk.strong_count() > 0);
        inner
            .desks
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|desk| desk.retired.store(true, Ordering::Release));
        inner.desks.push(Arc::downgrade(&desk));
        desk
    }

    /// Makes a gate the one to be closed when the candidate fails.
    pub(crate) fn attach(&self, gate: &Arc<Gate>) {
        self.lock().gate = Arc::downgrade(gate);
    }

    /// Adds up what all threads have counted, and closes the gate if that proves the candidate worse.
    fn decide(&self, then: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        inner.gather();
        then(&mut inner);
        inner.act();
    }

    /// Looks after epochs and warm-up; called often by the control thread.
    pub(crate) fn tick(&self) {
        self.decide(|inner| {
            let warmed = inner.warm_until_ms > 0 && boot_ms() >= inner.warm_until_ms;
            if warmed {
                inner.warm_until_ms = 0;
                inner.judge.warm_up(false);
            }
            if inner.judge.due() && !inner.over {
                inner.next_epoch();
            } else if warmed {
                inner.publish();
            }
        });
    }

    /// Returns why the candidate is to lose its traffic, if it is.
    pub(crate) fn because(&self) -> Option<Because> {
        self.lock().because()
    }

    /// Returns stable's requests since the last shift.
    pub(crate) fn stable_since_shift(&self) -> Scraped {
        let mut inner = self.lock();
        inner.gather();
        inner.judge.seen().stable.since(inner.step.stable).unwrap_or_default()
    }

    /// Answers a question. A pass closes an epoch, so that it can be computed again from what is closed.
    pub(crate) fn answer(&self, question: &JudgeQuestion) -> Judged {
        let mut inner = self.lock();
        inner.gather();
        let step_ms = boot_ms().saturating_sub(inner.step.since_ms);
        let seen = inner.judge.seen();
        let per_hour = |now: Scraped, before: Scraped| {
            let requests = now.since(before).map_or(0, |since| since.requests);
            requests.saturating_mul(3_600_000) / step_ms.max(1)
        };
        let candidate_per_hour = per_hour(seen.candidate, inner.step.candidate);
        let JudgeQuestion { margin_ppb, latency, floor_ms, epochs_from, close } = *question;
        let verdict =
            inner.judge.verdict(&Question { margin_ppb, latency, step_ms, floor_ms, candidate_per_hour });
        if close && !inner.over {
            let closed = inner.judge.close();
            inner.epochs.extend(closed);
            inner.over = true;
        } else if matches!(verdict, Verdict::Pass(_)) && !inner.over {
            inner.next_epoch();
        }
        let wanted = |epoch: &&Epoch| epochs_from.is_some_and(|from| epoch.terms.epoch >= from);
        Judged {
            release: self.release.clone(),
            verdict,
            share_bp: inner.judge.sheet().terms().share_bp,
            per_hour: candidate_per_hour.saturating_add(per_hour(seen.stable, inner.step.stable)),
            epoch: inner.epochs.last().map(|epoch| epoch.terms.epoch),
            settings: inner.judge.state().settings().clone(),
            epochs: inner.epochs.iter().filter(wanted).cloned().collect(),
        }
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> JudgeStanding {
        let mut inner = self.lock();
        inner.gather();
        let seen = inner.judge.seen();
        let verdict = match inner.because() {
            Some(because) if because.shared => "shared",
            Some(_) => "fail",
            None => "none",
        };
        JudgeStanding {
            release: self.release.clone(),
            wealth_millinats: (inner.judge.ln_wealth() * 1_000.0).round() as i64,
            verdict: verdict.into(),
            scored: [seen.stable, seen.candidate].map(|arm| [arm.requests, arm.errors]),
        }
    }

    /// Everything, to be written down.
    pub(crate) fn keep(&self) -> Kept {
        let mut inner = self.lock();
        inner.gather();
        Kept {
            release: self.release.clone(),
            state: inner.judge.state().clone(),
            epochs: inner.epochs.clone(),
            step: inner.step,
            over: inner.over,
        }
    }

    /// Begins anew where the candidate kept its traffic in spite of a verdict, because nobody else answers.
    pub(crate) fn begin_again(&self) {
        let mut inner = self.lock();
        let settings = inner.judge.state().settings().clone();
        let (known, share_bp) = (inner.judge.known(), inner.judge.sheet().terms().share_bp);
        // The settings made a judge before.
        let Ok(mut judge) = Judge::new(settings, known) else { return };
        judge.set_share(share_bp);
        inner.judge = judge;
        inner.epochs.clear();
        inner.publish();
    }
}

impl Inner {
    fn because(&self) -> Option<Because> {
        let failed = self.judge.failure().map(|failure: &Failure| (failure.to_string(), false));
        let shared = || self.judge.shared().map(|shared: &SharedFailure| (words(shared), true));
        failed.or_else(shared).map(|(why, shared)| Because { why, shared })
    }

    /// Closes the gate if the candidate is to lose its traffic.
    fn act(&self) {
        if self.because().is_some()
            && let Some(gate) = self.gate.upgrade()
        {
            gate.shut();
        }
    }

    /// Adds what the threads have counted since. What that proves is acted upon at once, whoever asked: stable's successes
    /// are evidence too, and the one that was missing may be among them.
    fn gather(&mut self) {
        for desk in self.desks.iter().filter_map(Weak::upgrade) {
            for counting in &desk.tallies {
                let mut counting = counting.lock().unwrap_or_else(PoisonError::into_inner);
                if !counting.tally.is_empty() {
                    self.judge.merge(&counting.tally);
                    let Counting { sheet, tally } = &mut *counting;
                    tally.reset(sheet);
                }
            }
        }
        self.act();
    }

    fn next_epoch(&mut self) {
        let closed = self.judge.next_epoch();
        self.epochs.extend(closed);
        self.publish();
    }

    /// Gives the threads the terms of the epoch. Old desks keep theirs: their requests were drawn by them.
    fn publish(&mut self) {
        let sheet = self.judge.sheet().clone();
        let current = |desk: &Arc<Desk>| !desk.retired.load(Ordering::Acquire);
        for desk in self.desks.iter().filter_map(Weak::upgrade).filter(current) {
            desk.hung_after_us.store(sheet.hung_after_us().unwrap_or(0), Ordering::Relaxed);
            for counting in &desk.tallies {
                let mut counting = counting.lock().unwrap_or_else(PoisonError::into_inner);
                // Counted while the epoch ended; the judge knows what that means now.
                self.judge.merge(&counting.tally);
                counting.tally.reset(&sheet);
                counting.sheet = sheet.clone();
            }
        }
    }

    /// Adds what clients that stay with their arm came to in a window.
    fn take(&mut self, block: Option<Block>) {
        if let Some(block) = block {
            self.judge.block(block);
        }
    }
}

impl Desk {
    /// Counts a request that was drawn for an arm by these weights; none where it was drawn by others.
    pub(crate) fn assign(&self, side: Side, seat: Option<u16>, share_bp: u16) -> Option<Bet> {
        if share_bp != self.share_bp {
            return None;
        }
        if let Some(seat) = seat {
            return Some(Bet::Seat(seat, side));
        }
        let mut counting = self.mine();
        let ticket = counting.sheet.ticket(side);
        counting.tally.assign(ticket);
        Some(Bet::Request(ticket))
    }

    /// Counts what came of it.
    pub(crate) fn score(&self, bet: Bet, outcome: Outcome) {
        match bet {
            Bet::Request(ticket) => {
                let mut counting = self.mine();
                let Counting { sheet, tally } = &mut *counting;
                let decides = tally.score(sheet, ticket, outcome);
                drop(counting);
                if decides || self.retired.load(Ordering::Acquire) {
                    self.judging.decide(|_| {});
                }
            }
            Bet::Seat(seat, side) => self.judging.seated(seat, side, outcome == Outcome::Error),
        }
    }

    /// Counts one that was scored as failed: its body broke off.
    pub(crate) fn spoil(&self, bet: Bet, scored: Outcome) {
        match bet {
            Bet::Request(ticket) => self.judging.decide(|inner| {
                inner.judge.spoil(ticket, scored);
            }),
            Bet::Seat(seat, side) => self.judging.seated(seat, side, true),
        }
    }

    /// Returns the age in microseconds at which an open request hangs, once stable's slowest in a thousand are known.
    pub(crate) fn hung_after_us(&self) -> Option<u64> {
        Some(self.hung_after_us.load(Ordering::Relaxed)).filter(|us| *us > 0)
    }

    fn mine(&self) -> MutexGuard<'_, Counting> {
        let at = THREAD.get() % self.tallies.len();
        self.tallies[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Judging {
    fn seated(&self, seat: u16, side: Side, failed: bool) {
        let mut inner = self.lock();
        let block = inner.clusters.score(seat.into(), side, failed, boot_ms());
        inner.take(block);
        drop(inner);
        if block.is_some() {
            self.decide(|_| {});
        }
    }
}

thread_local! {
    /// Which of the tallies is this thread's.
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Gives the thread a tally of its own at every desk.
pub(crate) fn on_thread(index: usize) {
    THREAD.set(index);
}

fn words(shared: &SharedFailure) -> String {
    format!("inconclusive: {}", cutover_judge::Cause::Shared(*shared))
}
