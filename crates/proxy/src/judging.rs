//! The judge of a release, fed by all threads: each counts for itself, and whatever may decide is added up at once.
//!
//! A [`Desk`] is where requests of one table are counted, so that each is scored with the share that drew it. Its threads
//! share nothing while all is well. When a request of the candidate fails, or is slower than stable's slowest in a hundred,
//! the thread adds up what *all* threads have counted, on all desks, and asks the judge: adding up its own alone would count
//! the candidate's failures at once and stable's later, which is no comparison.

mod answer;
mod desk;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cutover_judge::{
    Block, Clusters, Epoch, Failure, History, Judge, Scraped, Settings, SharedFailure, State, Tally, Tick,
};
use serde::{Deserialize, Serialize};

pub use self::answer::{JudgeQuestion, JudgeStanding, Judged};
use self::desk::Counting;
pub(crate) use self::desk::{Bet, Desk, on_thread};
use crate::aftermath::{Aftermath, Found, KeptAftermath};
use crate::gate::Gate;
use crate::store::boot_ms;
use crate::table::{JudgeTerms, WHOLE};

/// Clients that are told apart where routing is sticky; seats are fewer.
const CLIENTS: usize = 1 << 14;

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
    watch_ms: u64,
    after: Option<Aftermath>,
    /// What people are to be told.
    notices: Vec<String>,
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
    #[serde(default)]
    after: Option<KeptAftermath>,
    /// Clients with a seat that have failed: each counts once.
    #[serde(default)]
    failed: Vec<u64>,
}

impl Kept {
    /// Tells whether it knows more than another one of the same release.
    pub(crate) fn is_newer(&self, other: &Kept) -> bool {
        let known = |kept: &Kept| (kept.epochs.len(), kept.state.held());
        self.release != other.release || known(self) >= known(other)
    }
}

impl Judging {
    pub(crate) fn new(release: &str, terms: &JudgeTerms, known: History) -> Result<Arc<Self>, String> {
        let JudgeTerms { alpha_bp, beta_bp, margins_ppb, .. } = terms.clone();
        let judge = Judge::new(Settings { alpha_bp, beta_bp, margins_ppb }, known)?;
        Ok(Self::with(release, judge, terms))
    }

    fn with(release: &str, judge: Judge, terms: &JudgeTerms) -> Arc<Self> {
        let inner = Inner {
            judge,
            epochs: Vec::new(),
            clusters: Clusters::new(CLIENTS),
            desks: Vec::new(),
            gate: Weak::new(),
            step: Step::default(),
            watch_ms: terms.watch_ms,
            after: None,
            notices: Vec::new(),
            warm_up_ms: terms.warm_up_ms,
            warm_until_ms: 0,
            targets: BTreeSet::new(),
            over: false,
        };
        Arc::new(Self { release: release.to_owned(), inner: Mutex::new(inner) })
    }

    /// The judge of a release that an earlier worker wrote down; none where no judge did.
    pub(crate) fn resume(kept: &Kept, terms: &JudgeTerms) -> Option<Arc<Self>> {
        let judge = match Judge::resume(kept.state.clone()) {
            Ok(judge) => judge,
            Err(why) => {
                tracing::warn!(release = kept.release, why, "what the judge wrote down cannot be used");
                return None;
            }
        };
        let judging = Self::with(&kept.release, judge, terms);
        {
            let mut inner = judging.lock();
            (inner.epochs, inner.step, inner.over) = (kept.epochs.clone(), kept.step, kept.over);
            inner.clusters.remember(&kept.failed);
            inner.after = kept.after.clone().and_then(|after| Aftermath::resume(after, boot_ms()));
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
            // Instances that have served nobody yet: they may be slow, as any is at first. Their time begins with the first
            // request that they get.
            let warming = inner.warm_up_ms > 0;
            inner.warm_until_ms = if warming { u64::MAX } else { 0 };
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
        if share_bp < WHOLE {
            inner.after = None;
        } else if inner.after.is_none() && !inner.over {
            let estimates = inner.judge.sheet().terms().estimates.clone();
            inner.after = Aftermath::new(estimates, inner.watch_ms, now);
        }
        let sheet = inner.judge.sheet().clone();
        let counting = || Mutex::new(Counting { sheet: sheet.clone(), tally: Tally::new(&sheet) });
        let desk = Arc::new(Desk {
            judging: self.clone(),
            share_bp,
            tallies: (0..threads.max(1)).map(|_| counting()).collect(),
            retired: AtomicBool::new(false),
            cold: AtomicBool::new(inner.warm_until_ms == u64::MAX),
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
        let mut inner = self.lock();
        inner.gate = Arc::downgrade(gate);
        gate.probe(inner.after.as_ref().is_some_and(Aftermath::is_probing));
    }

    /// Adds up what all threads have counted, and closes the gate if that proves the candidate worse.
    fn decide(&self, then: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        inner.gather();
        then(&mut inner);
        inner.act();
    }

    /// Returns what people are to be told, once.
    pub(crate) fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notices)
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
            after: inner.after.as_ref().map(Aftermath::keep),
            failed: inner.clusters.failed(),
        }
    }

    /// Begins anew where the candidate kept its traffic in spite of a verdict, because nobody else answers.
    pub(crate) fn begin_again(&self, gate: &Gate) {
        let mut inner = self.lock();
        gate.open();
        let settings = inner.judge.state().settings().clone();
        let (known, share_bp) = (inner.judge.known(), inner.judge.sheet().terms().share_bp);
        // The settings made a judge before.
        let Ok(mut judge) = Judge::new(settings, known) else { return };
        judge.set_share(share_bp);
        let now = boot_ms();
        let estimates = judge.sheet().terms().estimates.clone();
        inner.after = (share_bp == WHOLE).then(|| Aftermath::new(estimates, inner.watch_ms, now)).flatten();
        inner.step = Step { since_ms: now, ..Step::default() };
        inner.judge = judge;
        inner.epochs.clear();
        inner.publish();
    }
}

impl Inner {
    fn because(&self) -> Option<Because> {
        let failed = self.judge.failure().map(|failure: &Failure| (failure.to_string(), false));
        let probed = || {
            let failure = self.after.as_ref()?.failure()?;
            Some((format!("after the switch, by halves: {failure}"), false))
        };
        let shared = || self.judge.shared().map(|shared: &SharedFailure| (words(shared), true));
        failed.or_else(probed).or_else(shared).map(|(why, shared)| Because { why, shared })
    }

    /// Does what is proven, under the lock: what begins anew opens the gate there, and must not be followed by a word from
    /// before.
    fn act(&mut self) {
        let gate = self.gate.upgrade();
        self.look_after(gate.as_ref().is_some_and(|gate| gate.can_probe()));
        let Some(gate) = gate else { return };
        gate.probe(self.after.as_ref().is_some_and(Aftermath::is_probing));
        match self.because() {
            // Whoever takes over may fail worse than the candidate: who answers at all is looked at first.
            Some(Because { shared: true, .. }) => gate.wake(),
            Some(Because { shared: false, .. }) => gate.shut(),
            None => {}
        }
    }

    /// Adds what the threads have counted since. What that proves is done at once, whoever asked: stable's successes are
    /// evidence too, and the one that was missing may be among them.
    fn gather(&mut self) {
        for desk in self.desks.iter().filter_map(Weak::upgrade) {
            for counting in &desk.tallies {
                let mut counting = counting.lock().unwrap_or_else(PoisonError::into_inner);
                if !counting.tally.is_empty() {
                    self.judge.merge(&counting.tally);
                    if let Some(after) = self.after.as_mut().filter(|_| desk.share_bp == WHOLE) {
                        after.add(Tick::of_candidate(counting.tally.counts()));
                    }
                    let Counting { sheet, tally } = &mut *counting;
                    tally.reset(sheet);
                }
            }
        }
        self.act();
    }

    /// Looks whether the watch alarms, and what a probe came to.
    fn look_after(&mut self, can_probe: bool) {
        let Some(after) = &mut self.after else { return };
        let now = boot_ms();
        let judge = &self.judge;
        if let Some(why) = after.look(can_probe.then(|| judge.known()), now) {
            self.notices.push(why.to_owned());
        }
        if let Found::Over(why) = after.found(now) {
            self.notices.push(why);
        }
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

fn words(shared: &SharedFailure) -> String {
    format!("inconclusive: {}", cutover_judge::Cause::Shared(*shared))
}
