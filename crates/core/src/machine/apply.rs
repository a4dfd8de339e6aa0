//! The transitions: what each event does in each state. Everything not written here is a typed error.

use super::{Attempts, Back, BackReason, Ending, Hold, HoldReason, Illegal, Machine, Mode};
use crate::effect::{BackStage, EffectKey, EffectName, Evidence, StepKey};
use crate::event::{Command, Event, HoldDefault};
use crate::fault::{After, Fault};
use crate::file::OnInconclusive;
use crate::guard::{Judgement, Verdict};
use crate::ids::Moment;
use crate::plan::Step;

/// An effect that fails so often in a row is given up going forward, and calls for a person going back.
const ATTEMPTS_FORWARD: u32 = 5;
const ATTEMPTS_BACK: u32 = 8;
const BACKOFF_FIRST_MS: u64 = 200;
const BACKOFF_LONGEST_MS: u64 = 30_000;

impl Machine {
    /// Lets `event` happen at `now`.
    ///
    /// # Errors
    /// When the event is not legal in this state; the state is then unchanged.
    pub fn apply(&mut self, event: &Event, now: Moment) -> Result<(), Illegal> {
        match (event, &self.mode) {
            // Trips are legal in every state: the router has acted already, it only tells.
            (Event::Tripped { number, why, shared }, _) => self.tripped(*number, why, *shared, now),
            (Event::Counted { .. }, _) => {}
            (Event::Judged { .. }, _) => self.accounted = true,
            (Event::TakenOver { .. }, mode) if !matches!(mode, Mode::Ended { .. }) => self.retry_at_once(),
            (Event::Done { effect, evidence }, _) if self.wants(effect) => {
                self.effect_done(effect, evidence, now)
            }
            (Event::Failed { effect, fault }, _) if self.wants(effect) => {
                self.effect_failed(effect, fault, now)
            }
            (Event::Tick, _) if self.next_timer().is_some_and(|due| now >= due) => self.tick(now),
            (Event::Commanded { command, by }, _) => return self.command(command, by, now),
            (Event::Opened { .. }, _) => return Err(self.misplaced("was opened twice")),
            (Event::TakenOver { .. }, _) => return Err(self.misplaced("was taken over after its end")),
            (Event::Done { .. } | Event::Failed { .. }, _) => {
                return Err(self.misplaced("got the result of an effect that it does not want"));
            }
            (Event::Tick, _) => return Err(self.misplaced("has no timer due")),
        }
        Ok(())
    }

    fn misplaced(&self, what: &str) -> Illegal {
        Illegal { what: format!("{} {what}", self.plan.release), hint: "" }
    }

    /// Tells whether this state wants the effect.
    pub fn wants(&self, key: &EffectKey) -> bool {
        self.wanted().iter().any(|wanted| &wanted.key == key)
    }

    /// A new driver does not inherit the old one's patience: what failed may work from here.
    fn retry_at_once(&mut self) {
        self.attempts.clear();
    }

    fn effect_done(&mut self, key: &EffectKey, evidence: &Evidence, now: Moment) {
        self.attempts.remove(key);
        if let Evidence::Verdict(verdict) = evidence {
            self.verdicts.push(verdict.clone());
            return self.judged(key, verdict, now);
        }
        self.done.insert(key.clone());
        match key.step {
            StepKey::Back(stage) => self.back_stage_done(stage, now),
            // Watching and renewing never finish a step, only verdicts and timers do.
            StepKey::Forward(_) if matches!(key.name, EffectName::KeepLease | EffectName::Watch) => {
                self.done.remove(key);
            }
            StepKey::Forward(_) => {
                if matches!(self.step(), Step::Promote) {
                    self.decided = Some(now);
                    // Decided is decided: a pause that came too late does not hold the tail.
                    self.mode = Mode::Forward;
                }
                self.step_complete(now);
            }
        }
    }

    fn effect_failed(&mut self, key: &EffectKey, fault: &Fault, now: Moment) {
        let attempts = self.attempts.entry(key.clone()).or_default();
        attempts.failed += 1;
        let failed = attempts.failed;
        let backoff = BACKOFF_FIRST_MS.saturating_mul(1 << failed.min(10)).min(BACKOFF_LONGEST_MS);
        *attempts = Attempts { failed, not_before: now.after_ms(backoff) };
        let spent = fault.after == After::Final || failed >= ATTEMPTS_FORWARD;
        // A metrics store or a router that cannot answer is no evidence against the candidate.
        let patient = matches!(key.name, EffectName::KeepLease | EffectName::Watch | EffectName::Judge);
        if let Mode::Back(back) = &mut self.mode {
            if failed >= ATTEMPTS_BACK || (fault.after == After::Final && failed >= 2) {
                back.stuck = Some(fault.words());
            }
        } else if self.decided.is_none() && spent && !patient {
            self.go_back(BackReason::Fault { fault: fault.words() }, now);
        } else if key.name == EffectName::Judge && (spent || self.is_unmeasured()) {
            // What a person paused stays paused; it is held when it goes on.
            if matches!(self.mode, Mode::Forward) || self.is_unmeasured() {
                self.mode = Mode::Held(Hold {
                    why: HoldReason::Unmeasured { what: fault.what.clone() },
                    until: self.opened.after_ms(self.plan.deadline.ms()),
                    then: HoldDefault::Abort,
                });
            }
        }
    }

    fn is_unmeasured(&self) -> bool {
        matches!(&self.mode, Mode::Held(Hold { why: HoldReason::Unmeasured { .. }, .. }))
    }

    fn judged(&mut self, key: &EffectKey, verdict: &Verdict, now: Moment) {
        if self.is_unmeasured() {
            self.mode = Mode::Forward;
        }
        let (on_inconclusive, proves) = match self.step() {
            Step::Bake { guard, prove, .. } => (guard.on_inconclusive, prove.is_some()),
            _ => (None, false),
        };
        let measures = matches!(self.step(), Step::Bake { guard, .. } if !guard.metrics.is_empty());
        // Who waits for a proof, or asks other systems, does not want to go on without an answer; who merely fixed a time
        // wants to go on after it.
        let otherwise = if proves || measures { OnInconclusive::Hold } else { OnInconclusive::Advance };
        let on_inconclusive = on_inconclusive.unwrap_or(otherwise);
        match (verdict.judgement, key.name, on_inconclusive) {
            (Judgement::Fail, ..) => self.go_back(BackReason::Verdict { verdict: verdict.clone() }, now),
            // Before the bake is over only a proof decides.
            (Judgement::Pass, EffectName::Watch, _) if proves => self.step_complete(now),
            (_, EffectName::Watch, _) => {}
            (Judgement::Pass, ..) | (Judgement::Inconclusive, _, OnInconclusive::Advance) => {
                self.step_complete(now)
            }
            (Judgement::Inconclusive, _, OnInconclusive::Abort) => {
                self.go_back(BackReason::Verdict { verdict: verdict.clone() }, now);
            }
            (Judgement::Inconclusive, _, OnInconclusive::Hold) => {
                self.complete = true;
                self.mode = Mode::Held(Hold {
                    why: HoldReason::Inconclusive,
                    until: self.opened.after_ms(self.plan.deadline.ms()),
                    then: HoldDefault::Abort,
                });
            }
        }
    }

    fn tripped(&mut self, number: u64, why: &str, shared: bool, now: Moment) {
        if self.trips.contains(&number) {
            return;
        }
        self.trips.push(number);
        if shared
            && let Mode::Back(back) = &mut self.mode
            && matches!(back.why, BackReason::Verdict { .. })
        {
            // The threshold that broke was heard of first; that stable broke it as well is the better reason.
            back.why = BackReason::Tripped { why: why.to_string(), shared };
        }
        if self.decided.is_none() && self.moved() && matches!(self.mode, Mode::Forward | Mode::Held(_)) {
            self.go_back(BackReason::Tripped { why: why.to_string(), shared }, now);
        }
    }

    fn tick(&mut self, now: Moment) {
        if let Mode::Held(hold) = &self.mode
            && now >= hold.until
        {
            return match hold.then {
                HoldDefault::Resume => self.resume(now),
                HoldDefault::Abort => {
                    let what = format!("nobody answered the hold ({})", hold_words(&hold.why));
                    self.go_back(BackReason::Deadline { what }, now);
                }
            };
        }
        if self.decided.is_none() && now >= self.opened.after_ms(self.plan.deadline.ms()) {
            let what = format!("the release took longer than its deadline of {}", self.plan.deadline);
            return self.go_back(BackReason::Deadline { what }, now);
        }
        match self.step() {
            Step::Bake { .. } if self.bake_over(now) => self.bake_elapsed = true,
            Step::Warm { span } if now >= self.entered.after_ms(span.ms()) => self.step_complete(now),
            _ => {}
        }
    }

    fn command(&mut self, command: &Command, by: &str, now: Moment) -> Result<(), Illegal> {
        let undecided = self.decided.is_none();
        match (command, &self.mode) {
            (Command::Pause { span, then }, Mode::Forward) if undecided => {
                let until = now.after_ms(span.ms());
                self.mode =
                    Mode::Held(Hold { why: HoldReason::Paused { by: by.to_string() }, until, then: *then });
            }
            (
                Command::Resume,
                Mode::Held(Hold { why: HoldReason::Paused { .. } | HoldReason::Inconclusive, .. }),
            ) => {
                self.resume(now);
            }
            // Who resumes what cannot be measured goes on without the measurement.
            (Command::Resume, Mode::Held(Hold { why: HoldReason::Unmeasured { .. }, .. })) => {
                self.mode = Mode::Forward;
                self.step_complete(now);
            }
            (Command::Approve, Mode::Held(Hold { why: HoldReason::Approval { .. }, .. })) => {
                self.mode = Mode::Forward;
                self.step_complete(now);
            }
            (Command::Advance, Mode::Forward | Mode::Held(_)) if matches!(self.step(), Step::Bake { .. }) => {
                self.mode = Mode::Forward;
                self.step_complete(now);
            }
            (Command::Promote, Mode::Forward | Mode::Held(_)) if matches!(self.step(), Step::Bake { .. }) => {
                self.mode = Mode::Forward;
                self.skip_bakes = true;
                self.step_complete(now);
            }
            (Command::Abort, Mode::Forward | Mode::Held(_)) if undecided => {
                self.go_back(BackReason::Aborted { by: by.to_string() }, now);
            }
            (Command::Supersede, Mode::Forward | Mode::Held(_)) if undecided => {
                self.go_back(BackReason::Superseded { by: by.to_string() }, now);
            }
            // Once the predecessor drains, its connections are being cut: it can no longer be taken over unharmed.
            (Command::Adopt { .. }, Mode::Forward)
                if !undecided && matches!(self.step(), Step::Warm { .. }) =>
            {
                self.mode = Mode::Ended { outcome: Ending::Released };
            }
            (Command::Hurry { .. }, Mode::Forward) if matches!(self.step(), Step::Warm { .. }) => {
                self.step_complete(now);
            }
            _ => return Err(self.illegal(command)),
        }
        Ok(())
    }

    fn resume(&mut self, now: Moment) {
        self.mode = Mode::Forward;
        if self.complete {
            self.step_complete(now);
        }
    }

    /// The current step has all it needs: go on, unless held.
    fn step_complete(&mut self, now: Moment) {
        self.complete = true;
        if !matches!(self.mode, Mode::Forward) {
            return;
        }
        let mut next = self.at + 1;
        while self.skip_bakes && next < self.plan.promote() && self.is_skipped(next) {
            next += 1;
        }
        if next == self.plan.steps.len() {
            self.mode = Mode::Ended { outcome: Ending::Released };
            return;
        }
        self.enter(next, now);
    }

    /// Tells whether `promote` leaves step `index` out: observations, and weights and instances that a later step
    /// surpasses. In a rolling release stable leaves batch by batch, so each batch needs its weight. Approvals stand.
    fn is_skipped(&self, index: usize) -> bool {
        let later = &self.plan.steps[index + 1..self.plan.promote()];
        let rolling = self.plan.steps.iter().any(|step| matches!(step, Step::Shrink { .. }));
        let surpassed = |kind: fn(&Step) -> bool| !rolling && later.iter().any(kind);
        match &self.plan.steps[index] {
            Step::Bake { .. } => true,
            Step::Shift { .. } => surpassed(|step| matches!(step, Step::Shift { .. })),
            Step::Provision { .. } | Step::Check => surpassed(|step| matches!(step, Step::Provision { .. })),
            _ => false,
        }
    }

    fn enter(&mut self, index: usize, now: Moment) {
        self.at = index;
        self.entered = now;
        self.complete = false;
        self.bake_elapsed = false;
        if let Step::Approve { point } = self.step() {
            self.mode = Mode::Held(Hold {
                why: HoldReason::Approval { point: *point },
                until: self.opened.after_ms(self.plan.deadline.ms()),
                then: HoldDefault::Abort,
            });
        }
    }

    fn go_back(&mut self, why: BackReason, now: Moment) {
        self.entered = now;
        self.attempts.clear();
        // The way back begins at the step whose outcome is unknown: what was asked for is undone even if its answer
        // never came.
        self.mode = match self.plan.way_back(self.at).first() {
            Some(stage) => Mode::Back(Back { why, stage: *stage, stuck: None }),
            None => Mode::Ended { outcome: ending(why, self.moved()) },
        };
    }

    fn back_stage_done(&mut self, done: BackStage, now: Moment) {
        let moved = self.moved();
        let mut stages = self.plan.way_back(self.at).into_iter().skip_while(|stage| *stage != done);
        let Mode::Back(back) = &mut self.mode else { return };
        self.entered = now;
        back.stuck = None;
        match stages.nth(1) {
            Some(next) => back.stage = next,
            None => {
                let why = back.why.clone();
                self.mode = Mode::Ended { outcome: ending(why, moved) };
            }
        }
    }
}

fn ending(why: BackReason, moved: bool) -> Ending {
    match why {
        why @ (BackReason::Aborted { .. } | BackReason::Superseded { .. }) => {
            Ending::Withdrawn { why, moved }
        }
        why if moved => Ending::RolledBack { why },
        why => Ending::Refused { why },
    }
}

fn hold_words(why: &HoldReason) -> String {
    match why {
        HoldReason::Paused { by } => format!("paused by {by}"),
        HoldReason::Approval { point } => format!("approval {}", point.name()),
        HoldReason::Inconclusive => "inconclusive".into(),
        HoldReason::Unmeasured { what } => format!("not measured: {what}"),
    }
}
