//! What earlier workers have counted: it comes along when a worker is upgraded, and all but the last seconds when it dies.
//!
//! Each worker writes what it and those before it have counted to a file of its own. One that finishes its last requests
//! goes on writing, so its file is read anew for each observation until it has ended. A file names those that it
//! contains: whoever dies between writing it and removing them counts nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Control;
use crate::count::{Arm, Histogram};
use crate::error::ProxyError;
use crate::judging::Kept;
use crate::protocol::{ArmObservation, GuardNumbers};
use crate::supervise::is_alive;
use crate::thread::{Command, ThreadObservation};

/// How often counts are written while a candidate is judged by them, and otherwise.
const JUDGED: Duration = Duration::from_secs(1);
const AT_REST: Duration = Duration::from_secs(10);
/// Arms of revisions that are not in the table any more; beyond it they are forgotten.
const MAX_OLD_ARMS: usize = 512;

/// What stable's slowest requests take is known from so many on.
const KNOWN_FROM: u64 = 1_000;

/// Counts of some workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Files whose counts are part of these.
    #[serde(default)]
    includes: BTreeSet<String>,
    /// By service.
    pub(crate) arms: Vec<(String, ArmObservation)>,
    pub(crate) unrouted: BTreeMap<String, u64>,
    /// By service: the generation of its table, and what its guard has counted since then.
    guards: BTreeMap<String, (u64, GuardNumbers)>,
    /// By service: all that the judge of its last release knows.
    #[serde(default)]
    pub(super) judges: BTreeMap<String, Kept>,
}

impl Counted {
    fn add(&mut self, other: Self) {
        other.arms.into_iter().for_each(|(service, arm)| self.add_arm(service, arm));
        for (reason, count) in other.unrouted {
            *self.unrouted.entry(reason).or_default() += count;
        }
        // Of one generation the last worker has adopted what those before it had counted.
        for (service, (generation, numbers)) in other.guards {
            let known = self.guards.get(&service);
            let newer = known
                .is_none_or(|(known, counted)| (*known, counted.requests) < (generation, numbers.requests));
            if newer {
                self.guards.insert(service, (generation, numbers));
            }
        }
        for (service, kept) in other.judges {
            if self.judges.get(&service).is_none_or(|known| kept.is_newer(known)) {
                self.judges.insert(service, kept);
            }
        }
    }

    fn add_arm(&mut self, service: String, arm: ArmObservation) {
        let same = |known: &&mut (String, ArmObservation)| {
            let (of, known) = known;
            *of == service
                && known.revision == arm.revision
                && known.release == arm.release
                && known.arm == arm.arm
        };
        match self.arms.iter_mut().find(same) {
            Some((_, known)) => known.counts.merge(&arm.counts),
            None => self.arms.push((service, arm)),
        }
    }

    fn add_thread(&mut self, thread: ThreadObservation) {
        thread.arms.into_iter().for_each(|(service, arm)| self.add_arm(service.to_string(), arm));
        for (reason, count) in thread.unrouted {
            *self.unrouted.entry(reason.to_owned()).or_default() += count;
        }
    }
}

impl Control {
    /// Returns what all workers but this one have counted.
    pub(crate) fn counted_before(&self) -> Counted {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.store.counts()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split_once('-').and_then(|(pid, _)| pid.parse().ok());
            // Asked before it is read: what one writes last must not be missed.
            let lives = pid.is_some_and(is_alive);
            let read = std::fs::read(entry.path()).ok();
            // Written aside and renamed: what cannot be read is of another version, and only statistics.
            if let Some(counted) = read.and_then(|text| serde_json::from_slice::<Counted>(&text).ok())
                && name != self.counts_file
            {
                files.insert(name, (lives, counted));
            }
        }
        let included: BTreeSet<String> =
            files.values().flat_map(|(_, counted)| counted.includes.iter().cloned()).collect();
        let mut before = self.before.borrow_mut();
        let mut sum = Counted::default();
        for (name, (lives, counted)) in files {
            if before.includes.contains(&name) || included.contains(&name) {
                continue;
            }
            // One that leaves takes nobody in: the one that serves does.
            if lives || self.leaving.get() {
                sum.add(counted);
            } else {
                before.add(counted);
                before.includes.insert(name);
                self.rates.forget();
            }
        }
        sum.add(before.clone());
        sum
    }

    /// Lets guards and judges go on from where the worker before was.
    pub(crate) async fn adopt(&self) -> Result<(), ProxyError> {
        let judges = self.adopt_judges();
        self.adopt_guards();
        if judges { self.swap().await } else { Ok(()) }
    }

    fn adopt_guards(&self) {
        let state = self.state.borrow();
        for (service, (generation, numbers)) in self.counted_before().guards {
            let same =
                state.stored.table.services.get(&service).is_some_and(|now| now.generation == generation);
            let gate = state.live.get(&service).and_then(|live| live.gate.as_ref());
            if let Some(gate) = gate.filter(|_| same) {
                gate.adopt(numbers);
            }
        }
    }

    /// Writes down what was counted, again and again; returns never.
    pub(crate) async fn keep_counts(self: std::rc::Rc<Self>) {
        let mut kept = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(JUDGED).await;
            self.forget_predecessors();
            let judged = self.state.borrow().live.values().any(|live| live.gate.is_some());
            if judged || self.leaving.get() || kept.elapsed() >= AT_REST {
                self.keep_counted().await;
                kept = tokio::time::Instant::now();
            }
        }
    }

    /// Writes down what was counted up to now.
    pub(crate) async fn keep_counted(&self) {
        let threads = self.ask(|done| Command::Observe { done }).await;
        if threads.iter().all(Option::is_some) {
            self.write_counted(threads.into_iter().flatten());
        }
    }

    /// Tells the gates from which age on a request hangs.
    fn learn_slowest(&self, all: &Counted) {
        let state = self.state.borrow();
        for (name, live) in &state.live {
            let Some(gate) = &live.gate else { continue };
            let mut stable = Histogram::default();
            // Of the revisions that serve now: what others took long ago says nothing of them.
            let Some(table) = state.stored.table.services.get(name) else { continue };
            let ours = all.arms.iter().filter(|(of, arm)| {
                of == name && arm.arm == Arm::Stable && table.track(&arm.revision).is_some()
            });
            ours.for_each(|(_, arm)| stable.merge(&arm.counts.latency));
            if stable.count() >= KNOWN_FROM {
                gate.learn_slowest(stable.quantile_us(0.999));
            }
        }
    }

    /// Writes down what this worker has counted, as its threads say, and those that have ended.
    pub(crate) fn write_counted(&self, threads: impl Iterator<Item = ThreadObservation>) {
        // Takes in those that have ended since.
        self.counted_before();
        let mut all = self.before.borrow().clone();
        threads.for_each(|thread| all.add_thread(thread));
        self.learn_slowest(&all);
        let mut requests = BTreeMap::new();
        for (service, arm) in &all.arms {
            if matches!(arm.arm, Arm::Stable | Arm::Candidate) {
                *requests.entry(service.clone()).or_insert(0) += arm.counts.claimed;
            }
        }
        self.rates.note(std::time::Instant::now(), requests);
        {
            let state = self.state.borrow();
            let services = &state.stored.table.services;
            all.arms.retain(|(service, _)| services.contains_key(service));
            let routed =
                |(service, arm): &(String, ArmObservation)| services[service].track(&arm.revision).is_some();
            if all.arms.iter().filter(|arm| !routed(arm)).count() > MAX_OLD_ARMS {
                all.arms.retain(routed);
            }
            all.guards = services
                .iter()
                .filter_map(|(name, service)| {
                    let gate = state.live.get(name)?.gate.as_ref()?;
                    Some((name.clone(), (service.generation, gate.numbers())))
                })
                .collect();
            let judges = state.live.iter().filter(|(name, _)| services.contains_key(*name));
            all.judges = judges
                .filter_map(|(name, live)| Some((name.clone(), live.judging.as_ref()?.keep())))
                .collect();
        }
        if *self.written.borrow() == all {
            return;
        }
        let folder = self.store.counts();
        let path = folder.join(&self.counts_file);
        match write(&folder, &path, &all) {
            Ok(()) => {
                let included = std::mem::take(&mut self.before.borrow_mut().includes);
                for name in included {
                    // Left behind it is taken for one that counts: then its name stays.
                    if std::fs::remove_file(folder.join(&name)).is_err() && folder.join(&name).exists() {
                        self.before.borrow_mut().includes.insert(name);
                    }
                }
                all.includes.clear();
                *self.written.borrow_mut() = all;
            }
            // Only statistics: they are lost if this worker dies as well.
            Err(error) => tracing::warn!(%error, path = %path.display(), "counts cannot be written"),
        }
    }
}

/// Returns the name of this worker's file. After a reboot another worker may have its number.
pub(super) fn own_file() -> String {
    format!("{}-{:08x}.json", std::process::id(), fastrand::u32(..))
}

fn write(folder: &PathBuf, path: &PathBuf, counted: &Counted) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let aside = path.with_extension("new");
    // Not synced: after a crash of the machine they may be missing, and nobody waits for a disk each second.
    std::fs::write(&aside, serde_json::to_vec(counted)?)?;
    std::fs::rename(aside, path)
}
