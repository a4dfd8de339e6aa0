//! Enumerates schedules: every boundary once, and every pair of boundaries.

use std::collections::BTreeSet;
use std::fmt;

use super::{Fate, Injection, Scenario, Schedule, all_commands, run};

/// All schedules over a set of scenarios.
pub struct Campaign {
    scenarios: Vec<Scenario>,
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Schedules run.
    pub schedules: usize,
    /// The cells (state, event) visited, with what the machine said.
    pub cells: BTreeSet<String>,
    /// Schedules of pairs by scenario.
    pub of: Vec<(&'static str, usize)>,
    /// Broken promises: scenario, schedule, what broke. Empty is good.
    pub broken: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let legal = self.cells.iter().filter(|cell| cell.ends_with("legal")).count();
        let (all, broken) = (self.cells.len(), self.broken.len());
        write!(
            f,
            "{} schedules, {all} cells ({legal} legal, {} refused), {broken} broken",
            self.schedules,
            all - legal
        )?;
        self.of.iter().try_for_each(|(name, schedules)| write!(f, "\n  {name}: {schedules}"))
    }
}

impl Campaign {
    /// Makes a campaign over `scenarios`.
    pub fn new(scenarios: Vec<Scenario>) -> Self {
        Self { scenarios }
    }

    /// One thing goes wrong, at every place where it can.
    pub fn singles(&self) -> Tally {
        let mut tally = Tally::default();
        for scenario in &self.scenarios {
            let calm = tally.add(scenario, &Schedule::default());
            for injection in injections() {
                for boundary in 0..calm.boundaries {
                    let schedule =
                        Schedule { injections: vec![(boundary, injection.clone())], ..Schedule::default() };
                    tally.add(scenario, &schedule);
                }
            }
            for fate in fates() {
                for effect in 0..calm.effects {
                    tally.add(
                        scenario,
                        &Schedule { fates: vec![(effect, fate.clone())], ..Schedule::default() },
                    );
                }
            }
        }
        tally
    }

    /// Two things go wrong: every pair of boundaries and every pair of effects, the second counted in the run that the
    /// first has changed, so that the way back is hit too.
    pub fn pairs(&self) -> Tally {
        let mut tally = Tally::default();
        for scenario in &self.scenarios {
            let before = tally.schedules;
            let calm = run(scenario, &Schedule::default());
            for first in injections() {
                for boundary in 0..calm.boundaries {
                    let one = Schedule { injections: vec![(boundary, first.clone())], ..Schedule::default() };
                    let changed = run(scenario, &one);
                    for second in injections() {
                        for later in boundary + 1..changed.boundaries {
                            let mut schedule = one.clone();
                            schedule.injections.push((later, second.clone()));
                            tally.add(scenario, &schedule);
                        }
                    }
                    tally.add_fates(scenario, &one, 0..changed.effects);
                }
            }
            for first in fates() {
                for effect in 0..calm.effects {
                    let one = Schedule { fates: vec![(effect, first.clone())], ..Schedule::default() };
                    let changed = run(scenario, &one);
                    tally.add_fates(scenario, &one, effect + 1..changed.effects);
                }
            }
            tally.of.push((scenario.name, tally.schedules - before));
        }
        tally
    }
}

impl Tally {
    /// Adds what another campaign came to.
    pub fn merge(&mut self, other: Tally) {
        self.schedules += other.schedules;
        self.cells.extend(other.cells);
        self.of.extend(other.of);
        self.broken.extend(other.broken);
    }

    /// Runs `one` with every fate for each of `effects` besides.
    fn add_fates(&mut self, scenario: &Scenario, one: &Schedule, effects: std::ops::Range<usize>) {
        for fate in fates() {
            for effect in effects.clone() {
                let mut schedule = one.clone();
                schedule.fates.push((effect, fate.clone()));
                self.add(scenario, &schedule);
            }
        }
    }

    fn add(&mut self, scenario: &Scenario, schedule: &Schedule) -> super::Finished {
        let finished = run(scenario, schedule);
        self.schedules += 1;
        self.cells.extend(finished.cells.iter().cloned());
        if let Some(broken) = &finished.broken {
            self.broken.push(format!("{}: {schedule:?}: {broken}", scenario.name));
        }
        finished
    }
}

/// Everything that can happen at a boundary.
fn injections() -> Vec<Injection> {
    let mut all = vec![Injection::Trip, Injection::TrafficTurnsBad];
    for down_ms in [100, 2 * super::LEASE_MS] {
        for in_flight in [Fate::Fine, Fate::AppliedLost, Fate::LateApplied] {
            all.push(Injection::Crash { down_ms, in_flight });
        }
    }
    all.extend(all_commands().into_iter().map(Injection::Command));
    all
}

/// Everything that can become of an effect. Lies have a test of their own: no machine survives them everywhere.
fn fates() -> Vec<Fate> {
    vec![Fate::Slow, Fate::FailRetry, Fate::FailFinal, Fate::AppliedLost, Fate::LateApplied, Fate::Duplicate]
}
